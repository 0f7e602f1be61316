r"""Losses made for noisy labels, each in the form that stays accurate for confident examples.

All are functions of the odds :math:`e^r` against the label (:mod:`jaxreg.losses.log_odds`): the label's
probability is :math:`s_y = \sigma(-r)`, the cross-entropy :math:`L = \mathrm{softplus}(r)`.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxreg import checks
from jaxreg.losses.comp_sum import comp_sum_of
from jaxreg.losses.log_odds import cross_entropy_of, odds_against


def mean_absolute_error(
    logits: ArrayLike, labels: ArrayLike, *, axis: int = -1, where: ArrayLike | None = None
) -> jax.Array:
    r"""Absolute error between the class probabilities and the one-hot label, summed over the classes.

    .. math:: \sum_k |s_k - [k = y]| = 2 (1 - s_y), \qquad s = \mathrm{softmax}(f)

    Symmetric: over all labels it adds up to 2 (K - 1) whatever the scores, so that uniform label noise
    does not move its minimisers.

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
      Ghosh, Kumar and Sastry (2017), arXiv 1712.09482.

    Example:
      >>> print(f"{mean_absolute_error(jnp.zeros([4]), 2):.4f}")   # 2 (1 - 1/4)
      1.5000
    """
    batch = checks.classified(logits, labels, axis=axis, where=where)
    return 2 * odds_against(batch).complement


def generalized_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    q: ArrayLike = 0.7,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Box-Cox transform of the label's probability, between cross-entropy and absolute error.

    .. math:: \frac{1 - s_y^q}{q}, \qquad s = \mathrm{softmax}(f)

    The cross-entropy at q = 0, half the mean absolute error at q = 1. It is the comp-sum loss with
    tau = 1 + q.

    Args:
      logits: scores ``f``, floating, shape ``[..., K, ...]`` with the classes on ``axis``.
      labels: classes ``y`` in 0..K-1, integer, the shape of ``logits`` without ``axis``.
      q: exponent in [0, 1], broadcast against ``labels``.
      axis: the class axis of ``logits``.
      where: classes to keep, boolean, broadcastable to ``logits``.

    Returns:
      One value per example in [0, 1/q], the shape of ``labels``, at least float32; NaN for a label
      that is no class or a removed one, and for a traced ``q`` out of range.

    Raises:
      TypeError: logits not floating, labels not integer, or ``q`` not real.
      ValueError: shapes that do not fit, or a Python or NumPy ``q`` out of range.

    References:
      Zhang and Sabuncu (2018), arXiv 1805.07836, the L_q loss.

    Example:
      >>> print(f"{generalized_cross_entropy(jnp.zeros([4]), 2, q=0.5):.4f}")   # (1 - sqrt(1/4)) / (1/2)
      1.0000
    """
    batch = checks.classified(logits, labels, axis=axis, where=where)
    exponent = checks.hyperparameter("q", q, "[0, 1]", batch)
    cross_entropy, remainder = cross_entropy_of(batch)
    return comp_sum_of(cross_entropy, -exponent, remainder)


def reverse_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    log_zero: ArrayLike = -4.0,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Cross-entropy with the roles of prediction and label exchanged, the logarithm of 0 set to A < 0.

    .. math:: -\sum_k s_k \log [k = y] = -A\,(1 - s_y), \qquad s = \mathrm{softmax}(f)

    Symmetric: over all labels it adds up to -A (K - 1).

    Args:
      logits: scores ``f``, floating, shape ``[..., K, ...]`` with the classes on ``axis``.
      labels: classes ``y`` in 0..K-1, integer, the shape of ``logits`` without ``axis``.
      log_zero: ``A`` in (-inf, 0), broadcast against ``labels``.
      axis: the class axis of ``logits``.
      where: classes to keep, boolean, broadcastable to ``logits``.

    Returns:
      One value per example in [0, -A], the shape of ``labels``, at least float32; NaN for a label that
      is no class or a removed one, and for a traced ``log_zero`` out of range.

    Raises:
      TypeError: logits not floating, labels not integer, or ``log_zero`` not real.
      ValueError: shapes that do not fit, or a Python or NumPy ``log_zero`` out of range.

    References:
      Wang et al. (2019), arXiv 1908.06112.

    Example:
      >>> print(f"{reverse_cross_entropy(jnp.zeros([4]), 2):.4f}")   # 4 (1 - 1/4)
      3.0000
    """
    batch = checks.classified(logits, labels, axis=axis, where=where)
    level = checks.hyperparameter("log_zero", log_zero, "(-inf, 0)", batch)
    return -level * odds_against(batch).complement


def symmetric_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    ce_weight: ArrayLike = 0.1,
    rce_weight: ArrayLike = 1.0,
    log_zero: ArrayLike = -4.0,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Weighted sum of cross-entropy and reverse cross-entropy.

    .. math:: -w_1 \log s_y - w_2 A\,(1 - s_y), \qquad s = \mathrm{softmax}(f)

    The one-parameter form with balance b is ``ce_weight=1 - b, rce_weight=b``.

    Args:
      logits: scores ``f``, floating, shape ``[..., K, ...]`` with the classes on ``axis``.
      labels: classes ``y`` in 0..K-1, integer, the shape of ``logits`` without ``axis``.
      ce_weight: ``w_1`` in [0, inf), broadcast against ``labels``.
      rce_weight: ``w_2`` in [0, inf), broadcast against ``labels``.
      log_zero: ``A`` in (-inf, 0), broadcast against ``labels``.
      axis: the class axis of ``logits``.
      where: classes to keep, boolean, broadcastable to ``logits``.

    Returns:
      One non-negative value per example, the shape of ``labels``, at least float32; NaN for a label
      that is no class or a removed one, and for a traced hyper-parameter out of range.

    Raises:
      TypeError: logits not floating, labels not integer, or a hyper-parameter not real.
      ValueError: shapes that do not fit, or a Python or NumPy hyper-parameter out of range.

    References:
      Wang et al. (2019), arXiv 1908.06112.

    Example:
      >>> print(f"{symmetric_cross_entropy(jnp.zeros([4]), 2, ce_weight=0.0, rce_weight=2.0):.4f}")
      6.0000
    """
    batch = checks.classified(logits, labels, axis=axis, where=where)
    forward = checks.hyperparameter("ce_weight", ce_weight, "[0, inf)", batch)
    backward = checks.hyperparameter("rce_weight", rce_weight, "[0, inf)", batch)
    level = checks.hyperparameter("log_zero", log_zero, "(-inf, 0)", batch)
    odds = odds_against(batch)
    # An infinite cross-entropy of weight 0 does not count.
    ignored = (forward == 0) & jnp.isposinf(odds.logarithm)
    cross_entropy = odds._replace(logarithm=jnp.where(ignored, 0, odds.logarithm)).cross_entropy
    return forward * cross_entropy - backward * level * odds.complement


def truncated_generalized_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    q: ArrayLike = 0.7,
    threshold: ArrayLike = 0.5,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Generalized cross-entropy that is constant below a probability of the label.

    .. math:: \frac{1 - \max(s_y, t)^q}{q}, \qquad s = \mathrm{softmax}(f)

    Examples with :math:`s_y \le t` have gradient zero.

    Args:
      logits: scores ``f``, floating, shape ``[..., K, ...]`` with the classes on ``axis``.
      labels: classes ``y`` in 0..K-1, integer, the shape of ``logits`` without ``axis``.
      q: exponent in [0, 1], broadcast against ``labels``.
      threshold: ``t`` in [0, 1), broadcast against ``labels``; 0 truncates nothing.
      axis: the class axis of ``logits``.
      where: classes to keep, boolean, broadcastable to ``logits``.

    Returns:
      One value per example in [0, (1 - t^q)/q], the shape of ``labels``, at least float32; NaN for a
      label that is no class or a removed one, and for a traced hyper-parameter out of range.

    Raises:
      TypeError: logits not floating, labels not integer, or a hyper-parameter not real.
      ValueError: shapes that do not fit, or a Python or NumPy hyper-parameter out of range.

    References:
      Zhang and Sabuncu (2018), arXiv 1805.07836, the truncated L_q loss.

    Example:
      >>> print(f"{truncated_generalized_cross_entropy(jnp.array([-5.0, 5.0]), 0, q=1.0):.4f}")
      0.5000
    """
    batch = checks.classified(logits, labels, axis=axis, where=where)
    exponent = checks.hyperparameter("q", q, "[0, 1]", batch)
    level = checks.hyperparameter("threshold", threshold, "[0, 1)", batch)
    cross_entropy, remainder = cross_entropy_of(batch)
    truncates = level != 0
    largest = jnp.where(truncates, -jnp.log(jnp.where(truncates, level, 1)), jnp.inf)
    # A selection and not a minimum: at the threshold itself the gradient is zero.
    beyond = truncates & ((cross_entropy >= largest) | jnp.isnan(largest))
    remainder = jnp.where(beyond, 0, remainder)
    return comp_sum_of(jnp.where(beyond, largest, cross_entropy), -exponent, remainder)
