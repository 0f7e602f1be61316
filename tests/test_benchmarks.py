"""The benchmarks' command lines: a mistake ends with exit code 2 and no traceback."""

import subprocess
import sys

import pytest

from tests import wheel


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["losses", "--rounds", "0"], "at least 2, got 0"),
        (["penalties", "--rows", "-4"], "at least 2, got -4"),
        (["attacks", "--rounds", "many"], "'many'"),
        (["sweeps", "--dataset", "wine", "--loss", "no_such_loss"], "no_such_loss"),
    ],
)
def test_a_mistake_is_named(arguments, word):
    command = [sys.executable, "-m", f"benchmarks.{arguments[0]}", *arguments[1:]]
    ended = subprocess.run(command, cwd=wheel.ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 2, ended.stderr
    assert "Traceback" not in ended.stderr
    assert word in ended.stderr.splitlines()[-1]
    assert ended.stdout == ""
