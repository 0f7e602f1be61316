"""The comp-sum family: its members, its order in tau, and how far its values and slopes can be trusted."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxreg import losses
from tests import oracles

GENERATOR = np.random.default_rng(4)
LOGITS = GENERATOR.normal(size=(64, 5)) * np.logspace(-1, 1, 64)[:, None]
LABELS = GENERATOR.integers(5, size=64)
OWN = np.take_along_axis(LOGITS, LABELS[:, None], -1)
ODDS = np.exp(LOGITS - OWN).sum(-1) - 1

of_tau = jax.jit(lambda tau: losses.comp_sum(LOGITS, LABELS, tau=tau))


def test_the_family_joins_the_named_losses():
    for tau, expected in [
        (0.0, np.where(np.arange(5) == LABELS[:, None], 0, np.exp(LOGITS - OWN)).sum(-1)),
        (1.0, optax.losses.softmax_cross_entropy_with_integer_labels(jnp.asarray(LOGITS), LABELS)),
        (2.0, losses.mean_absolute_error(LOGITS, LABELS) / 2),
        (1.7, losses.generalized_cross_entropy(LOGITS, LABELS, q=0.7)),
    ]:
        np.testing.assert_allclose(of_tau(jnp.asarray(tau)), expected, rtol=1e-12)


def test_it_decreases_in_tau_and_stays_below_its_bound():
    taus = np.linspace(0, 6, 61)
    values = np.stack([of_tau(jnp.asarray(tau)) for tau in taus])
    assert np.all(np.diff(values, axis=0) <= 1e-15)
    bounded = taus > 1
    assert np.all(values[bounded] <= 1 / (taus[bounded, None] - 1))


@pytest.mark.parametrize("tau", [0.0, 0.3, 0.75, 1.0, 1.0 + 2**-20, 1.5, 2.0, 3.0])
def test_float32_is_right_to_a_millionth_from_losses_of_1e_minus_12_to_those_of_millions(tau):
    logits = np.random.default_rng(5).normal(size=(64, 5))
    logits[np.arange(64), LABELS] = np.linspace(-13, 28, 64)
    logits = logits.astype(np.float32)
    found = np.asarray(jax.jit(losses.comp_sum)(logits, LABELS, tau=jnp.float32(tau)), np.float64)
    exact = [
        float(oracles.value(oracles.comp_sum, row, label, tau=float(np.float32(tau))))
        for row, label in zip(logits, LABELS, strict=True)
    ]
    assert min(exact) < 1e-11
    np.testing.assert_allclose(found, exact, rtol=1e-6)


@pytest.mark.parametrize("tau", [0.0, 0.5, 0.999, 1.0, 1.001, 2.0, 3.0])
def test_derivatives_in_tau_are_those_of_the_definition(tau):
    rows = slice(0, 64, 9)

    def value(tau, row, label):
        return losses.comp_sum(row, label, tau=tau)

    first = jax.vmap(jax.grad(value), (None, 0, 0))(tau, LOGITS[rows], LABELS[rows])
    second = jax.vmap(jax.grad(jax.grad(value)), (None, 0, 0))(tau, LOGITS[rows], LABELS[rows])
    jets = [
        oracles.jet(oracles.comp_sum, row, label, tau=tau)
        for row, label in zip(LOGITS[rows], LABELS[rows], strict=True)
    ]
    np.testing.assert_allclose(first, [float(jet.gradient[-1]) for jet in jets], rtol=1e-11)
    np.testing.assert_allclose(second, [float(jet.hessian[-1, -1]) for jet in jets], rtol=1e-8)


def test_an_impossible_label_costs_the_bound_of_the_loss_and_leaves_no_nan():
    logits = jnp.array([-jnp.inf, 1.0, -jnp.inf, 0.0])

    def value(tau):
        return losses.comp_sum(logits, 0, tau=tau)

    values = [value(tau) for tau in (0.0, 1.0, 1.5, 2.0, 5.0)]
    np.testing.assert_allclose(values, [np.inf, np.inf, 2.0, 1.0, 0.25])
    for tau in (0.0, 0.5, 1.0, 1.5, 2.0):
        gradient = jax.grad(lambda z, tau=tau: losses.comp_sum(z, 0, tau=tau))(logits)
        assert not np.any(np.isnan(gradient))
        assert (gradient[0] < 0) == (tau <= 1)


def test_an_overflowing_loss_is_infinite_with_the_largest_slope():
    logits = jnp.array([0.0, 400.0], jnp.float32)
    value, gradient = jax.value_and_grad(lambda z: losses.comp_sum(z, 0, tau=0.5))(logits)
    assert value == jnp.inf
    np.testing.assert_array_equal(gradient, np.finfo(np.float32).max * np.array([-1, 1]))


def test_curvature_at_an_infinite_cross_entropy_is_that_of_the_other_classes():
    row = jnp.array([-jnp.inf, 1.0, 2.0])
    found = jax.jit(jax.hessian(lambda row: losses.comp_sum(row, 0)))(row)
    share = 1 / (1 + np.e)
    expected = share * (1 - share) * np.array([[0, 0, 0], [0, 1, -1], [0, -1, 1]])
    np.testing.assert_allclose(found, expected, atol=1e-15)
