"""What the pictures show lies within their axes."""

from types import SimpleNamespace

import numpy as np
import pytest

from experiments import report
from experiments.large_step import results as large_step
from experiments.ptb_lstm import results as ptb_lstm
from experiments.self_tuning.results import Stage


@pytest.fixture
def drawn(monkeypatch):
    """The figures whose pictures are asked for."""
    figures = []

    def kept(figure):
        figures.append(figure)
        return b""

    monkeypatch.setattr(report, "png", kept)
    yield figures
    for figure in figures:
        report.plt.close(figure)


def test_the_lowest_perplexity_of_every_setting_is_in_the_picture(drawn):
    # The mean over both settings never falls below 100.
    loss = np.log([[140.0, 150.0], [100.0, 160.0], [50.0, 170.0]])
    stage = Stage("fixed", np.array(["0.2", "0.8"]), np.zeros(2, int), {"validation_loss": loss})
    ptb_lstm.curves({"fixed": stage}, SimpleNamespace(visits=3, steps_per_visit=10))
    low, high = drawn[0].axes[0].get_ylim()
    lowest = [line.get_ydata().min() for line in drawn[0].axes[0].lines]
    assert lowest == pytest.approx([50, 150])
    assert low < 50
    assert high > 150


def test_a_problem_that_is_separated_by_the_first_step_leaves_a_dot(drawn):
    metrics = {"wrong": np.array([[3, 0, -1]]), "loss": np.array([[0.7, 0.2, 0.0]])}
    metrics |= {"count": np.array([1]), "separated": np.array([True])}
    both = dict.fromkeys(("logistic_gd", "batch_perceptron"), metrics)
    found = large_step.Found("wine:0-2", 9, 3, 18.0, np.ones(1), both)
    large_step.curves_picture([found])
    for axis in drawn[0].axes:
        (line,) = axis.lines
        assert len(line.get_xdata()) == 1
        assert line.get_marker() not in ("", "None", None)
