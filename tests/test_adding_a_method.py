"""The edits of ``docs/adding_a_method.md``, made in a copy of the repository, add methods that conform."""

import re
import shutil
import sys

import pytest

from tests import wheel

PAGE = (wheel.ROOT / "docs" / "adding_a_method.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n# (\S+)\n(.*?)```", PAGE, flags=re.DOTALL)
ROWS = {"LOSSES": "Loss(", "PENALTIES": "Penalty(", "TRANSFORMS": "Transform("}
SUITES = {
    "losses": "tests/test_conformance.py",
    "penalties": "tests/test_penalty_conformance.py",
    "transforms": "tests/test_transform_conformance.py",
}
# What the page adds to a family, by the family's name.
NAMES = {
    path.split("/")[1]: path.split("/")[2].removesuffix(".py")
    for path, _ in BLOCKS
    if path.startswith("jaxreg/") and path.split("/")[1] in SUITES and "__" not in path
}
families = pytest.mark.parametrize("family", SUITES)


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
            (rows,) = (rows for rows, kind in ROWS.items() if kind in text)
            text = existing.replace(f"\n{rows} = {{\n", f"\n{rows} = {{\n{text}")
        elif existing:
            text = f"{existing}\n{text}"
        if name.endswith("__init__.py"):
            text += f'__all__ += ["{NAMES[name.split("/")[1]]}"]\n'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return copy


def tried(extended, *arguments):
    """How many tests pass in the copy; a failure is an error here."""
    options = ("-q", "-n0", "-p", "no:cacheprovider")
    printed = wheel.run(
        sys.executable, "-m", "pytest", *options, *arguments, cwd=extended, PYTHONPATH=str(extended)
    )
    return int(re.search(r"(\d+) passed", printed)[1])


@families
def test_the_new_method_conforms(extended, family):
    own = [name for name, _ in BLOCKS if name.startswith(f"tests/{family}/")]
    least = {"losses": 51, "penalties": 13, "transforms": 17}[family]
    assert tried(extended, "-k", f"{NAMES[family]} or enrolled", SUITES[family], *own) >= least


def test_their_examples_run(extended):
    paths = [f"jaxreg/{family}/{name}.py" for family, name in NAMES.items()]
    assert tried(extended, "--doctest-modules", *paths) == len(SUITES)


def test_its_checks_hold(extended):
    name = NAMES["losses"]
    printed = wheel.run(
        sys.executable, "-m", "jaxreg.theory", name, cwd=extended, PYTHONPATH=str(extended), COLUMNS="120"
    )
    assert name in printed


def test_the_code_on_the_page_passes_the_linter(extended):
    created = [name for name, _ in BLOCKS if not (wheel.ROOT / name).exists()]
    assert len(created) == 5
    wheel.run(sys.executable, "-m", "ruff", "check", *created, cwd=extended)
    wheel.run(sys.executable, "-m", "ruff", "format", "--check", *created, cwd=extended)
