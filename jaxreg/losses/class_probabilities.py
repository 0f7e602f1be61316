"""Noise-robust losses of all class probabilities, not only of the label's."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxreg import checks
from jaxreg.checks import Classified, expand
from jaxreg.losses.class_sums import Group, apart, class_sum, tangent_sum
from jaxreg.losses.log_odds import largest_score, odds_against, reciprocal, wrong_class_powers


def brier(
    logits: ArrayLike, labels: ArrayLike, *, axis: int = -1, where: ArrayLike | None = None
) -> jax.Array:
    r"""Squared error between the class probabilities and the one-hot label, summed over the classes.

    .. math:: \sum_k (s_k - [k = y])^2, \qquad s = \mathrm{softmax}(f)

    Args:
      logits: scores ``f``, floating, shape ``[..., K, ...]`` with the classes on ``axis``.
      labels: classes ``y`` in 0..K-1, integer, the shape of ``logits`` without ``axis``.
      axis: the class axis of ``logits``.
      where: classes to keep, boolean, broadcastable to ``logits``.

    Returns:
      One value per example in [0, 2], the shape of ``labels``, at least float32; NaN for a label that
      is no class or a removed one.

    Raises:
      TypeError: logits not floating, or labels not integer.
      ValueError: shapes that do not fit.

    References:
      Brier (1950), Verification of forecasts expressed in terms of probability.

    Example:
      >>> print(f"{brier(jnp.zeros([4]), 2):.4f}")   # (3/4)^2 + 3 (1/4)^2
      0.7500
    """
    batch = checks.classified(logits, labels, axis=axis, where=where)
    missing = odds_against(batch, compensated=True).complement
    # The wrong classes share 1 - s_y, so that both terms are relative to it.
    squares = _sum_of_squares(batch.axis, batch.logits, batch.labels, batch.where)
    return missing * missing * (1 + squares)


def normalized_cross_entropy(
    logits: ArrayLike, labels: ArrayLike, *, axis: int = -1, where: ArrayLike | None = None
) -> jax.Array:
    r"""Cross-entropy divided by its sum over all labels.

    .. math:: \frac{\log s_y}{\sum_k \log s_k}, \qquad s = \mathrm{softmax}(f)

    Symmetric: over all labels it adds up to 1. Alone it is not consistent on unbounded scores, since a
    score that tends to -inf for any one class brings the loss of all others to 0; add a passive loss, as
    in ``normalized_cross_entropy(...) + reverse_cross_entropy(...)``.

    Args:
      logits: scores ``f``, floating, shape ``[..., K, ...]`` with the classes on ``axis``.
      labels: classes ``y`` in 0..K-1, integer, the shape of ``logits`` without ``axis``.
      axis: the class axis of ``logits``.
      where: classes to keep, boolean, broadcastable to ``logits``.

    Returns:
      One value per example in [0, 1], the shape of ``labels``, at least float32; 0 if K = 1; NaN for a
      label that is no class or a removed one.

    Raises:
      TypeError: logits not floating, or labels not integer.
      ValueError: shapes that do not fit.

    References:
      Ma et al. (2020), arXiv 2006.13554, the NCE loss.

    Example:
      >>> print(f"{normalized_cross_entropy(jnp.zeros([4]), 2):.4f}")
      0.2500
    """
    batch = checks.classified(logits, labels, axis=axis, where=where)
    odds = odds_against(batch)
    # In units in which neither the cross-entropy nor a sum of K of them overflows.
    unit = 2.0 ** -(math.ceil(math.log2(batch.logits.shape[batch.axis])) + 2)
    huge = odds.logarithm > 1e30
    own = unit * odds._replace(logarithm=jnp.where(huge, 0, odds.logarithm)).cross_entropy
    kept = batch.logits if batch.where is None else jnp.where(batch.where, batch.logits, -jnp.inf)
    ahead = unit * jnp.max(kept, batch.axis) - unit * batch.of_label(batch.logits)
    own = jnp.where(huge, jax.lax.stop_gradient(ahead), own)
    count = _count(batch)
    every = _sum_of_cross_entropies(batch.axis, unit, batch.logits, batch.labels, batch.where)
    # A label of score -inf takes all of the sum; a single class has nothing to share.
    fixed = jnp.isposinf(own) | (count == 1)
    share = jnp.where(fixed, 0, own) / jnp.where(fixed, 1, every)
    return jnp.where(fixed, batch.checked((count > 1).astype(share.dtype) + 0 * odds.capped), share)


def robust_log_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    a: ArrayLike = 1.0,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Logarithm of the label's probability shifted by a, against the mean of the others'.

    .. math:: \log\frac{a + 1}{a} - \log(a + s_y) + \frac{1}{K - 1} \sum_{j \ne y} \log(a + s_j),
              \qquad s = \mathrm{softmax}(f)

    Symmetric: over all labels it adds up to K log((a + 1)/a).

    Args:
      logits: scores ``f``, floating, shape ``[..., K, ...]`` with the classes on ``axis``.
      labels: classes ``y`` in 0..K-1, integer, the shape of ``logits`` without ``axis``.
      a: shift in (0, inf), broadcast against ``labels``.
      axis: the class axis of ``logits``.
      where: classes to keep, boolean, broadcastable to ``logits``.

    Returns:
      One non-negative, bounded value per example, the shape of ``labels``, at least float32; 0 if
      K = 1; NaN for a label that is no class or a removed one, and for a traced ``a`` out of range.

    Raises:
      TypeError: logits not floating, labels not integer, or ``a`` not real.
      ValueError: shapes that do not fit, or a Python or NumPy ``a`` out of range.

    References:
      Patel and Sastry (2021), the robust log loss.

    Example:
      >>> print(f"{robust_log_loss(jnp.array([0.0, jnp.inf]) * -1, 0):.4f}")   # a certain, right prediction
      0.0000
    """
    batch = checks.classified(logits, labels, axis=axis, where=where)
    shift = checks.hyperparameter("a", a, "(0, inf)", batch)
    odds = odds_against(batch)
    missing, present = odds.complement, jax.nn.sigmoid(-odds.logarithm)
    # A product of 8 factors, and its square, stay in range if the shift is not tiny.
    grouped = checks.is_concrete(a) and bool(np.all(np.asarray(a) >= 0.01))
    scores = batch.logits, batch.labels, batch.where
    others = _sum_of_logs(batch.axis, grouped, *scores, missing / shift)
    count = _count(batch)
    return jnp.log1p(missing / (shift + present)) + others / jnp.where(count == 1, 1, count - 1)


def _count(batch: Classified) -> jax.Array:
    if batch.where is None:
        return jnp.asarray(batch.logits.shape[batch.axis], batch.logits.dtype)
    return jnp.sum(batch.where, batch.axis, dtype=batch.logits.dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _sum_of_squares(axis, logits, labels, where):
    """Sum of the squared shares that the wrong classes have of their total."""
    return _of_shares(axis, *_powers(axis, logits, labels, where, compensated=True))


def _of_shares(axis, powers, scale):
    # The squares underflow where the loss, of the square of what they add up to, does.
    return apart((jnp.sum(jnp.square(powers), axis) * scale) * scale)


@_sum_of_squares.defjvp
def _sum_of_squares_jvp(axis, primals, tangents):
    powers, scale = _powers(axis, *primals, compensated=True)
    value = _of_shares(axis, powers, scale)
    shares = powers * expand(scale, axis)
    slope = 2 * shares * (shares - expand(value, axis))
    return _sum_of_squares(axis, *primals), tangent_sum(slope, tangents[0], axis, value)


def _product(first, second):
    """(1 + p) (1 + q) - 1"""
    return first + second + first * second


def _fraction_sum(first, second):
    """Numerator and denominator of the sum of two fractions."""
    (p, r), (q, s) = first, second
    return p * s + q * r, r * s


_LOGARITHMS = Group(_product, jnp.log1p)
_FRACTIONS = Group(_fraction_sum, lambda fraction: fraction[0] / fraction[1])


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _sum_of_logs(axis, grouped, logits, labels, where, scale):
    """Sum of log(1 + scale q) over the shares q of the wrong classes."""
    powers, factor = _powers(axis, logits, labels, where)
    rows = [apart(scale * factor)]
    if grouped:
        return class_sum(jnp.multiply, axis, [powers], rows, _LOGARITHMS)
    return class_sum(lambda power, factor: jnp.log1p(power * factor), axis, [powers], rows)


def _sum_of_logs_jvp(axis, grouped, primals, tangents):
    *scores, scale = primals
    powers, factor = _powers(axis, *scores)

    def fraction(power, scale):
        return power, 1 + scale * power

    def quotient(power, scale):
        return power / (1 + scale * power)

    arguments = [powers], [apart(scale * factor)]
    if grouped:
        total = factor * class_sum(fraction, axis, *arguments, _FRACTIONS)
    else:
        total = factor * class_sum(quotient, axis, *arguments)
    total = apart(total)
    value = _sum_of_logs(axis, grouped, *primals)
    tangent = jnp.zeros_like(value)
    if not isinstance(tangents[0], jax.custom_derivatives.SymbolicZero):
        shares = powers * expand(factor, axis)
        slope = shares * (1 / (1 + expand(scale, axis) * shares) - expand(total, axis))
        tangent = tangent + scale * tangent_sum(slope, tangents[0], axis, value)
    if not isinstance(tangents[3], jax.custom_derivatives.SymbolicZero):
        tangent = tangent + total * tangents[3]
    return value, tangent


_sum_of_logs.defjvp(_sum_of_logs_jvp, symbolic_zeros=True)


def _powers(axis, logits, labels, where, *, compensated=False):
    """Powers of the wrong classes' scores, and the reciprocal of their sum."""
    batch = Classified(logits, labels, jnp.ones_like(labels, bool), where, axis)
    _, powers, total = wrong_class_powers(batch, compensated=compensated)
    return powers, reciprocal(total)


def _label_power(batch: Classified) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Powers of the wrong classes' scores; the label's; and the sum of all: relative to a reference."""
    reference, powers, total = wrong_class_powers(batch)
    own = jnp.exp(batch.of_label(batch.logits) - reference)
    return powers, own, total + own


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _sum_of_cross_entropies(axis, unit, logits, labels, where):
    """Sum of -log s_k over all classes, times a power of two: of terms that do not cancel."""
    batch = Classified(logits, labels, jnp.ones_like(labels, bool), where, axis)
    largest = largest_score(batch)
    # Relative to the largest score, as the gaps are.
    _, label_power, total = _label_power(batch)
    total = jnp.where(batch.of_label(logits) == largest, total / label_power, total)
    arrays = [logits] if where is None else [logits, where]

    def gap(score, *rest):
        *kept, top = rest
        below = unit * top - unit * score
        return jnp.where(kept[0], below, 0) if kept else below

    gaps = class_sum(gap, axis, arrays, [largest])
    return unit * (_count(batch) * jnp.log(total)) + gaps


@_sum_of_cross_entropies.defjvp
def _sum_of_cross_entropies_jvp(axis, unit, primals, tangents):
    logits, labels, where = primals
    batch = Classified(logits, labels, jnp.ones_like(labels, bool), where, axis)
    powers, own, total = _label_power(batch)
    count = unit * _count(batch)
    slope = jnp.where(batch.wrong, powers, batch.per_class(own)) * batch.per_class(count / total) - unit
    if where is not None:
        slope = jnp.where(where, slope, 0)
    value = _sum_of_cross_entropies(axis, unit, *primals)
    return value, tangent_sum(slope, tangents[0], axis, value)
