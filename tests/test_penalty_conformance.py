"""What every penalty must satisfy; one row in ``tests.cases`` enrols it, and forgetting the row fails.

Expected values come from plain definitions by automatic differentiation in float64. To keep compilation
short, all problems have one shape and are evaluated side by side, by one program a penalty.
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding

from jaxreg import penalties
from jaxreg.theory.oracles import quick_jit
from tests.cases import OTHER_PENALTY_NAMES, PENALTIES

DOMAINS, EXAMPLES, FEATURES, CLASSES = 2, 8, 3, 3
HALF = EXAMPLES // 2
GENERATOR = np.random.default_rng(6)


def every_penalty(test):
    """Run for every penalty; the tests of one belong on one worker, which has it compiled."""
    cases = [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in PENALTIES]
    return pytest.mark.parametrize("name", cases)(test)


def eighths(*shape):
    """Normal numbers rounded to eighths, which half precision holds exactly."""
    return np.round(8 * GENERATOR.normal(size=shape)) / 8


def problem(classes=CLASSES):
    """A head, features, labels as probabilities, and weights."""
    head = {"kernel": eighths(FEATURES, classes), "bias": eighths(classes)}
    labels = GENERATOR.integers(max(classes, 2), size=(DOMAINS, EXAMPLES))
    targets = np.eye(classes)[labels] if classes > 1 else labels[..., None].astype(float)
    return head, eighths(DOMAINS, EXAMPLES, FEATURES), targets, np.ones((DOMAINS, EXAMPLES))


def problems():
    """Problems of one shape by name."""
    head, features, targets, weights = problem()
    first = np.arange(EXAMPLES) < HALF
    soft = GENERATOR.dirichlet(np.ones(CLASSES), (DOMAINS, EXAMPLES))
    nothing = jax.tree.map(np.zeros_like, head)
    return {
        "hard labels": (head, features, targets, weights),
        "soft labels": (head, features, soft, weights),
        "weighted": (head, features, soft, GENERATOR.uniform(0.5, 2, weights.shape)),
        "halved": (head, features, soft, weights * first),
        "duplicated": (
            head,
            np.tile(features[:, :HALF], (1, 2, 1)),
            np.tile(soft[:, :HALF], (1, 2, 1)),
            weights,
        ),
        "unequal": (head, features, targets, weights * (np.arange(EXAMPLES) < [[5], [2]])),
        "one empty": (head, features, targets, weights * [[1], [0]]),
        "all empty": (head, features, targets, 0 * weights),
        "saturated": (jax.tree.map(lambda leaf: 64 * leaf, head), features, targets, weights),
        "identical": (head, features[[0, 0]], targets[[0, 0]], weights),
        "stationary": (nothing, features, np.full_like(soft, 1 / CLASSES), weights),
        "zero features": (head, 0 * features, targets, weights),
    }


PROBLEMS = problems()


def stacked(dtype=np.float64):
    return jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves), dtype), *PROBLEMS.values())


def call(name, head, features, labels, **more):
    return getattr(penalties, name)(head, features, labels, **PENALTIES[name].options, **more)


def derivatives(function):
    """Value, gradient, and derivative of the gradient along the all-ones direction, in head and features."""

    def all_of(head, features, *rest):
        first = jax.value_and_grad(function, argnums=(0, 1))
        ones = jax.tree.map(jnp.ones_like, (head, features))
        (value, gradient), (_, second) = jax.jvp(lambda *args: first(*args, *rest), (head, features), ones)
        return value, gradient, second

    return all_of


@functools.cache
def library(name):
    """The penalty's value and derivatives on problems side by side."""

    def value(head, features, targets, weights, hyper):
        return call(name, head, features, targets, weights=weights, **hyper)

    return quick_jit(jax.vmap(derivatives(value), (0, 0, 0, 0, None)))


@functools.cache
def found(name):
    return jax.tree.map(np.asarray, library(name)(*stacked(), hyper(name)))


@functools.cache
def of_labels(name):
    """Value and gradients from integer labels and ``where``."""

    def value(head, features, labels, where):
        return call(name, head, features, labels, where=where, **hyper(name))

    return quick_jit(jax.value_and_grad(value, argnums=(0, 1)))


def hyper(name, dtype=np.float64):
    return {key: jnp.asarray(value, dtype) for key, value in PENALTIES[name].hyper.items()}


def defined(name, **more):
    case = PENALTIES[name]
    return functools.partial(case.definition, **case.hyper, **case.options, **more)


def assert_close(actual, wanted, tolerance):
    """Up to the tolerance times the largest entry."""
    for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(wanted), strict=True):
        scale = np.max(np.abs(other)) if np.size(other) else 0
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * max(scale, 1e-3))


def one(name, index):
    """The results of one of the problems."""
    position = list(PROBLEMS).index(index)
    return jax.tree.map(lambda leaf: leaf[position], found(name))


def test_every_public_name_is_enrolled():
    assert set(penalties.__all__) == set(PENALTIES) | set(OTHER_PENALTY_NAMES)
    for name, path in OTHER_PENALTY_NAMES.items():
        assert name in (Path(__file__).parents[1] / path).read_text()


# -- Values and derivatives


@every_penalty
def test_value_gradient_and_curvature_are_those_of_the_definition(name):
    expected = quick_jit(jax.vmap(derivatives(defined(name))))(*stacked())
    for position, index in enumerate(PROBLEMS):
        if index == "all empty":
            continue
        wanted = jax.tree.map(lambda leaf, n=position: np.asarray(leaf[n]), expected)
        assert_close(one(name, index), wanted, 1e-10)


@every_penalty
def test_values_and_derivatives_are_finite_and_zero_without_domains(name):
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(found(name)))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(one(name, "all empty")))


@every_penalty
def test_duplicating_every_example_changes_nothing(name):
    value, (head, features), _ = one(name, "halved")
    assert not np.any(features[:, HALF:])
    shared = np.tile(features[:, :HALF] / 2, (1, 2, 1))
    assert_close(one(name, "duplicated")[:2], (value, (head, shared)), 1e-12)


@every_penalty
def test_domains_that_are_one_or_alike_have_no_distance(name):
    if PENALTIES[name].compares_domains and "probes" not in PENALTIES[name].options:
        for index in ("one empty", "identical"):
            assert_close(one(name, index)[0], 0.0, 1e-12)


@every_penalty
def test_one_logit_is_two_classes_with_logits_zero_and_s(name):
    head, *batch = problem(1)
    expected = quick_jit(jax.value_and_grad(defined(name), argnums=(0, 1)))(head, *batch)

    def value(head, features, targets, weights):
        return call(name, head, features, targets, weights=weights, **hyper(name))

    assert_close(quick_jit(jax.value_and_grad(value, argnums=(0, 1)))(head, *batch), expected, 1e-10)


@every_penalty
def test_a_single_domain_without_bias(name):
    head, features, targets, weights = PROBLEMS["soft labels"]
    arguments = {"kernel": head["kernel"]}, features[:1], targets[:1], weights[:1]
    actual = quick_jit(
        jax.value_and_grad(lambda *args: call(name, *args[:3], weights=args[3], **hyper(name)), (0, 1))
    )(*arguments)
    if PENALTIES[name].compares_domains and "probes" not in PENALTIES[name].options:
        assert_close(actual, jax.tree.map(np.zeros_like, actual), 1e-12)
    else:
        expected = quick_jit(jax.value_and_grad(defined(name), argnums=(0, 1)))(*arguments)
        assert_close(actual, expected, 1e-10)


@every_penalty
def test_what_is_left_out_may_be_anything(name):
    head, features, targets, weights = PROBLEMS["unequal"]
    where = weights > 0
    padded = np.where(where[..., None], features, np.nan)
    labels = np.where(where, np.argmax(targets, -1), -1)
    value, gradients = of_labels(name)(head, padded, labels, where)
    assert_close((value, gradients), one(name, "unequal")[:2], 1e-12)


@every_penalty
@pytest.mark.parametrize("classes", [1, 3])
def test_traces_where_arrays_of_unequal_rank_are_refused(name, classes):
    head, features, targets, _ = problem(classes)
    labels = np.argmax(targets, -1)

    def value(head, features):
        where, weights = np.ones(EXAMPLES, bool), np.ones((DOMAINS, 1))
        return call(name, head, features, labels, where=where, weights=weights, **hyper(name))

    # Hessians of many features are compared by Gram matrices of the examples.
    many = {**head, "kernel": np.tile(head["kernel"], (9, 1))}, np.tile(features, (1, 1, 9))
    for arguments in ((head, features), many):
        with jax.numpy_rank_promotion("raise"):
            with pytest.raises(ValueError, match="rank_promotion"):  # so the option is in force
                jnp.ones((2, 3)) + jnp.ones(3)
            gradients = jax.eval_shape(jax.grad(value, argnums=(0, 1)), *arguments)
        assert jax.tree.map(jnp.shape, gradients) == jax.tree.map(jnp.shape, arguments)


@every_penalty
def test_a_label_that_is_none_gives_nan_in_value_and_gradient(name):
    head, features, targets, _ = PROBLEMS["hard labels"]
    for bad in (-1, CLASSES):
        labels = np.argmax(targets, -1)
        labels[0, 0] = bad
        value, gradients = of_labels(name)(head, features, labels, np.ones(labels.shape, bool))
        assert np.isnan(value)
        assert np.all(np.isnan(gradients[0]["kernel"] if PENALTIES[name].uses_head else gradients[1][0]))
    _, features, soft, weights = stacked()
    spoiled = library(name)(stacked()[0], features, soft.at[:, 0, 0].mul(1.5), weights, hyper(name))[0]
    assert np.isnan(spoiled[list(PROBLEMS).index("soft labels")])


# -- Precision


@every_penalty
def test_results_have_the_widest_dtype_and_gradients_that_of_their_argument(name):
    head, features, targets, _ = PROBLEMS["hard labels"]
    for dtype, of_features in [
        (jnp.float64, jnp.float64),
        (jnp.float32, jnp.float64),
        (jnp.float32, jnp.float32),
        (jnp.float32, jnp.bfloat16),
        (jnp.bfloat16, jnp.float16),
    ]:
        arguments = jax.tree.map(lambda leaf, dtype=dtype: jnp.asarray(leaf, dtype), head)
        inputs = jnp.asarray(features, of_features)
        labels = jnp.asarray(targets, jnp.float16)
        value, gradients = jax.eval_shape(
            jax.value_and_grad(lambda head, inputs, labels=labels: call(name, head, inputs, labels), (0, 1)),
            arguments,
            inputs,
        )
        wide = jnp.float64 if of_features == jnp.float64 else jnp.float32
        assert (value.dtype, value.shape) == (wide, ())
        assert jax.tree.map(lambda leaf: leaf.dtype, gradients) == jax.tree.map(
            lambda leaf: leaf.dtype, (arguments, inputs)
        )


@every_penalty
def test_half_precision_features_are_computed_with_in_single(name):
    def run(head, features, labels, weights):
        function = jax.value_and_grad(lambda *args: call(name, *args, weights=weights, **hyper(name)), (0, 1))
        return function(head, features, labels)

    head, features, targets, weights = stacked(jnp.float32)
    program = jax.jit(jax.vmap(run))
    actual = program(head, features.astype(jnp.bfloat16), targets, weights)
    for position, index in enumerate(PROBLEMS):
        value, (of_head, of_features) = jax.tree.map(
            lambda leaf, n=position: np.asarray(leaf[n], np.float64), actual
        )
        expected = one(name, index)[:2]
        if index in ("weighted", "soft labels"):
            assert_close((value, of_head), (expected[0], expected[1][0]), 1e-5)
        assert np.all(np.isfinite(value))
        assert_close(of_features, expected[1][1], 2e-2)


# -- Arguments


@every_penalty
def test_mistakes_are_refused_by_name(name):
    head, features, targets, weights = PROBLEMS["hard labels"]
    good = {"head": head, "features": features, "labels": targets, "weights": weights}
    mistakes = [
        (TypeError, "head", {"head": head["kernel"]}),
        (ValueError, "kernel", {"head": {"bias": head["bias"]}}),
        (ValueError, "scale", {"head": head | {"scale": head["bias"]}}),
        (ValueError, "kernel", {"head": {"kernel": head["bias"]}}),
        (TypeError, "kernel", {"head": {"kernel": np.ones((FEATURES, CLASSES), int)}}),
        (ValueError, "bias", {"head": head | {"bias": head["bias"][:-1]}}),
        (TypeError, "features", {"features": features.astype(int)}),
        (ValueError, "features", {"features": features[0]}),
        (ValueError, "features", {"features": features[..., :-1]}),
        (ValueError, "features", {"features": features[:0]}),
        (ValueError, "labels", {"labels": targets[..., :-1]}),
        (ValueError, "labels", {"labels": np.argmax(targets, -1)[:, :-1]}),
        (TypeError, "labels", {"labels": targets > 0}),
        (TypeError, "where", {"where": weights}),
        (ValueError, "where", {"where": np.ones((DOMAINS, EXAMPLES - 1), bool)}),
        (ValueError, "weights", {"weights": -weights}),
        (ValueError, "weights", {"weights": weights[:, :-1]}),
        (TypeError, "weights", {"weights": weights > 0}),
    ]
    for error, named, wrong in mistakes:
        with pytest.raises(error, match=named):
            jax.eval_shape(lambda wrong=wrong: call(name, **(good | wrong)))
    for key, values in PENALTIES[name].refused.items():
        for bad in values:
            with pytest.raises(ValueError, match=key):
                call(name, **good, **{key: bad})
        with pytest.raises(TypeError, match=key):
            call(name, **good, **{key: "1"})


@every_penalty
def test_traced_hyperparameters_outside_their_range_give_nan(name):
    for key, values in PENALTIES[name].refused.items():
        for bad in values:
            changed = hyper(name) | {key: jnp.asarray(bad)}
            assert np.all(np.isnan(library(name)(*stacked(), changed)[0]))


# -- Devices


@every_penalty
def test_explicit_mesh_over_domains_and_examples(name):
    mesh = jax.make_mesh((2, 4), ("domains", "data"), (AxisType.Explicit,) * 2)
    head, features, targets, weights = PROBLEMS["weighted"]

    def run(head, features, targets, weights):
        def value(head, features, **more):
            return call(name, head, features, targets, **more, **PENALTIES[name].hyper)

        # That it can be traced is enough for the case without weights.
        jax.eval_shape(value, head, features)
        return jax.value_and_grad(lambda *args: value(*args, weights=weights), (0, 1))(head, features)

    with jax.set_mesh(mesh):
        head = jax.device_put(head, NamedSharding(mesh, jax.P()))
        batch = jax.device_put((features, targets, weights), NamedSharding(mesh, jax.P("domains", "data")))
        actual = quick_jit(run)(head, *batch)
        assert actual[1][1].sharding.is_equivalent_to(batch[0].sharding, 3)
    assert_close(jax.tree.map(np.asarray, actual), one(name, "weighted")[:2], 1e-12)


def test_a_problem_on_each_of_eight_devices():
    """In one program for all penalties."""

    def values(head, features, targets, weights):
        batch = head, features, targets
        return {name: call(name, *batch, weights=weights, **hyper(name)) for name in PENALTIES}

    eight = jax.tree.map(lambda leaf: leaf[:8], stacked())
    mesh = jax.make_mesh((8,), ("data",), (AxisType.Auto,))
    mapped = jax.shard_map(jax.vmap(values), mesh=mesh, in_specs=jax.P("data"), out_specs=jax.P("data"))
    for actual in (quick_jit(mapped)(*eight), jax.pmap(values)(*eight)):
        for name, result in actual.items():
            assert_close(np.asarray(result), found(name)[0][:8], 1e-12)
