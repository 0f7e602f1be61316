"""Ctrl-C at any moment, and two writers of one run."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import cli
from tests.experiments.conftest import SMOKE

# One worker makes the finished run for all tests that need it.
pytestmark = pytest.mark.xdist_group("finished_run")

ROOT = Path(__file__).resolve().parents[2]
# Interrupts the process from a callback of the garbage collector as soon as a visit is written.
FROM_A_CALLBACK = """
import gc, runpy, signal
from experiments import runner

append = runner.RunFolder.append

def interrupt(phase, info):
    gc.callbacks.remove(interrupt)
    signal.raise_signal(signal.SIGINT)

def write(folder, row):
    append(folder, row)
    if "metrics" in row:
        gc.callbacks.append(interrupt)
        gc.collect()

runner.RunFolder.append = write
runpy.run_module("experiments", run_name="__main__", alter_sys=True)
"""


def ended(*command, **environment):
    environment = os.environ | environment
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False, env=environment
    )


def test_an_interrupt_while_libraries_are_imported_is_one_sentence(tmp_path):
    (tmp_path / "tyro.py").write_text(
        "import signal, time\nsignal.raise_signal(signal.SIGINT)\ntime.sleep(9)\n"
    )
    process = ended("-m", "experiments", *SMOKE, PYTHONPATH=str(tmp_path))
    assert process.returncode == 130
    assert process.stderr == "experiments: interrupted.\n"


def test_an_interrupt_that_a_callback_loses_still_ends_the_run_which_can_go_on(tmp_path):
    process = ended("-c", FROM_A_CALLBACK, *SMOKE, "--runs-dir", str(tmp_path))
    assert process.returncode == 130, process.stderr
    (run,) = tmp_path.iterdir()
    last = process.stderr.splitlines()[-1]
    assert last == (
        f"experiments: interrupted: go on with `python -m experiments label_noise --resume {run}`."
    )
    assert "Traceback" not in process.stderr
    assert not (run / "report.html").exists()


def test_a_run_that_another_process_writes_is_not_resumed(finished, capsys):
    files = ("metrics.jsonl", "results.csv", "report.html")
    before = [(finished / name).stat().st_mtime_ns for name in files]
    with open(finished / "config.json") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert cli.main(["label_noise", "--resume", str(finished)]) == 2
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("experiments: ")]
    assert said == f"experiments: {finished} is being written by another process; wait until that has ended."
    assert before == [(finished / name).stat().st_mtime_ns for name in files]
