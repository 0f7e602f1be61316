"""The page beside each experiment: its commands are understood, and its tables and links are whole."""

import re
import shlex
from pathlib import Path

import pytest

from experiments import cli

ROOT = Path(cli.__file__).resolve().parents[1]
PAGES = {name: (ROOT / "experiments" / name / "README.md").read_text() for name in cli.EXPERIMENTS}
every_page = pytest.mark.parametrize("name", PAGES)


def commands(name):
    """The words of every command in blocks and in the text; options alone are the experiment's own."""
    blocks = re.findall(r"```\w*\n(.*?)```", PAGES[name], flags=re.DOTALL)
    text = re.sub(r"```.*?```", "", PAGES[name], flags=re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    for line in [*lines, *re.findall(r"`([^`]*)`", text)]:
        words = shlex.split(line, comments=True) if line.startswith(("python ", "--")) else []
        if words and words[0] == "python":
            yield words[2:]
        elif len(words) > 1:
            yield ["experiments", name, *words]


@every_page
def test_its_commands_are_understood(name):
    found = [words for words in commands(name) if words[0] == "experiments"]
    assert any(words[:2] == ["experiments", name] for words in found)
    for _, experiment, *options in found:
        if experiment == "report" or "--help" in options:
            continue
        module = cli._module(experiment)
        preset = cli._value_of(options, "--preset") or "default"
        cli._parse(experiment, module, options, module.PRESETS[preset])


@every_page
def test_its_other_commands_name_files(name):
    others = [words[0] for words in commands(name) if words[0] != "experiments"]
    assert all((ROOT / f"{module.replace('.', '/')}.py").exists() for module in others)


@every_page
def test_rows_of_its_tables_have_as_many_cells_as_the_heads(name):
    lines = PAGES[name].splitlines()
    width = 0
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        cells = line.count("|")
        if re.fullmatch(r"\|( ?-+ ?\|)+", following):
            width = cells
        assert not line.startswith("|") or cells == width, line
