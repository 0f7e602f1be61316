r"""The adaptive LDR-KL loss: the temperature maximises the loss, example by example (arXiv 2112.14869).

The stationary points of the objective in the temperature all lie in :math:`[1 - 1/a, 1] \lambda_0`. Above a
threshold of a, which grows with K, there is one for every score vector; below it there may be several, and
``adaptive_temperature`` finds the best of them.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxreg import checks
from jaxreg.checks import Classified, expand
from jaxreg.losses import adaptive_temperature
from jaxreg.losses.ldr import Known, centred_scores, weights_less_label
from jaxreg.simplex import Apart, centred_kl_maximum


def aldr_kl(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    temperature: ArrayLike = 1.0,
    alpha: ArrayLike = 2.0,
    margin: ArrayLike = 0.0,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""LDR-KL loss at the temperature that maximises it, less a penalty for a low temperature.

    .. math:: \max_{0 \le \lambda \le \lambda_0} \psi_\lambda(f, y)
              - \frac{a \log K}{2 \lambda_0} (\lambda - \lambda_0)^2

    with the LDR-KL loss :math:`\psi_\lambda` of :func:`jaxreg.losses.ldr_kl`. The maximum is the global
    one. Examples whose scores say little keep the temperature :math:`\lambda_0`; confident ones lower it.

    Args:
      logits: scores ``f``, floating, shape ``[..., K, ...]`` with the classes on ``axis``.
      labels: classes ``y`` in 0..K-1, integer, the shape of ``logits`` without ``axis``.
      temperature: largest temperature ``lambda_0`` in (0, inf), broadcast against ``labels``.
      alpha: ``a`` in (1, inf), dimensionless, broadcast against ``labels``. With 1 or less the maximiser
        could be the temperature 0, and the loss would not order the classes right.
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
      Zhu, Ying and Yang (2023), the ALDR-KL loss.

    Example:
      >>> logits = jnp.array([4.0, 1.0, -1.0])
      >>> from jaxreg.losses import ldr_kl
      >>> bool(aldr_kl(logits, 0) > ldr_kl(logits, 0, temperature=1.0))
      True
    """
    batch, arguments = _arguments(logits, labels, temperature, alpha, margin, axis, where)
    return batch.checked(_aldr_kl(*arguments))


def aldr_temperature(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    temperature: ArrayLike = 1.0,
    alpha: ArrayLike = 2.0,
    margin: ArrayLike = 0.0,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""The temperature at which :func:`aldr_kl` attains its maximum.

    It solves :math:`\lambda = \lambda_0 - \frac{\lambda_0}{a \log K} \mathrm{KL}(p_\lambda \,\|\, u)`.

    Args:
      logits: as in :func:`aldr_kl`.
      labels: as in :func:`aldr_kl`; with no margin the temperature does not depend on them.
      temperature: as in :func:`aldr_kl`.
      alpha: as in :func:`aldr_kl`.
      margin: as in :func:`aldr_kl`.
      axis: as in :func:`aldr_kl`.
      where: as in :func:`aldr_kl`.

    Returns:
      One temperature per example in [(1 - 1/a) lambda_0, lambda_0], the shape of ``labels``,
      differentiable.

    Raises:
      TypeError: as in :func:`aldr_kl`.
      ValueError: as in :func:`aldr_kl`.

    References:
      Zhu, Ying and Yang (2023), the ALDR-KL loss.

    Example:
      >>> print(f"{aldr_temperature(jnp.zeros([5]), 0, temperature=3.0):.1f}")   # nothing to tell apart
      3.0
    """
    batch, arguments = _arguments(logits, labels, temperature, alpha, margin, axis, where)
    axis, known, works, scores, classes, _, base, penalty, gap = arguments
    keep = batch.where_or_bad
    centred, _ = centred_scores(_unchecked(axis, scores, classes, keep), known, gap)
    return batch.checked(_temperature(axis, works, centred, base, penalty, keep))


def _arguments(logits, labels, temperature, alpha, margin, axis, where):
    batch = checks.classified(logits, labels, axis=axis, where=where)
    base = checks.hyperparameter("temperature", temperature, "(0, inf)", batch)
    reason = "with 1 or less, temperature 0 could attain the maximum and classes would be ordered wrongly"
    penalty = checks.hyperparameter("alpha", alpha, "(1, inf)", batch, reason=reason)
    gap = checks.hyperparameter("margin", margin, "[0, inf)", batch)
    concrete = checks.is_concrete(alpha)
    works = _works(batch, np.asarray(alpha, float).min(initial=math.inf) if concrete else None)
    lowest = temperature
    if concrete and checks.is_concrete(temperature):
        lowest = np.asarray(temperature) * (1 - 1 / np.asarray(alpha))
    known = Known.of(lowest, margin, batch.logits.dtype)
    return batch, (
        batch.axis, known, works, batch.logits, batch.labels, batch.where, base, penalty, gap,
    )  # fmt: skip


def _works(batch: Classified, alpha: float | None) -> tuple[adaptive_temperature.Plan, ...]:
    """Work of the search; of both kinds of search if the smallest alpha is not known before run time."""
    classes, single = batch.logits.shape[batch.axis], batch.logits.dtype == jnp.float32
    smallest = [adaptive_temperature.short(classes), 1.0] if alpha is None else [float(alpha)]
    return tuple(adaptive_temperature.plan(classes, bound, single=single) for bound in smallest)


def _unchecked(axis, logits, labels, where):
    return Classified(logits, labels, jnp.ones_like(labels, bool), where, axis)


def _log_count(axis, centred, where):
    if where is None:
        return jnp.asarray(math.log(centred.shape[axis]), centred.dtype)
    return jnp.log(jnp.sum(where, axis, dtype=centred.dtype))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _aldr_kl(axis, known, works, logits, labels, where, base, penalty, margin):
    return _parts(axis, known, works, logits, labels, where, base, penalty, margin)[0]


def _parts(axis, known, works, logits, labels, where, base, penalty, margin):
    batch = _unchecked(axis, logits, labels, where)
    centred, ahead = centred_scores(batch, known, margin)
    best = _temperature(axis, works, centred, base, penalty, where)
    apart = Apart(batch.wrong, -ahead)
    maximum = centred_kl_maximum(centred, best, where, axis=axis, limits=False, apart=apart)
    cost = penalty * _log_count(axis, centred, where) / (2 * base) * jnp.square(best - base)
    value = jnp.where(jnp.isposinf(ahead), jnp.inf, ahead + (maximum.value - cost))
    return value, batch, maximum


def _aldr_kl_jvp(axis, known, works, primals, tangents):
    value, batch, maximum = _parts(axis, known, works, *primals)
    _, _, where, base, penalty, _ = primals
    d_logits, _, _, d_base, d_penalty, d_margin = tangents
    absent = jax.custom_derivatives.SymbolicZero
    tangent = jnp.zeros_like(value)
    if not isinstance(d_logits, absent):
        tangent = tangent + jnp.sum(weights_less_label(batch, maximum) * d_logits, axis)
    if not isinstance(d_margin, absent):
        wrong = jnp.sum(jnp.where(batch.wrong, maximum.weights, 0), axis)
        tangent = tangent + wrong * d_margin
    # At the maximum the temperature itself does not count, only the penalty's derivative; and what it is
    # below base is base KL / (a log K), which does not cancel for a large penalty.
    size = penalty * _log_count(axis, batch.logits, where)
    half = jnp.square(maximum.divergence) / (2 * jnp.where(size == 0, 1, size))
    if not isinstance(d_base, absent):
        tangent = tangent + (half - maximum.divergence) * d_base
    if not isinstance(d_penalty, absent):
        tangent = tangent - half * base / penalty * d_penalty
    return value, tangent


_aldr_kl.defjvp(_aldr_kl_jvp, symbolic_zeros=True)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _temperature(axis, works, centred, base, penalty, where):
    scaled = centred * expand(1 / base, axis)
    if where is not None:
        scaled = jnp.where(where, scaled, -jnp.inf)
    log_count = _log_count(axis, centred, where)
    # One class: nothing depends on the temperature, and any positive size does.
    size = jnp.where(log_count == 0, 1, penalty * log_count)

    def search(work):
        return adaptive_temperature.maximiser(work, axis, scaled, 1 / penalty, size, log_count)

    if len(works) == 1:
        return base * search(works[0])
    short = ~jnp.any(penalty < adaptive_temperature.short(centred.shape[axis]))
    return base * jax.lax.cond(short, *(functools.partial(search, work) for work in works))


@_temperature.defjvp
def _temperature_jvp(axis, works, primals, tangents):
    # The implicit function theorem for the stationarity in the temperature, at a maximum.
    centred, base, penalty, where = primals
    best = _temperature(axis, works, centred, base, penalty, where)
    log_count = _log_count(axis, centred, where)

    def divergence(scores, temperature):
        return centred_kl_maximum(scores, temperature, where, axis=axis, limits=False).divergence

    def residual(scores, base, penalty):
        return penalty * log_count * (1 - best / base) - divergence(scores, best)

    _, moved = jax.jvp(residual, (centred, base, penalty), tangents[:3])
    _, slope = jax.jvp(lambda t: divergence(centred, t), (best,), (jnp.ones_like(best),))
    curvature = penalty * log_count / base + slope
    single = log_count == 0
    tangent = jnp.where(single, 0, moved / jnp.where(single, 1, curvature))
    # A sum, since what is broadcast from a scalar has not the sharding of the batch.
    alone = tangents[1] + jnp.zeros_like(best)
    return best, jnp.where(single, alone, tangent)
