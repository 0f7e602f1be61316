"""What is shipped, what it needs, and what the repository must not contain."""

import importlib.metadata
import re
import subprocess
import sys
import tomllib
import zipfile

import packaging.requirements
import packaging.utils
import pytest

import jaxreg
from tests import wheel

PROJECT = tomllib.loads((wheel.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def repository_files():
    """The files of the repository, committed or about to be; every file but the ignored ones."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listing = subprocess.run(command, cwd=wheel.ROOT, capture_output=True, check=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs git and a clone")
    return [path for name in listing.split("\0") if name and (path := wheel.ROOT / name).is_file()]


def requirements_of(*names):
    """The distributions that these need, themselves included, without extras."""
    found, pending = set(), [packaging.utils.canonicalize_name(name) for name in names]
    while pending:
        if (name := pending.pop()) in found:
            continue
        try:
            needed = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:  # a requirement of another platform
            continue
        found.add(name)
        parsed = map(packaging.requirements.Requirement, needed)
        pending += [
            packaging.utils.canonicalize_name(requirement.name)
            for requirement in parsed
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        ]
    return found


def test_the_version_is_the_same_everywhere():
    citation = (wheel.ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changelog = (wheel.ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert jaxreg.__version__ == PROJECT["version"]
    assert f"\nversion: {PROJECT['version']}\n" in citation
    assert f"\n## [{PROJECT['version']}]" in changelog


def test_the_wheel_holds_the_typed_library_and_nothing_else(tmp_path):
    names = zipfile.ZipFile(wheel.build(tmp_path)).namelist()
    metadata = f"jaxreg-{PROJECT['version']}.dist-info"
    assert {name.split("/")[0] for name in names} == {"jaxreg", metadata}
    assert {"jaxreg/__init__.py", "jaxreg/py.typed", f"{metadata}/licenses/LICENSE"} <= set(names)
    source = {str(path.relative_to(wheel.ROOT)) for path in (wheel.ROOT / "jaxreg").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == source


def test_the_core_requires_jax_and_optax_alone():
    required = {packaging.requirements.Requirement(text).name for text in PROJECT["dependencies"]}
    assert required == {"jax", "optax"}


def test_every_module_imports_with_nothing_but_what_jax_and_optax_bring():
    allowed = requirements_of("jax", "optax") | {"jaxreg"}
    modules = importlib.metadata.packages_distributions()
    forbidden = {
        module
        for module, owners in modules.items()
        if not allowed & {packaging.utils.canonicalize_name(owner) for owner in owners}
    } | {"experiments", "tests"}
    assert {"flax", "sklearn", "matplotlib", "rich", "orbax"} <= forbidden
    program = f"""
import importlib, pkgutil, sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {forbidden!r}:
            raise ModuleNotFoundError("not a requirement of jaxreg: " + name, name=name)
sys.meta_path.insert(0, Blocker())
import jaxreg
for module in pkgutil.walk_packages(jaxreg.__path__, "jaxreg."):
    if not module.name.startswith("jaxreg.layers"):
        print(importlib.import_module(module.name).__name__)
try:
    import jaxreg.layers
except ModuleNotFoundError as error:
    assert "jaxreg[flax]" in str(error)
else:
    raise AssertionError("jaxreg.layers is the one that needs flax")
"""
    imported = wheel.run(sys.executable, "-c", program, cwd=wheel.ROOT).split()
    assert "jaxreg.losses" in imported


def test_importing_the_library_starts_no_backend_and_changes_no_setting():
    program = """
import jax
before = dict(jax.config.values)
import jaxreg, jaxreg.losses, jaxreg.theory
assert dict(jax.config.values) == before
from jax.extend import backend  # noqa: F401
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized()
"""
    wheel.run(sys.executable, "-c", program, cwd=wheel.ROOT)


def test_the_lock_pins_every_requirement_with_hashes_and_names_no_index():
    lock = (wheel.ROOT / "requirements" / "dev.txt").read_text(encoding="utf-8")
    entries = re.split(r"\n(?=\S)", lock.strip())
    assert all(re.match(r"[a-z0-9.-]+==\S+( ; .*)? \\\n    --hash=sha256:", entry) for entry in entries)
    assert "://" not in lock
    pinned = {re.split("==", entry)[0] for entry in entries}
    extras = PROJECT["optional-dependencies"]
    needed = {packaging.requirements.Requirement(text).name for text in extras["experiments"] + extras["dev"]}
    assert {packaging.utils.canonicalize_name(name) for name in needed} - {"jaxreg"} <= pinned


def test_no_file_names_a_machine_or_a_registry_or_is_a_second_lock():
    # Written in pieces, so that this file does not find itself.
    machine = re.compile(r"(?<![\w.~-])/(?:root|home|Users|work)/\w")
    registry = re.compile("py" + r"pi\.org|python" + r"hosted\.org|/sim" + "ple/")
    for path in repository_files():
        assert path.suffix != ".lock", path
        text = path.read_bytes().decode("utf-8", errors="replace")
        assert not (found := machine.search(text)), f"{path}: {found and found[0]}"
        assert not (found := registry.search(text)), f"{path}: {found and found[0]}"


def test_no_file_is_binary_or_large():
    for path in repository_files():
        content = path.read_bytes()
        assert b"\0" not in content, path
        assert len(content) < 500_000, path
