"""What the README says is true: its example runs, its names exist, its commands are understood."""

import contextlib
import functools
import importlib
import importlib.util
import io
import re
import sys

import pytest

from experiments import cli
from jaxreg import losses, penalties, transforms
from tests import wheel

README = (wheel.ROOT / "README.md").read_text(encoding="utf-8")
ROWS = [line for line in README.splitlines() if "`jaxreg.losses." in line and line.startswith("|")]
# Inline code and the lines of shell blocks.
COMMANDS = re.findall(r"`((?:make|python)\b[^`\n]*)`", README) + [
    line for block in re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL) for line in block.splitlines()
]


def starting_with(word):
    return sorted({command for command in COMMANDS if command.startswith(word)})


def test_the_example_is_fifteen_lines_and_learns():
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len([line for line in example.splitlines() if line]) == 15
    printed = wheel.run(sys.executable, "-c", example, cwd=wheel.ROOT)
    assert float(printed.removeprefix("accuracy:")) > 0.95


def test_every_public_loss_is_in_the_table_or_the_text_below_it():
    assert set(re.findall(r"`jaxreg\.losses\.(\w+)`", README)) == set(losses.__all__)


def test_every_public_penalty_is_in_the_table_or_the_text_below_it():
    assert set(re.findall(r"`jaxreg\.penalties\.(\w+)`", README)) == set(penalties.__all__)


def test_every_public_transformation_is_in_the_table_or_the_text_below_it():
    assert set(re.findall(r"`jaxreg\.transforms\.(\w+)`", README)) == set(transforms.__all__)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: re.findall(r"losses\.(\w+)", row)[0])
def test_a_row_leads_to_a_paper_checks_and_to_the_notebook_and_experiment_that_it_names(row):
    paper, functions, checks, notebook, experiment = (cell.strip() for cell in row.split("|")[1:-1])
    on_arxiv = re.findall(r"\]\(https://arxiv\.org/abs/(\d{4}\.\d{5})\)", paper)
    references = (wheel.ROOT / "references.bib").read_text(encoding="utf-8")
    assert on_arxiv or re.search(r"\(\d{4}\)", paper)
    assert all(number in references for number in on_arxiv)
    assert all(name in references for name in re.findall(r"\b([A-Z][a-z]+)\b", paper.split("[")[0]))
    for name in re.findall(r"`jaxreg\.losses\.(\w+)`", functions):
        assert callable(getattr(losses, name))
    for name in re.findall(r"`([\w.]+)`", checks):
        assert callable(importlib.import_module(name).suite)
    for name in re.findall(r"/colab/(\w+)\.ipynb\)", notebook):
        assert (wheel.ROOT / "colab" / f"{name}.ipynb").exists()
    for name in re.findall(r"`python -m experiments (\w+)`", experiment):
        assert (wheel.ROOT / "experiments" / name / "main.py").exists()


@pytest.mark.parametrize("command", starting_with("make "))
def test_make_targets_exist(command):
    makefile = (wheel.ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"(?m)^{command.split()[1]}:.*## ", makefile)


@functools.cache
def help_of(module, *names):
    """What a command says of its options; the experiments in this process, which has their imports."""
    if module != "experiments":
        return wheel.run(sys.executable, "-m", module, *names, "--help", cwd=wheel.ROOT)
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit):
        cli.main([*names, "--help"])
    return printed.getvalue()


@pytest.mark.parametrize("command", starting_with("python "))
def test_python_commands_name_a_module_and_options_that_exist(command):
    _, _, module, *arguments = command.split()
    found = importlib.util.find_spec(module)
    assert found and (not found.submodule_search_locations or importlib.util.find_spec(f"{module}.__main__"))
    names = [word for word in arguments if not word.startswith("-") and word.islower()]
    if "list" not in names:
        understood = help_of(module, *names[:1])
        assert "usage" in understood.lower()
        assert all(word in understood for word in arguments if word.startswith("--"))


def test_local_links_lead_to_files():
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert all((wheel.ROOT / link).exists() for link in links)
