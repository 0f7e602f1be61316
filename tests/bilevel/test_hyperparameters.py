"""Constrained hyper-parameters: maps and inverses up to the ends, perturbations, entropy, structure."""

import math

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from jaxreg.bilevel import (
    Bounded,
    Integer,
    Perturbed,
    Positive,
    Unbounded,
    constrain,
    entropy,
    perturb,
    scales,
    unconstrain,
    unperturbed,
)
from jaxreg.bilevel.maps import Range, inverse_softplus, log_softplus

DTYPES = (jnp.float32, jnp.float64)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
RANGES = (Range(0.0, 0.9), Range(-3.0, 5.0), Range(-1.0, 0.0), Range(2.0, math.inf), Range(-math.inf, 7.0))
through = jax.jit(lambda bounds, x: bounds.constrain(bounds.unconstrain(x)), static_argnums=0)


@pytest.fixture(scope="module")
def tree(numerics):
    return {
        "dropout": Bounded([0.1, 0.5], 0.0, 0.9, scale=0.3),
        "holes": Integer(2, 0, 4, scale=1.0),
        "weight_decay": Positive(1e-3, scale=0.5, shared=True),
    }


def shares(bounds, share):
    """A value between the ends, of a share in [0, 1]; the share may be tiny."""
    if math.isinf(bounds.high):
        return bounds.low + 50 * share
    if math.isinf(bounds.low):
        return bounds.high - 50 * share
    return bounds.low + (bounds.high - bounds.low) * share


@every_dtype
@given(share=st.lists(st.floats(0, 1), min_size=20, max_size=20), exponent=st.integers(-30, 0))
def test_values_come_back_from_their_unconstrained_numbers(dtype, share, exponent):
    share = np.array([*share, 0.0, 1.0]) * 10.0**exponent
    for bounds in RANGES:
        x = jnp.clip(jnp.asarray(shares(bounds, share), dtype), bounds.low, bounds.high)
        found = through(bounds, x)
        width = 1 if math.isinf(bounds.high - bounds.low) else bounds.high - bounds.low
        ends = max(abs(end) for end in bounds[:2] if math.isfinite(end))
        near = np.abs(np.asarray(x, np.float64) - (bounds.low if math.isfinite(bounds.low) else bounds.high))
        eps = float(jnp.finfo(dtype).eps)
        # u is off by half a unit in its last place, which is relative in the distance to the end.
        bound = eps * (4 * ends + 100 * np.minimum(near, 50)) + 2 * width * float(jnp.finfo(dtype).tiny)
        assert np.all(np.abs(np.asarray(found, np.float64) - np.asarray(x, np.float64)) <= bound)


@every_dtype
def test_maps_and_inverses_are_those_of_sixty_digits(dtype):
    u = jnp.asarray([-80.0, -30.0, -1.0, 0.0, 1e-3, 2.0, 30.0, 300.0], dtype)
    eps = float(jnp.finfo(dtype).eps)
    with mpmath.workdps(60):
        softplus = [mpmath.log1p(mpmath.exp(mpmath.mpf(float(x)))) for x in u]
        found = jax.jit(Range(0.0, math.inf).constrain)(u)
        np.testing.assert_allclose(found, [float(x) for x in softplus], rtol=8 * eps)
        wanted = [float(mpmath.log(x)) for x in softplus]
        np.testing.assert_allclose(jax.jit(log_softplus)(u), wanted, rtol=8 * eps, atol=8 * eps)
        x = jnp.asarray([1e-37, 1e-20, 6e-8, 1e-4, 0.5, 1.0, 88.0, 90.0, 1e4], dtype)
        inverse = [float(mpmath.log(mpmath.expm1(mpmath.mpf(float(value))))) for value in x]
        np.testing.assert_allclose(jax.jit(inverse_softplus)(x), inverse, rtol=8 * eps, atol=8 * eps)


@every_dtype
@settings(max_examples=5)  # each compiles the maps of three ranges
@given(low=st.integers(-1000, 1000), count=st.integers(0, 1000))
def test_every_integer_of_the_range_is_reached_and_comes_back(dtype, low, count):
    for bounds in (
        Range(low, low + count + 1, whole=True),
        Range(low, math.inf, True),
        Range(-math.inf, low, True),
    ):
        first = low if math.isfinite(bounds.low) else low - 1 - count
        values = jnp.asarray(first + np.minimum(np.arange(1001), count), dtype)
        found = through(bounds, values)
        assert found.dtype == jnp.int32
        np.testing.assert_array_equal(found, values)


def test_the_largest_range_of_integers_comes_back_in_float32():
    values = jnp.arange(0, 2**20 + 1, 17, jnp.float32)
    np.testing.assert_array_equal(through(Range(0, 2**20 + 1, whole=True), values), values)


def test_integers_far_out_are_the_ends():
    extremes = jnp.array([-1e30, -1e3, 1e3, 1e30])
    np.testing.assert_array_equal(Integer(1, 0, 4).constrain(extremes), [0, 0, 4, 4])
    assert Integer(3, low=2).constrain(-1e30) == 2
    assert Integer(3, high=5).constrain(-1e30) == 5


@every_dtype
def test_at_an_end_the_number_and_its_gradient_are_finite_and_the_value_is_the_end(dtype):
    for node, end in (
        (Bounded(jnp.zeros((), dtype), 0.0, 0.9), 0.0),
        (Bounded(jnp.asarray(0.9, dtype), 0.0, 0.9), 0.9),
        (Bounded(jnp.asarray(2.0, dtype), 2.0), 2.0),
        (Bounded(jnp.asarray(-2.0, dtype), high=-2.0), -2.0),
        (Positive(jnp.zeros((), dtype)), 0.0),
    ):
        assert np.isfinite(node.unconstrained)
        tiny = float(jnp.finfo(dtype).tiny)
        np.testing.assert_allclose(node.constrain(), np.asarray(end, dtype), rtol=0, atol=2 * tiny)
        assert np.isfinite(jax.grad(node.constrain)(node.unconstrained))


def test_values_out_of_range_are_refused_by_name_and_traced_ones_give_nan(tree):
    for bad in (-0.1, 1.1, math.nan, math.inf, [0.5, 2.0], np.float32(-1)):
        with pytest.raises(ValueError, match="value"):
            Bounded(bad, 0.0, 1.0)
    made = jax.jit(lambda x: (Bounded(x, 0.0, 1.0), Positive(x), Bounded(0.5, 0.0, 1.0, scale=x)))
    found = made(jnp.asarray(-0.5))
    assert all(np.isnan(found[i].unconstrained) for i in (0, 1)) and np.isnan(found[2].raw_scale)
    for bad, error, name in (
        (lambda: Bounded("a", 0.0, 1.0), TypeError, "value"),
        (lambda: Bounded(1j, 0.0, 1.0), TypeError, "value"),
        (lambda: Bounded(0.5, 1.0, 0.0), ValueError, "low"),
        (lambda: Bounded(0.5, "0", 1.0), TypeError, "low"),
        (lambda: Positive(-1.0), ValueError, "value"),
        (lambda: Unbounded(math.inf), ValueError, "value"),
        (lambda: Positive(1.0, scale=0.0), ValueError, "scale"),
        (lambda: Positive(1.0, scale=[1.0, 2.0]), ValueError, "scale"),
        (lambda: Positive(1.0, shared=1), TypeError, "shared"),
        (lambda: Positive(1.0, scale=1e-310), ValueError, "scale"),
        (lambda: Positive(np.float32(1.0), scale=1e-60), ValueError, "scale.*float32"),
        (lambda: Bounded(np.float32(0.5), 0.0, 1e39), ValueError, "high.*float32"),
        (lambda: Bounded(np.float32(0.5), high=1e39), ValueError, "high.*float32"),
        (lambda: Bounded(np.float32(0.5), -3e38, 3e38), ValueError, "high - low.*float32"),
        (lambda: Integer(1.5, 0, 4), TypeError, "value"),
        (lambda: Integer(5, 0, 4), ValueError, "value"),
        (lambda: Integer(1, 0.0, 4), TypeError, "low"),
        (lambda: Integer(1, 2, 1), ValueError, "low"),
        (lambda: Integer(1, 0, 2**20 + 1), ValueError, "high"),
        (lambda: perturb(tree, jax.random.key(0), 0), ValueError, "batch_size"),
        (lambda: perturb(tree, jax.random.key(0), 2.0), TypeError, "batch_size"),
        (lambda: constrain({"rate": 0.5}), TypeError, "hyperparameters"),
        (lambda: constrain({}), TypeError, "hyperparameters"),
        (lambda: constrain(tree, jnp.zeros(3)), ValueError, "unconstrained"),
        (lambda: unconstrain(tree, {"dropout": 1.0}), ValueError, "values"),
        (lambda: unconstrain(tree, {**constrain(tree), "dropout": 0.5}), ValueError, "value"),
    ):
        with pytest.raises(error, match=name):
            bad()


# -- Trees


def test_trees_and_vectors_say_the_same_in_the_order_of_the_leaves(tree):
    assert unconstrain(tree).shape == (4,)
    values = constrain(tree)
    np.testing.assert_allclose(values["dropout"], [0.1, 0.5], rtol=1e-12)
    assert values["holes"] == 2
    for given_values in (values, constrain(tree, unconstrain(tree))):
        np.testing.assert_allclose(unconstrain(tree, given_values), unconstrain(tree), rtol=1e-12)
    many = {**values, "dropout": np.full((7, 2), 0.25)}
    assert unconstrain(tree, many).shape == (7, 4)
    np.testing.assert_allclose(constrain(tree, unconstrain(tree, many))["dropout"], 0.25, rtol=1e-12)
    np.testing.assert_allclose(scales(tree), [0.3, 0.3, 1.0, 0.5], rtol=1e-12)


def test_perturbations_are_normal_independent_per_example_and_one_where_shared(tree):
    drawn = jax.jit(perturb, static_argnums=2)(tree, jax.random.key(3), 4000)
    assert isinstance(drawn, Perturbed)
    noise = np.asarray((drawn.unconstrained - unconstrain(tree)) / scales(tree))
    for column in range(3):
        assert stats.kstest(noise[:, column], "norm").pvalue > 1e-3
    assert np.all(np.abs(np.corrcoef(noise[:, :3].T) - np.eye(3)) < 0.06)
    assert len(set(noise[:, 3])) == 1
    wanted = constrain(tree, drawn.unconstrained)
    np.testing.assert_allclose(drawn.values["dropout"], wanted["dropout"], rtol=1e-14)
    np.testing.assert_array_equal(drawn.values["holes"], wanted["holes"])
    assert drawn.values["weight_decay"].shape == ()
    assert set(np.unique(drawn.values["holes"])) == {0, 1, 2, 3, 4}


def test_if_all_are_shared_there_is_one_set_for_the_batch(tree):
    drawn = Positive([1.0, 2.0], shared=True).perturb(jax.random.key(0), 5)
    assert drawn.unconstrained.shape == drawn.values.shape == (2,)
    still = unperturbed(tree, 5)
    assert still.unconstrained.shape == (4,)
    assert jax.tree.map(jnp.shape, still.values) == {"dropout": (5, 2), "holes": (5,), "weight_decay": ()}


def test_perturbations_have_the_reparametrised_gradient(tree):
    def mean(tree):
        return jnp.mean(perturb(tree, jax.random.key(0), 8).unconstrained[:, 0] ** 2)

    gradient = jax.jit(jax.grad(mean))(tree)
    drawn = np.asarray(perturb(tree, jax.random.key(0), 8).unconstrained[:, 0])
    u, sigma = float(tree["dropout"].unconstrained[0]), 0.3
    np.testing.assert_allclose(gradient["dropout"].unconstrained[0], np.mean(2 * drawn), rtol=1e-12)
    slope = 1 - math.exp(-sigma)
    wanted = np.mean(2 * drawn * (drawn - u) / sigma) * slope
    np.testing.assert_allclose(gradient["dropout"].raw_scale[0], wanted, rtol=1e-12)


def test_entropy_is_that_of_the_normal_distribution(tree):
    wanted = sum(stats.norm(scale=s).entropy() for s in (0.3, 0.3, 1.0, 0.5))
    np.testing.assert_allclose(entropy(tree), wanted, rtol=1e-13)
    np.testing.assert_allclose(tree["holes"].entropy(), stats.norm().entropy(), rtol=1e-13)


def test_entropy_and_its_derivative_survive_a_scale_that_vanishes():
    tiny = Unbounded(jnp.zeros((), jnp.float32), scale=1.0)
    tiny = jax.tree.unflatten(jax.tree.structure(tiny), [tiny.unconstrained, jnp.float32(-1000.0)])
    assert tiny.scale == 0
    gradient = jax.grad(entropy)(tiny)
    np.testing.assert_allclose(entropy(tiny), -1000 + 0.5 * math.log(2 * math.pi * math.e), rtol=1e-6)
    np.testing.assert_allclose(gradient.raw_scale, 1.0, rtol=1e-6)


def test_values_change_without_recompilation_and_ranges_do_not(tree):
    traces = []

    @jax.jit
    def values(tree):
        traces.append(None)
        return constrain(tree)

    values(Bounded(0.2, 0.0, 1.0))
    values(Bounded(0.3, 0.0, 1.0, scale=2.0))
    assert len(traces) == 1
    values(Bounded(0.3, 0.0, 0.9))
    values(Bounded(0.3, 0.0, 0.9, shared=True))
    assert len(traces) == 3
    many = jax.vmap(lambda x: Bounded(x, 0.0, 1.0))(jnp.array([0.1, 0.2]))
    np.testing.assert_allclose(jax.vmap(lambda node: node.constrain())(many), [0.1, 0.2], rtol=1e-12)
    assert "Bounded([0, 1], shared=False" in repr(many)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree["holes"])]
    assert paths == [".unconstrained", ".raw_scale"]
