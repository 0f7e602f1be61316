"""The smoke presets of comp_sum and adversarial run to their reports; what is impossible is refused."""

import csv

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import cli
from experiments.adversarial import attack
from experiments.adversarial import results as adversarial_results
from experiments.comp_sum import bound
from experiments.runner import RunFolder

pytestmark = pytest.mark.xdist_group("comp_sum_runs")


OPTIONS = {"comp_sum": ("--preset", "smoke"), "adversarial": ("--preset", "smoke", "--visits", "2")}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished run of each experiment."""
    folders = {}
    for name, options in OPTIONS.items():
        runs = tmp_path_factory.mktemp(name)
        assert cli.main([name, *options, "--checkpoint-seconds", "0", "--runs-dir", str(runs)]) == 0
        (folders[name],) = runs.iterdir()
    return folders


def test_comp_sum_trains_every_tau_and_draws_the_bound(finished):
    path = finished["comp_sum"]
    rows = list(csv.DictReader((path / "results.csv").open()))
    assert [row["tau"] for row in rows] == ["0", "0.5", "1", "1.5", "2"]
    assert (path / "figures" / "estimation_errors.png").exists()
    assert "Least distance" in (path / "report.html").read_text()


def test_adversarial_reports_every_accuracy_with_the_check_of_its_attack(finished):
    path = finished["adversarial"]
    rows = list(csv.DictReader((path / "results.csv").open()))
    assert len(rows) == 2
    assert all(row["attack_check"] for row in rows)
    assert rows[0]["weight"] == ""
    assert rows[1]["weight"] in ("0.1", "0.5")  # chosen on validation rows


@pytest.mark.parametrize(("name", "visit"), [("comp_sum", 2), ("adversarial", 4)])
def test_a_run_that_is_killed_and_resumed_ends_with_the_same_results(
    name, visit, finished, killed_and_resumed
):
    path = killed_and_resumed(name, *OPTIONS[name], visit=visit)
    assert (path / "results.csv").read_bytes() == (finished[name] / "results.csv").read_bytes()


def test_the_setting_with_the_best_validation_accuracy_is_reported(tmp_path):
    folder = RunFolder(tmp_path)
    table = {"weight": [0.1, 0.1, 0.5, 0.5], "learning_rate": [1.0] * 4, "seed": [0, 1, 0, 1]}
    folder.append({"step": 0, "stage": "smooth", "runs": table})
    metrics = {"validation": [0.1, 0.2, 0.3, 0.2], "robust": [0.9, 0.9, 0.4, 0.5]}
    folder.append({"step": 1, "stage": "smooth", "epoch": 3, "metrics": metrics})
    weight, rate, found = adversarial_results.chosen(folder, "smooth", 3)
    assert (weight, rate) == (0.5, 1.0)
    np.testing.assert_array_equal(found["robust"], [0.4, 0.5])


def test_no_hypothesis_lies_over_the_bound_and_bounded_scores_do():
    picture, slack = bound.picture((0.0, 1.5))
    assert slack > -1e-3
    assert picture.content[:4] == b"\x89PNG"
    t, b = bound.bounded_scores(np.random.default_rng(0), 0.5)
    from jaxreg.theory import comp_sum

    assert np.any(b > np.asarray(comp_sum.inverse_transform(t, 0.5, 2)) + 0.01)


def test_a_masked_or_short_attack_does_not_pass():
    def verdict(robust, longer, anything):
        values = {"robust": robust, "longer": longer, "anything": anything}
        return adversarial_results.verdict({key: np.full(3, value) for key, value in values.items()})

    assert verdict(0.5, 0.495, 0.0) == "passed"
    assert verdict(0.5, 0.45, 0.0).startswith("too short")
    assert verdict(0.5, 0.5, 0.2).startswith("masked")


def test_survivors_are_the_rows_whose_worst_margin_is_negative():
    rng = np.random.default_rng(0)
    weights = rng.normal(size=6)
    images, labels = rng.uniform(0.3, 0.7, (150, 6)), rng.integers(2, size=150)
    # The score of class 1 less that of class 0 is linear: its worst change is the radius times an l1 norm.
    lead = (2 * labels - 1) * ((images - 0.5) @ weights)
    asked = rng.uniform(size=150) < 0.7

    def score(x: jax.Array) -> jax.Array:
        return jnp.stack([jnp.zeros(len(x)), (x - 0.5) @ weights], axis=-1)

    @jax.jit
    def found(alive: jax.Array) -> jax.Array:
        def batch(rows: jax.Array) -> tuple[jax.Array, jax.Array]:
            return jnp.asarray(images)[rows], jnp.asarray(labels)[rows]

        strength = {"epsilon": 0.1, "steps": 20, "restarts": 3}
        return attack.survivors(score, batch, jnp.arange(150), alive, jax.random.key(0), **strength)

    clean = lead > 0
    expected = clean & (lead > 0.1 * np.abs(weights).sum())
    assert 0 < expected.sum() < clean.sum()
    np.testing.assert_array_equal(found(jnp.asarray(clean)), expected)
    # Those that nobody asks for do not count as survivors.
    np.testing.assert_array_equal(found(jnp.asarray(clean & asked)), expected & asked)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["comp_sum", "--taus", "-1"], "taus"),
        (["comp_sum", "--epochs", "7", "--visits", "2"], "visits"),
        (["adversarial", "--methods", "magic"], "magic"),
        (["adversarial", "--epsilon", "0"], "epsilon"),
        (["adversarial", "--nus", "-1"], "nus"),
        (["adversarial", "--ramp", "1"], "ramp"),
        (["adversarial", "--learning-rates", "0"], "learning_rates"),
    ],
)
def test_what_is_impossible_is_refused_in_one_sentence(arguments, word, capsys):
    assert cli.main(arguments) == 2
    assert word in capsys.readouterr().err
