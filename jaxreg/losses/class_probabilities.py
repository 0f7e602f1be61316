"""Noise-robust losses of all class probabilities, not only of the label's."""

import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxreg import checks
from jaxreg.checks import Classified, expand
from jaxreg.losses.log_odds import log_odds_against, wrong_class_weights


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
    missing = jax.nn.sigmoid(log_odds_against(batch))
    # The wrong classes share 1 - s_y, so that both terms are relative to it.
    squares = _sum_of_squares(batch.axis, batch.logits, batch.labels, batch.where)
    return batch.checked(missing**2 * (1 + squares))


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
    log_odds = log_odds_against(batch)
    cross_entropy = jax.nn.softplus(log_odds)
    # Of a wrong class the cross-entropy is lse(f) - f_k = L + (f_y - f_k).
    count = _count(batch)
    others = (count - 1) * cross_entropy + _sum_of_gaps(batch)
    single = count == 1
    share = cross_entropy / jnp.where(single, 1, cross_entropy + others)
    certain = jnp.isposinf(cross_entropy)
    return batch.checked(jnp.where(single, 0 * share, jnp.where(certain, 1, share)))


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
    log_odds = log_odds_against(batch)
    missing, present = jax.nn.sigmoid(log_odds), jax.nn.sigmoid(-log_odds)
    others = _sum_of_logs(batch.axis, batch.logits, batch.labels, batch.where, missing / shift)
    count = _count(batch)
    return batch.checked(
        jnp.log1p(missing / (shift + present)) + others / jnp.where(count == 1, 1, count - 1)
    )


def _count(batch: Classified) -> jax.Array:
    if batch.where is None:
        return jnp.asarray(batch.logits.shape[batch.axis], batch.logits.dtype)
    return jnp.sum(batch.where, batch.axis, dtype=batch.logits.dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _sum_of_squares(axis, logits, labels, where):
    """Sum of the squared shares that the wrong classes have of their total."""
    return jnp.sum(jnp.square(_shares(axis, logits, labels, where)), axis)


@_sum_of_squares.defjvp
def _sum_of_squares_jvp(axis, primals, tangents):
    shares = _shares(axis, *primals)
    value = jnp.sum(jnp.square(shares), axis)
    slope = 2 * shares * (shares - expand(value, axis))
    return value, jnp.sum(slope * tangents[0], axis)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _sum_of_logs(axis, logits, labels, where, scale):
    """Sum of log(1 + scale q) over the shares q of the wrong classes."""
    return jnp.sum(jnp.log1p(expand(scale, axis) * _shares(axis, logits, labels, where)), axis)


def _sum_of_logs_jvp(axis, primals, tangents):
    logits, labels, where, scale = primals
    shares = _shares(axis, logits, labels, where)
    scaled = expand(scale, axis) * shares
    value = jnp.sum(jnp.log1p(scaled), axis)
    parts = shares / (1 + scaled)
    total = jnp.sum(parts, axis)
    tangent = jnp.zeros_like(value)
    if not isinstance(tangents[0], jax.custom_derivatives.SymbolicZero):
        slope = expand(scale, axis) * (parts - expand(total, axis) * shares)
        tangent = tangent + jnp.sum(slope * tangents[0], axis)
    if not isinstance(tangents[3], jax.custom_derivatives.SymbolicZero):
        tangent = tangent + total * tangents[3]
    return value, tangent


_sum_of_logs.defjvp(_sum_of_logs_jvp, symbolic_zeros=True)


def _shares(axis, logits, labels, where):
    return wrong_class_weights(Classified(logits, labels, jnp.ones_like(labels, bool), where, axis))


def _sum_of_gaps(batch: Classified) -> jax.Array:
    """Sum of f_y - f_k over the classes kept."""
    return _gaps(batch.axis, batch.logits, batch.labels, batch.where)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _gaps(axis, logits, labels, where):
    batch = Classified(logits, labels, jnp.ones_like(labels, bool), where, axis)
    gaps = batch.per_class(batch.of_label(logits)) - logits
    kept = batch.wrong if where is None else batch.wrong & where
    return jnp.sum(jnp.where(kept, gaps, 0), axis)


@_gaps.defjvp
def _gaps_jvp(axis, primals, tangents):
    logits, labels, where = primals
    batch = Classified(logits, labels, jnp.ones_like(labels, bool), where, axis)
    slope = jnp.where(batch.wrong, -1, batch.per_class(_count(batch) - 1)).astype(logits.dtype)
    if where is not None:
        slope = jnp.where(where, slope, 0)
    return _gaps(axis, logits, labels, where), jnp.sum(slope * tangents[0], axis)
