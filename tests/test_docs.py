"""The documentation builds without a warning and leaves out no public name."""

import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import jaxreg

ROOT = Path(__file__).parents[1]
FAMILIES = [*jaxreg.__all__, "layers"]


def public_names():
    """Full names of what the families list, one level into the modules among it."""
    modules = [importlib.import_module(f"jaxreg.{family}") for family in FAMILIES]
    for module in modules:
        for name in getattr(module, "__all__", []):
            if inspect.ismodule(getattr(module, name)):
                modules.append(getattr(module, name))
            else:
                yield f"{module.__name__}.{name}"


def test_documentation_builds_without_a_warning_and_has_every_public_name(tmp_path):
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-b", "html", "-d", tmp_path / "trees"]
    command += [ROOT / "docs", tmp_path / "site"]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    pages = (tmp_path / "site" / "_made" / "api").glob("*.html")
    text = "".join(page.read_text(encoding="utf-8") for page in pages)
    missing = [name for name in public_names() if f'id="{name}"' not in text]
    assert not missing
    gallery = tmp_path / "site" / "_made" / "gallery"
    assert (gallery / "ldr.html").exists()
    assert (gallery / "label_noise_experiment.html").exists()
