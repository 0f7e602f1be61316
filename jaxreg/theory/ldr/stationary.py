"""The adaptive temperature as a maximisation: its stationary points, when there is one only, and the "
"exact maximum.

With ``lam_0`` the temperature, ``alpha`` the dimensionless strength of its pull and ``A = alpha log K /
lam_0``,

    psi(f, y) = max over lam in [0, lam_0] of F(lam) - (A/2) (lam - lam_0)^2,

where F is the loss at the fixed temperature lam. The functions here take score vectors as NumPy arrays, and
are exact: they look at a dense grid of temperatures and polish by bisection.
"""

import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize, special

from jaxreg import losses
from jaxreg.theory import falsify, oracles
from jaxreg.theory.check import Check
from jaxreg.theory.ldr.value import PAPER, kl_to_uniform


class Curve(NamedTuple):
    """The objective of the temperature at one gap vector, at temperatures ``[...]``."""

    value: np.ndarray  # F(lam) - (A/2) (lam - lam_0)^2
    slope: np.ndarray  # its derivative, A (lam_0 - lam) - KL(p_lam, uniform)


def curve(
    gaps: np.ndarray,
    temperatures: np.ndarray,
    *,
    temperature: float,
    alpha: float,
    counts: np.ndarray | None = None,
) -> Curve:
    """The objective and its derivative at some positive temperatures.

    Args:
      gaps: distinct entries of the gap vector, shape ``[levels]``.
      temperatures: lam, any shape.
      temperature: lam_0.
      alpha: dimensionless strength.
      counts: how often each entry occurs, shape ``[levels]``; default once.

    Example:
      >>> curve(np.zeros(3), np.array([0.5]), temperature=1.0, alpha=2 / math.log(3)).slope
      array([1.])
    """
    counts = np.ones(gaps.size) if counts is None else counts
    num_classes = counts.sum()
    strength = alpha * math.log(num_classes) / temperature
    scaled = (gaps - gaps.max()) / temperatures[..., None]
    powers = counts * np.exp(scaled)
    whole = powers.sum(-1)
    log_mean = np.log(whole / num_classes)
    divergence = (powers * scaled).sum(-1) / whole - log_mean
    away = temperature - temperatures
    return Curve(gaps.max() + temperatures * log_mean - strength / 2 * away**2, strength * away - divergence)


def stationary_points(
    gaps: np.ndarray, *, temperature: float, alpha: float, counts: np.ndarray | None = None, cells: int = 4000
) -> np.ndarray:
    """All stationary temperatures of the objective, ascending: sign changes on a grid, polished by root "
    "finding.

    For alpha > 1 they lie in ``[temperature (1 - 1 / alpha), temperature]``; the first and last are local
    maxima.

    Example:
      >>> gaps, hyper = np.array([0.0, 1.0]), {"temperature": 1.0, "alpha": 2.0}
      >>> points = stationary_points(gaps, **hyper)
      >>> print(np.abs(curve(gaps, points, **hyper).slope) < 1e-14)
      [ True]
    """
    grid = temperature * np.linspace(1 - 1 / alpha, 1, cells + 1)
    grid[0] = max(grid[0], 1e-9 * temperature)
    hyper = {"temperature": temperature, "alpha": alpha, "counts": counts}
    slope = curve(gaps, grid, **hyper).slope
    # Exactly 0 up to rounding at the ends where all gaps are equal, or one class has all the weight.
    slope[0], slope[-1] = max(slope[0], 1e-300), min(slope[-1], -1e-300)
    cells_with_root = np.flatnonzero((slope[:-1] > 0) != (slope[1:] > 0))

    def polish(cell: int) -> float:
        low, high = grid[cell], grid[cell + 1]
        rising = slope[cell] > 0
        for _ in range(60):
            middle = (low + high) / 2
            same = (curve(gaps, np.array([middle]), **hyper).slope[0] > 0) == rising
            low, high = (middle, high) if same else (low, middle)
        return (low + high) / 2

    return np.array([polish(int(cell)) for cell in cells_with_root])


def global_maximum(
    gaps: np.ndarray, *, temperature: float, alpha: float, cells: int = 2000
) -> tuple[float, float]:
    """The maximising temperature and the value, by dense grid and bisection; alpha > 1.

    Example:
      >>> best, value = global_maximum(np.zeros(4), temperature=2.0, alpha=3.0)
      >>> print(round(best, 6), abs(value) < 1e-15)
      2.0 True
    """
    points = stationary_points(gaps, temperature=temperature, alpha=alpha, cells=cells)
    values = curve(gaps, points, temperature=temperature, alpha=alpha).value
    return float(points[values.argmax()]), float(values.max())


def alternating_maximum(
    gaps: np.ndarray, *, temperature: float, alpha: float, counts: np.ndarray | None = None
) -> float:
    """The value that alternating updates of weights and temperature reach from the largest temperature.

    Each update ``lam <- lam_0 - KL(p_lam) / A`` moves down to, and never past, the largest stationary
    point: the limit.

    Example:
      >>> print(alternating_maximum(np.zeros(4), temperature=2.0, alpha=3.0))
      0.0
    """
    largest = stationary_points(gaps, temperature=temperature, alpha=alpha, counts=counts)[-1:]
    return float(curve(gaps, largest, temperature=temperature, alpha=alpha, counts=counts).value[0]) + 0.0


def uniqueness_threshold(num_classes: int) -> float:
    r"""The least ``alpha`` for which every score vector has a single stationary temperature.

    ``max over distributions p of Var_p(log p) + KL(p, uniform)``, divided by ``log K``. The maximiser has
    one heavy class of mass s and K - 1 equal light ones, which leaves a maximum over s.

    Args:
      num_classes: K >= 2.

    Returns:
      The threshold for the dimensionless ``alpha`` of ``jaxreg.losses.aldr_kl``, above 1.

    Raises:
      ValueError: K < 2.

    Example:
      >>> print(f"{uniqueness_threshold(10):.3f} {uniqueness_threshold(128) < 2 < uniqueness_threshold(129)}")
      1.533 True
    """
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, got {num_classes}")
    others = num_classes - 1

    def negative(odds: float) -> float:
        heavy, light = special.expit(odds), special.expit(-odds)
        variance = heavy * light * (math.log(others) + odds) ** 2
        divergence = (
            math.log(num_classes) - special.entr(heavy) - special.entr(light) - light * math.log(others)
        )
        return -(variance + divergence)

    grid = np.linspace(-math.log(others) - 5, 20, 400)
    best = grid[np.argmin([negative(odds) for odds in grid])]
    found: Any = optimize.minimize_scalar(
        negative, bounds=(best - 0.2, best + 0.2), method="bounded", options={"xatol": 1e-12}
    )
    return float(-found.fun) / math.log(num_classes)


def heaviest_distribution(num_classes: int) -> np.ndarray:
    """The distribution ``[heavy, light]`` at which the uniqueness threshold is attained: one class, and "
    "each other.

    Example:
      >>> heavy, light = heaviest_distribution(10)
      >>> print(f"{heavy + 9 * light:.12f} {heavy > light}")
      1.000000000000 True
    """
    others = num_classes - 1

    def negative(odds: float) -> float:
        p = np.array([special.expit(odds), special.expit(-odds) / others])
        logs, counts = np.log(p), np.array([1, others])
        mean = (counts * p * logs).sum()
        return -((counts * p * (logs - mean) ** 2).sum() + mean)

    grid = np.linspace(-math.log(others) - 5, 20, 4000)
    odds = grid[np.argmin([negative(x) for x in grid])]
    return np.array([special.expit(odds), special.expit(-odds) / others])


def temperature_penalty(
    probabilities: jax.Array, *, temperature: jax.Array | float = 1.0, alpha: jax.Array | float = 2.0
) -> jax.Array:
    """W(p), for which the adaptive loss is ``max over p of p.z - W(p)``; shape ``[..., K]`` to ``[...]``.

    ``lam_0 KL - KL^2 / (2A)`` where ``KL <= A lam_0``, else ``A lam_0^2 / 2``. It is convex iff alpha is at
    least the uniqueness threshold. Minus W(q) is the least conditional risk then.

    Example:
      >>> print(temperature_penalty(jnp.array([0.5, 0.5])))
      0.0
    """
    divergence = kl_to_uniform(probabilities)
    strength = alpha * math.log(probabilities.shape[-1]) / temperature
    inner = temperature * divergence - divergence**2 / (2 * strength)
    return jnp.where(divergence <= strength * temperature, inner, strength * temperature**2 / 2)


def adaptive_bayes_scores(
    probabilities: jax.Array, *, temperature: jax.Array | float = 1.0, alpha: jax.Array | float = 2.0
) -> jax.Array:
    """The scores of mean zero that minimise the conditional risk of ``aldr_kl`` without a margin.

    ``f* = lam(q) log q`` with ``lam(q) = lam_0 - KL(q, uniform) / A``: the noisier the label, the larger its
    temperature. For alpha at least the uniqueness threshold; shape ``[..., K]`` to ``[..., K]``.

    Example:
      >>> print(adaptive_bayes_scores(jnp.array([0.5, 0.5])))
      [0. 0.]
    """
    strength = alpha * math.log(probabilities.shape[-1]) / temperature
    own = jnp.asarray(temperature - kl_to_uniform(probabilities) / strength)
    logarithm = jnp.log(probabilities)
    return own[..., None] * (logarithm - logarithm.mean(-1, keepdims=True))


def draw_hard_scores(rng: np.random.Generator, num_classes: int, cases: int) -> np.ndarray:
    """Gap vectors ``[4 cases, K]`` that try the search for the maximum: two-level, Gaussian, grouped,
    Cauchy.
    """
    size = 10 ** rng.uniform(-1, 1.5, (cases, 1))
    two_level = np.where(np.arange(num_classes) == 0, 1.5 * math.log(num_classes) * size**0.3, 0)
    gaussian = size * rng.standard_normal((cases, num_classes))
    grouped = size * rng.integers(0, 4, (cases, num_classes))
    heavy_tailed = size * np.clip(rng.standard_cauchy((cases, num_classes)), -1e3, 1e3)
    return np.concatenate([two_level, gaussian, grouped, heavy_tailed])


# Stationary points


def stationary_points_are_bracketed(gaps: jax.Array, log_temperatures: jax.Array, *, alpha: float) -> Check:
    """The slope is positive below lam_0 (1 - 1/alpha) and negative above lam_0."""
    strength = alpha * math.log(gaps.size)
    below, above = (
        (1 - 1 / alpha) * jnp.exp(-jnp.abs(log_temperatures[0])),
        jnp.exp(jnp.abs(log_temperatures[1])),
    )

    def slope(lam: jax.Array) -> jax.Array:
        return strength * (1 - lam) - kl_to_uniform(jax.nn.softmax(gaps / lam))

    return Check(
        "stationary-points-are-bracketed",
        "derived",
        "the slope in lam is >= 0 below lam_0 (1 - 1/alpha), <= 0 above lam_0: all stationary points lie "
        "between",
        jnp.stack([slope(below), -slope(above)]),
        ">=",
        0.0,
        tolerance_float32=1e-5,
    )


def objective_in_the_temperature(gaps: jax.Array, log_temperature: jax.Array, *, alpha: float) -> Check:
    """Slope and curvature of what the temperature maximises, by automatic differentiation of the loss."""
    strength, lam = alpha * math.log(gaps.size), jnp.exp(log_temperature)
    label = jnp.argmax(gaps)

    def objective(lam: jax.Array) -> jax.Array:
        return losses.ldr_kl(gaps, label, temperature=lam) - strength / 2 * (lam - 1) ** 2

    weights = jax.nn.softmax(gaps / lam)
    centred = (gaps - weights @ gaps) / lam
    curvature = weights @ centred**2 / lam - strength
    return Check(
        "objective-in-the-temperature",
        PAPER,
        "the objective has slope A (lam_0 - lam) - KL(p_lam) and curvature Var_p(z/lam)/lam - A >= -A",
        jnp.stack([jax.grad(objective)(lam), jax.grad(jax.grad(objective))(lam)]),
        "==",
        jnp.stack([strength * (1 - lam) - kl_to_uniform(weights), jnp.maximum(curvature, -strength)]),
        scale=1 + (jnp.ptp(gaps) / lam) ** 2 / lam,
        tolerance_float32=1e-4,
    )


def penalty_is_the_least_cost(rng: np.random.Generator) -> Check:
    """W(p) is what the best temperature leaves of the divergence, also where that is the temperature 0."""
    cases, num_classes = 60, 4
    p = oracles.draw_probabilities(rng, cases, num_classes) ** 3
    p /= p.sum(-1, keepdims=True)
    temperature, alpha = 10 ** rng.uniform(-0.5, 0.5, cases), 10 ** rng.uniform(-1, 0.5, cases)
    divergence = oracles.kl_to_uniform(p)[:, None]
    strength = (alpha * math.log(num_classes) / temperature)[:, None]
    grid = np.linspace(0, 2, 40_001) * temperature[:, None]
    least = (grid * divergence + strength / 2 * (grid - temperature[:, None]) ** 2).min(-1)
    return Check(
        "penalty-is-the-least-cost",
        "derived",
        "W(p) = min over lam >= 0 of lam KL + (A/2)(lam - lam_0)^2, by dense grid; alpha from 0.1 to 3",
        temperature_penalty(jnp.asarray(p), temperature=jnp.asarray(temperature), alpha=jnp.asarray(alpha)),
        "==",
        least,
        scale=temperature,
        tolerance=1e-8,  # half the curvature times the square of half a cell
        tolerance_float32=1e-5,
    )


def updates_end_at_the_outermost_points(rng: np.random.Generator) -> Check:
    """The updates move monotonically from either end of the interval to the nearest stationary point."""
    alpha, num_classes = 1.3, 100
    scores = draw_hard_scores(rng, num_classes, 8)
    gaps = scores - scores.max(-1, keepdims=True)
    strength, starts = alpha * math.log(num_classes), (1 - 1 / alpha, 1.0)
    lam = np.tile(np.array(starts)[:, None], (1, len(gaps)))
    backwards = np.zeros(lam.shape)
    for _ in range(1500):
        weights = special.softmax(gaps / lam[..., None], axis=-1)
        updated = 1 - oracles.kl_to_uniform(weights) / strength
        backwards = np.maximum(backwards, np.array([[-1], [1]]) * (updated - lam))
        lam = updated
    points = [stationary_points(row, temperature=1.0, alpha=alpha) for row in gaps]
    return Check(
        "updates-end-at-the-outermost-points",
        "derived",
        "lam' = lam_0 - KL(p_lam)/A rises from lam_0 (1 - 1/alpha) to the least stationary point, and falls "
        "from lam_0 to the largest",
        np.concatenate([lam, backwards]),
        "==",
        np.concatenate([np.array([[p[0] for p in points], [p[-1] for p in points]]), np.zeros(lam.shape)]),
        tolerance=1e-9,
        tolerance_float32=1e-5,
    )


def a_grid_comes_close(rng: np.random.Generator) -> Check:
    """The curvature is at least -A, so that the best of a few equispaced temperatures is near the maximum."""
    alpha, num_classes, cells = 1.2, 50, 16
    scores = draw_hard_scores(rng, num_classes, 10)
    grid = np.linspace(1 - 1 / alpha, 1, cells + 1)
    missing = [
        global_maximum(row, temperature=1.0, alpha=alpha, cells=1000)[1]
        - curve(row, grid, temperature=1.0, alpha=alpha).value.max()
        for row in scores
    ]
    return Check(
        "a-grid-comes-close",
        "derived",
        "the best of N + 1 = 17 equispaced temperatures is at most log K / (8 alpha N^2) below the maximum",
        np.array(missing),
        "<=",
        math.log(num_classes) / (8 * alpha * cells**2),
        scale=1 + np.ptp(scores, axis=-1),
        tolerance_float32=1e-5,
    )


def each_update_climbs(gaps: jax.Array, log_temperature: jax.Array, *, alpha: float) -> Check:
    """One alternating update of the temperature raises the objective at least quadratically in the slope."""
    strength = alpha * math.log(gaps.size)
    lam = 1 - jax.nn.sigmoid(log_temperature) / alpha

    def objective(lam: jax.Array) -> jax.Array:
        value = lam * (jax.nn.logsumexp(gaps / lam) - math.log(gaps.size))
        return value - strength / 2 * (lam - 1) ** 2

    slope = strength * (1 - lam) - kl_to_uniform(jax.nn.softmax(gaps / lam))
    return Check(
        "each-update-climbs",
        "derived",
        "lam' = lam_0 - KL(p_lam)/A raises the objective by at least slope^2 / (2A)",
        objective(lam + slope / strength),
        ">=",
        objective(lam) + slope**2 / (2 * strength),
        scale=1 + jnp.abs(gaps).max(),
        tolerance_float32=1e-5,
    )


def update_is_monotone(gaps: jax.Array, log_temperatures: jax.Array) -> Check:
    """A larger temperature is updated to a larger one, since the divergence of its weights is smaller."""
    low, high = (jnp.exp(reduce(log_temperatures)) for reduce in (jnp.min, jnp.max))
    return Check(
        "update-is-monotone",
        "derived",
        "KL(softmax(z / lam), uniform) is nonincreasing in lam, so the update lam_0 - KL/A is nondecreasing",
        kl_to_uniform(jax.nn.softmax(gaps / low)),
        ">=",
        kl_to_uniform(jax.nn.softmax(gaps / high)),
        tolerance_float32=1e-5,
    )


def statements(seed: int) -> Iterator[Check]:
    """The statements of this module on random inputs."""
    rng = np.random.default_rng(seed + 35)
    gaps, pairs = rng.normal(0, 3, (128, 8)), rng.normal(0, 1, (128, 2))
    yield falsify.search(functools.partial(stationary_points_are_bracketed, alpha=1.5), (gaps, pairs)).check
    yield falsify.evaluate(functools.partial(objective_in_the_temperature, alpha=1.5), (gaps, pairs[:, 0]))
    yield falsify.search(functools.partial(each_update_climbs, alpha=1.5), (gaps, pairs[:, 0])).check
    yield falsify.search(update_is_monotone, (gaps, pairs)).check
    yield updates_end_at_the_outermost_points(rng)
    yield a_grid_comes_close(rng)
    yield penalty_is_the_least_cost(rng)
