r"""The log-odds against the label, which every loss of the label's probability is a function of.

With :math:`s = \mathrm{softmax}(f)` and :math:`r = \log\sum_{k \ne y} e^{f_k} - f_y`, the probability of
the label is :math:`s_y = \sigma(-r)`, its complement :math:`1 - s_y = \sigma(r)` and the cross-entropy
:math:`-\log s_y = \mathrm{softplus}(r)`. All three keep their full relative accuracy as :math:`s_y \to 1`,
where ``1 - softmax(f)[y]`` and ``log_softmax(f)[y]`` lose every digit.
"""

import functools

import jax
import jax.numpy as jnp

from jaxreg.checks import Classified


def log_odds_against(batch: Classified) -> jax.Array:
    r"""Log-odds :math:`r = \log \sum_{k \ne y} e^{f_k - f_y}` against the label.

    Args:
      batch: checked scores and labels, from :func:`jaxreg.checks.classified`.

    Returns:
      One value per example: -inf if no other class is left, inf if the label's score is -inf. Differentiable any number of times, forwards and backwards; the
      first derivative costs one pass over the scores.

    Example:
      >>> from jaxreg.checks import classified
      >>> print(f"{log_odds_against(classified(jnp.zeros([3]), 1)):.4f}")   # log 2
      0.6931
    """
    return _log_odds(batch.axis, batch.logits, batch.labels, batch.where)


def wrong_class_weights(batch: Classified) -> jax.Array:
    r"""Softmax over the wrong classes, :math:`q_k = e^{f_k} / \sum_{j \ne y} e^{f_j}`, zero at the label.

    Args:
      batch: checked scores and labels, from :func:`jaxreg.checks.classified`.

    Returns:
      Weights with the shape of the scores, which sum to 1; all zero if no other class is left.
    """
    _, powers, total = _wrong_classes(batch)
    return powers * batch.per_class(_reciprocal(total))


def _wrong_classes(batch: Classified) -> tuple[jax.Array, jax.Array, jax.Array]:
    # The largest score over ALL classes serves as reference: it can be reduced from the scores as they
    # lie in memory, while leaving out the label would write a masked copy first. The sum underflows
    # only where the wrong classes' share is below the smallest normal number of the dtype.
    scores = batch.logits if batch.where is None else jnp.where(batch.where, batch.logits, -jnp.inf)
    largest = jax.lax.stop_gradient(jnp.max(scores, batch.axis))
    wrong = batch.wrong if batch.where is None else batch.wrong & batch.where
    powers = jnp.where(wrong, jnp.exp(batch.logits - batch.per_class(largest)), 0)
    return largest, powers, jnp.sum(powers, batch.axis)


def _reciprocal(total: jax.Array) -> jax.Array:
    return jnp.where(total > 0, 1 / jnp.where(total > 0, total, 1), 0)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _log_odds(axis, logits, labels, where):
    batch = Classified(logits, labels, jnp.ones_like(labels, bool), where, axis)
    largest, _, total = _wrong_classes(batch)
    return (largest - batch.of_label(logits)) + jnp.log(total)


@_log_odds.defjvp
def _log_odds_jvp(axis, primals, tangents):
    logits, labels, where = primals
    batch = Classified(logits, labels, jnp.ones_like(labels, bool), where, axis)
    _, powers, total = _wrong_classes(batch)
    # The value through its own rule, so that the second derivative does not see log(0).
    value = _log_odds(axis, logits, labels, where)
    # One fused pass: q at the wrong classes, -1 at the label.
    slope = jnp.where(batch.wrong, powers * batch.per_class(_reciprocal(total)), -1)
    return value, jnp.sum(slope * tangents[0], axis)
