"""The edits of ``docs/adding_a_method.md``, made in a copy of the repository, add a loss that conforms."""

import re
import shutil
import sys

import pytest

from tests import wheel

PAGE = (wheel.ROOT / "docs" / "adding_a_method.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n# (\S+)\n(.*?)```", PAGE, flags=re.DOTALL)
(NAME,) = {
    path.split("/")[-1] for path, _ in BLOCKS if path.startswith("jaxreg/losses/") and "__" not in path
}
NAME = NAME.removesuffix(".py")


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A copy of the library and its tests with the page's edits."""
    copy = tmp_path_factory.mktemp("extended")
    for folder in ("jaxreg", "tests"):
        shutil.copytree(wheel.ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(wheel.ROOT / "pyproject.toml", copy)
    for name, text in BLOCKS:
        path = copy / name
        existing = path.read_text(encoding="utf-8") if path.exists() else ""
        if name.endswith("cases.py"):
            text = existing.replace("\nLOSSES = {\n", f"\nLOSSES = {{\n{text}")
        elif existing:
            text = f"{existing}\n{text}"
        if name.endswith("__init__.py"):
            text += f'__all__ += ["{NAME}"]\n'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return copy


def test_the_new_loss_conforms(extended):
    own = [name for name, _ in BLOCKS if name.startswith("tests/losses/")]
    options = ("-q", "-n0", "-p", "no:cacheprovider")
    selected = ("-k", f"{NAME} or enrolled", "tests/test_conformance.py", *own)
    printed = wheel.run(
        sys.executable, "-m", "pytest", *options, *selected, cwd=extended, PYTHONPATH=str(extended)
    )
    assert int(re.search(r"(\d+) passed", printed)[1]) > 50


def test_its_example_runs(extended):
    options = ("-q", "-n0", "-p", "no:cacheprovider", "--doctest-modules")
    path = f"jaxreg/losses/{NAME}.py"
    printed = wheel.run(
        sys.executable, "-m", "pytest", *options, path, cwd=extended, PYTHONPATH=str(extended)
    )
    assert "1 passed" in printed


def test_its_checks_hold(extended):
    printed = wheel.run(
        sys.executable, "-m", "jaxreg.theory", NAME, cwd=extended, PYTHONPATH=str(extended), COLUMNS="120"
    )
    assert NAME in printed


def test_the_code_on_the_page_passes_the_linter(extended):
    created = [name for name, _ in BLOCKS if not (wheel.ROOT / name).exists()]
    assert len(created) == 3
    wheel.run(sys.executable, "-m", "ruff", "check", *created, cwd=extended)
    wheel.run(sys.executable, "-m", "ruff", "format", "--check", *created, cwd=extended)
