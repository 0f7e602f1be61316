"""The exactly solvable case: what theory says of it, files, refusals, resuming."""

import csv

import numpy as np
import pytest

from experiments import cli
from experiments.ridge_toy import toy
from jaxreg.theory.self_tuning import exact_ridge

# One worker makes the finished run for all tests that need it.
pytestmark = pytest.mark.xdist_group("ridge_toy_run")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    assert cli.main(["ridge_toy", "--preset", "smoke", "--runs-dir", str(runs)]) == 0
    (path,) = runs.iterdir()
    return path


def test_a_run_has_its_files_and_tuning_moves_towards_the_optimum(run):
    names = {"response.png", "paths.png", "fixed_points.png"}
    assert {path.name for path in (run / "figures").iterdir()} == names
    rows = list(csv.DictReader((run / "results.csv").open()))
    assert len(rows) == 3 * 2
    for row in rows:
        start, found, wanted = (float(row[name]) for name in ("start", "log_penalty", "predicted"))
        assert abs(found - wanted) < abs(start - wanted)


def test_resuming_and_reporting_change_nothing(run):
    before = (run / "results.csv").read_bytes()
    assert cli.main(["ridge_toy", "--resume", str(run)]) == 0
    assert cli.main(["report", str(run)]) == 0
    assert (run / "results.csv").read_bytes() == before


def test_small_perturbations_settle_at_the_optimum_and_larger_ones_beside_it():
    problem = toy.draw(3, 15, 10, 200, 1.0)
    best = toy.optimum(problem)
    losses = [problem.valid_loss(exact_ridge(*problem[:2], best + step).weights) for step in (-0.1, 0.0, 0.1)]
    assert losses[1] == min(losses)
    for centred in (False, True):
        gaps = [abs(toy.settled(problem, scale, centred=centred) - best) for scale in (0.05, 0.1, 0.6)]
        assert gaps[0] < 0.01 < 0.1 < gaps[2]
        # The bias is of second order.
        assert gaps[1] / gaps[0] == pytest.approx(4, rel=0.2)


def test_the_tuned_scale_balances_the_curvature():
    problem = toy.draw(1, 15, 10, 200, 1.0)
    theta = np.arange(10) / 10
    scale = toy.settled_scale(problem, 1e-3, theta)

    def objective(sigma):  # the validation loss along the response, in the mean, less the entropy
        return 0.5 * np.mean((problem.valid_features @ theta) ** 2) * sigma**2 - 1e-3 * np.log(sigma)

    assert objective(scale) < min(objective(0.99 * scale), objective(1.01 * scale))


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--rows", "0"], "rows"),
        (["--visits", "7"], "visits"),
        (["--scales", "-0.1"], "scales"),
    ],
)
def test_a_request_that_cannot_be_met_ends_with_code_2(options, word, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["ridge_toy", *options]) == 2
    assert word in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
