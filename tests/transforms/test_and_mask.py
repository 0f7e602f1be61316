"""The AND-mask: it reduces a leading axis of domains, and so has a contract of its own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType

from jaxreg import transforms
from tests import domain_oracles

GRADIENTS = {
    "kernel": np.round(8 * np.random.default_rng(0).normal(size=(5, 8, 3))) / 8,
    "bias": np.random.default_rng(1).normal(size=(5, 3)) + 0.5,
}


@pytest.fixture(scope="module", autouse=True)
def numerics():
    """Standard promotion: optax's own transformations need it."""
    with jax.enable_x64(True):
        yield


def run(gradients, **options):
    transform = transforms.and_mask(**options)
    return transform.update(gradients, transform.init({"kernel": 0, "bias": 0}))[0]


def assert_close(found, expected, tolerance=1e-14):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), found, expected
    )


@pytest.mark.parametrize("rescale", [False, True])
def test_updates_are_those_of_the_definition_and_of_the_released_code(rescale):
    # Shares of equal signs among five domains are odd multiples of a fifth, and others where one is 0.
    for threshold in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        expected = jax.tree.map(
            lambda leaf, t=threshold: domain_oracles.and_mask(leaf, threshold=t, rescale=rescale), GRADIENTS
        )
        kept = jax.tree.leaves(expected)
        if all(np.any(leaf) for leaf in kept):
            assert_close(run(GRADIENTS, threshold=threshold, rescale=rescale), expected)
    assert_close(run(GRADIENTS, threshold=0.0), jax.tree.map(lambda leaf: leaf.mean(0), GRADIENTS))


def test_a_threshold_that_is_the_share_of_agreeing_signs_keeps_the_entry_in_any_precision():
    kept = jax.jit(jax.vmap(lambda leaf, threshold: run({"kernel": leaf}, threshold=threshold)["kernel"]))
    for domains in (3, 7, 10, 39):
        minority = np.arange(domains // 2 + 1)[:, None, None]
        gradients = np.where(np.arange(domains)[:, None] < minority, -1.0, 1.0)
        threshold = (domains - 2 * minority.ravel()) / domains
        for dtype in (jnp.float32, jnp.float64):
            updates = kept(jnp.asarray(gradients, dtype), threshold)
            np.testing.assert_allclose(updates[:, 0], threshold, rtol=1e-6, atol=1e-7)


def test_rescaling_nothing_is_nothing():
    opposed = {"kernel": np.array([[1.0, 1.0], [-1.0, -2.0]])}
    np.testing.assert_array_equal(run(opposed, rescale=True)["kernel"], 0)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_dtypes_stay_and_half_precision_is_averaged_in_single(dtype):
    found = run({"kernel": jnp.full((1000, 2), 0.5, dtype)})["kernel"]
    assert found.dtype == dtype
    np.testing.assert_array_equal(found.astype(float), 0.5)


def test_what_is_not_finite_is_not_hidden():
    for bad in (np.nan, np.inf, -np.inf):
        spoiled = {"kernel": np.array([[1.0, bad, -1.0], [1.0, 2.0, 1.0]])}
        assert not np.isfinite(run(spoiled)["kernel"][1])
        spoiled["kernel"][1, 1] = -2.0 * np.sign(bad) if np.isinf(bad) else 1.0
        assert not np.isfinite(run(spoiled)["kernel"][1])


def test_before_adam_and_weight_decay_compiled_and_scanned():
    optimizer = optax.chain(
        transforms.and_mask(), optax.add_decayed_weights(0.5), optax.trace(0.5), optax.scale(-1.0)
    )
    params = {"kernel": jnp.ones((8, 3)), "bias": jnp.ones(3)}

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(GRADIENTS, state, params, unknown=1.0)
        return (optax.apply_updates(params, updates), state), updates

    _, updates = jax.jit(lambda carry: jax.lax.scan(step, carry, length=1))((params, optimizer.init(params)))
    expected = jax.tree.map(lambda leaf: -(domain_oracles.and_mask(leaf, threshold=1.0) + 0.5), GRADIENTS)
    assert_close(jax.tree.map(lambda leaf: leaf[0], updates), expected)
    adam = optax.chain(transforms.and_mask(), optax.adam(0.1))
    updates, _ = jax.jit(adam.update)(GRADIENTS, adam.init(params), params)
    assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, params)


def test_before_accumulation_and_the_guard_of_what_is_not_finite():
    params = {"kernel": jnp.ones((8, 3)), "bias": jnp.ones(3)}
    opposite = jax.tree.map(lambda leaf: -leaf[::-1] / 2, GRADIENTS)
    masked = [
        jax.tree.map(lambda leaf: domain_oracles.and_mask(leaf, threshold=0.6), g)
        for g in (GRADIENTS, opposite)
    ]
    steps = optax.chain(transforms.and_mask(0.6), optax.MultiSteps(optax.sgd(1.0), 2))
    state = steps.init(params)
    for gradients in (GRADIENTS, opposite):
        updates, state = jax.jit(steps.update)(gradients, state, params)
    assert_close(updates, jax.tree.map(lambda a, b: -(a + b) / 2, *masked), 1e-6)  # accumulated in float32
    guarded = optax.chain(transforms.and_mask(0.6), optax.apply_if_finite(optax.sgd(1.0), 3))
    spoiled = {**GRADIENTS, "bias": np.full((5, 3), np.nan)}
    updates, state = jax.jit(guarded.update)(spoiled, guarded.init(params), params)
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(updates))
    assert_close(guarded.update(GRADIENTS, state, params)[0], jax.tree.map(jnp.negative, masked[0]))


def test_on_a_mesh_of_eight_devices_sharded_over_parameters():
    with jax.set_mesh(jax.make_mesh((8,), ("data",), (AxisType.Explicit,))):
        placed = {"kernel": jax.device_put(GRADIENTS["kernel"], jax.P(None, "data"))}
        found = jax.jit(run)(placed)
    assert_close(found["kernel"], domain_oracles.and_mask(GRADIENTS["kernel"], threshold=1.0))


def test_mistakes_are_refused_by_name():
    for bad in (-0.1, 1.5, np.nan):
        with pytest.raises(ValueError, match="threshold"):
            transforms.and_mask(bad)
        assert np.all(np.isnan(jax.jit(lambda t: run(GRADIENTS, threshold=t))(bad)["kernel"]))
    with pytest.raises(TypeError, match="threshold"):
        transforms.and_mask("1")
    with pytest.raises(TypeError, match="updates"):
        run({"kernel": np.ones((2, 3), int)})
    for bad in (
        {"kernel": np.ones(())},
        {"kernel": np.ones((2, 3)), "bias": np.ones((3, 3))},
        {"kernel": np.ones((0, 3))},
    ):
        with pytest.raises(ValueError, match="updates"):
            run(bad)
