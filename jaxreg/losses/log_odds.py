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
from jaxreg.losses.class_sums import tangent_sum

# Leading scores from which no reference is subtracted before their exponentials are taken.
_LOWEST, _HIGHEST = -16, 64


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
        # Not the library's sigmoid s, whose derivative s (1 - s) cancels where the label is improbable.
        against = jnp.exp(-jnp.where(likely, 0, self.logarithm))
        return jnp.where(likely, odds / (1 + odds), 1 / (1 + against))

    @property
    def probability(self) -> jax.Array:
        """Probability s_y of the label."""
        likely = self.logarithm < 0
        odds = jnp.where(likely, self.capped, jnp.exp(-jnp.where(likely, 0, self.logarithm)))
        return jnp.where(likely, 1, odds) / (1 + odds)

    @property
    def cross_entropy(self) -> jax.Array:
        """-log s_y; where nothing else of the odds is used, :func:`cross_entropy_of` is faster."""
        # softplus(r) in two parts: r if that is positive, and log(1 + min(e^r, e^-r)).
        likely = self.logarithm < 0
        ahead = jnp.where(likely, 0, self.logarithm)
        return ahead + jnp.log1p(jnp.where(likely, self.capped, jnp.exp(-ahead)))


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


def cross_entropy_of(batch: Classified) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy -log s_y, and what rounding took from it.

    Args:
      batch: checked scores and labels, from :func:`jaxreg.checks.classified`.

    Returns:
      The cross-entropy, NaN for labels that are no class or a removed one, accurate relative to itself and
      differentiable as :func:`odds_against`; the remainder, finite and of derivative 0, for losses that
      grow like a power of e^r.

    Example:
      >>> from jaxreg.checks import classified
      >>> print(f"{cross_entropy_of(classified(jnp.zeros([3]), 1))[0]:.4f}")   # log 3
      1.0986
    """
    value, remainder = _cross_entropy(batch.axis, batch.logits, batch.labels, batch.where)
    return batch.checked(value), remainder


def largest_score(batch: Classified) -> jax.Array:
    """The largest score over all classes, the label among them; a constant to derivatives."""
    scores = batch.logits if batch.where is None else jnp.where(batch.where, batch.logits, -jnp.inf)
    return jax.lax.stop_gradient(jnp.max(scores, batch.axis))


def wrong_class_powers(
    batch: Classified, *, compensated: bool = False
) -> tuple[jax.Array, jax.Array, jax.Array]:
    r"""Powers :math:`e^{f_k - m}` of the wrong classes' scores, relative to a reference m.

    Args:
      batch: checked scores and labels, from :func:`jaxreg.checks.classified`.
      compensated: as in :func:`odds_against`.

    Returns:
      The reference; the powers, with the shape of the scores and zero at the label; their sum, one
      value per example, 0 if no other class is left.
    """
    # The largest score over ALL classes serves as reference: it can be reduced from the scores as they
    # lie in memory, while leaving out the label would write a masked copy first. The sum underflows
    # only where the wrong classes' share is below the smallest normal number of the dtype.
    largest = largest_score(batch)
    wrong = batch.wrong if batch.where is None else batch.wrong & batch.where
    # Subtracting a reference rounds, and where the label leads the odds are only as accurate as the gaps.
    # A moderate leading score needs no reference; the sum then underflows e^16 earlier at most. Beyond, the
    # gaps of losses down to 1e-12 are exact.
    # Compensated powers know what is lost, and are at most 1, so that their squares stay in range.
    reference = largest
    if not compensated:
        leads = batch.of_label(batch.logits) == largest
        reference = jnp.where(leads & (largest >= _LOWEST) & (largest <= _HIGHEST), 0, largest)
    top = batch.per_class(reference)
    gaps = batch.logits - top
    powers = jnp.exp(gaps)
    if compensated:
        # Exactly, whichever of the two is larger. Where a power is 0 any number will do, but infinities would
        # make NaNs on the way.
        lowest = float(jnp.finfo(gaps.dtype).min)
        scores, apart = jnp.maximum(batch.logits, lowest), jnp.maximum(gaps, lowest / 2)
        near_top = scores - apart
        lost = (scores - (apart + near_top)) + (near_top - top)
        powers = powers * (1 + jnp.where(jnp.isfinite(lost), lost, 0))
    powers = jnp.where(wrong, powers, 0)
    return reference, powers, jnp.sum(powers, batch.axis)


def reciprocal(total: jax.Array) -> jax.Array:
    """1 / total, 0 if there is nothing to share."""
    return jnp.where(total > 0, 1 / jnp.where(total > 0, total, 1), 0)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _odds(axis, compensated, logits, labels, where):
    batch = Classified(logits, labels, jnp.ones_like(labels, bool), where, axis)
    largest = largest_score(batch)
    reference, _, total = wrong_class_powers(batch, compensated=compensated)
    own = batch.of_label(logits)
    ahead = largest - own
    odds = total * jnp.exp(jnp.minimum(reference - own, -_LOWEST))
    leads = ahead == 0
    below = jnp.log(jnp.where(leads, odds, total))
    logarithm = ahead + below
    capped = jnp.minimum(odds, 1)
    return logarithm, capped


@_odds.defjvp
def _odds_jvp(axis, compensated, primals, tangents):
    logits, labels, where = primals
    batch = Classified(logits, labels, jnp.ones_like(labels, bool), where, axis)
    _, powers, total = wrong_class_powers(batch, compensated=compensated)
    # The values through their own rule, so that the second derivative does not see log(0).
    logarithm, capped = _odds(axis, compensated, logits, labels, where)
    # One fused pass: q at the wrong classes, -1 at the label.
    slope = jnp.where(batch.wrong, powers * batch.per_class(reciprocal(total)), -1)
    tangent = tangent_sum(slope, tangents[0], axis, logarithm)
    return (logarithm, capped), (tangent, jnp.where(logarithm < 0, capped, 0) * tangent)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _cross_entropy(axis, logits, labels, where):
    batch = Classified(logits, labels, jnp.ones_like(labels, bool), where, axis)
    largest, own = largest_score(batch), batch.of_label(logits)
    leads, _, total, power = _label_power(batch)
    ahead = largest - own
    # If another class leads, its own power of 1 is in the total.
    small = jnp.log1p(jnp.where(leads, total * power, (total - 1) + power))
    value = ahead + small
    # Both parts exact: what a difference loses, whichever term is larger, and a sum that ahead dominates.
    subtracted = largest - ahead
    lost = (largest - (ahead + subtracted)) + (subtracted - own)
    remainder = lost + ((ahead - value) + small)
    return value, jnp.where((ahead > 0) & jnp.isfinite(remainder), remainder, 0)


@_cross_entropy.defjvp
def _cross_entropy_jvp(axis, primals, tangents):
    logits, labels, where = primals
    batch = Classified(logits, labels, jnp.ones_like(labels, bool), where, axis)
    leads, powers, total, power = _label_power(batch)
    # One fused pass: s_k at the wrong classes, s_y - 1 at the label.
    share = jnp.where(leads, power, 1) / jnp.where(leads, 1 + total * power, total + power)
    slope = jnp.where(batch.wrong, powers, batch.per_class(-total))
    value, remainder = _cross_entropy(axis, logits, labels, where)
    tangent = share * tangent_sum(slope, tangents[0], axis, value)
    return (value, remainder), (tangent, jnp.zeros_like(tangent))


def _label_power(batch: Classified) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Whether the label leads; powers of the wrong classes and their sum; the label's power, or 1 over it."""
    reference, powers, total = wrong_class_powers(batch)
    own = batch.of_label(batch.logits)
    # 1 over it where the label leads, which then multiplies the sum.
    leads = own == largest_score(batch)
    return leads, powers, total, jnp.exp(jnp.where(leads, reference - own, own - reference))
