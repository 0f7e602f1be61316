"""Accumulated gradients with the extra arguments averaged beside them: ``multi_steps``."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxreg import transforms
from tests.transforms.test_large_step import gradient_and_slope, problem


@pytest.fixture(scope="module", autouse=True)
def numerics():
    with jax.enable_x64(True):  # optax.MultiSteps needs standard promotion
        yield


def micro_batches(weights, examples, count):
    return [gradient_and_slope(weights, part) for part in np.split(examples, count)]


def accumulated(optimizer, weights, examples, count=4):
    state = optimizer.init(weights)
    for gradient, slope in micro_batches(weights, examples, count):
        update, state = jax.jit(optimizer.update)(gradient, state, weights, mean_slope=slope)
    return update


def test_micro_batches_give_the_update_of_the_whole_batch_and_optax_alone_does_not():
    # After one step some of the micro-batches have no error left, and slopes differ from batch to batch.
    examples = problem(0, rows=16)
    weights = 10 * examples.mean(0)
    inner = optax.chain(transforms.normalized_logistic_gd(3.0), optax.trace(0.9))
    gradient, slope = gradient_and_slope(weights, examples)
    wanted = inner.update(gradient, inner.init(weights), mean_slope=slope)[0]
    found = accumulated(transforms.multi_steps(inner, 4), weights, examples)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    trap = accumulated(optax.MultiSteps(inner, 4), weights, examples)
    assert np.linalg.norm(trap - wanted) > 0.1 * np.linalg.norm(wanted)


def test_the_inner_state_moves_on_every_kth_call_and_a_fitted_batch_is_no_nan():
    inner = transforms.normalized_logistic_gd(lambda count: 1.0 + count)
    optimizer = transforms.multi_steps(inner, 2)
    weights = jnp.zeros(2)
    state = optimizer.init(weights)
    calls = ((jnp.array([-0.5, 0.0]), 0.5), (jnp.zeros(2), 0.0)) * 2
    updates = []
    for gradient, slope in calls:
        update, state = optimizer.update(gradient, state, weights, mean_slope=slope)
        updates.append(np.asarray(update))
    np.testing.assert_allclose(updates, [[0, 0], [1, 0], [0, 0], [2, 0]], rtol=1e-7)


def test_the_mean_loss_is_averaged_too():
    optimizer = transforms.multi_steps(transforms.scale_by_risk("exponential"), 2, averaged=("value",))
    state = optimizer.init(jnp.zeros(1))
    for gradient, value in ((1.0, 0.25), (2.0, 0.5)):
        update, state = optimizer.update(jnp.array([gradient]), state, jnp.zeros(1), value=value)
    np.testing.assert_allclose(update, 1.5 / 0.375, rtol=1e-7)


def test_other_extra_arguments_are_handed_on_and_options_go_to_optax():
    seen = []

    def update(updates, state, params=None, *, note, **unused):
        seen.append(note)
        return updates, state

    inner = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    skip = lambda updates, step, params: (jnp.array(False), ())  # noqa: E731
    optimizer = transforms.multi_steps(inner, lambda step: 1, averaged=(), should_skip_update_fn=skip)
    optimizer.update(jnp.ones(1), optimizer.init(jnp.ones(1)), jnp.ones(1), note=3)
    assert seen[-1] == 3


def test_a_missing_argument_is_named():
    optimizer = transforms.multi_steps(transforms.normalize_by_mean_slope(), 2)
    with pytest.raises(TypeError, match="mean_slope"):
        optimizer.update(jnp.ones(1), optimizer.init(jnp.ones(1)), jnp.ones(1))
