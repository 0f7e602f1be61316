"""TRADES and MART against SciPy, and their limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from jax.test_util import check_grads

from jaxreg import losses

GENERATOR = np.random.default_rng(3)
CLEAN, PERTURBED = GENERATOR.normal(size=(2, 12, 5)) * 2
LABELS = GENERATOR.integers(5, size=12)
S, MOVED = scipy.special.softmax(CLEAN, -1), scipy.special.softmax(PERTURBED, -1)
ROWS = np.arange(12)
DIVERGENCE = scipy.stats.entropy(S, MOVED, axis=-1)
WRONG = np.where(np.arange(5) == LABELS[:, None], 0, MOVED).max(-1)


def test_trades_is_cross_entropy_plus_the_divergence():
    found = jax.jit(losses.trades)(CLEAN, PERTURBED, LABELS, weight=np.linspace(0, 6, 12))
    expected = -np.log(S[ROWS, LABELS]) + np.linspace(0, 6, 12) * DIVERGENCE
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_mart_weighs_the_divergence_by_the_missing_probability():
    found = jax.jit(losses.mart)(CLEAN, PERTURBED, LABELS, weight=5.0)
    expected = -np.log(MOVED[ROWS, LABELS]) - np.log(1 - WRONG) + 5 * DIVERGENCE * (1 - S[ROWS, LABELS])
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("loss", [losses.trades, losses.mart])
def test_gradients_removed_classes_and_bad_arguments(loss):
    check_grads(lambda f, g: loss(f, g, LABELS), (CLEAN, PERTURBED), order=1, modes=["rev"])
    keep, labels = np.array([True, True, False, True, True]), np.where(LABELS == 2, 0, LABELS)
    value, slopes = jax.value_and_grad(lambda f: loss(f, PERTURBED, labels, where=keep).sum())(CLEAN)
    fewer = [np.delete(scores, 2, -1) for scores in (CLEAN, PERTURBED)]
    np.testing.assert_allclose(value, loss(*fewer, labels - (labels > 2)).sum(), rtol=1e-12)
    assert np.all(np.isfinite(slopes))
    assert np.isnan(loss(CLEAN[0], PERTURBED[0], 5))
    with pytest.raises(ValueError, match="perturbed_logits"):
        loss(CLEAN, PERTURBED[:2], LABELS)
    with pytest.raises(ValueError, match="weight"):
        loss(CLEAN, PERTURBED, LABELS, weight=-1.0)


@pytest.mark.parametrize("loss", [losses.trades, losses.mart])
def test_confident_and_impossible_scores_give_numbers(loss):
    clean = jnp.array([[200.0, 0.0, -jnp.inf], [-200.0, 0.0, 1.0]])
    assert np.all(np.isfinite(loss(clean, jnp.roll(clean, 0), jnp.array([0, 0]))))
