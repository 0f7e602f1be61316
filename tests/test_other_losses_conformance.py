"""What the public functions of scores and labels satisfy that ``tests.test_conformance`` does not run.

They take two scores, or probabilities, or return what is no loss: the adversarial losses, TRADES, MART, the
expected loss, and the weights and the temperature behind LDR-KL and ALDR-KL. Each is called here as a
function of scores and labels, with the other scores or probabilities made of them.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from jaxreg import losses
from jaxreg.theory.oracles import quick_jit
from tests.cases import OTHER_NAMES

CLASSES, EXAMPLES, REMOVED = 5, 8, 2
GENERATOR = np.random.default_rng(21)
LOGITS = np.round(16 * GENERATOR.normal(size=(EXAMPLES, CLASSES))) / 8
LABELS = np.array([0, 1, 3, 4, 0, 1, 3, 4])
BAD = np.array([-1, CLASSES, REMOVED, 1])
"""Labels that are no class, that of the class removed, and one where all classes are removed."""


def _with_perturbed(name, **hyper):
    def call(logits, labels, **axes):
        moves = jnp.sin(3 * jnp.where(jnp.isneginf(logits), 0, logits)) / 2
        return getattr(losses, name)(logits, logits + moves, labels, **hyper, **axes)

    return call


def _expected(logits, labels, axis=-1, where=None):
    """A label with three quarters of the probability, and half of each other class kept."""
    spread = jnp.full_like(logits, 0.5) if where is None else jnp.where(where, 0.5, jnp.zeros_like(logits))
    own = jax.nn.one_hot(labels, logits.shape[axis], axis=axis, dtype=logits.dtype)
    weights = jnp.where(jnp.sum(own, axis, keepdims=True) == 0, jnp.nan, spread + own)
    return losses.expected(losses.ldr_kl)(logits, weights, axis=axis, where=where, temperature=0.5)


def _weight_of_the_label(logits, labels, axis=-1, **axes):
    weights = losses.ldr_weights(logits, labels, temperature=0.5, margin=0.25, axis=axis, **axes)
    kept = jnp.clip(jnp.expand_dims(labels, axis), 0, logits.shape[axis] - 1)
    return jnp.squeeze(jnp.take_along_axis(weights, kept, axis), axis)


CALLS = {
    "aldr_temperature": lambda logits, labels, **axes: losses.aldr_temperature(
        logits, labels, temperature=0.75, alpha=1.75, margin=0.25, **axes
    ),
    "expected": _expected,
    "ldr_weights": _weight_of_the_label,
    "margin_adversarial_comp_sum": lambda logits, labels, **axes: losses.margin_adversarial_comp_sum(
        logits, labels, tau=1.5, rho=8.0, **axes
    ),
    "mart": _with_perturbed("mart", weight=2.0),
    "smooth_adversarial_comp_sum": _with_perturbed("smooth_adversarial_comp_sum", tau=1.5, rho=0.75, nu=0.5),
    "trades": _with_perturbed("trades", weight=2.0),
}


def values_and_gradient(call, logits, labels, **axes):
    values, pullback = jax.vjp(lambda logits: call(logits, labels, **axes), logits)
    return values, pullback(jnp.ones_like(values))[0]


def test_every_public_name_that_is_no_plain_loss_is_here():
    assert set(CALLS) == set(OTHER_NAMES)


@pytest.mark.parametrize("name", CALLS)
def test_removed_classes_bad_labels_any_axis_and_half_precision(name):
    """Three programs: with bad labels and a class removed; without it, on another axis; in bfloat16."""
    call, labels = CALLS[name], np.concatenate([LABELS, BAD])
    logits, kept = LOGITS[np.arange(len(labels)) % EXAMPLES].copy(), np.full((len(labels), CLASSES), True)
    logits[:, REMOVED], kept[:, REMOVED], kept[-1] = 7, False, False
    masked = quick_jit(lambda z, y, where: values_and_gradient(call, z, y, where=where))
    values, gradient = map(np.asarray, masked(logits, labels, kept))
    assert np.all(np.isnan(values[EXAMPLES:]))
    assert np.all(np.any(np.isnan(gradient[EXAMPLES:]), axis=-1))

    fewer, renamed = np.delete(LOGITS, REMOVED, axis=1), LABELS - (LABELS > REMOVED)
    other_axis = quick_jit(lambda z, y: values_and_gradient(call, z, y, axis=0))
    expected, slope = map(np.asarray, other_axis(fewer.T, renamed))
    np.testing.assert_allclose(values[:EXAMPLES], expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(np.delete(gradient, REMOVED, 1)[:EXAMPLES], slope.T, rtol=1e-12, atol=1e-12)
    assert np.all(gradient[:EXAMPLES, REMOVED] == 0)

    one_by_one = quick_jit(jax.vmap(lambda z, y: values_and_gradient(call, z, y)))
    coarse, coarse_slope = one_by_one(jnp.asarray(fewer, jnp.bfloat16), renamed)
    assert (coarse.dtype, coarse_slope.dtype) == (jnp.float32, jnp.bfloat16)
    size = 0.02 * (1 + np.abs(slope).max())
    # The perturbed scores of bfloat16 are rounded to it.
    np.testing.assert_allclose(np.asarray(coarse, float), expected, atol=size)
    np.testing.assert_allclose(np.asarray(coarse_slope, float), slope.T, atol=2 * size)


@pytest.mark.parametrize("name", CALLS)
def test_batches_over_eight_devices_and_ranks_kept_apart(name):
    run = functools.partial(values_and_gradient, CALLS[name])
    wanted = quick_jit(run)(LOGITS, LABELS)
    mesh = jax.make_mesh((8,), ("data",), (AxisType.Auto,))
    mapped = jax.shard_map(run, mesh=mesh, in_specs=jax.P("data"), out_specs=jax.P("data"))
    found = [quick_jit(mapped)(LOGITS, LABELS)]
    with jax.set_mesh(jax.make_mesh((8,), ("data",), (AxisType.Explicit,))):
        batch = jax.device_put((jnp.asarray(LOGITS), jnp.asarray(LABELS)), jax.P("data"))
        found.append(quick_jit(run)(*batch))
        assert all(array.sharding.spec[0] == "data" for array in found[1])
    for values, gradient in found:
        np.testing.assert_allclose(values, wanted[0], rtol=1e-12)
        np.testing.assert_allclose(gradient, wanted[1], rtol=1e-12, atol=1e-14)
    with jax.numpy_rank_promotion("raise"):
        jax.eval_shape(run, jnp.zeros((2, 3, CLASSES)), jnp.zeros((2, 3), int))


@pytest.mark.parametrize("name", CALLS)
def test_no_nan_arises_on_the_way_to_a_number(name):
    """Evaluated operation by operation, where ``jax_debug_nans`` stops at the first."""
    logits, labels = jnp.asarray([LOGITS[0], [-np.inf, 2, 1, -5, 0]]), np.array([0, 2])
    if name == "expected":  # of a score of -inf it is infinite where that class has a probability
        logits = logits[:1].repeat(2, axis=0)
    compiled = quick_jit(lambda z: values_and_gradient(CALLS[name], z, labels))(logits)
    with jax.debug_nans(True):
        eager = values_and_gradient(CALLS[name], logits, labels)
    for found, wanted in zip(eager, compiled, strict=True):
        assert np.all(np.isfinite(found))
        np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)
