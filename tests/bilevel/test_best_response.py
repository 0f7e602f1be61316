"""Best-response layers beyond what every one must satisfy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxreg import bilevel, layers
from jaxreg.bilevel import BestResponse, BestResponseLSTM

key = jax.random.key(0)


def assert_close(found, wanted, tolerance=1e-12):
    np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance)


def test_the_elementary_part_is_flax_conv_for_any_geometry():
    for sizes, options in (
        ((9,), {"strides": 2, "padding": "SAME"}),
        ((9, 8), {"strides": (2, 1), "padding": "VALID", "kernel_dilation": 2}),
    ):
        layer = bilevel.best_response_conv_init(key, (3,) * len(sizes), 4, 6, 2, dtype=jnp.float64)
        theirs = nnx.Conv(
            4, 6, (3,) * len(sizes), rngs=nnx.Rngs(0), param_dtype=jnp.float64, dtype=jnp.float64, **options
        )
        theirs.kernel[...], theirs.bias[...] = layer.elementary_kernel, layer.elementary_bias
        x = jax.random.normal(key, (5, *sizes, 4), jnp.float64)
        ours = jax.jit(lambda layer, x, options=options: bilevel.best_response_conv(layer, x, **options))
        assert_close(ours(layer, x), theirs(x))


def test_the_elementary_lstm_is_that_of_flax_over_time():
    ours = bilevel.best_response_lstm_cell_init(key, 3, 4, 2, dtype=jnp.float64)
    ours = ours._replace(hidden=ours.hidden._replace(bias=jnp.arange(32.0) / 32))
    theirs = nnx.LSTMCell(3, 4, rngs=nnx.Rngs(0), param_dtype=jnp.float64, dtype=jnp.float64)
    for index, gate in enumerate("ifgo"):
        part = slice(4 * index, 4 * index + 4)
        getattr(theirs, "if_" if gate == "f" else f"i{gate}").kernel[...] = ours.input.elementary_kernel[
            :, part
        ]
        getattr(theirs, f"h{gate}").kernel[...] = ours.hidden.elementary_kernel[:, part]
        getattr(theirs, f"h{gate}").bias[...] = ours.hidden.elementary_bias[part]
    x, start = jax.random.normal(key, (6, 5, 3), jnp.float64), (jnp.zeros((5, 4)), jnp.ones((5, 4)) / 2)
    found = jax.jit(
        lambda: jax.lax.scan(lambda c, x: bilevel.best_response_lstm_cell(ours, c, x), start, x)
    )()
    state = start
    for row in x:
        state, output = theirs(state, row)
    assert_close(found[0], state)
    assert_close(found[1][-1], output)


def test_hyperparameters_may_change_along_further_axes():
    layer = bilevel.best_response_dense_init(key, 3, 2, 2, gate_scale=1.0, dtype=jnp.float64)
    x, lam = jax.random.normal(key, (4, 5, 3), jnp.float64), jax.random.normal(key, (4, 5, 2), jnp.float64)
    found = bilevel.best_response_dense(layer, x, lam)
    flat = bilevel.best_response_dense(layer, x.reshape(20, 3), lam.reshape(20, 2))
    assert_close(found, flat.reshape(4, 5, 2))


def test_weights_are_those_that_the_layer_uses():
    layer = bilevel.best_response_dense_init(
        key, 3, 2, 2, gate_scale=1.0, dtype=jnp.float64, use_elementary_scale=True
    )
    layer = layer._replace(elementary_scale=jnp.asarray(1.5), bias=jnp.arange(4.0))
    x, lam = jax.random.normal(key, (4, 3), jnp.float64), jnp.array([0.3, -2.0])
    for given in (lam, None):
        kernel, bias = layer.weights(given)
        assert_close(x @ kernel + bias, bilevel.best_response_dense(layer, x, given))
    with pytest.raises(ValueError, match="hyperparameters"):
        layer.weights(jnp.ones(3))


def test_parts_go_in_and_come_out_and_belong_together():
    parts = [
        jnp.full(shape, value) for value, shape in enumerate([(3, 2), (3, 2), (1, 2), (2,), (2,), (1, 2)])
    ]
    layer = BestResponse.from_parts(*parts)
    out = (layer.elementary_kernel, layer.response_kernel, layer.elementary_bias, layer.response_bias)
    for found, wanted in zip(out, (parts[0], parts[1], parts[3], parts[4]), strict=True):
        np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(layer.gate, [[2, 2, 5, 5]])
    with pytest.raises(ValueError, match="response_bias"):
        BestResponse.from_parts(*parts[:4])


def test_layers_start_as_their_elementary_part_with_gates_of_deviation_a_hundredth():
    layer = bilevel.best_response_init(key, (50, 400), 5)
    assert 0.009 < np.std(layer.gate) < 0.011
    assert layer.kernel.dtype == jnp.float32
    halves = np.asarray(layer.elementary_kernel), np.asarray(layer.response_kernel)
    for half in halves:
        assert np.std(half) == pytest.approx(50**-0.5, rel=0.05)
    assert abs(np.corrcoef(halves[0].ravel(), halves[1].ravel())[0, 1]) < 0.03
    assert np.all(layer.elementary_bias == 0) and np.all(np.abs(layer.response_bias) <= 50**-0.5)
    assert bilevel.best_response_init(key, (50, 400), 5, use_bias=False).gate.shape == (5, 400)


def test_a_token_that_is_no_row_gives_nan():
    layer = bilevel.best_response_embedding_init(key, 3, 2, 1)
    for numbers in (None, jnp.ones((4, 1)), jnp.ones(1)):
        rows = bilevel.best_response_embedding(layer, jnp.array([-1, 0, 2, 3]), numbers)
        np.testing.assert_array_equal(np.isnan(rows).any(-1), [True, False, False, True])


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint32, np.int64])
def test_tokens_of_any_integer_dtype_read_tables_larger_than_the_dtype(dtype):
    last = min(np.iinfo(dtype).max, 299)
    outside = -1 if np.issubdtype(dtype, np.signedinteger) else np.iinfo(np.uint32).max
    for count in (last + 1, 300):
        layer = bilevel.best_response_embedding_init(key, count, 2, 1, dtype=jnp.float64)
        tokens = np.array([0, last] + ([] if dtype == np.uint8 else [outside]), dtype)
        rows = bilevel.best_response_embedding(layer, tokens, jnp.zeros((len(tokens), 1)))
        assert_close(rows[:2], np.asarray(layer.elementary_kernel)[[0, last]])
        assert np.all(np.isnan(rows[2:]))


def test_sizes_are_refused_by_name():
    for bad, error, name in (
        (lambda: bilevel.best_response_init(key, (3,), 1), ValueError, "kernel_shape"),
        (lambda: bilevel.best_response_init(key, (3, 0), 1), ValueError, "kernel_shape"),
        (lambda: bilevel.best_response_init(key, (3, 2), 1.0), TypeError, "hyperparameters"),
        (lambda: bilevel.best_response_init(key, (3, 2), 1, gate_scale=-1.0), ValueError, "gate_scale"),
        (lambda: bilevel.best_response_conv_init(key, (3,), 3, 4, 1, groups=2), ValueError, "inputs"),
        (lambda: bilevel.best_response_dense({}, jnp.ones((2, 3))), TypeError, "params"),
        (lambda: bilevel.best_response_lstm_cell((), (), jnp.ones((2, 3))), TypeError, "params"),
    ):
        with pytest.raises(error, match=name):
            bad()
    layer = bilevel.best_response_conv_init(key, (3, 3), 2, 2, 1)
    for options, name in (
        ({"strides": (1, 1, 1)}, "strides"),
        ({"groups": 0}, "groups"),
        ({"padding": 1}, "padding"),
        ({"padding": ((1, 1),)}, "padding"),
        ({"padding": "FULL"}, "padding"),
    ):
        with pytest.raises(ValueError, match=name):
            bilevel.best_response_conv(layer, jnp.ones((1, 5, 5, 2), jnp.float32), **options)
    with pytest.raises(ValueError, match="axes of space"):
        bilevel.best_response_conv(layer, jnp.ones((1, 5, 2), jnp.float32))


# -- As modules of flax


def test_modules_are_the_functions_of_their_parameters():
    rngs, lam, one = nnx.Rngs(0), jnp.ones((2, 3), jnp.float32), jnp.ones((2, 4), jnp.float32)
    image = jnp.ones((2, 7, 7, 4), jnp.float32)
    linear = layers.BestResponseLinear(4, 5, 3, rngs=rngs)
    conv = layers.BestResponseConv(
        4, 6, (3, 3), 3, strides=[2, 1], padding=[(1, 1), (0, 0)], feature_group_count=2, rngs=rngs
    )
    cell = layers.BestResponseLSTMCell(4, 5, 3, rngs=rngs)
    held = [module.params.get_value() for module in (linear, conv, cell)]
    assert isinstance(held[2], BestResponseLSTM)

    @jax.jit
    def both():
        carry = cell.initialize_carry(one.shape)
        geometry = {"strides": (2, 1), "padding": ((1, 1), (0, 0)), "groups": 2}
        return (linear(one, lam), conv(image, lam), cell(carry, one, lam)), (
            bilevel.best_response_dense(held[0], one, lam),
            bilevel.best_response_conv(held[1], image, lam, **geometry),
            bilevel.best_response_lstm_cell(held[2], carry, one, lam),
        )

    jax.tree.map(lambda a, b: assert_close(a, b, 1e-6), *both())


def test_modules_of_one_seed_differ_and_their_state_can_be_recentred():
    rngs = nnx.Rngs(0)
    first, second = (layers.BestResponseLinear(4, 5, 1, rngs=rngs) for _ in range(2))
    assert not np.allclose(first.params.get_value().kernel, second.params.get_value().kernel)
    graph, state = nnx.split(first)
    moved = nnx.merge(graph, bilevel.recentre(state, jnp.full(1, 0.5, jnp.float32)))
    x = jnp.ones((2, 4), jnp.float32)
    assert_close(moved(x), first(x, jnp.full((2, 1), 0.5, jnp.float32)), 1e-6)
