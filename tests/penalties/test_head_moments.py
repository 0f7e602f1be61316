"""Means of a head's derivatives within domains and distances of Hessians, against dense ones."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from jax.sharding import AxisType, NamedSharding

from jaxreg import penalties
from jaxreg.penalties import head_moments, hessian_distances
from jaxreg.theory.oracles import quick_jit
from tests import penalty_oracles

DOMAINS, EXAMPLES, FEATURES = 3, 6, 4
GENERATOR = np.random.default_rng(9)


def problem(classes, bias=True):
    """A head, features, targets and weights, with an empty last domain."""
    head = {"kernel": GENERATOR.normal(size=(FEATURES, classes))}
    if bias:
        head["bias"] = GENERATOR.normal(size=classes)
    labels = GENERATOR.integers(max(classes, 2), size=(DOMAINS, EXAMPLES))
    targets = np.eye(classes)[labels] if classes > 1 else labels[..., None].astype(float)
    weights = GENERATOR.uniform(0.5, 2, (DOMAINS, EXAMPLES)) * [[1], [1], [0]]
    return head, GENERATOR.normal(size=(DOMAINS, EXAMPLES, FEATURES)), targets, weights


def flatten(trees):
    """Trees with a leading domain axis as rows."""
    return jax.vmap(lambda tree: ravel_pytree(tree)[0])(trees)


@pytest.mark.parametrize(("classes", "bias"), [(1, True), (3, True), (3, False)])
def test_moments_and_distances_are_those_of_dense_hessians(classes, bias):
    head, *batch = problem(classes, bias)
    vector = {name: GENERATOR.normal(size=leaf.shape) for name, leaf in head.items()}
    vectors = {name: GENERATOR.normal(size=(DOMAINS, *leaf.shape)) for name, leaf in head.items()}

    def closed(head, features, targets, weights):
        call = functools.partial(head_moments.hessian_vector_product, head, features, weights=weights)
        rows = (
            head_moments.gradient(head, features, targets, weights=weights),
            head_moments.hessian_gradient_product(head, features, targets, weights=weights),
            head_moments.hessian_diagonal(head, features, weights=weights),
            call(vector),
            call(vectors),
        )
        squares = [
            head_moments.hessian_frobenius_distances(head, features, weights=weights, method=method)
            for method in ("gram", "blocks")
        ]
        spectral = head_moments.hessian_spectral_distances(head, features, weights=weights, steps=24)
        losses = head_moments.mean_loss(head, features, targets, weights=weights)
        return losses, tuple(map(flatten, rows)), squares, spectral

    def dense(head, features, targets, weights):
        gradients, hessians, _ = penalty_oracles.derivatives(head, features, targets, weights)
        losses = jax.vmap(penalty_oracles.domain_loss, (None, 0, 0, 0))(head, features, targets, weights)
        one, each = ravel_pytree(vector)[0], flatten(vectors)
        times = functools.partial(jnp.einsum, "eij,ej->ei")
        diagonals = jnp.einsum("eii->ei", hessians)
        rows = gradients, times(hessians, gradients), diagonals, hessians @ one, times(hessians, each)
        return losses, rows, hessians

    losses, rows, distances, spectral = quick_jit(closed)(head, *batch)
    expected, expected_rows, hessians = quick_jit(dense)(head, *batch)
    np.testing.assert_allclose(losses, expected, rtol=1e-12)
    for row, wanted in zip(rows, expected_rows, strict=True):
        np.testing.assert_allclose(row, wanted, rtol=1e-10, atol=1e-13)
        assert not np.any(row[-1])
    differences = np.asarray(hessians)[:, None] - np.asarray(hessians)
    for found in distances:
        np.testing.assert_allclose(found, np.linalg.norm(differences, axis=(2, 3)), rtol=1e-10, atol=1e-9)
    wanted = np.linalg.norm(differences, 2, axis=(2, 3))
    np.testing.assert_allclose(spectral, wanted, rtol=1e-8, atol=1e-12)


def test_saturated_predictions_keep_their_digits_in_single_precision():
    """Confident to within 1e-13, so that p - y and 1 - p round to 0 in float32."""
    head = {"kernel": np.array([[30.0, 0.0, -5.0]])}
    features, targets = np.ones((1, 1, 1)), np.array([[[1.0, 0.0, 0.0]]])

    def moments(head, features, targets):
        return (
            head_moments.mean_loss(head, features, targets),
            head_moments.gradient(head, features, targets),
            head_moments.hessian_diagonal(head, features),
            head_moments.hessian_gradient_product(head, features, targets),
        )

    single = jax.tree.map(lambda leaf: leaf.astype(np.float32), (head, features, targets))
    other = np.exp([-30.0, -35.0])
    p = np.concatenate([[1.0], other]) / (1 + other.sum())
    q = np.array([other.sum() / (1 + other.sum()), *(1 - p[1:])])
    error = np.array([-q[0], *p[1:]])
    curved = p * (error - error[0] - p @ (error - error[0]))
    found = quick_jit(moments)(*single)
    for actual, wanted in zip(
        jax.tree.leaves(found), (np.log1p(other.sum()), error, p * q, curved), strict=True
    ):
        np.testing.assert_allclose(np.ravel(actual), wanted, rtol=1e-5)


@pytest.fixture(scope="module")
def close_domains():
    """Pairs of domains nearer and nearer to each other in float32, and their squared Hessian distances."""
    head, features, *_ = problem(3)
    shifts = 2.0 ** -np.arange(0, 16, 3)
    change = GENERATOR.normal(size=features[0].shape)
    pairs = np.stack([np.stack([features[0], features[0] + shift * change]) for shift in shifts])
    pairs = pairs.astype(np.float32)
    single = {name: leaf.astype(np.float32) for name, leaf in head.items()}

    def exact(features):
        batch = np.full((2, EXAMPLES, 3), 1 / 3), np.ones((2, EXAMPLES))
        _, hessians, _ = penalty_oracles.derivatives(wide, features, *batch)
        return jnp.linalg.norm(hessians[0] - hessians[1])

    wide = jax.tree.map(lambda leaf: leaf.astype(np.float64), single)
    return single, pairs, np.asarray(quick_jit(jax.vmap(exact))(pairs.astype(np.float64)))


@pytest.mark.parametrize("method", ["auto", "blocks"])
def test_distances_of_nearly_equal_domains_keep_their_digits(close_domains, method):
    head, pairs, expected = close_domains

    @jax.jit
    def distance(features):
        return head_moments.hessian_frobenius_distances(head, features, method=method)[0, 1]

    found = np.array([distance(pair) for pair in pairs])
    np.testing.assert_allclose(found, expected, rtol=3e-3)
    assert not distance(pairs[0][[0, 0]])


def test_the_cheaper_form_is_taken():
    def cheap(domains, examples, features, classes):
        head = {"kernel": jnp.zeros((features, classes))}
        batch = penalties.domain_batch.domain_batch(head, jnp.zeros((domains, examples, features)), None)
        return hessian_distances._gram_is_cheaper(batch)

    assert cheap(2, 256, 512, 10)
    assert cheap(3, 64, 390, 1)
    assert not cheap(2, 25_000, 39, 1)


def test_many_classes_take_sums_over_classes_and_not_over_pairs(monkeypatch):
    monkeypatch.setattr(hessian_distances, "FEW_CLASSES", 2)
    head, features, *_ = problem(4)
    gram, blocks = quick_jit(
        lambda *args: [
            head_moments.hessian_frobenius_distances(*args, method=method) for method in ("gram", "blocks")
        ]
    )(head, features)
    np.testing.assert_allclose(gram, blocks, rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("method", ["gram", "blocks"])
def test_explicit_mesh_over_domains_and_examples(method):
    mesh = jax.make_mesh((2, 4), ("domains", "data"), (AxisType.Explicit,) * 2)
    head = {"kernel": GENERATOR.normal(size=(3, 3)), "bias": GENERATOR.normal(size=3)}
    features, labels = GENERATOR.normal(size=(2, 8, 3)), GENERATOR.integers(3, size=(2, 8))

    def moments(head, features, labels):
        return (
            head_moments.hessian_gradient_product(head, features, labels),
            head_moments.hessian_diagonal(head, features),
            head_moments.hessian_frobenius_distances(head, features, method=method),
            head_moments.hessian_spectral_distances(head, features, steps=5),
        )

    expected = quick_jit(moments)(head, features, labels)
    with jax.set_mesh(mesh):
        placed = jax.device_put(head, NamedSharding(mesh, jax.P()))
        batch = jax.device_put((features, labels), NamedSharding(mesh, jax.P("domains", "data")))
        found = quick_jit(moments)(placed, *batch)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)


def test_mistakes_are_refused_by_name():
    head, features, *_ = problem(3)
    for wrong in ({"kernel": head["kernel"]}, head | {"kernel": head["kernel"][:-1]}, head | {"bias": 1.0}):
        with pytest.raises(ValueError, match="vector"):
            head_moments.hessian_vector_product(head, features, wrong)
    with pytest.raises(ValueError, match="method"):
        head_moments.hessian_frobenius_distances(head, features, method="dense")
    with pytest.raises(ValueError, match="steps"):
        head_moments.hessian_spectral_distances(head, features, steps=0)


def test_gradient_of_the_distances_is_finite_where_they_vanish():
    head, features, *_ = problem(2)

    def total(features):
        same = features.at[1].set(features[0])
        frobenius = head_moments.hessian_frobenius_distances(head, same)
        spectral = head_moments.hessian_spectral_distances(head, same, steps=4)
        return jnp.sum(frobenius) + jnp.sum(spectral)

    assert np.all(np.isfinite(quick_jit(jax.grad(total))(jnp.asarray(features))))
