"""Two processes share a run: its files are those that one process writes."""

import csv
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments import cli
from tests.experiments.conftest import SMOKE

pytestmark = pytest.mark.xdist_group("finished_run")

ROOT = Path(__file__).parents[2]


def in_two_processes(*arguments):
    """Exit codes, outputs and complaints of both."""
    port = random.SystemRandom().randrange(20_000, 40_000)
    command = [sys.executable, "-m", "experiments", *arguments, "--coordinator", f"localhost:{port}"]
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
        "JAX_PLATFORMS": "cpu",
    }
    started = [
        subprocess.Popen(
            [*command, "--processes", "2", "--process", str(index)],
            env=environment, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for index in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=240) for process in started]
    return [(process.returncode, *texts) for process, texts in zip(started, said, strict=True)]


def results(folder):
    with open(folder / "results.csv") as file:
        return list(csv.reader(file))


def assert_same(found, expected):
    assert [row[:6] for row in found] == [row[:6] for row in expected]  # what was trained and chosen
    for row, other in zip(found[1:], expected[1:], strict=True):
        np.testing.assert_allclose(np.float64(row[6:]), np.float64(other[6:]), atol=0.02)


def test_a_run_of_two_processes_is_that_of_one(finished, tmp_path):
    ends = in_two_processes(*SMOKE, "--parallel", "batch", "--runs-dir", str(tmp_path))
    assert [code for code, *_ in ends] == [0, 0], ends
    (path,) = tmp_path.iterdir()
    assert ends[0][1].strip().endswith(str(path / "report.html"))
    assert "report.html" not in ends[1][1]
    assert_same(results(path), results(finished))


def test_two_processes_go_on_with_a_run(finished, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(finished, path, ignore=shutil.ignore_patterns("report.html", "results.csv"))
    newest = max((path / "checkpoints").glob("*.json"), key=lambda file: int(file.stem))
    shutil.rmtree(newest.with_suffix(""))
    newest.unlink()
    ends = in_two_processes(SMOKE[0], "--resume", str(path))
    assert [code for code, *_ in ends] == [0, 0], ends
    assert_same(results(path), results(finished))


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ([*SMOKE, "--processes", "2"], "--coordinator"),
        ([*SMOKE, "--coordinator", "nowhere:1"], "--processes"),
        (["ridge_toy", "--coordinator", "auto"], "one process"),
    ],
)
def test_processes_that_cannot_be_joined_are_refused(arguments, word, capsys):
    assert cli.main(arguments) == 2
    said = capsys.readouterr().err
    assert word in said
    assert "Traceback" not in said
