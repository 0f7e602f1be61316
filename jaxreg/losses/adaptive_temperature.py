r"""Search for the temperature that maximises the adaptive LDR-KL loss, with few passes over the scores.

In units of the largest temperature, with scores :math:`w \le 0` less their maximum and
:math:`A = a \log K`, the loss maximises

.. math:: \Phi(x) = x \log \tfrac1K Z(1/x) - \tfrac A2 (x - 1)^2, \qquad Z(\beta) = \sum_k e^{\beta w_k}

over :math:`x \in [1 - 1/a, 1]`, where it may have several maxima. Of the scores it needs :math:`Z` alone, an
entire function of :math:`\beta`: a few values of it, a pass over the scores each, give a polynomial on which
the search costs nothing. What interpolation leaves is corrected where the search ends, by the exact value
and slope there, and the search repeated from there. For a below 1.5 the interval of :math:`\beta` is too long
for that, and every step evaluates the objective itself.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxreg.checks import expand
from jaxreg.losses.class_sums import class_sum

_SHORT = 1.5
"""From this alpha on the interval of inverse temperatures is short enough to interpolate."""
_FEW = 16
"""Up to this many classes are added up one by one."""
_LONG = 32768
"""From this many classes on XLA's CPU reductions write the powers of whole rows to memory first."""


class Plan(NamedTuple):
    """The fixed work of a search."""

    points: int
    """Chebyshev points of the interpolation; 0 for a search without, on the objective itself."""
    cells: int
    """Cells of the grid on which the best of several maxima is looked for; 1 if there is only one."""
    steps: int
    """Newton steps."""
    corrections: int
    """Exact evaluations that correct the interpolation."""


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


def short(classes: int) -> float:
    """From this alpha on :func:`plan` finds a quick search: what a traced one is compared with."""
    return max(_SHORT, uniqueness_threshold(classes)) if classes <= _FEW else _SHORT


def plan(classes: int, alpha: float, *, single: bool) -> Plan:
    """The work that reaches the accuracy of the dtype.

    Args:
      classes: number of classes K >= 1.
      alpha: a lower bound of ``a``, at least 1.
      single: whether the scores are float32 and not float64.
    """
    # The nearer to uniqueness, the flatter the maximum may be, and the slower Newton's method.
    ratio = alpha / uniqueness_threshold(classes)
    steps = (4 if single else 6) if ratio >= 1.3 else (6 if single else 8)
    steps = steps if ratio >= 1.05 else 2 * steps
    if classes <= _FEW and ratio >= 1:
        return Plan(0, 1, steps, 0)
    if alpha < _SHORT:
        return Plan(0, 16, 8 if single else 12, 0)
    points = _points(classes, alpha, 2e-5 if single else 1e-10)
    corrections = 1 if single else 3
    if ratio >= 1:
        return Plan(points, 1, steps, corrections)
    return Plan(points, 32, 8 if single else 10, corrections)


def maximiser(
    work: Plan,
    axis: int,
    scaled: jax.Array,
    reciprocal: jax.Array,
    size: jax.Array,
    log_count: jax.Array,
) -> jax.Array:
    r"""The x in [1 - 1/a, 1] that maximises :math:`\Phi`.

    Args:
      work: from :func:`plan`.
      axis: the class axis, non-negative.
      scaled: ``w``, at most 0 and about 0 for one class at least; -inf for classes that do not count.
      reciprocal: ``1 / a``, a scalar or one value per row.
      size: ``A``, positive, a scalar or one value per row.
      log_count: ``log K``, a scalar or one value per row.

    Returns:
      One value per row; NaN for a row with a score that is NaN.
    """
    search = _search_by_interpolation if work.points else _search_directly
    return search(work, axis, scaled, 1 - reciprocal, size, log_count)


def _points(classes: int, alpha: float, tolerance: float) -> int:
    # Interpolation of e^(beta w) at n Chebyshev points of an interval of half-width r errs by about
    # 2 (r w / 2)^n / n!; what matters is how far apart scores of like weight may lie, about
    # log K / beta, and how far down a single one still counts.
    end = alpha / (alpha - 1) if alpha > 1 else math.inf
    reach = (end - 1) / 4 * (2 * math.log(classes) / (end + 1) + 2.5)
    points = 3
    while 2 * (reach / 2) ** points / math.factorial(points) > tolerance:
        points += 1
    return points


def _search_by_interpolation(work, axis, scaled, lowest, size, log_count):
    model = _interpolate(work.points, axis, scaled, lowest)
    low, high = jnp.broadcast_to(lowest, model.centre.shape), jnp.ones_like(model.centre)

    def evaluate(x, model=model):
        inverse = 1 / x
        log_sum, slope, curvature = model.at(inverse)
        log_mean = log_sum - log_count
        value = x * log_mean - size / 2 * jnp.square(x - 1)
        gain = size * (1 - x) - (inverse * slope - log_mean)
        return value, gain, size - inverse * inverse * inverse * curvature

    x = (low + high) / 2
    if work.cells > 1:
        low, high, x = _best_window(evaluate, low, high, size, work.cells)
    x = _newton(evaluate, low, high, x, size, work.steps)
    for _ in range(work.corrections):
        corrected = model.corrected(1 / x, *_log_sum_and_mean(axis, scaled, 1 / x))
        evaluate_again = functools.partial(evaluate, model=corrected)
        x = _newton(evaluate_again, low, high, x, size, (work.steps + 1) // 2)
    # A score that is NaN, as it makes the model, makes the steps stand still.
    return x + 0 * model.centre


class _Model(NamedTuple):
    """Interpolation of log Z: the logarithm of a Chebyshev series times an exponential."""

    half: jax.Array  # half the interval's length, a scalar or one value per row
    coefficients: list[jax.Array]  # one value per row each
    centre: jax.Array  # about log Z in the middle, one value per row
    tilt: jax.Array  # rate of the exponential, one value per row
    shift: jax.Array | float = 0.0  # correction of log Z at ``place``
    turn: jax.Array | float = 0.0  # correction of its slope
    place: jax.Array | float = 1.0

    def at(self, inverse):
        """Log Z and its first two derivatives at inverse temperatures, one value per row."""
        t = (inverse - 1) / self.half - 1
        return self._logarithm(inverse, t, *_chebyshev_series(self.coefficients, t))

    def corrected(self, inverse, log_sum, slope):
        """The model with this value and slope of log Z at this place."""
        t = (inverse - 1) / self.half - 1
        now, slope_now, _ = self.at(inverse)
        total = _chebyshev_series(self.coefficients, t)[0]
        # Most of the error is a multiple of the next Chebyshev polynomial: as the next coefficient.
        order = len(self.coefficients)
        angle = jnp.arccos(jnp.clip(t, -1, 1))
        next_value, next_slope = jnp.cos(order * angle), order * jnp.sin(order * angle)
        rise = (slope - slope_now) * self.half * jnp.sin(angle) + 0 * next_slope
        missing = total * ((log_sum - now) * next_value + rise * next_slope / order**2)
        model = self._replace(coefficients=[*self.coefficients, missing])
        now, slope_now, _ = model.at(inverse)
        return model._replace(shift=log_sum - now, turn=slope - slope_now, place=inverse)

    def _logarithm(self, inverse, t, total, first, second):
        ratio = first / (total * self.half)
        log_sum = jnp.log(total) + self.centre - self.tilt * self.half * t
        curvature = second / (total * self.half * self.half) - ratio * ratio
        return (
            log_sum + self.shift + self.turn * (inverse - self.place),
            ratio - self.tilt + self.turn,
            curvature,
        )


def _interpolate(points, axis, scaled, lowest):
    """Model of log Z on [1, 1 / lowest]."""
    half = jnp.maximum((1 / lowest - 1) / 2, 1e-3)
    angles = (2 * np.arange(points) + 1) * math.pi / (2 * points)
    places = [half * math.cos(angle) for angle in angles]
    logs = [jnp.log(_sum_of_powers(axis, scaled, 1 + half + place)) for place in places]
    # Tilted so that both ends are of one size: else the larger end's rounding drowns the other.
    tilt = (logs[-1] - logs[0]) / (places[0] - places[-1])
    centre = logs[points // 2]
    values = [jnp.exp(log - centre + tilt * place) for log, place in zip(logs, places, strict=True)]
    weights = np.cos(np.outer(np.arange(points), angles)) * 2 / points
    weights[0] /= 2
    coefficients = [
        functools.reduce(jnp.add, (float(w) * value for w, value in zip(row, values, strict=True)))
        for row in weights
    ]
    return _Model(half, coefficients, centre, tilt)


def _chebyshev_series(coefficients, t):
    """A Chebyshev series and its first two derivatives at t, by Clenshaw's recurrence."""
    value, value_before = (jnp.zeros_like(t),) * 2
    first, first_before = (jnp.zeros_like(t),) * 2
    second, second_before = (jnp.zeros_like(t),) * 2
    for coefficient in coefficients[:0:-1]:
        second, second_before = 4 * first + 2 * t * second - second_before, second
        first, first_before = 2 * value + 2 * t * first - first_before, first
        value, value_before = coefficient + 2 * t * value - value_before, value
    return (
        coefficients[0] + t * value - value_before,
        value + t * first - first_before,
        2 * first + t * second - second_before,
    )


def _best_window(evaluate, low, high, size, cells):
    """A window around the best maximum on a grid, and the grid's best point."""
    width = (high - low) / cells

    def visit(index, best):
        x = low + index.astype(low.dtype) * width
        value, gain, curvature = evaluate(x)
        # What the maximum next to x has above x.
        curvature = jnp.where(curvature > 0, curvature, size)
        reach = jnp.minimum(jnp.abs(gain) / curvature, width)
        promise = value + reach * (jnp.abs(gain) - curvature * reach / 2)
        better = promise > best[0]
        return jnp.where(better, promise, best[0]), jnp.where(better, x, best[1])

    start = (jnp.full_like(low, -jnp.inf), low)
    x = jax.lax.fori_loop(0, cells + 1, visit, start)[1]
    return jnp.maximum(low, x - 2 * width), jnp.minimum(high, x + 2 * width), x


def _newton(evaluate, low, high, x, size, steps):
    """Newton's steps to a maximum in [low, high], safeguarded by those of a minorant of curvature size."""
    # A slope of this size, or a step beyond the interval by as much, is rounding: at the maximum it must not
    # count as a step out of the interval, whose middle may be far away.
    rounding = 32 * float(jnp.finfo(x.dtype).eps)

    def step(_, state):
        low, high, x = state
        _, gain, curvature = evaluate(x)
        target = x + gain / size
        low = jnp.where(gain > 0, jnp.maximum(low, target), low)
        high = jnp.where(gain > 0, high, jnp.minimum(high, target))
        newton = x + gain / jnp.where(curvature > 0, curvature, 1)
        inside = (curvature > 0) & (newton >= low - rounding) & (newton <= high + rounding)
        otherwise = jnp.where(jnp.abs(gain) <= rounding * size, x, (low + high) / 2)
        return low, high, jnp.where(inside, jnp.clip(newton, low, high), otherwise)

    # Rounding at an end of the interval must not lead out of it.
    return jnp.clip(jax.lax.fori_loop(0, steps, step, (low, high, x))[2], low, high)


def _sum_of_powers(axis, scaled, inverse):
    if scaled.shape[axis] >= _LONG:
        return class_sum(lambda score, inverse: jnp.exp(score * inverse), axis, [scaled], [inverse])
    return jnp.sum(jnp.exp(scaled * expand(inverse, axis)), axis)


def _log_sum_and_mean(axis, scaled, inverse):
    """Log of Z, and the mean score under the distribution that it normalises."""
    total = _sum_of_powers(axis, scaled, inverse)
    # Its own powers: XLA would write those of one pass to memory for the other to read. Scores far
    # down add nothing, and -inf would be NaN.
    again = jax.lax.optimization_barrier(inverse)
    bounded = jnp.maximum(scaled, -1000)
    if scaled.shape[axis] >= _LONG:
        first = class_sum(lambda score, again: score * jnp.exp(score * again), axis, [bounded], [again])
    else:
        first = jnp.sum(bounded * jnp.exp(bounded * expand(again, axis)), axis)
    return jnp.log(total), first / total


def _search_directly(work, axis, scaled, lowest, size, log_count):
    def evaluate(x):
        return _moments(axis, scaled, x, size, log_count)

    # NaN (from NaN scores) stays NaN.
    rows = 0 * jnp.max(scaled, axis)
    low, high = rows + lowest, rows + 1
    x = (low + high) / 2
    if work.cells > 1:
        low, high, x = _best_cell(evaluate, low, high, size, work.cells)
    return _newton(evaluate, low, high, x, size, work.steps)


def _best_cell(evaluate, low, high, size, cells):
    """The cell of a grid that holds the best maximum, and the better of its ends after one step."""
    fractions = jnp.linspace(0, 1, cells + 1, dtype=low.dtype)
    nodes = jax.lax.map(lambda t: low + (high - low) * t, fractions)
    values, gains = jax.lax.map(lambda x: evaluate(x)[:2], nodes)
    # A step of this length raises the value by at least this much, and never leaves the cell's basin.
    promise = values + jnp.square(gains) / (2 * expand(size, 0))
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


def _moments(axis, scaled, x, size, log_count):
    """Value, derivative and negative second derivative of the objective at x."""
    total, mean, square = _power_sums(axis, scaled, 1 / x)
    mean, square = mean / total, square / total
    log_mean = jnp.log(total) - log_count
    value = x * log_mean - size / 2 * jnp.square(x - 1)
    gain = size * (1 - x) - (mean - log_mean)
    return value, gain, size - (square - jnp.square(mean)) / x


def _power_sums(axis, scaled, inverse):
    """Sums over the classes of exp(t), t exp(t) and t^2 exp(t) with t the scaled scores over x."""
    if scaled.shape[axis] <= _FEW:
        # Class by class, and vectorised over the examples: a short axis reduces slowly.
        columns = [jax.lax.index_in_dim(scaled, k, axis, keepdims=False) for k in range(scaled.shape[axis])]
        terms = [_powers(column * inverse) for column in columns]
        return tuple(functools.reduce(jnp.add, parts) for parts in zip(*terms, strict=True))
    return tuple(jnp.sum(power, axis) for power in _powers(scaled * expand(inverse, axis)))


def _powers(exponent):
    power = jnp.exp(exponent)
    # A class of score -inf adds nothing.
    first = power * jnp.where(power > 0, exponent, 0)
    return power, first, first * jnp.where(power > 0, exponent, 0)
