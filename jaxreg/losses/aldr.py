r"""The adaptive LDR-KL loss: the temperature maximises the loss, example by example (arXiv 2112.14869).

In units of the largest temperature, with :math:`w = (v - \max v)/\lambda_0` and :math:`A = a \log K`, the
loss maximises :math:`\Phi(x) = x \log \tfrac1K \sum_k e^{w_k/x} - \tfrac A2 (x - 1)^2`, whose stationary
points all lie in :math:`[1 - 1/a, 1]`. Above a threshold of a, which grows with K, there is one for every
score vector; below it there may be several, and the best of them is searched for.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxreg import checks
from jaxreg.checks import Classified, expand
from jaxreg.losses.ldr import Known, centred_scores
from jaxreg.simplex import centred_kl_maximum

_FEW = 16
"""Up to this many classes are added up one by one."""


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
    axis, known, cells, scores, classes, keep, base, penalty, gap = arguments
    centred, _ = centred_scores(_unchecked(axis, scores, classes, keep), known, gap)
    return batch.checked(_temperature(axis, cells, centred, base, penalty, keep))


def uniqueness_threshold(classes: int) -> float:
    r"""Smallest alpha with which the maximising temperature is unique for every score vector.

    .. math:: \frac{1}{\log K} \max_p \left[\mathrm{Var}_p(\log p) + \mathrm{KL}(p \,\|\, u)\right]

    attained by a distribution with one heavy class of share s and K - 1 equal ones.

    Args:
      classes: number of classes K >= 1.

    Returns:
      The threshold, at least 1; 1 for K = 1.

    References:
      Derived.

    Example:
      >>> print(f"{uniqueness_threshold(10):.3f} {uniqueness_threshold(1000):.3f}")
      1.533 2.440
    """
    if classes == 1:
        return 1.0
    log_odds = np.linspace(-5, 40, 20_001)
    share, rest = 1 / (1 + np.exp(-log_odds)), 1 / (1 + np.exp(log_odds))
    variance = share * rest * (math.log(classes - 1) + log_odds) ** 2
    divergence = math.log(classes) + share * np.log(share) + rest * np.log(rest / (classes - 1))
    return float(np.max(variance + divergence)) / math.log(classes)


def _arguments(logits, labels, temperature, alpha, margin, axis, where):
    batch = checks.classified(logits, labels, axis=axis, where=where)
    base = checks.hyperparameter("temperature", temperature, "(0, inf)", batch)
    penalty = checks.hyperparameter("alpha", alpha, "(1, inf)", batch)
    gap = checks.hyperparameter("margin", margin, "[0, inf)", batch)
    concrete = checks.is_concrete(alpha)
    # Half the cells are enough where the objective is less curved.
    cells = 8 if concrete and bool(np.all(np.asarray(alpha) >= 1.5)) else 16
    threshold = uniqueness_threshold(batch.logits.shape[batch.axis])
    cells = 1 if concrete and bool(np.all(np.asarray(alpha) >= threshold)) else cells
    lowest = temperature
    if concrete and checks.is_concrete(temperature):
        lowest = np.asarray(temperature) * (1 - 1 / np.asarray(alpha))
    known = Known.of(lowest, margin, batch.logits.dtype)
    return batch, (
        batch.axis, known, cells, batch.logits, batch.labels, batch.where, base, penalty, gap,
    )  # fmt: skip


def _unchecked(axis, logits, labels, where):
    return Classified(logits, labels, jnp.ones_like(labels, bool), where, axis)


def _log_count(axis, centred, where):
    if where is None:
        return jnp.asarray(math.log(centred.shape[axis]), centred.dtype)
    return jnp.log(jnp.sum(where, axis, dtype=centred.dtype))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _aldr_kl(axis, known, cells, logits, labels, where, base, penalty, margin):
    return _parts(axis, known, cells, logits, labels, where, base, penalty, margin)[0]


def _parts(axis, known, cells, logits, labels, where, base, penalty, margin):
    batch = _unchecked(axis, logits, labels, where)
    centred, ahead = centred_scores(batch, known, margin)
    best = _temperature(axis, cells, centred, base, penalty, where)
    maximum = centred_kl_maximum(centred, best, where, axis=axis, limits=False)
    cost = penalty * _log_count(axis, centred, where) / (2 * base) * jnp.square(best - base)
    value = jnp.where(jnp.isposinf(ahead), jnp.inf, ahead + (maximum.value - cost))
    return value, batch, maximum


def _aldr_kl_jvp(axis, known, cells, primals, tangents):
    value, batch, maximum = _parts(axis, known, cells, *primals)
    _, _, where, base, penalty, _ = primals
    d_logits, _, _, d_base, d_penalty, d_margin = tangents
    absent = jax.custom_derivatives.SymbolicZero
    tangent = jnp.zeros_like(value)
    if not isinstance(d_logits, absent):
        slope = jnp.where(batch.wrong, maximum.weights, maximum.weights - 1)
        tangent = tangent + jnp.sum(slope * d_logits, axis)
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
def _temperature(axis, cells, centred, base, penalty, where):
    scaled = centred / expand(base, axis)
    size = penalty * _log_count(axis, centred, where)
    # One class: nothing depends on the temperature, and any positive size does.
    size = jnp.where(size == 0, 1, size)
    return base * _search(axis, cells, scaled, 1 / penalty, size, where)


@_temperature.defjvp
def _temperature_jvp(axis, cells, primals, tangents):
    # The implicit function theorem for the stationarity in the temperature, at a maximum.
    centred, base, penalty, where = primals
    best = _temperature(axis, cells, centred, base, penalty, where)
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
    alone = jnp.broadcast_to(tangents[1], best.shape)
    return best, jnp.where(single, alone, tangent)


def _search(axis, cells, scaled, reciprocal, size, where):
    """The maximiser x in [1 - reciprocal, 1]: a bracket, and Newton's steps that stay inside it."""
    single = scaled.dtype == jnp.float32

    def evaluate(x):
        return _moments(axis, scaled, x, size, where)

    rows = 0 * jnp.max(scaled if where is None else jnp.where(where, scaled, -jnp.inf), axis)
    low, high = rows + (1 - reciprocal), rows + 1
    # More steps where the best maximum may be as flat as a double one.
    if cells == 1:
        x, steps = (low + high) / 2, 6 if single else 8
    else:
        low, high, x = _best_cell(evaluate, low, high, size, cells)
        steps = 8 if single else 12

    def step(_, state):
        low, high, x = state
        _, gain, curvature = evaluate(x)
        target = x + gain / size
        low = jnp.where(gain > 0, jnp.maximum(low, target), low)
        high = jnp.where(gain > 0, high, jnp.minimum(high, target))
        newton = x + gain / jnp.where(curvature > 0, curvature, 1)
        inside = (curvature > 0) & (newton >= low) & (newton <= high)
        # NaN (from NaN scores) stays NaN.
        middle = (low + high) / 2
        return low, high, jnp.where(inside, newton, middle)

    return jax.lax.fori_loop(0, steps, step, (low, high, x))[2]


def _best_cell(evaluate, low, high, size, cells):
    """The cell of a grid that holds the best maximum, and the better of its ends after one step."""
    fractions = jnp.linspace(0, 1, cells + 1, dtype=low.dtype)
    nodes = jax.lax.map(lambda t: low + (high - low) * t, fractions)
    values, gains = jax.lax.map(lambda x: evaluate(x)[:2], nodes)
    # A step of this length raises the value by at least this much, and never leaves the cell's basin.
    promise = values + jnp.square(gains) / (2 * size)
    index = jnp.arange(cells).reshape((-1,) + (1,) * low.ndim)
    rises = (gains[:-1] >= 0) | (index == 0)
    falls = (gains[1:] <= 0) | (index == cells - 1)
    score = jnp.where(rises & falls, jnp.maximum(promise[:-1], promise[1:]), -jnp.inf)
    cell = jnp.argmax(score, axis=0)[None]

    def take(values):
        return jnp.take_along_axis(values, cell, 0)[0]

    left, right = take(nodes[:-1]), take(nodes[1:])
    stepped_left = left + take(gains[:-1]) / size
    stepped_right = right + take(gains[1:]) / size
    better = jnp.where(take(promise[:-1]) >= take(promise[1:]), stepped_left, stepped_right)
    return left, right, jnp.clip(better, left, right)


def _moments(axis, scaled, x, size, where):
    """Value, derivative and negative second derivative of the objective at x."""
    total, mean, square = _power_sums(axis, scaled, 1 / x, where)
    mean, square = mean / total, square / total
    log_mean = jnp.log(total) - _log_count(axis, scaled, where)
    value = x * log_mean - size / 2 * jnp.square(x - 1)
    gain = size * (1 - x) - (mean - log_mean)
    return value, gain, size - (square - jnp.square(mean)) / x


def _power_sums(axis, scaled, inverse, where):
    """Sums over the classes of exp(t), t exp(t) and t^2 exp(t) with t the scaled scores over x."""
    if where is None and scaled.shape[axis] <= _FEW:
        # Class by class, and vectorised over the examples: a short axis reduces slowly.
        columns = [jax.lax.index_in_dim(scaled, k, axis, keepdims=False) for k in range(scaled.shape[axis])]
        terms = [_powers(column * inverse) for column in columns]
        return tuple(functools.reduce(jnp.add, parts) for parts in zip(*terms, strict=True))
    powers = _powers(scaled * expand(inverse, axis))
    if where is not None:
        powers = [jnp.where(where, power, 0) for power in powers]
    return tuple(jnp.sum(power, axis) for power in powers)


def _powers(exponent):
    power = jnp.exp(exponent)
    # A class of score -inf adds nothing.
    first = power * jnp.where(power > 0, exponent, 0)
    return power, first, first * jnp.where(power > 0, exponent, 0)
