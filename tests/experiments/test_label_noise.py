"""The parts of the experiment on label noise."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from experiments import models, runner
from experiments.label_noise import contenders, ranks, released, results, selection, sweep, temperatures
from tests.experiments.test_train import small_sweep

# One worker makes the finished run for all tests that need it.
pytestmark = pytest.mark.xdist_group("finished_run")


def batch(seed=0, rows=6, classes=5):
    generator = np.random.default_rng(seed)
    return generator.normal(size=(rows, classes)) * 3, generator.integers(0, classes, rows)


def ldr_in_numpy(scores, labels, temperatures, margin):
    """Temperature times the log of the mean of the exponentials, one example at a time."""
    values = []
    for score, label, temperature in zip(scores, labels, temperatures, strict=True):
        gaps = [s - score[label] + margin * (k != label) for k, s in enumerate(score)]
        values.append(temperature * np.log(np.mean(np.exp(np.array(gaps) / temperature))))
    return np.array(values)


def test_the_released_ldr_kl_is_the_loss_of_softplus_scores_of_mean_one():
    logits, labels = batch()
    scores = np.log1p(np.exp(logits))
    scores = 5 * scores / scores.sum(axis=1, keepdims=True)
    expected = ldr_in_numpy(scores, labels, np.full(6, 0.7), 0.1)
    found = released.ldr_kl(jnp.asarray(logits), jnp.asarray(labels), temperature=0.7, margin=0.1)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_the_released_temperatures_take_one_step_a_visit_and_enter_the_loss_at_once():
    alpha, limit, margin = 2.0, 0.5, 0.1
    stored, ratio = np.full(6, limit), jnp.ones(6)
    for visit in range(3):
        logits, labels = batch(visit)
        scores = 5 * logits / np.abs(logits).sum(axis=1, keepdims=True)
        values = []
        for row in range(6):
            weights = np.exp(scores[row] / stored[row]) / np.exp(scores[row] / stored[row]).sum() + 1e-5
            weights /= weights.sum()
            divergence = (weights * np.log(5 * weights)).sum()
            stored[row] = limit - limit * divergence / (alpha * np.log(5))
        values = ldr_in_numpy(scores, labels, stored, margin)
        values -= alpha * np.log(5) / limit * (stored - limit) ** 2 / 2
        hyper = {"temperature": limit, "alpha": alpha, "margin": margin}
        ratio = released.visit(jnp.asarray(logits), ratio, **hyper)
        found = released.aldr_kl(jnp.asarray(logits), jnp.asarray(labels), ratio=ratio, **hyper)
        np.testing.assert_allclose(ratio * limit, stored, rtol=1e-5)
        np.testing.assert_allclose(found, values, rtol=1e-5, atol=1e-6)
    # Scaling the scores changes nothing, and no gradient flows through the temperatures.
    once, scaled = (released.visit(c * jnp.asarray(logits), jnp.ones(6), **hyper) for c in (1, 4))
    np.testing.assert_allclose(once, scaled, rtol=1e-5)
    slopes = jax.grad(lambda z: released.visit(z, jnp.ones(6), **hyper).sum())(jnp.asarray(logits))
    np.testing.assert_array_equal(slopes, 0)


def test_a_step_renews_the_stored_temperatures_of_its_own_examples_alone():
    _, runs, shared, schedule, _ = small_sweep()
    network, optimiser = models.make("mlp", (13,), 8, 3), sweep.Optimiser(0.9, 0.0)
    init = sweep.make_init(network, optimiser, schedule.examples)
    task = sweep.make_task(contenders.RELEASED["aldr_kl_released"], network, optimiser, init, 2)
    hyper = {"temperature": jnp.float32(1.0), "alpha": jnp.float32(2.0), "margin": jnp.float32(0.1)}
    run = {key: values[0] for key, values in runs.items() if key != "hyper"} | {"hyper": hyper}
    here = jax.tree.map(jnp.asarray, shared)
    positions = jnp.arange(10, 20)
    before = init(jnp.int32(0))
    after = jax.jit(task.step)(before, run, task.prepare(run, here), positions, jnp.float32(0))
    assert after.ratios is not None
    changed = np.flatnonzero(np.asarray(after.ratios) != 1)
    np.testing.assert_array_equal(changed, positions)
    logits = network.apply(before.params, task.prepare(run, here).batch(positions))
    np.testing.assert_allclose(
        after.ratios[positions], released.visit(logits, jnp.ones(10), **hyper), rtol=1e-5
    )


def test_variants_replace_or_add_the_released_losses():
    names = ("cross_entropy", "ldr_kl")
    assert list(contenders.entrants(names, "definition")) == ["cross_entropy", "ldr_kl"]
    assert list(contenders.entrants(names, "released")) == ["cross_entropy", "ldr_kl_released"]
    assert list(contenders.entrants(names, "both")) == ["cross_entropy", "ldr_kl", "ldr_kl_released"]


def test_every_contender_has_a_finite_slope_at_every_value_of_its_grid():
    logits, labels = (jnp.asarray(part) for part in batch(classes=10))
    for contender in contenders.CONTENDERS.values():
        for values in zip(*contender.grid.values(), strict=False):
            hyper = dict(zip(contender.grid, values, strict=True))
            slopes = jax.grad(lambda z, c=contender, h=hyper: c.loss(z, labels, **h).sum())(logits)
            assert np.isfinite(slopes).all()


def test_detection_is_the_normalised_statistic_of_mann_and_whitney():
    generator = np.random.default_rng(0)
    scores = generator.integers(0, 8, 50).astype(np.float32)
    positive = generator.random(50) < 0.3
    statistic = scipy.stats.mannwhitneyu(scores[positive], scores[~positive]).statistic
    expected = statistic / (positive.sum() * (~positive).sum())
    found = temperatures.detection(jnp.asarray(scores), jnp.asarray(positive))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert temperatures.detection(jnp.asarray(scores), jnp.zeros(50, bool)) == 0.5


def made_up(loss, noise, accuracies):
    return selection.Choice("set", loss, noise, {}, np.array([1]), {"test": np.array([accuracies])}, [])


def test_ranks_share_ties_and_average_over_settings_and_guesses():
    found = [
        made_up("a", "clean", [[0.9, 1.0], [0.8, 1.0]]),
        made_up("b", "clean", [[0.7, 1.0], [0.7, 1.0]]),
        made_up("c", "clean", [[0.5, 0.9], [0.4, 0.9]]),
        made_up("a", "noisy", [[0.3, 0.6], [0.3, 0.6]]),
        made_up("b", "noisy", [[0.2, 0.7], [0.2, 0.7]]),
        made_up("c", "noisy", [[0.1, 0.5], [0.1, 0.5]]),
    ]
    ranking = ranks.ranking(found)
    assert [row.loss for row in ranking.standings] == ["a", "b", "c"]
    np.testing.assert_allclose([row.rank for row in ranking.standings], [5.5 / 4, 6.5 / 4, 3])
    np.testing.assert_allclose(ranking.standings[0].by_top, [1, 1.75])
    assert all(row.low <= row.rank <= row.high for row in ranking.standings)
    # The quantile of Nemenyi's test for three treatments, tabulated as 2.343.
    np.testing.assert_allclose(ranking.critical_difference, 2.343 * np.sqrt(3 * 4 / (6 * 2)), rtol=1e-3)
    assert ranking.settings == 2


def test_the_selection_uses_validation_rows_only_unless_asked_otherwise(finished):
    rows = runner.RunFolder(finished).rows()
    spoiled = json.loads(json.dumps(rows))
    for row in spoiled:
        if "metrics" in row:
            row["metrics"]["test"] = (1 - np.array(row["metrics"]["test"])).tolist()
    chosen, again = ([choice.hyper for choice in selection.choices(content)] for content in (rows, spoiled))
    assert chosen == again
    for choice in selection.choices(rows, by="test"):
        assert choice.test[:, 0].mean() == max(tried.test[:, 0].mean() for tried in choice.tried)


def test_the_table_of_detections_has_a_row_for_every_noise_and_a_column_for_every_temperature(finished):
    found = selection.choices(runner.RunFolder(finished).rows())
    header, rows = results.detection_table(found, {"aldr_kl": "ALDR-KL"}) or ([], [])
    assert [row[:3] for row in rows] == [["ALDR-KL", "wine", "uniform 0.4"]]
    assert header[-3:] == ["temperature 0.1", "temperature 1", "temperature 10"]
