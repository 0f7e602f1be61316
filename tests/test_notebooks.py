"""The notebooks are what their scripts make, and run from a built wheel."""

import json
import sys
import time

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

from tests import wheel

NOTEBOOKS = sorted((wheel.ROOT / "colab").glob("*.ipynb"))


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    return wheel.environment(tmp_path_factory.mktemp("environment"))


def test_notebooks_and_addresses_are_what_the_scripts_and_pyproject_make():
    wheel.run(sys.executable, "colab/make_notebooks.py", "--check", cwd=wheel.ROOT)


def test_every_script_has_its_notebook():
    scripts = {path.stem for path in (wheel.ROOT / "colab").glob("*.py")} - {"make_notebooks"}
    assert scripts == {path.stem for path in NOTEBOOKS}


def test_stored_notebooks_have_no_outputs():
    cells = [cell for path in NOTEBOOKS for cell in nbformat.read(path, as_version=4).cells]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


def test_the_environment_has_the_wheel_and_not_the_source_tree(python, tmp_path):
    found = wheel.run(python, "-c", "import jaxreg; print(jaxreg.__file__)", cwd=tmp_path)
    assert found.startswith(str(python.parent.parent))
    spec = "import importlib.util as u; print(u.find_spec('experiments'), u.find_spec('tests.wheel'))"
    with pytest.raises(AssertionError, match="No module named 'tests'"):
        wheel.run(python, "-c", spec, cwd=tmp_path)
    assert wheel.run(python, "-c", spec.split(",")[0] + ")", cwd=tmp_path).strip() == "None"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_from_the_wheel_in_two_minutes_and_draws(path, python, tmp_path):
    launch = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    specification = tmp_path / "kernels" / "wheel" / "kernel.json"
    specification.parent.mkdir(parents=True)
    specification.write_text(json.dumps({"argv": launch, "display_name": "wheel", "language": "python"}))
    found = KernelSpecManager(kernel_dirs=[str(tmp_path / "kernels")], ensure_native_kernel=False)
    manager = AsyncKernelManager(
        kernel_name="wheel", kernel_spec_manager=found, connection_file=str(tmp_path / "connection.json")
    )
    folders = ("IPYTHONDIR", "MPLCONFIGDIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR")

    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    begin = time.monotonic()
    client = NotebookClient(notebook, km=manager, timeout=300, resources=resources)
    client.execute(env=wheel.clean_environment() | dict.fromkeys(folders, str(tmp_path)))
    assert time.monotonic() - begin < 120
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
