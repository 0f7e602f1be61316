"""The built wheel, and an environment with it and the locked requirements but without the source tree."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Run a command to its end, its standard output; its standard error is in the message if it fails."""
    process = subprocess.run(
        list(map(str, command)),
        check=False,
        cwd=cwd,
        env=clean_environment() | environment,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, f"{' '.join(map(str, command))}\n{process.stdout}\n{process.stderr}"
    return process.stdout


def clean_environment() -> dict[str, str]:
    """The variables of this process less those by which the tests or the caller steer Python and JAX."""
    steering = ("PYTHONPATH", "XLA_FLAGS", "PYTEST_CURRENT_TEST", "JAX_ENABLE_X64")
    kept = {name: value for name, value in os.environ.items() if name not in steering}
    return kept | {"JAX_PLATFORMS": "cpu"}


def build(directory: Path) -> Path:
    """Build the wheel into ``directory``."""
    options = ("--wheel", "--no-isolation", "--outdir", directory)
    run(sys.executable, "-m", "build", *options, ROOT, cwd=directory)
    (wheel,) = directory.glob("*.whl")
    return wheel


def environment(directory: Path) -> Path:
    """Make an environment in ``directory``; the path of its interpreter.

    The site-packages of this interpreter are on its path, but a ``.pth`` file among them, which is how an
    editable installation shows the source tree, has no effect there.
    """
    venv.create(directory, with_pip=False, symlinks=os.name != "nt")
    python = directory / "bin" / "python"
    purelib = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(run(python, "-c", purelib, cwd=directory).strip())
    zipfile.ZipFile(build(directory)).extractall(
        site
    )  # all there is to installing a pure wheel without scripts
    paths = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
    (site / "locked.pth").write_text("\n".join(paths) + "\n")
    return python
