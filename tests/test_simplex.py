"""The maximum of a linear function over the simplex less a divergence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from jaxreg.simplex import Left, centred_kl_maximum, kl_maximum
from tests import oracles

CLASSES = 6
scores = arrays(np.float64, CLASSES, elements=st.floats(-20, 20))
temperatures = st.floats(1e-3, 1e3)
maximum = jax.jit(kl_maximum)


def exact(v, temperature):
    """Value, weights and divergence from the plain formulas, in 60 digits or more."""
    mp, digits = oracles.mp, 60 if 1e-3 <= temperature <= 1e3 else 200
    with mp.workdps(digits):
        lam = mp.mpf(float(temperature))
        v = [mp.mpf(float(x)) for x in v]
        powers = [mp.exp(x / lam) for x in v]
        p = [power / oracles.total(powers) for power in powers]
        value = lam * mp.log(oracles.mean(powers))
        divergence = oracles.total(p_k * mp.log(len(v) * p_k) for p_k in p)
        return float(value), oracles.floats(p), float(divergence)


@given(scores, temperatures)
def test_value_weights_and_divergence_are_those_of_the_closed_form(v, temperature):
    found, expected = maximum(v, temperature), exact(v, temperature)
    np.testing.assert_allclose(np.ravel(found.value)[0], expected[0], rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(found.weights, expected[1], rtol=1e-10, atol=1e-15)
    np.testing.assert_allclose(np.ravel(found.divergence)[0], expected[2], rtol=1e-9, atol=1e-14)


def test_scores_divided_in_the_same_program_are_those_divided_before():
    """XLA divides once for the maximum and once for the differences, and may round the two differently."""
    rng = np.random.default_rng(0)
    v, divisor = rng.normal(size=(64, CLASSES)), 10 ** rng.uniform(-2, 0, (64, 1))
    found = jax.jit(lambda v, divisor: kl_maximum(v / divisor, 1.0))(v, divisor)
    expected = maximum(v / divisor, 1.0)
    np.testing.assert_allclose(found.value, expected.value, rtol=1e-12)
    np.testing.assert_allclose(found.weights, expected.weights, atol=1e-12)


@given(scores, temperatures)
def test_value_is_what_the_weights_attain(v, temperature):
    found = maximum(v, temperature)
    attained = np.dot(found.weights, v) - temperature * np.ravel(found.divergence)[0]
    np.testing.assert_allclose(attained, np.ravel(found.value)[0], rtol=1e-12, atol=1e-11)
    np.testing.assert_allclose(np.sum(found.weights), 1, rtol=1e-13)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("classes", [1, 2, 10, 1000])
def test_value_is_accurate_relative_to_the_spread_at_every_temperature(dtype, classes):
    v = np.asarray(np.random.default_rng(classes).normal(size=classes), dtype)
    temperatures = np.asarray(10.0 ** np.arange(-12, 30, 3), dtype)
    rows = np.tile(v, (len(temperatures), 1))
    found = np.ravel(maximum(rows, temperatures).value)
    expected = [exact(v, t)[0] for t in temperatures]
    spread = max(1.0, float(np.ptp(v)))
    np.testing.assert_allclose(found, expected, rtol=0, atol=4 * float(jnp.finfo(dtype).eps) * spread)


@pytest.mark.parametrize("precision", [jnp.float32, jnp.float64])
def test_divergence_is_accurate_where_the_weights_are_nearly_uniform(precision):
    """The sum of p log(K p) cancels there; the divergence tends to var(v) / (2 temperature^2)."""
    v = np.asarray([0.3, -1.0, 2.0, 0.5], precision)
    for temperature in (1e1, 1e2, 1e3):
        found = np.ravel(maximum(v, np.asarray(temperature, precision)).divergence)[0]
        rtol = 1e4 * float(jnp.finfo(precision).eps)
        np.testing.assert_allclose(found, exact(v, temperature)[2], rtol=rtol)


def test_temperature_zero_gives_the_largest_score_shared_by_those_that_attain_it():
    found = maximum(np.array([1.0, 3, 2, 3]), 0.0)
    assert np.ravel(found.value) == 3
    np.testing.assert_array_equal(found.weights, [0, 0.5, 0, 0.5])
    np.testing.assert_allclose(found.divergence, np.log(2), rtol=1e-14)


def test_infinite_temperature_gives_the_mean_score_and_uniform_weights():
    found = maximum(np.array([1.0, 3, 2, 4]), np.inf)
    assert np.ravel(found.value) == 2.5
    np.testing.assert_array_equal(found.weights, [0.25] * 4)
    assert np.ravel(found.divergence) == 0


def test_a_score_of_minus_infinity_has_weight_zero_and_counts_as_a_class():
    v = np.array([1.0, -np.inf, 2.0])
    found, without = maximum(v, 0.5), maximum(v[[0, 2]], 0.5)
    np.testing.assert_allclose(
        np.ravel(found.value), np.ravel(without.value) + 0.5 * np.log(2 / 3), rtol=1e-14
    )
    np.testing.assert_allclose(found.weights[1], 0)
    for limit, value in ((0.0, 2.0), (np.inf, -np.inf)):
        assert np.ravel(maximum(v, limit).value) == value


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1e4, np.inf])
def test_where_equals_deleting(temperature):
    v, kept = np.array([1.0, 7, 2, -1]), np.array([True, False, True, True])
    found, without = jax.jit(kl_maximum)(v, temperature, where=kept), maximum(v[kept], temperature)
    np.testing.assert_allclose(found.value, without.value, rtol=1e-14)
    np.testing.assert_allclose(found.weights[kept], without.weights, rtol=1e-12)
    np.testing.assert_allclose(found.divergence, without.divergence, rtol=1e-12, atol=1e-16)
    assert found.weights[1] == 0


def test_what_is_known_of_the_classes_kept_changes_nothing():
    """Also where the classes removed are the first, of which some are looked at for the spread."""
    rng = np.random.default_rng(0)
    v = -rng.exponential(size=(4, 100))
    v[:, 70] = 0
    kept = np.arange(100) >= np.arange(4)[:, None]

    @jax.jit
    def both(v, kept, count, temperature):
        return [
            centred_kl_maximum(v, temperature, kept, axis=1, left=known) for known in (None, Left(count, 3))
        ]

    for temperature in (0.0, 0.05, 0.5, 5.0, 1e4, np.inf):
        expected, found = both(v, kept, kept.sum(-1, dtype=float), np.full(4, temperature))
        np.testing.assert_allclose(found.value, expected.value, rtol=1e-13)
        np.testing.assert_allclose(found.weights, expected.weights, rtol=1e-12)
        np.testing.assert_allclose(found.divergence, expected.divergence, rtol=1e-12, atol=1e-16)


def test_gradient_of_the_value_is_the_weights_and_minus_the_divergence():
    v = np.random.default_rng(0).normal(size=5)
    for temperature in (0.0, 0.3, 1.0, 50.0, np.inf):
        slopes = jax.grad(lambda v, t: kl_maximum(v, t).value.sum(), argnums=(0, 1))(v, temperature)
        found = maximum(v, temperature)
        np.testing.assert_allclose(slopes[0], found.weights, atol=1e-14)
        np.testing.assert_allclose(slopes[1], -np.ravel(found.divergence)[0], atol=1e-14)


def test_derivatives_of_weights_and_divergence_are_those_of_the_softmax():
    v = np.random.default_rng(1).normal(size=5)

    def plain(v, t):
        p = jax.nn.softmax(v / t)
        return p, jnp.sum(p * jnp.log(5 * p))

    for derivative in (jax.jacfwd, jax.jacrev):
        for part, expected in (("weights", 0), ("divergence", 1)):
            found = derivative(lambda v, t, part=part: jnp.squeeze(getattr(kl_maximum(v, t), part)), (0, 1))
            wanted = derivative(lambda v, t, n=expected: plain(v, t)[n], (0, 1))
            for actual, desired in zip(jax.jit(found)(v, 0.7), jax.jit(wanted)(v, 0.7), strict=True):
                np.testing.assert_allclose(actual, desired, atol=1e-13)
