"""What every layer with best response must satisfy; one row in ``tests.cases`` enrols it, and forgetting the
row fails."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.test_util import check_grads

from jaxreg import bilevel
from tests import plain_layers
from tests.cases import LAYERS, OTHER_BILEVEL_NAMES

EPS = {jnp.float64: 1e-14, jnp.float32: 3e-6, jnp.bfloat16: 3e-2, jnp.float16: 4e-3}
every_layer = pytest.mark.parametrize("name", LAYERS)


def params(name, dtype=jnp.float64):
    init = getattr(bilevel, f"{name}_init")
    return LAYERS[name].init(init, jax.random.key(0), dtype)


def inputs(name, dtype=jnp.float64, examples=6):
    case, generator = LAYERS[name], np.random.default_rng(1)
    shape = (examples, *case.shape[1:])
    if case.tokens:
        return jnp.asarray(generator.integers(case.tokens, size=shape), jnp.int32)
    return jnp.asarray(generator.normal(size=shape), dtype)


def numbers(dtype=jnp.float64, examples=6):
    return jnp.asarray(np.random.default_rng(2).normal(size=(examples, 3)), dtype)


def function(name):
    return lambda params, x, numbers: LAYERS[name].call(getattr(bilevel, name), params, x, numbers)


def expected(name, tree, x, lam):
    """Each example by a plain layer with its own weights."""
    layers = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, bilevel.BestResponse))
    x = np.asarray(x) if LAYERS[name].tokens else np.asarray(x, np.float64)
    lam = np.broadcast_to(np.asarray(lam, np.float64), (len(x), 3))
    return np.stack(
        [
            LAYERS[name].plain([plain_layers.responding(layer, mine) for layer in layers], example)
            for example, mine in zip(x, lam, strict=True)
        ]
    )


def assert_close(found, wanted, tolerance):
    scale = np.max(np.abs(wanted))
    np.testing.assert_allclose(np.asarray(found, np.float64), wanted, rtol=0, atol=tolerance * scale)


def test_every_public_name_is_enrolled():
    inits = {f"{name}_init" for name in LAYERS}
    assert set(bilevel.__all__) == set(LAYERS) | inits | set(OTHER_BILEVEL_NAMES)
    for name, path in OTHER_BILEVEL_NAMES.items():
        assert name in (Path(__file__).parents[1] / path).read_text()


@every_layer
@pytest.mark.parametrize("dtype", EPS, ids=lambda dtype: dtype.__name__)
def test_each_example_gets_the_plain_layer_of_its_own_weights(name, dtype):
    tree, x, lam = params(name, dtype), inputs(name, dtype), numbers(jnp.float32)
    run = jax.jit(function(name))
    for given in (lam, lam[0]) if dtype == jnp.float64 else (lam,):
        found = run(tree, x, given)
        assert found.dtype == dtype
        assert_close(found, expected(name, tree, x, given), EPS[dtype])


@every_layer
def test_without_hyperparameters_it_is_the_elementary_part_and_zeros_say_the_same(name):
    tree, x = params(name), inputs(name)
    run = jax.jit(function(name))
    wanted = expected(name, tree, x, np.zeros(3))
    for given in (None, jnp.zeros((6, 3)), jnp.zeros(3)):
        assert_close(run(tree, x, given), wanted, 1e-14)


@every_layer
def test_gradients_match_finite_differences(name):
    tree, x, lam = params(name), inputs(name, examples=2), numbers(examples=2)
    run = jax.jit(function(name))
    if LAYERS[name].tokens:
        check_grads(lambda tree, lam: run(tree, x, lam), (tree, lam), order=1, modes=("rev",), rtol=1e-6)
    else:
        check_grads(run, (tree, x, lam), order=1, modes=("rev",), rtol=1e-6)


@every_layer
def test_gradients_have_the_dtypes_of_the_parameters_in_half_precision(name):
    tree, x = params(name, jnp.bfloat16), inputs(name, jnp.bfloat16)
    gradient = jax.jit(jax.grad(lambda tree: function(name)(tree, x, numbers()).astype(jnp.float32).sum()))(
        tree
    )
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(gradient))


@every_layer
def test_on_eight_devices_and_vectorised(name):
    tree, x, lam = params(name), inputs(name, examples=8), numbers(examples=8)
    wanted = expected(name, tree, x, lam)
    rows = jax.vmap(lambda x, lam: function(name)(tree, x[None], lam[None])[0])(x, lam)
    assert_close(rows, wanted, 1e-14)
    with jax.set_mesh(jax.make_mesh((8,), ("data",), (AxisType.Explicit,))):
        found = jax.jit(function(name))(tree, *jax.device_put((x, lam), jax.P("data")))
        assert_close(found, wanted, 1e-14)
    mesh = jax.make_mesh((8,), ("data",), (AxisType.Auto,))
    specs = (jax.P(), jax.P("data"), jax.P("data"))
    sharded = jax.shard_map(function(name), mesh=mesh, in_specs=specs, out_specs=jax.P("data"))
    assert_close(jax.jit(sharded)(tree, x, lam), wanted, 1e-14)


@every_layer
def test_wrong_arguments_are_refused_by_name(name):
    tree, x, lam = params(name), inputs(name), numbers()
    run = function(name)
    for bad in (lam[:, :2], lam[:4], jnp.zeros(())):
        with pytest.raises(ValueError, match="hyperparameters"):
            run(tree, x, bad)
    with pytest.raises(TypeError, match="hyperparameters"):
        run(tree, x, jnp.zeros((6, 3), int))
    with pytest.raises(TypeError, match="tokens" if LAYERS[name].tokens else r"x must|carry"):
        run(tree, jnp.zeros_like(x, dtype=bool), lam)
    if not LAYERS[name].tokens:
        with pytest.raises(ValueError, match=r"x must|carry"):
            run(tree, x[..., :-1], lam)
    init = getattr(bilevel, f"{name}_init")
    with pytest.raises(TypeError, match="dtype"):
        LAYERS[name].init(init, jax.random.key(0), jnp.int32)
