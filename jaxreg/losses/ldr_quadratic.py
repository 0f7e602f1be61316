"""The label-distributionally-robust loss with a quadratic regulariser."""

import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxreg import checks
from jaxreg.checks import Classified, expand
from jaxreg.losses.class_sums import apart, class_sum, evaluated_once
from jaxreg.losses.ldr import Known, centred_scores
from jaxreg.losses.maximal_weights import Parts, class_count, value_and_tangent
from jaxreg.simplex import _inverse


def ldr_quadratic(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    temperature: ArrayLike = 1.0,
    margin: ArrayLike = 0.0,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Largest expected margin over label distributions, less their squared distance from the uniform one.

    .. math:: \psi(f, y) = \max_{p \in \Delta} \sum_k p_k z_k
              - \frac{\lambda}{2} \sum_k \left(p_k - \tfrac1K\right)^2,
              \qquad z_k = f_k - f_y + c\,[k \ne y].

    The maximising weights are the Euclidean projection of :math:`z/\lambda` on the simplex (sparsemax).
    With S the n classes of positive weight and m the mean of :math:`z` over them,

    .. math:: \psi = m + \frac{1}{2\lambda} \sum_{k \in S} (z_k - m)^2
              - \frac{\lambda}{2} \left(\tfrac1n - \tfrac1K\right),
              \qquad p_k = \tfrac1n + \frac{z_k - m}{\lambda} \text{ in } S.

    Temperature 0 gives the largest margin, infinity the mean margin. The second derivative is that on S;
    it jumps where a class enters or leaves S.

    Args:
      logits: scores ``f``, floating, shape ``[..., K, ...]`` with the classes on ``axis``.
      labels: classes ``y`` in 0..K-1, integer, the shape of ``logits`` without ``axis``.
      temperature: ``lambda`` in [0, inf], broadcast against ``labels``.
      margin: ``c`` in [0, inf), added to every wrong class, broadcast against ``labels``.
      axis: the class axis of ``logits``.
      where: classes to keep, boolean, broadcastable to ``logits``; K counts the classes kept.

    Returns:
      One value per example, the shape of ``labels``, at least float32; NaN for a label that is no
      class or a removed one, and for a traced hyper-parameter out of range.

    Raises:
      TypeError: logits not floating, labels not integer, or a hyper-parameter not real.
      ValueError: shapes that do not fit, or a Python or NumPy hyper-parameter out of range.

    References:
      Zhu, Ying and Yang (2023, arXiv 2112.14869), the LDR family; Martins and Astudillo (2016,
      arXiv 1602.02068), sparsemax, of whose loss this is the affine image
      ``temperature * (sparsemax_loss(f / temperature) - (K - 1) / (2 K))`` without margin.

    Example:
      >>> logits, label = jnp.array([2.0, 1.5, -1.0]), 0          # weights 3/4, 1/4 and 0
      >>> ldr_quadratic(logits, label)
      Array(-0.27083334, dtype=float32)
      >>> ldr_quadratic(logits, label, temperature=jnp.inf)       # mean(0, -1/2, -3)
      Array(-1.1666666, dtype=float32)
    """
    batch = checks.classified(logits, labels, axis=axis, where=where)
    scale = checks.hyperparameter("temperature", temperature, "[0, inf]", batch)
    gap = checks.hyperparameter("margin", margin, "[0, inf)", batch)
    # The support is found from the exact maximum.
    known = Known.of(temperature, margin, batch.logits.dtype)._replace(loose=False)
    value = _ldr_quadratic(batch.axis, known, batch.logits, batch.labels, batch.where, scale, gap)
    return batch.checked(value)


def _quadratic_parts(axis, known, logits, labels, where, temperature, margin) -> Parts:
    batch = Classified(logits, labels, jnp.ones_like(labels, bool), where, axis)
    centred, ahead = centred_scores(batch, known, margin)
    if where is not None:
        centred = jnp.where(where, centred, -jnp.inf)
    centred = evaluated_once(centred)
    infinite = jnp.isinf(temperature)
    fixed = jax.lax.stop_gradient((centred, temperature))
    threshold, size, total = _threshold(*fixed, where, axis)
    support = fixed[0] >= expand(threshold, axis)
    support = support if where is None else support & where
    mean = apart(_sum_over(axis, support, centred, total) / size)

    # At infinite temperature the weights do not depend on the scores, which may be -inf.
    inverse = jnp.broadcast_to(_inverse(temperature), mean.shape)
    none = jnp.broadcast_to(infinite, mean.shape)

    def deviation(score, inside, mean, none):
        return jnp.where(inside & ~none, score - mean, 0)

    def scaled(score, inside, mean, inverse, none):
        return deviation(score, inside, mean, none) * inverse

    moved = scaled(centred, support, *(expand(row, axis) for row in (mean, inverse, none)))
    weights = jnp.where(support, moved + expand(apart(1 / size), axis), 0)
    weights = jnp.where(weights > 0, weights, jnp.where(weights <= 0, 0, weights))

    def half_square(score, inside, mean, inverse, none):
        return jnp.square(scaled(score, inside, mean, inverse, none)) / 2

    def product(score, inside, mean, inverse, none):
        # Not the square over the temperature, which may overflow.
        return deviation(score, inside, mean, none) * scaled(score, inside, mean, inverse, none)

    count = class_count(batch)
    fewer = (count - size) / (size * count)
    arguments = axis, [centred, support], [mean, inverse, none]
    variation = class_sum(product, *arguments)
    value = mean + (variation - jnp.where(infinite, 0, temperature) * fewer) / 2
    value = jnp.where(jnp.isposinf(ahead), jnp.inf, ahead + value)
    divergence = class_sum(half_square, *arguments) + fewer / 2
    return Parts(batch, value, weights, jnp.ones_like(value), divergence)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _sum_over(axis, support, centred, total):
    """The sum of the scores in the support, which is known already."""
    return total


@_sum_over.defjvp
def _sum_over_jvp(axis, primals, tangents):
    support, _, total = primals
    return total, jnp.sum(jnp.where(support, tangents[1], 0), axis)


def _threshold(centred, temperature, where, axis):
    """A level below the scores of positive weight, the number of scores not below it and their sum.

    The threshold solves ``sum_k max(0, z_k - threshold) = temperature``. The left side is convex and
    piecewise linear, so that Newton's method rises from below and ends, at the exact piece. It starts from
    the threshold of fewer scores, the largest of some groups, which is lower.
    """
    top = jnp.max(centred, axis)
    start = top - temperature
    groups = _group_maxima(centred if where is None else jnp.where(where, centred, -jnp.inf), axis)
    if groups is not None:
        start = _newton(groups, temperature, None, start, top, axis)[1]
    level, _, size, total = _newton(centred, temperature, where, start, top, axis)
    return level, size, total


def _newton(centred, temperature, where, start, top, axis):
    """The last two iterates, and the number and the sum of the scores not below the first of them."""
    if where is not None:
        centred = jnp.where(where, centred, -jnp.inf)
    kept = [] if where is None else [where]

    def count(score, *rest):
        inside = (score >= rest[-1]) & rest[0] if kept else score >= rest[-1]
        return inside.astype(score.dtype)

    def inside(score, *rest):
        return jnp.where(count(score, *rest) > 0, score, 0)

    def step(level):
        size, total = (class_sum(term, axis, [centred, *kept], [level]) for term in (count, inside))
        # Rounding must not lead above the largest score, nor down again: past a score at the threshold and
        # back, for ever where two examples take turns.
        return level, jnp.maximum(jnp.minimum((total - temperature) / size, top), level), size, total

    # At least one step more is taken, to see that it changes nothing.
    return jax.lax.while_loop(
        lambda last: jnp.any(last[1] > last[0]), lambda last: step(last[1]), step(start)
    )


def _group_maxima(centred, axis):
    """The largest score of each of many groups of 16, and the scores left; None for few classes."""
    size, slabs = centred.shape[axis], 16
    width = size // slabs
    if width < 16:
        return None
    parts = [jax.lax.slice_in_dim(centred, n * width, (n + 1) * width, axis=axis) for n in range(slabs)]
    rest = jax.lax.slice_in_dim(centred, slabs * width, size, axis=axis)
    return jnp.concatenate([functools.reduce(jnp.maximum, parts), rest], axis)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _ldr_quadratic(axis, known, logits, labels, where, temperature, margin):
    return _quadratic_parts(axis, known, logits, labels, where, temperature, margin).value


def _ldr_quadratic_jvp(axis, known, primals, tangents):
    changing = 0, 4, 3
    parts = _quadratic_parts(axis, known, *primals)
    return value_and_tangent(parts, [primals[n] for n in changing], [tangents[n] for n in changing])


_ldr_quadratic.defjvp(_ldr_quadratic_jvp, symbolic_zeros=True)
