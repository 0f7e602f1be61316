"""LDR-KL beyond the conformance suite: accuracy at every temperature, limits, and what makes it a maximum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from jaxreg.losses import ldr_kl, ldr_weights
from tests import oracles

CLASSES = 6
scores = arrays(np.float64, CLASSES, elements=st.floats(-20, 20))
labels = st.integers(0, CLASSES - 1)
temperatures = st.floats(1e-3, 1e3)
margins = st.floats(0, 5)

loss = jax.jit(ldr_kl)
weights_of = jax.jit(ldr_weights, static_argnames="axis")
gradient = jax.jit(jax.grad(ldr_kl, argnums=0))
slope_by_temperature = jax.jit(jax.grad(lambda t, z, y, c: ldr_kl(z, y, temperature=t, margin=c)))


def gaps(logits, label, margin):
    return logits - logits[label] + margin * (np.arange(len(logits)) != label)


def exact(logits, label, temperature, margin=0.0):
    hyper = {"temperature": float(temperature), "margin": float(margin)}
    return float(oracles.value(oracles.ldr_kl, logits, label, limits=("temperature",), **hyper))


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_float32_is_accurate_at_every_temperature(classes):
    logits = 10 * np.random.default_rng(classes).normal(size=classes).astype(np.float32)
    temperatures = np.float32([0, *np.logspace(-6, 20, 27), np.inf])
    found = np.asarray(loss(np.tile(logits, (29, 1)), np.zeros(29, int), temperature=temperatures))
    expected = np.array([exact(logits, 0, t) for t in temperatures])
    assert found.dtype == jnp.float32
    # The margins themselves reach some 40, of which float32 resolves 4e-6.
    assert np.max(np.abs(found - expected)) <= 2.3e-6 * max(1, np.max(np.abs(gaps(logits, 0, 0))) / 16)


@pytest.mark.parametrize("classes", [2, 10, 1000])
@pytest.mark.parametrize("spread", [1e-6, 1e-2])
def test_float32_error_is_small_relative_to_the_spread_of_the_logits(classes, spread):
    """Nearly equal scores: forms that add up exp(z / temperature) near 1 lose them in rounding."""
    logits = spread * np.random.default_rng(classes).normal(size=classes).astype(np.float32)
    temperatures = np.float32([1e-8, 1e-4, 1e-2, 1, 1e2, 1e8, 1e20])
    found = np.asarray(loss(np.tile(logits, (7, 1)), np.ones(7, int), temperature=temperatures))
    expected = np.array([exact(logits, 1, t) for t in temperatures])
    assert np.max(np.abs(found - expected)) <= 1e-6 * np.max(np.abs(logits))


def test_float64_is_accurate_at_every_temperature():
    logits = 10 * np.random.default_rng(3).normal(size=10)
    temperatures = np.array([0, *np.logspace(-300, 300, 31), np.inf])
    found = loss(np.tile(logits, (33, 1)), np.zeros(33, int), temperature=temperatures, margin=0.5)
    clipped = np.clip(temperatures, 1e-90, 1e90)
    expected = np.array([exact(logits, 0, t, 0.5) for t in clipped])
    np.testing.assert_allclose(found, expected, atol=1e-13, rtol=1e-13)


@given(scores, labels, margins)
def test_cold_limit_is_the_largest_margin(logits, label, margin):
    found = loss(logits, label, temperature=0.0, margin=margin)
    np.testing.assert_allclose(found, max(gaps(logits, label, margin)), rtol=1e-13, atol=1e-13)


@given(scores, labels, margins)
def test_hot_limit_is_the_mean_margin(logits, label, margin):
    found = loss(logits, label, temperature=np.inf, margin=margin)
    np.testing.assert_allclose(found, np.mean(gaps(logits, label, margin)), rtol=1e-13, atol=1e-13)


@given(scores, labels)
def test_at_temperature_one_it_is_the_cross_entropy_less_log_classes(logits, label):
    expected = -jax.nn.log_softmax(logits)[label] - np.log(CLASSES)
    np.testing.assert_allclose(loss(logits, label), expected, rtol=1e-12, atol=1e-12)


@given(scores, labels, margins)
def test_hot_limit_sums_to_a_constant_over_the_labels(logits, label, margin):
    every = loss(np.tile(logits, (CLASSES, 1)), np.arange(CLASSES), temperature=np.inf, margin=margin)
    np.testing.assert_allclose(np.sum(every), margin * (CLASSES - 1), atol=1e-11)


@given(scores, labels, margins, temperatures, arrays(np.float64, CLASSES, elements=st.floats(1e-6, 1)))
def test_no_distribution_over_the_classes_does_better(logits, label, margin, temperature, weights):
    p = weights / weights.sum()
    attained = p @ gaps(logits, label, margin) - temperature * np.sum(p * np.log(CLASSES * p))
    bound = loss(logits, label, temperature=temperature, margin=margin)
    assert attained <= bound + 1e-11 * (1 + temperature + abs(bound))


@given(scores, labels, margins, temperatures)
def test_the_softmax_of_the_margins_attains_it_and_is_the_gradient(logits, label, margin, temperature):
    z = gaps(logits, label, margin)
    p = np.asarray(jax.nn.softmax(z / temperature))
    attained = p @ z - temperature * np.sum(p * np.log(np.maximum(CLASSES * p, 1e-300)))
    hyper = {"temperature": temperature, "margin": margin}
    np.testing.assert_allclose(
        loss(logits, label, **hyper), attained, rtol=1e-10, atol=1e-10 * (1 + temperature)
    )
    np.testing.assert_allclose(
        gradient(logits, label, **hyper), p - (np.arange(CLASSES) == label), atol=1e-12
    )


@given(scores, labels, margins, temperatures, st.floats(1, 100))
def test_it_does_not_increase_with_the_temperature_and_is_convex_in_it(logits, label, margin, cold, factor):
    hot = cold * factor
    at_cold, at_hot, between = (
        loss(logits, label, temperature=t, margin=margin) for t in (cold, hot, (cold + hot) / 2)
    )
    slack = 1e-12 * (1 + abs(at_cold) + abs(at_hot))
    assert at_hot <= at_cold + slack
    assert between <= (at_cold + at_hot) / 2 + slack


@given(scores, scores, labels, margins, temperatures)
def test_it_is_convex_in_the_logits(first, second, label, margin, temperature):
    at_first, at_second, between = (
        loss(z, label, temperature=temperature, margin=margin) for z in (first, second, (first + second) / 2)
    )
    assert between <= (at_first + at_second) / 2 + 1e-11


@given(scores, labels, margins, temperatures)
def test_it_lies_between_the_mean_and_the_largest_margin(logits, label, margin, temperature):
    z = gaps(logits, label, margin)
    found = loss(logits, label, temperature=temperature, margin=margin)
    assert max(np.mean(z), -temperature * np.log(CLASSES)) - 1e-11 <= found <= max(z) + 1e-11


@given(scores, labels, margins, temperatures)
def test_slope_by_temperature_is_minus_the_divergence_from_uniform(logits, label, margin, temperature):
    p = np.asarray(jax.nn.softmax(gaps(logits, label, margin) / temperature))
    divergence = np.sum(p * np.log(np.maximum(CLASSES * p, 1e-300)))
    slope = slope_by_temperature(temperature, logits, label, margin)
    np.testing.assert_allclose(slope, -divergence, atol=1e-12)


def test_slope_by_temperature_at_the_cold_limit_is_minus_log_of_the_share_of_largest_margins():
    for logits, ties in (([0.0, 3, 1, 3, 3, 2], 3), ([0.0, 3, 1, 2, -1, 2], 1), ([1.0] * 6, 6)):
        for temperature in (0.0, 1e-30):
            slope = slope_by_temperature(temperature, np.array(logits), 0, 0.0)
            np.testing.assert_allclose(slope, np.log(ties / CLASSES), atol=1e-13)


def test_gradient_at_the_cold_limit_is_shared_by_the_largest_margins():
    found = gradient(np.array([0.0, 3, 1, 3, -np.inf, 2]), 0, temperature=0.0)
    np.testing.assert_allclose(found, [-1, 0.5, 0, 0.5, 0, 0], atol=1e-15)


def test_hot_limit_with_a_logit_of_minus_infinity_is_infinite_with_a_finite_gradient():
    logits = np.array([1.0, -np.inf, 2, 0, 0, 0])
    share = np.full(CLASSES, 1 / CLASSES)
    for label, value in ((0, -np.inf), (1, np.inf)):
        assert loss(logits, label, temperature=np.inf) == value
        found = gradient(logits, label, temperature=np.inf)
        np.testing.assert_allclose(found, share - (np.arange(CLASSES) == label), atol=1e-15)


def test_margin_of_float32_is_kept_beside_huge_tied_logits():
    """1e30 + margin rounds to 1e30, yet the margin decides between tied scores."""
    logits = np.float32([1e30, 1e30, 0, -300])
    hyper = {"temperature": 0.75, "margin": 0.25}
    expected = 0.75 * np.log((1 + np.exp(0.25 / 0.75)) / 4)
    for kind in (float, jnp.float32):
        found = jax.jit(lambda z, h: ldr_kl(z, 0, **h))(logits, {key: kind(x) for key, x in hyper.items()})
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(ldr_kl(logits, 0, **hyper), expected, rtol=1e-6)


@given(scores, labels, margins, st.sampled_from([0.0, 1e-6, 0.5, 1e3, np.inf]))
def test_weights_are_a_distribution_and_the_gradient_plus_the_label(logits, label, margin, temperature):
    hyper = {"temperature": temperature, "margin": margin}
    weights = weights_of(logits, label, **hyper)
    np.testing.assert_allclose(np.sum(weights), 1, rtol=1e-13)
    expected = gradient(logits, label, **hyper) + np.eye(CLASSES)[label]
    np.testing.assert_allclose(weights, expected, atol=1e-13)


def test_weights_stand_on_the_class_axis_and_are_zero_at_removed_classes():
    logits = np.random.default_rng(0).normal(size=(3, CLASSES, 2))
    label = np.arange(6).reshape(3, 2) % 4
    kept = np.arange(CLASSES)[:, None] < 4
    weights = weights_of(logits, label, axis=1, where=kept, temperature=0.5)
    expected = np.asarray(jax.nn.softmax(logits[:, :4] / 0.5, axis=1))
    np.testing.assert_allclose(weights[:, :4], expected, rtol=1e-12)
    np.testing.assert_array_equal(weights[:, 4:], 0)


def test_weights_of_a_label_that_is_no_class_are_nan():
    found = weights_of(np.zeros((2, CLASSES)), np.array([1, 9]))
    assert np.array_equal(np.isnan(found).all(-1), [False, True])


@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_logits_that_the_same_program_divides_give_the_same(temperature):
    """A compiler may divide twice, in two ways, so that the largest score is not the largest any more."""
    generator = np.random.default_rng(0)
    logits, scale = np.round(generator.normal(size=(64, 6)) * 8) / 2, 10 ** generator.uniform(-1, 1, (64, 1))
    labels = generator.integers(0, 6, 64)

    def both(logits):
        def total(logits):
            return ldr_kl(logits, labels, temperature=temperature).sum()

        return ldr_kl(logits, labels, temperature=temperature), jax.grad(total)(logits)

    apart = jax.jit(both)(jnp.asarray(logits / scale))
    together = jax.jit(lambda logits, scale: both(logits / scale))(jnp.asarray(logits), jnp.asarray(scale))
    for one, other in zip(apart, together, strict=True):
        np.testing.assert_allclose(other, one, atol=1e-12)
