"""With more classes the sums are taken of slabs of them, and are still those of the definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreg import losses
from jaxreg.losses.class_sums import class_sum
from jaxreg.losses.largest_classes import largest

CLASSES = 301
GENERATOR = np.random.default_rng(8)


def probabilities(logits, kept):
    return jax.nn.softmax(jnp.where(kept, logits, -jnp.inf))


def brier(logits, label, kept):
    return jnp.sum(jnp.square(probabilities(logits, kept) - jax.nn.one_hot(label, logits.size)))


def normalized_cross_entropy(logits, label, kept):
    logarithms = logits - jax.nn.logsumexp(logits, where=kept)
    return logarithms[label] / jnp.sum(logarithms, where=kept)


def robust_log_loss(logits, label, kept, a=1.0):
    shares = jnp.log(a + probabilities(logits, kept))
    wrong = kept & (jnp.arange(logits.size) != label)
    return jnp.log((a + 1) / a) - shares[label] + jnp.mean(shares, where=wrong)


def weston_watkins(logits, label, kept):
    hinges = jnp.maximum(0, 1 + logits - logits[label])
    return jnp.sum(hinges, where=kept & (jnp.arange(logits.size) != label))


def ldr_quadratic(logits, label, kept):
    """The threshold from the sorted scores (Martins and Astudillo, 2016, algorithm 1)."""
    scores = jnp.where(kept, logits - logits[label], -1e3)
    ordered = jnp.sort(scores)[::-1]
    ranks, sums = jnp.arange(1.0, scores.size + 1), jnp.cumsum(ordered)
    size = jnp.sum(1 + ranks * ordered > sums)
    weights = jnp.maximum(scores - (sums[size - 1] - 1) / size.astype(float), 0)
    spread = jnp.sum(jnp.square(weights - 1 / jnp.sum(kept, dtype=float)), where=kept)
    return jnp.sum(jnp.where(weights > 0, weights * scores, 0)) - spread / 2


def ldr_top_k(logits, label, kept):
    return jnp.mean(jax.lax.top_k(jnp.where(kept, logits, -jnp.inf), 3)[0]) - logits[label]


def derivatives(function, logits, direction):
    """Value, gradient and the gradient's change in a direction."""
    value = function(logits)
    return value, *jax.jvp(jax.grad(lambda logits: function(logits).sum()), (logits,), (direction,))


@pytest.mark.parametrize("masked", [False, True], ids=["all_classes", "some_removed"])
@pytest.mark.parametrize(
    ("definition", "hyper"),
    [
        (brier, {}),
        (normalized_cross_entropy, {}),
        (robust_log_loss, {}),
        (robust_log_loss, {"a": 0.003}),
        (weston_watkins, {}),
        (ldr_quadratic, {}),
        (ldr_top_k, {"k": 3}),
    ],
)
def test_values_and_derivatives_are_those_of_the_definition(definition, hyper, masked):
    loss, own = getattr(losses, definition.__name__), {} if definition is ldr_top_k else hyper
    labels = np.array([0, 7, CLASSES - 1, 31])
    kept = (GENERATOR.random((4, CLASSES)) < 0.7) | (np.arange(CLASSES) == labels[:, None])
    kept = kept if masked else np.full_like(kept, True)
    logits, direction = 2 * GENERATOR.normal(size=(2, 4, CLASSES))
    logits[3] *= 5

    def plain(logits):
        return jax.vmap(lambda *example: definition(*example, **own))(logits, labels, kept)

    def own_loss(logits):
        return loss(logits, labels, where=kept if masked else None, **hyper)

    evaluate = jax.jit(derivatives, static_argnums=0)
    for actual, wanted in zip(
        evaluate(own_loss, logits, direction), evaluate(plain, logits, direction), strict=True
    ):
        np.testing.assert_allclose(actual, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("classes", [1, 10, 16, 100, 128, 1003])
def test_sums_over_the_classes_are_the_plain_sums(classes, axis):
    scores = GENERATOR.normal(size=(3, classes)) if axis else GENERATOR.normal(size=(classes, 3))
    rows = np.array([0.5, 2.0, -1.0])
    found = class_sum(
        lambda score, row: jnp.square(score - row), axis, [jnp.asarray(scores)], [jnp.asarray(rows)]
    )
    expected = np.sum(np.square(scores - np.expand_dims(rows, axis)), axis)
    np.testing.assert_allclose(found, expected, rtol=1e-13)


@pytest.mark.parametrize(
    ("examples", "classes", "count"), [(1024, 301, 5), (3, 301, 5), (3, 2000, 17), (1024, 90, 8), (3, 64, 9)]
)
def test_the_largest_are_those_of_a_sort_at_ties_infinities_and_nan(examples, classes, count):
    scores = np.round(GENERATOR.normal(size=(examples, classes)), 1)
    scores[0], scores[1, 5:], scores[1, 0] = -np.inf, -np.inf, np.inf
    found = jax.jit(lambda scores: largest(scores, count, 1))(scores).T
    np.testing.assert_array_equal(found, -np.sort(-scores)[:, :count])
    scores[2, 33] = np.nan
    assert np.isnan(largest(jnp.asarray(scores), count, 1)[0, 2])
