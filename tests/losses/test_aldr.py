"""ALDR-KL beyond the conformance suite: it is the global maximum over the temperature, at every size."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from jaxreg.losses import aldr_kl, aldr_temperature, ldr_kl
from jaxreg.theory.oracles import quick_jit
from tests import oracles

loss, chosen, ldr = jax.jit(aldr_kl), jax.jit(aldr_temperature), jax.jit(ldr_kl)


def objective(z, lam, temperature, alpha):
    """What is maximised over ``lam``, for a column of temperatures; scores less their largest."""
    w = z / lam
    log_mean = np.log(np.mean(np.exp(w), -1, keepdims=True))
    curvature = alpha * np.log(z.shape[-1]) / temperature
    return (lam * log_mean - curvature * (lam - temperature) ** 2 / 2)[..., 0]


def global_maximum(logits, temperature, alpha, points=4001):
    """By a dense grid of temperatures and golden sections within its best cells."""
    z = logits - logits.max(-1, keepdims=True)
    grid = temperature * np.linspace(1 - 1 / alpha, 1, points)
    values = np.stack([objective(z, lam, temperature, alpha) for lam in grid])
    best = np.argmax(values, 0)
    low = grid[np.maximum(best - 1, 0)][:, None]
    high = grid[np.minimum(best + 1, points - 1)][:, None]
    ratio = (np.sqrt(5) - 1) / 2
    for _ in range(60):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        better = objective(z, left, temperature, alpha) > objective(z, right, temperature, alpha)
        low, high = np.where(better[:, None], low, left), np.where(better[:, None], right, high)
    return objective(z, (low + high) / 2, temperature, alpha), ((low + high) / 2)[:, 0]


def batches(classes, rows, seed=0):
    """Two-level, Gaussian, heavy-tailed and boosted logits: those that make several stationary points."""
    generator = np.random.default_rng(seed)
    yield generator.normal(size=(rows, classes)) * np.logspace(-2, 4, rows)[:, None]
    yield np.eye(classes)[np.zeros(rows, int)] * np.linspace(0, 3 * np.log(classes), rows)[:, None]
    yield generator.standard_cauchy(size=(rows, classes))
    boosted = generator.normal(size=(rows, classes))
    boosted[:, 0] += np.linspace(0, 12, rows)
    yield boosted


@pytest.mark.parametrize(
    ("classes", "alpha"), [(2, 2.0), (3, 1.01), (10, 2.0), (10, 1.1), (200, 2.0), (1000, 2.0), (1000, 1.5)]
)
def test_value_is_the_global_maximum_over_the_temperature(classes, alpha):
    rows = 24
    for logits in batches(classes, rows):
        top = np.argmax(logits, -1)
        value, _ = global_maximum(logits, 1.0, alpha, 2001 if classes > 100 else 4001)
        found = loss(logits, top, temperature=1.0, alpha=alpha)
        np.testing.assert_allclose(found, value, rtol=1e-9, atol=1e-9)
        assert np.all(
            (chosen(logits, top, alpha=alpha) >= 1 - 1 / alpha) & (chosen(logits, top, alpha=alpha) <= 1)
        )
        # Where the maximum is flat the maximiser is not determined; its value is.
        at_chosen = objective(
            logits - logits.max(-1, keepdims=True),
            np.asarray(chosen(logits, top, alpha=alpha))[:, None],
            1.0,
            alpha,
        )
        np.testing.assert_allclose(at_chosen, value, rtol=1e-9, atol=1e-9)


def test_no_row_of_many_ends_far_from_the_maximum_in_whatever_way_the_search_is_compiled():
    """Rounding at the maximum must not count as a step out of the interval: one row in a thousand."""
    rows, alpha = 20_000, 1.5
    generator = np.random.default_rng(3)
    logits = generator.normal(size=(rows, 2)) * 10 ** generator.uniform(-2, 2, (rows, 1))
    z, labels = logits - logits.max(-1, keepdims=True), np.zeros(rows, int)
    # The slope is monotone for two classes at this alpha: bisection finds its only root.
    low, high = np.full((rows, 1), 1 - 1 / alpha), np.ones((rows, 1))
    for _ in range(55):
        middle = (low + high) / 2
        p = np.exp(z / middle)
        p /= p.sum(-1, keepdims=True)
        divergence = np.sum(scipy.special.xlogy(p, 2 * p), -1, keepdims=True)
        rises = alpha * np.log(2) * (1 - middle) > divergence
        low, high = np.where(rises, middle, low), np.where(rises, high, middle)
    for found in (chosen(logits, labels, alpha=alpha), aldr_temperature(logits, labels, alpha=alpha)):
        np.testing.assert_allclose(found, middle[:, 0], rtol=1e-12)


def test_both_searches_are_right_in_value_and_derivatives_where_alpha_is_a_vectorised_array():
    """Over a traced alpha ``vmap`` runs both searches, and each example takes one of them."""
    classes, step = 20, 1e-5
    logits = 3 * np.random.default_rng(8).normal(size=(4, classes))
    alphas, direction = np.array([1.05, 1.3, 1.6, 2.0, 3.5]), np.linspace(-1, 1, classes)

    def derivatives(z, alpha):
        def value(z, alpha):
            return aldr_kl(z, 0, temperature=0.8, alpha=alpha, margin=0.3)

        both = jax.value_and_grad(value, argnums=(0, 1))
        (found, slopes), (_, curvature) = jax.jvp(both, (z, alpha), (direction, 0.0))
        return found, *slopes, *curvature

    grid = quick_jit(jax.vmap(jax.vmap(derivatives, (None, 0)), (0, None)))
    values, slopes, by_alpha, curvature, cross = grid(logits, alphas)
    gaps = logits - logits[:, :1] + 0.3 * (np.arange(classes) > 0)
    top = gaps.max(-1, keepdims=True)
    exact = [top[:, 0] + global_maximum(gaps - top, 0.8, alpha)[0] for alpha in alphas]
    np.testing.assert_allclose(values.T, exact, rtol=1e-9, atol=1e-9)
    up, down = grid(logits + step * direction, alphas), grid(logits - step * direction, alphas)
    differences = [(high - low) / (2 * step) for high, low in zip(up[:3], down[:3], strict=True)]
    expected = slopes @ direction, curvature, cross
    for found, wanted in zip(differences, expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-7)
    up, down = grid(logits, alphas + step)[0], grid(logits, alphas - step)[0]
    np.testing.assert_allclose((up - down) / (2 * step), by_alpha, atol=1e-7)


@pytest.mark.parametrize("alpha", [2.0, 1.5])
def test_in_single_precision_the_adversarial_cases_lose_nothing(alpha):
    """Two levels of scores, m of them leading, with the transition all over the interval of temperatures."""
    classes, rows = 1000, 200
    generator = np.random.default_rng(7)
    leading = generator.integers(1, 20, rows)
    gaps = np.log(classes / leading - 1) * generator.uniform(0.3, 1.4, rows)
    logits = np.where(np.arange(classes) < leading[:, None], 0.0, -gaps[:, None]).astype(np.float32)
    exact = logits.astype(np.float64)
    value, _ = global_maximum(exact, 1.0, alpha, 1001)
    labels = np.zeros(rows, int)
    for given in (alpha, jnp.float32(alpha)):
        at_chosen = objective(
            exact, np.asarray(chosen(logits, labels, alpha=given), float)[:, None], 1.0, alpha
        )
        assert np.max(value - at_chosen) < 1e-8
        np.testing.assert_allclose(loss(logits, labels, alpha=given), value, atol=4e-6)


def test_it_beats_the_alternation_where_there_are_several_stationary_points():
    """From the largest temperature, softmax and temperature updated in turn stop at a lower maximum."""
    classes, alpha = 1000, 1.1
    gaps = np.linspace(0.5, 8, 400)
    logits = np.eye(classes)[np.zeros(400, int)] * gaps[:, None]
    z = logits - logits.max(-1, keepdims=True)
    lam = np.ones((400, 1))
    for _ in range(500):
        p = np.exp(z / lam)
        p /= p.sum(-1, keepdims=True)
        divergence = np.sum(p * np.log(np.maximum(classes * p, 1e-300)), -1, keepdims=True)
        lam = 1 - divergence / (alpha * np.log(classes))
    alternation = objective(z, lam, 1.0, alpha)
    exact = np.asarray(loss(logits, np.zeros(400, int), alpha=alpha))
    assert np.all(exact >= alternation - 1e-9)
    assert np.max(exact - alternation) > 0.01


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("classes", [2, 26, 100])
def test_temperature_and_value_are_accurate_where_the_maximum_is_unique(dtype, classes):
    logits = np.asarray(np.random.default_rng(classes).normal(size=(8, classes)) * 3, dtype)
    labels = np.zeros(8, int)
    hyper = {"temperature": 1.0, "alpha": 2.0, "margin": 0.0}
    tolerance = 2e-6 if dtype == jnp.float32 else 1e-12
    found = np.asarray(chosen(logits, labels, **hyper))
    assert found.dtype == dtype
    with oracles.mp.workdps(oracles.DIGITS):
        rows = [[oracles.mp.mpf(float(x)) for x in row] for row in logits]
        exact = {key: oracles.mp.mpf(value) for key, value in hyper.items()}
        expected = [float(oracles.aldr_temperature(row, 0, **exact)) for row in rows]
    np.testing.assert_allclose(found, expected, rtol=tolerance)
    expected = [float(oracles.value(oracles.aldr_kl, row, 0, **hyper)) for row in logits]
    scale = max(1.0, float(np.max(np.ptp(logits, -1))))
    np.testing.assert_allclose(np.asarray(loss(logits, labels, **hyper)), expected, atol=tolerance * scale)


def test_slope_of_the_chosen_temperature_is_that_of_the_implicit_function():
    logits, label, h = np.array([0.5, -1.0, 2.0, 0.0]), 1, 1e-6
    slope = jax.jit(jax.jacrev(lambda z: aldr_temperature(z, label, alpha=1.5)))(logits)
    for k, e in enumerate(h * np.eye(4)):
        difference = (chosen(logits + e, label, alpha=1.5) - chosen(logits - e, label, alpha=1.5)) / (2 * h)
        np.testing.assert_allclose(slope[k], difference, atol=1e-8)


def test_larger_alpha_lowers_the_loss_towards_ldr_kl():
    logits = 3 * np.random.default_rng(1).normal(size=(20, 7))
    labels = np.arange(20) % 7
    values = [loss(logits, labels, temperature=0.8, alpha=alpha) for alpha in (1.2, 2.0, 10.0, 1e3, 1e9)]
    assert all(np.all(after <= before + 1e-12) for before, after in itertools.pairwise(values))
    np.testing.assert_allclose(values[-1], ldr(logits, labels, temperature=0.8), atol=1e-8)
    assert np.all(values[1] <= ldr(logits, labels, temperature=0.4) + 1e-12)


def test_scaling_logits_margin_and_temperature_scales_the_loss():
    logits, labels = np.random.default_rng(2).normal(size=(10, 6)), np.arange(10) % 6
    one = loss(logits, labels, temperature=0.5, margin=0.25)
    for scale in (1e-6, 3.0, 1e6):
        scaled = loss(scale * logits, labels, temperature=0.5 * scale, margin=0.25 * scale)
        np.testing.assert_allclose(scaled, scale * one, rtol=1e-11)


def test_without_margin_the_temperature_does_not_depend_on_the_label():
    logits = np.tile(np.random.default_rng(3).normal(size=6), (6, 1))
    assert np.ptp(chosen(logits, np.arange(6))) < 1e-14
    assert np.ptp(chosen(logits, np.arange(6), margin=1.0)) > 1e-3


def test_equal_scores_keep_the_temperature_and_one_class_gives_zero():
    np.testing.assert_allclose(chosen(np.zeros((3, 5)), np.arange(3), temperature=3.0), 3, rtol=1e-14)
    np.testing.assert_array_equal(loss(np.ones((3, 1)), np.zeros(3, int)), 0)
    np.testing.assert_allclose(chosen(np.ones((3, 1)), np.zeros(3, int), temperature=3.0), 3, rtol=1e-14)


def test_invalid_labels_and_alpha_at_most_one():
    assert np.isnan(chosen(np.zeros((1, 3)), np.array([3])))
    with pytest.raises(ValueError, match=r"alpha must lie in \(1, inf\), got 1.0: .*temperature 0"):
        aldr_kl(np.zeros(3), 0, alpha=1.0)
    assert np.isnan(loss(np.zeros((1, 3)), np.array([0]), alpha=0.9))


def test_all_classes_removed_gives_nan():
    where = np.zeros((2, 3), bool)
    assert np.all(np.isnan(loss(np.zeros((2, 3)), np.array([0, 1]), where=where)))


def test_a_hundred_thousand_classes():
    logits = np.random.default_rng(4).normal(size=(2, 100_000))
    logits[:, 7] += [5, 20]
    value, temperature = global_maximum(logits, 1.0, 4.0, 401)
    found, top = loss(logits, np.argmax(logits, -1), alpha=4.0), np.argmax(logits, -1)
    np.testing.assert_allclose(found, value, rtol=1e-8)
    np.testing.assert_allclose(chosen(logits, top, alpha=4.0), temperature, rtol=1e-6)
