"""What every transformation must satisfy; one row in ``tests.cases`` enrols it, and forgetting the row
fails."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType

from jaxreg import transforms
from tests.cases import OTHER_TRANSFORM_NAMES, TRANSFORMS

SHAPES = {"kernel": (8, 3), "bias": (3,)}
EIGHTHS = np.random.default_rng(0)
GRADIENT = {name: np.round(16 * EIGHTHS.normal(size=shape)) / 8 for name, shape in SHAPES.items()}
"""In eighths, which half precision holds exactly."""
EPS = {jnp.float16: 1e-3, jnp.bfloat16: 8e-3, jnp.float32: 2e-7, jnp.float64: 4e-16}

every_transform = pytest.mark.parametrize("name", TRANSFORMS)
every_precision = pytest.mark.parametrize("dtype", EPS, ids=lambda dtype: dtype.__name__)


@pytest.fixture(scope="module", autouse=True)
def numerics():
    """Standard promotion: optax's own transformations need it. Ours are tried under the strict one by
    name."""
    with jax.enable_x64(True):
        yield


def make(name, **changes):
    return getattr(transforms, name)(**{**TRANSFORMS[name].hyper, **changes})


def gradient(dtype=jnp.float64):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), GRADIENT)


def extra(name, dtype=jnp.float64):
    return {key: jnp.asarray(value, dtype) for key, value in TRANSFORMS[name].extra.items()}


def expected(name, step=0):
    case = TRANSFORMS[name]
    return jax.tree.map(lambda leaf: case.definition(leaf, step, case.hyper, case.extra), GRADIENT)


def assert_close(found, wanted, tolerance=1e-15):
    for actual, leaf in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(np.asarray(actual, np.float64), leaf, rtol=tolerance, atol=tolerance)


def dtypes(tree):
    return jax.tree.map(lambda leaf: (leaf.dtype, leaf.shape), tree)


def test_every_public_name_is_enrolled():
    assert set(transforms.__all__) == set(TRANSFORMS) | set(OTHER_TRANSFORM_NAMES)
    for name, path in OTHER_TRANSFORM_NAMES.items():
        assert name in (Path(__file__).parents[1] / path).read_text()


@every_transform
@every_precision
def test_updates_are_those_of_the_definition_and_dtypes_stay(name, dtype):
    transform, grads = make(name), gradient(dtype)
    for extra_dtype in {dtype, jnp.float32, jnp.float64}:
        state = transform.init(grads)
        with jax.numpy_dtype_promotion("strict"):
            updates, after = transform.update(grads, state, grads, **extra(name, extra_dtype))
        assert dtypes(updates) == dtypes(grads)
        assert dtypes(after) == dtypes(state)
        assert_close(updates, expected(name), 2 * max(EPS[dtype], EPS[extra_dtype]))


@every_transform
def test_compiled_vectorised_and_scanned_agree_and_unknown_extra_arguments_are_ignored(name):
    transform = make(name)

    def run(grads):
        def step(state, _):
            updates, state = transform.update(grads, state, grads, **extra(name), unknown=jnp.ones(3))
            return state, updates

        return jax.lax.scan(step, transform.init(grads), length=2)[1]

    both = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), gradient())
    found = jax.jit(jax.vmap(run))(both)
    for factor in (0, 1):
        for step in (0, 1):
            mine = jax.tree.map(lambda leaf, f=factor, t=step: leaf[f, t] / (f + 1), found)
            assert_close(mine, expected(name, step))


@every_transform
def test_python_and_numpy_arguments_out_of_range_are_refused_by_name(name):
    case = TRANSFORMS[name]
    for key, values in case.refused_hyper.items():
        for bad in values:
            with pytest.raises(ValueError, match=key):
                make(name, **{key: bad})
    transform = make(name)
    for key, values in case.refused_extra.items():
        for bad in values:
            for kind in (float, np.float32):
                with pytest.raises(ValueError, match=key):
                    transform.update(gradient(), transform.init(gradient()), **{**case.extra, key: kind(bad)})


@every_transform
def test_traced_arguments_out_of_range_give_nan(name):
    case = TRANSFORMS[name]
    run = jax.jit(lambda more: make(name).update(gradient(), make(name).init(gradient()), **more)[0])
    for key, values in case.refused_extra.items():
        for bad in values:
            updates = run({**extra(name), key: jnp.asarray(bad)})
            assert all(np.all(np.isnan(leaf)) for leaf in jax.tree.leaves(updates))
    for key in set(case.refused_hyper) & {"learning_rate"}:
        for bad in case.refused_hyper[key]:
            transform = make(name, **{key: jnp.asarray(bad)})
            updates = transform.update(gradient(), transform.init(gradient()), **extra(name))[0]
            assert all(np.all(np.isnan(leaf)) for leaf in jax.tree.leaves(updates))


@every_transform
def test_missing_and_misshapen_extra_arguments_are_refused_by_name(name):
    transform = make(name)
    for key in TRANSFORMS[name].extra:
        for wrong in (None, jnp.ones(2), "0.5", 1j, True):
            with pytest.raises(TypeError, match=key):
                transform.update(gradient(), transform.init(gradient()), **{**extra(name), key: wrong})
        with pytest.raises(TypeError, match=key):
            optax.chain(transform, optax.scale(1.0)).update(
                gradient(), (transform.init(()), optax.EmptyState())
            )
    with pytest.raises(TypeError, match="updates"):
        transform.update({"a": jnp.ones(2, int)}, transform.init(()), **extra(name))


@every_transform
@every_precision
def test_a_denominator_that_vanished_stops_and_hides_no_gradient_that_is_not_finite(name, dtype):
    case, transform = TRANSFORMS[name], make(name)
    grads = jax.tree.map(lambda leaf: jnp.zeros_like(leaf, dtype), GRADIENT)
    small = {} if dtype == jnp.float16 else dict.fromkeys(case.vanishing, 1e-40)
    for vanished in filter(None, (dict(case.vanishing), small)):
        arguments = {key: jnp.asarray(value, dtype) for key, value in vanished.items()}
        with jax.numpy_dtype_promotion("strict"):
            updates = jax.jit(transform.update)(grads, transform.init(grads), **arguments)[0]
        assert all(np.all(np.asarray(leaf, float) == 0) for leaf in jax.tree.leaves(updates))
    for bad in (np.inf, np.nan):
        spoiled = {**grads, "bias": jnp.full(3, bad, dtype)}
        arguments = {key: jnp.asarray(value, dtype) for key, value in case.vanishing.items()}
        updates = transform.update(spoiled, transform.init(grads), **arguments)[0]
        assert not np.any(np.isfinite(np.asarray(updates["bias"], float)))


# -- In company


@every_transform
def test_in_a_chain_with_clipping_momentum_and_weight_decay(name):
    chain = optax.chain(
        optax.clip_by_global_norm(1.0), make(name), optax.add_decayed_weights(0.5), optax.trace(0.5)
    )
    params, grads = jax.tree.map(jnp.ones_like, gradient()), gradient()
    state = chain.init(params)
    for _ in range(2):
        updates, state = jax.jit(chain.update)(grads, state, params, **extra(name))
    norm = np.sqrt(sum(np.sum(leaf**2) for leaf in GRADIENT.values()))
    wanted = jax.tree.map(lambda leaf: 1.5 * (leaf / norm + 0.5), expected(name))
    assert_close(updates, wanted, 1e-13)


@every_transform
def test_masked_and_by_group(name):
    only_kernel = {"kernel": True, "bias": False}
    masked = optax.masked(make(name), only_kernel)
    updates = masked.update(gradient(), masked.init(gradient()), gradient(), **extra(name))[0]
    assert_close(updates, {**GRADIENT, "kernel": expected(name)["kernel"]})
    groups = optax.multi_transform(
        {"ours": make(name), "theirs": optax.adamw(0.1)}, {"kernel": "ours", "bias": "theirs"}
    )
    state = groups.init(gradient())
    updates = jax.jit(groups.update)(gradient(), state, gradient(), **extra(name))[0]
    assert_close(updates["kernel"], expected(name)["kernel"])
    alone = optax.adamw(0.1)
    bias = gradient()["bias"]
    assert_close(updates["bias"], alone.update(bias, alone.init(bias), bias)[0], 1e-7)


@pytest.mark.parametrize("name", [name for name, case in TRANSFORMS.items() if "learning_rate" in case.hyper])
def test_injected_hyperparameters_can_be_changed_and_scheduled(name):
    rate = TRANSFORMS[name].hyper["learning_rate"]
    injected = optax.inject_hyperparams(getattr(transforms, name))(learning_rate=rate)
    state = injected.init(gradient())
    state.hyperparams["learning_rate"] = 2 * state.hyperparams["learning_rate"]
    updates = jax.jit(injected.update)(gradient(), state, gradient(), **extra(name))[0]
    assert_close(jax.tree.map(lambda leaf: leaf / 2, updates), expected(name))

    def schedule(count):
        return rate * (count + 1)

    by_us, by_optax = (
        make(name, learning_rate=schedule),
        optax.inject_hyperparams(getattr(transforms, name))(schedule),
    )
    for transform in (by_us, by_optax):
        state = transform.init(gradient())
        for step in range(3):
            updates, after = transform.update(gradient(), state, gradient(), **extra(name))
            assert dtypes(after) == dtypes(state)
            state = after
            assert_close(jax.tree.map(lambda leaf, t=step: leaf / (t + 1), updates), expected(name), 1e-7)


@every_transform
def test_in_multi_steps_of_equal_batches_and_under_apply_if_finite(name):
    steps = optax.MultiSteps(make(name), 2)
    state = steps.init(gradient())
    for call in range(4):
        updates, state = jax.jit(steps.update)(gradient(), state, gradient(), **extra(name))
        assert_close(updates, expected(name) if call % 2 else jax.tree.map(np.zeros_like, GRADIENT), 1e-7)
    guarded = optax.apply_if_finite(make(name), 3)
    state = guarded.init(gradient())
    bad = {**gradient(), "bias": jnp.full(3, jnp.nan)}
    updates, state = jax.jit(guarded.update)(bad, state, gradient(), **extra(name))
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(updates))
    assert_close(guarded.update(gradient(), state, gradient(), **extra(name))[0], expected(name))


# -- On several devices


@every_transform
def test_on_eight_devices_by_every_way_to_use_them(name):
    transform = make(name)

    def update(grads, more):
        return transform.update(grads, transform.init(grads), **more)[0]

    rows = {"kernel": gradient()["kernel"]}
    wanted = {"kernel": expected(name)["kernel"]}
    by_device = jax.pmap(update, in_axes=(0, None))(rows, extra(name))
    assert_close(by_device, wanted)
    mesh = jax.make_mesh((8,), ("data",), (AxisType.Auto,))
    sharded = jax.shard_map(update, mesh=mesh, in_specs=(jax.P("data"), jax.P()), out_specs=jax.P("data"))
    assert_close(jax.jit(sharded)(rows, extra(name)), wanted)
    with jax.set_mesh(jax.make_mesh((8,), ("data",), (AxisType.Explicit,))):
        placed = jax.device_put(rows, jax.P("data"))
        with jax.numpy_dtype_promotion("strict"):
            found = jax.jit(update)(placed, extra(name))
        assert found["kernel"].sharding.is_equivalent_to(placed["kernel"].sharding, 2)
        assert_close(found, wanted)
