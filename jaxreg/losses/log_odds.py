r"""The odds against the label, which every loss of the label's probability is a function of.

With :math:`s = \mathrm{softmax}(f)` and :math:`r = \log\sum_{k \ne y} e^{f_k} - f_y`, the probability of
the label is :math:`s_y = \sigma(-r)`, its complement :math:`1 - s_y = \sigma(r)` and the cross-entropy
:math:`-\log s_y = \mathrm{softplus}(r)`. All three keep their full relative accuracy as :math:`s_y \to 1`,
where ``1 - softmax(f)[y]`` and ``log_softmax(f)[y]`` lose every digit.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxreg.checks import Classified


class Odds(NamedTuple):
    """Odds against the label, one value per example."""

    logarithm: jax.Array
    """r: -inf if no other class is left, inf if the label's score is -inf."""
    capped: jax.Array
    """min(e^r, 1), which rounding of r does not touch."""

    @property
    def complement(self) -> jax.Array:
        """Probability 1 - s_y that is not the label's."""
        likely = self.logarithm < 0
        odds = jnp.where(likely, self.capped, 1)
        return jnp.where(likely, odds / (1 + odds), jax.nn.sigmoid(jnp.where(likely, 0, self.logarithm)))

    @property
    def cross_entropy(self) -> jax.Array:
        """-log s_y."""
        likely = self.logarithm < 0
        odds = jnp.where(likely, self.capped, 1)
        return jnp.where(likely, jnp.log1p(odds), jax.nn.softplus(jnp.where(likely, 0, self.logarithm)))


def odds_against(batch: Classified, *, compensated: bool = False) -> Odds:
    r"""Odds :math:`\sum_{k \ne y} e^{f_k - f_y}` against the label, and their logarithm.

    Args:
      batch: checked scores and labels, from :func:`jaxreg.checks.classified`.
      compensated: whether to give back what rounding takes from the gaps between scores, for a loss
        that multiplies relative errors; costs 3 additions a score.

    Returns:
      The odds, NaN for labels that are no class or a removed one. Differentiable any number of times,
      forwards and backwards; the first derivative costs one pass over the scores.

    Example:
      >>> from jaxreg.checks import classified
      >>> print(f"{odds_against(classified(jnp.zeros([3]), 1)).logarithm:.4f}")   # log 2
      0.6931
    """
    odds = _odds(batch.axis, compensated, batch.logits, batch.labels, batch.where)
    return Odds(*(batch.checked(value) for value in odds))


def wrong_class_powers(batch: Classified, *, compensated: bool = False) -> tuple[jax.Array, jax.Array]:
    r"""The weights :math:`q_k = e^{f_k} / \sum_{j \ne y} e^{f_j}` of the wrong classes, zero at the label.

    Args:
      batch: checked scores and labels, from :func:`jaxreg.checks.classified`.
      compensated: as in :func:`odds_against`.

    Returns:
      Powers with the shape of the scores, and what makes them weights that sum to 1: one factor per
      example, 0 if no other class is left.
    """
    _, powers, total = _wrong_classes(batch, compensated)
    return powers, _reciprocal(total)


def _wrong_classes(batch: Classified, compensated: bool) -> tuple[jax.Array, jax.Array, jax.Array]:
    # The largest score over ALL classes serves as reference: it can be reduced from the scores as they
    # lie in memory, while leaving out the label would write a masked copy first. The sum underflows
    # only where the wrong classes' share is below the smallest normal number of the dtype.
    scores = batch.logits if batch.where is None else jnp.where(batch.where, batch.logits, -jnp.inf)
    largest = jax.lax.stop_gradient(jnp.max(scores, batch.axis))
    wrong = batch.wrong if batch.where is None else batch.wrong & batch.where
    top = batch.per_class(largest)
    gaps = batch.logits - top
    powers = jnp.exp(gaps)
    if compensated:
        lost = batch.logits - (gaps + top)
        powers = powers * (1 + jnp.where(jnp.isfinite(lost), lost, 0))
    powers = jnp.where(wrong, powers, 0)
    return largest, powers, jnp.sum(powers, batch.axis)


def _reciprocal(total: jax.Array) -> jax.Array:
    return jnp.where(total > 0, 1 / jnp.where(total > 0, total, 1), 0)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _odds(axis, compensated, logits, labels, where):
    batch = Classified(logits, labels, jnp.ones_like(labels, bool), where, axis)
    largest, _, total = _wrong_classes(batch, compensated)
    ahead = largest - batch.of_label(logits)
    return ahead + jnp.log(total), jnp.minimum(total * jnp.exp(jnp.minimum(ahead, 1)), 1)


@_odds.defjvp
def _odds_jvp(axis, compensated, primals, tangents):
    logits, labels, where = primals
    batch = Classified(logits, labels, jnp.ones_like(labels, bool), where, axis)
    _, powers, total = _wrong_classes(batch, compensated)
    # The values through their own rule, so that the second derivative does not see log(0).
    logarithm, capped = _odds(axis, compensated, logits, labels, where)
    # One fused pass: q at the wrong classes, -1 at the label.
    slope = jnp.where(batch.wrong, powers * batch.per_class(_reciprocal(total)), -1)
    tangent = jnp.sum(slope * tangents[0], axis)
    return (logarithm, capped), (tangent, jnp.where(logarithm < 0, capped, 0) * tangent)
