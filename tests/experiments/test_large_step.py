"""Large steps on real problems: files, bounds, refusals, resuming."""

import csv

import numpy as np
import pytest

from experiments import cli
from experiments.large_step import problems
from jaxreg.theory.large_step import separate

# One worker makes the finished run for all tests that need it.
pytestmark = pytest.mark.xdist_group("large_step_run")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    assert cli.main(["large_step", "--preset", "smoke", "--runs-dir", str(runs)]) == 0
    (path,) = runs.iterdir()
    return path


def test_a_run_has_its_files_and_no_count_exceeds_its_bound(run):
    names = {"steps_to_separation.png", "loss_and_accuracy.png", "perceptron_limit.png"}
    assert {path.name for path in (run / "figures").iterdir()} == names
    assert "Bounds held in 30 of 30 runs." in (run / "report.html").read_text()
    rows = list(csv.DictReader((run / "results.csv").open()))
    assert len(rows) == 2 * 5 * 3
    assert all(int(row["steps"]) <= float(row["bound"]) for row in rows)


def test_counts_are_those_of_the_problem_alone(run):
    problem = problems.load("wine:0-2", None, 1000, 0)
    assert np.linalg.norm(problem.examples, axis=1).max() == pytest.approx(1)
    ones = np.ones(len(problem.examples), int)
    for row in csv.DictReader((run / "results.csv").open()):
        if row["problem"] == "wine:0-2":
            size = np.float32(row["step_size"])
            found = separate(problem.examples, ones, method=row["method"], step_size=size, max_steps=300)
            assert (int(row["steps"]), row["separated"]) == (int(found.count), str(bool(found.separated)))


def test_resuming_and_reporting_change_nothing(run):
    before = (run / "results.csv").read_bytes()
    assert cli.main(["large_step", "--resume", str(run)]) == 0
    assert cli.main(["report", str(run)]) == 0
    assert (run / "results.csv").read_bytes() == before


def test_a_run_that_is_killed_and_resumed_ends_with_the_same_results(run, killed_and_resumed):
    path = killed_and_resumed("large_step", "--preset", "smoke", visit=7)
    assert (path / "results.csv").read_bytes() == (run / "results.csv").read_bytes()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--problems", "digits"], "digits"),
        (["--problems", "digits:3-3"], "different"),
        (["--problems", "digits:3-12"], "0..9"),
        (["--problems", "mnist:3-8", "--data-dir", "/nowhere/at/all"], "/nowhere/at/all"),
        (["--step-sizes", "0"], "step_sizes"),
        (["--max-steps", "1"], "max_steps"),
    ],
)
def test_a_request_that_cannot_be_met_ends_with_code_2(options, word, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["large_step", *options]) == 2
    assert word in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_random_features_make_more_columns_than_rows():
    problem = problems.load("wine:1-2:200", None, 1000, 0)
    assert problem.examples.shape == (119, 201)
    assert np.isfinite(problem.rho)
