"""Label-distributionally-robust losses (Zhu, Ying and Yang, ICML 2023, arXiv 2112.14869)."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxreg import checks
from jaxreg.checks import Classified
from jaxreg.losses.class_sums import apart
from jaxreg.simplex import Apart, Maximum, centred_kl_maximum, rounding_of, shared_maximum

_COLD = 1e-3
"""Below this temperature rounding of scores of 1e3 in float32 is not small any more."""


def ldr_kl(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    temperature: ArrayLike = 1.0,
    margin: ArrayLike = 0.0,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Largest expected margin over label distributions, less a KL divergence from the uniform one.

    .. math:: \psi(f, y) = \max_{p \in \Delta} \sum_k p_k z_k - \lambda\,\mathrm{KL}(p \,\|\, \tfrac{1}{K})
              = \lambda \log \tfrac1K \sum_k e^{z_k/\lambda},
              \qquad z_k = f_k - f_y + c\,[k \ne y].

    Temperature 0 gives the largest margin (Crammer and Singer's loss), 1 with no margin the
    cross-entropy less log K, and infinity the mean margin, a symmetric loss. The loss does not
    increase with the temperature; it may be negative.

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
      Zhu, Ying and Yang (2023), the LDR-KL loss.

    Example:
      >>> logits, label = jnp.array([2.0, 1.0, -1.0]), 0
      >>> print(f"{ldr_kl(logits, label, temperature=0.0, margin=2.0):.4f}")   # max(0, 2 - 1, 2 - 3)
      1.0000
      >>> print(f"{ldr_kl(logits, label, temperature=jnp.inf):.4f}")           # mean(0, -1, -3)
      -1.3333
    """
    batch = checks.classified(logits, labels, axis=axis, where=where)
    scale = checks.hyperparameter("temperature", temperature, "[0, inf]", batch)
    gap = checks.hyperparameter("margin", margin, "[0, inf)", batch)
    known = Known.of(temperature, margin, batch.logits.dtype)
    value = _ldr_kl(batch.axis, known, batch.logits, batch.labels, batch.where, scale, gap)
    return batch.checked(value)


class Known(NamedTuple):
    """What is known of the hyper-parameters at trace time, to leave out what is not needed."""

    no_margin: bool
    """The margin is 0."""
    loose: bool
    """The largest logit plus the margin may serve as reference."""
    limits: bool
    """The temperature may be infinite, or 0 or so low that rounding of the scores exceeds it."""
    cold: bool = False
    """The temperature is 0."""

    @classmethod
    def of(cls, temperature: ArrayLike, margin: ArrayLike, dtype: jnp.dtype) -> "Known":
        """Look at the hyper-parameters as the user gave them."""
        no_margin = checks.is_concrete(margin) and not np.any(np.asarray(margin))
        if not checks.is_concrete(temperature):
            return cls(no_margin, False, True)
        with np.errstate(over="ignore", under="ignore"):
            value = np.asarray(temperature).astype(dtype)
        limits = not np.all((value >= _COLD) & np.isfinite(value))
        # exp(-40) is far from underflow: the reference may lie that many temperatures too high.
        loose = checks.is_concrete(margin) and bool(np.all(np.asarray(margin) <= 40 * value))
        return cls(no_margin, loose, limits, not np.any(value))


def centred_scores(batch: Classified, known: Known, margin: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Scores with the margin added, less a reference, and the reference less the label's score.

    The largest logit is the reference where that is close enough: it is reduced from the logits as
    they lie in memory. Otherwise the largest of the scores with the margin, which writes them once.
    """
    kept = batch.logits if batch.where is None else jnp.where(batch.where, batch.logits, -jnp.inf)
    own = batch.of_label(batch.logits)
    if known.no_margin or known.loose:
        top = jax.lax.stop_gradient(jnp.max(kept, batch.axis))
        centred = batch.logits - batch.per_class(top)
        if known.no_margin:
            return centred, top - own
        of_label = jnp.broadcast_to((own - top) - margin, own.shape)
        return jnp.where(batch.wrong, centred, batch.per_class(of_label)), (top - own) + margin
    rival = jnp.max(jnp.where(batch.wrong, kept, -jnp.inf), batch.axis)
    # Differences of scores are exact where their sum with the margin would round it away.
    # Decided once: a compiler that computes the scores twice, in two ways, may find two signs.
    lead = apart(jax.lax.stop_gradient(rival - own))
    rival_leads = lead > -margin
    top = jax.lax.stop_gradient(jnp.where(rival_leads, rival, own))
    # With a score that is NaN everything is.
    top = jnp.where(jnp.isnan(lead), lead, top)
    below = jnp.where(rival_leads, 0, margin)
    shift = jnp.where(batch.wrong, batch.per_class(below), batch.per_class(below - margin))
    return (batch.logits - batch.per_class(top)) + shift, (top - own) + (margin - below)


def ldr_weights(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    temperature: ArrayLike = 1.0,
    margin: ArrayLike = 0.0,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""The distribution over labels that attains the maximum in :func:`ldr_kl`.

    .. math:: p_k \propto e^{z_k / \lambda}, \qquad z_k = f_k - f_y + c\,[k \ne y]

    Args:
      logits: as in :func:`ldr_kl`.
      labels: as in :func:`ldr_kl`.
      temperature: as in :func:`ldr_kl`; at 0 the largest scores share equally.
      margin: as in :func:`ldr_kl`.
      axis: as in :func:`ldr_kl`.
      where: as in :func:`ldr_kl`; a class that is removed has weight 0.

    Returns:
      Weights with the shape of ``logits`` that add up to 1 over ``axis``, at least float32.

    Raises:
      TypeError: as in :func:`ldr_kl`.
      ValueError: as in :func:`ldr_kl`.

    References:
      Zhu, Ying and Yang (2023), the LDR-KL loss.

    Example:
      >>> ldr_weights(jnp.array([1.0, 1.0, 0.0]), 0, temperature=0.0).tolist()
      [0.5, 0.5, 0.0]
    """
    batch = checks.classified(logits, labels, axis=axis, where=where)
    scale = checks.hyperparameter("temperature", temperature, "[0, inf]", batch)
    gap = checks.hyperparameter("margin", margin, "[0, inf)", batch)
    known = Known.of(temperature, margin, batch.logits.dtype)
    batch = batch._replace(where=batch.where_or_bad)
    centred, ahead = centred_scores(batch, known, gap)
    maximum = _largest(batch, known, centred, ahead, scale)
    return maximum.weights * batch.per_class(batch.checked(jnp.ones_like(maximum.value)))


def _largest(batch, known, centred, ahead, temperature, apart=None):
    rounding = rounding_of(batch.of_label(batch.logits) + ahead) if known.limits else 0.0
    if known.cold:
        return shared_maximum(centred, batch.where, axis=batch.axis, rounding=rounding)
    return centred_kl_maximum(
        centred,
        temperature,
        batch.where,
        axis=batch.axis,
        limits=known.limits,
        rounding=rounding,
        apart=apart,
    )


def weights_less_label(batch: Classified, maximum: Maximum) -> jax.Array:
    """The weights less 1 at the label; as the negative of the others', so that it keeps its digits near 0."""
    rest = 1 - batch.of_label(maximum.weights) if maximum.rest is None else maximum.rest
    return jnp.where(batch.wrong, maximum.weights, batch.per_class(-rest))


def _parts(axis, known, logits, labels, where, temperature, margin):
    batch = Classified(logits, labels, jnp.ones_like(labels, bool), where, axis)
    centred, ahead = centred_scores(batch, known, margin)
    maximum = _largest(batch, known, centred, ahead, temperature, Apart(batch.wrong, -ahead))
    # At infinite temperature two infinities of opposite sign would meet.
    value = jnp.where(jnp.isposinf(ahead), jnp.inf, ahead + maximum.value)
    return batch, value, maximum


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _ldr_kl(axis, known, logits, labels, where, temperature, margin):
    return _parts(axis, known, logits, labels, where, temperature, margin)[1]


def _ldr_kl_jvp(axis, known, primals, tangents):
    batch, value, maximum = _parts(axis, known, *primals)
    d_logits, _, _, d_temperature, d_margin = tangents
    absent = jax.custom_derivatives.SymbolicZero
    tangent = jnp.zeros_like(value)
    if not isinstance(d_logits, absent):
        tangent = tangent + jnp.sum(weights_less_label(batch, maximum) * d_logits, axis)
    if not isinstance(d_margin, absent):
        wrong = jnp.sum(jnp.where(batch.wrong, maximum.weights, 0), axis)
        tangent = tangent + wrong * d_margin
    if not isinstance(d_temperature, absent):
        tangent = tangent - maximum.divergence * d_temperature
    return value, tangent


_ldr_kl.defjvp(_ldr_kl_jvp, symbolic_zeros=True)
