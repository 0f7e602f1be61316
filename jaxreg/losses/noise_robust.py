r"""Losses made for noisy labels, each in the form that stays accurate for confident examples.

All are functions of the log-odds :math:`r` against the label (:mod:`jaxreg.losses.log_odds`): the
label's probability is :math:`s_y = \sigma(-r)`, the cross-entropy :math:`L = \mathrm{softplus}(r)`.
"""

import jax
from jax.typing import ArrayLike

from jaxreg import checks
from jaxreg.losses.comp_sum import comp_sum_of
from jaxreg.losses.log_odds import log_odds_against


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
      >>> mean_absolute_error(jnp.zeros([4]), 2)   # 2 (1 - 1/4)
      Array(1.5, dtype=float32)
    """
    batch = checks.classified(logits, labels, axis=axis, where=where)
    return batch.checked(2 * jax.nn.sigmoid(log_odds_against(batch)))


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
      >>> generalized_cross_entropy(jnp.zeros([4]), 2, q=0.5)   # (1 - sqrt(1/4)) / (1/2)
      Array(1., dtype=float32)
    """
    batch = checks.classified(logits, labels, axis=axis, where=where)
    exponent = checks.hyperparameter("q", q, "[0, 1]", batch)
    cross_entropy = jax.nn.softplus(log_odds_against(batch))
    return batch.checked(comp_sum_of(cross_entropy, -exponent))
