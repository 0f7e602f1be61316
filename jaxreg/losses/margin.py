"""Margin losses: label-distributionally-robust losses without a regulariser."""

import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxreg import checks
from jaxreg.checks import Classified
from jaxreg.losses.class_sums import class_sum, tangent_sum
from jaxreg.losses.ldr import ldr_kl


def crammer_singer(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    margin: ArrayLike = 1.0,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Largest violation of the margin over the wrong classes.

    .. math:: \max_{k \ne y} \max(0, f_k - f_y + c)

    The label-distributionally-robust loss over all of the simplex at temperature 0. Where several
    classes attain the maximum, the gradient is shared equally among them.

    Args:
      logits: scores ``f``, floating, shape ``[..., K, ...]`` with the classes on ``axis``.
      labels: classes ``y`` in 0..K-1, integer, the shape of ``logits`` without ``axis``.
      margin: ``c`` in [0, inf), broadcast against ``labels``.
      axis: the class axis of ``logits``.
      where: classes to keep, boolean, broadcastable to ``logits``.

    Returns:
      One non-negative value per example, the shape of ``labels``, at least float32; NaN for a label
      that is no class or a removed one, and for a traced ``margin`` out of range.

    Raises:
      TypeError: logits not floating, labels not integer, or ``margin`` not real.
      ValueError: shapes that do not fit, or a Python or NumPy ``margin`` out of range.

    References:
      Crammer and Singer (2001), On the algorithmic implementation of multiclass kernel-based vector
      machines.

    Example:
      >>> print(f"{crammer_singer(jnp.array([2.0, 1.5, -1.0]), 0):.4f}")   # max(0, 1 - 0.5, 1 - 3)
      0.5000
    """
    return ldr_kl(logits, labels, temperature=0.0, margin=margin, axis=axis, where=where)


def weston_watkins(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    margin: ArrayLike = 1.0,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Sum of the violations of the margin over the wrong classes.

    .. math:: \sum_{k \ne y} \max(0, f_k - f_y + c)

    The label-distributionally-robust loss over the unit cube. At a kink the gradient is the one from
    the side where the class does not violate the margin.

    Args:
      logits: scores ``f``, floating, shape ``[..., K, ...]`` with the classes on ``axis``.
      labels: classes ``y`` in 0..K-1, integer, the shape of ``logits`` without ``axis``.
      margin: ``c`` in [0, inf), broadcast against ``labels``.
      axis: the class axis of ``logits``.
      where: classes to keep, boolean, broadcastable to ``logits``.

    Returns:
      One non-negative value per example, the shape of ``labels``, at least float32; NaN for a label
      that is no class or a removed one, and for a traced ``margin`` out of range.

    Raises:
      TypeError: logits not floating, labels not integer, or ``margin`` not real.
      ValueError: shapes that do not fit, or a Python or NumPy ``margin`` out of range.

    References:
      Weston and Watkins (1998), Multi-class support vector machines.

    Example:
      >>> print(f"{weston_watkins(jnp.array([2.0, 1.5, 2.0]), 0):.4f}")   # (1 - 0.5) + 1
      1.5000
    """
    batch = checks.classified(logits, labels, axis=axis, where=where)
    gap = checks.hyperparameter("margin", margin, "[0, inf)", batch)
    return batch.checked(_hinges(batch.axis, batch.logits, batch.labels, batch.where, gap))


def _kept(batch: Classified) -> jax.Array:
    return batch.wrong if batch.where is None else batch.wrong & batch.where


def _violation(score, kept, own, margin):
    return jnp.where(kept, jnp.maximum((score - own) + margin, 0), 0)


def _slope(score, kept, own, margin):
    violation = _violation(score, kept, own, margin)
    # NaN is kept: a score or margin that is no number has no slope.
    return jnp.where(jnp.isnan(violation), violation, (violation > 0).astype(score.dtype))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _hinges(axis, logits, labels, where, margin):
    batch = Classified(logits, labels, jnp.ones_like(labels, bool), where, axis)
    return class_sum(_violation, axis, [logits, _kept(batch)], [batch.of_label(logits), margin])


def _hinges_jvp(axis, primals, tangents):
    logits, labels, where, margin = primals
    batch = Classified(logits, labels, jnp.ones_like(labels, bool), where, axis)
    kept, own = _kept(batch), batch.of_label(logits)
    active = class_sum(_slope, axis, [logits, kept], [own, margin])
    tangent = jnp.zeros_like(active)
    if not isinstance(tangents[0], jax.custom_derivatives.SymbolicZero):
        slope = _slope(logits, kept, batch.per_class(own), batch.per_class(margin))
        with_label = jnp.where(batch.wrong, slope, -batch.per_class(active))
        tangent = tangent + tangent_sum(with_label, tangents[0], axis, active)
    if not isinstance(tangents[3], jax.custom_derivatives.SymbolicZero):
        tangent = tangent + active * tangents[3]
    return _hinges(axis, *primals), tangent


_hinges.defjvp(_hinges_jvp, symbolic_zeros=True)
