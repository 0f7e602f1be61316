"""Radius, margin and constants of a separable problem, and the instance that is hard for all but one
method.
"""

from typing import Any

import numpy as np
from jax.typing import ArrayLike
from scipy import optimize, special

from jaxreg.theory.large_step.methods import signed_examples

ROWS_AT_ONCE = 400  # the solver forms the matrix of inner products of its rows


def max_margin(features: ArrayLike, labels: ArrayLike) -> float:
    r"""The margin of the best separating plane through 0.

    .. math:: \mu = \max_{\|u\| = 1} \min_i y_i a_i \cdot u

    Solved as the least-distance problem min ``|v|`` subject to ``y_i a_i.v >= 1`` by SciPy's non-negative
    least squares (Lawson and Hanson), on the rows that matter, which are found by adding the most violated
    ones.

    Args:
      features: ``a_i``, ``[n, d]``.
      labels: in {-1, 1} or {0, 1}, ``[n]``.

    Returns:
      ``mu``, relative accuracy about 1e-8; 0 if no plane through 0 separates the rows.

    References:
      Lawson and Hanson (1974), Solving least squares problems, chapter 23.

    Example:
      >>> print(f"{max_margin(np.array([[3.0, 4.0], [0.0, -10.0]]), np.array([1, -1])):.6f}")
      5.000000
    """
    return best_plane(features, labels)[0]


def best_plane(features: ArrayLike, labels: ArrayLike) -> tuple[float, np.ndarray]:
    """The margin and the unit normal ``[d]`` of the best separating plane; 0 and NaN if there is none."""
    examples = np.asarray(signed_examples(np.asarray(features, np.float64), labels), np.float64)
    radius = np.linalg.norm(examples, axis=-1).max()
    if radius == 0:
        return 0.0, np.full(examples.shape[1], np.nan)
    scaled = examples / radius
    chosen = np.argsort(scaled @ scaled.mean(0))[:ROWS_AT_ONCE]
    while True:
        normal = _least_distance(scaled[chosen])
        if normal is None:
            return 0.0, np.full(examples.shape[1], np.nan)
        margins = scaled @ normal
        violated = np.flatnonzero(margins < 1 - 1e-9)
        new = np.setdiff1d(violated[np.argsort(margins[violated])[:ROWS_AT_ONCE]], chosen)
        if new.size == 0:
            break
        # Rows far from the plane are dropped; should one be needed again, it comes back.
        chosen = np.concatenate([chosen[scaled[chosen] @ normal < 1 + 1e-3], new])
    length = np.linalg.norm(normal)
    return float(radius * margins.min() / length), normal / length


def _least_distance(rows: np.ndarray) -> np.ndarray | None:
    """The shortest v with ``rows @ v >= 1``; None if there is none."""
    scale, normal = 1.0, None
    # With the last row near the margin the residual is not small against the data: twice is enough.
    for _ in range(3):
        matrix = np.concatenate([rows.T, np.full((1, len(rows)), scale)])
        target = np.append(np.zeros(rows.shape[1]), scale)
        weights, _ = optimize.nnls(matrix, target, maxiter=20 * len(rows) + 1000)
        residual = target - matrix @ weights
        if np.linalg.norm(residual) < 1e-7 * scale:
            return normal
        # Optimality makes this a positive multiple of a feasible point.
        normal = -residual[:-1] / residual[-1]
        smallest = (rows @ normal).min()
        if smallest <= 0:
            return None
        normal = normal / smallest
        scale = 1 / np.linalg.norm(normal)
    return normal


def hardness(features: ArrayLike, labels: ArrayLike) -> float:
    """``rho = R^2 / mu^2``, which bounds the steps of the normalized perceptron; inf if not separable."""
    examples = np.asarray(signed_examples(np.asarray(features, np.float64), labels), np.float64)
    margin = max_margin(features, labels)
    return float(np.max(np.sum(examples**2, axis=-1)) / margin**2) if margin else np.inf


def slack_constant(rows: ArrayLike) -> np.ndarray:
    """``c_n = 2 (n - 1) / (2 n - 1) W((2 n - 1) / e)``: how far the weighted margin may exceed the smallest.

    >>> print(slack_constant(np.array([1, 2, 10, 100])).round(5))
    [0.      0.40236 1.44327 3.13108]
    """
    n = np.asarray(rows, np.float64)
    return 2 * (n - 1) / (2 * n - 1) * special.lambertw((2 * n - 1) / np.e).real


def hard_instance(
    rows: int, *, radius: float = 1.0, small_radius: float = 1.0, cosine: float = 0.5
) -> tuple[np.ndarray, np.ndarray]:
    """Many equal rows and one at an obtuse angle: about ``rows`` / 4 steps for the batch perceptron, else 2.

    Args:
      rows: n, at least 2.
      radius: length R of the n - 1 equal rows.
      small_radius: length r of the other.
      cosine: c in (0, 1), minus the cosine of the angle between them.

    Returns:
      Features ``[n, 2]`` and labels ``[n]``, all 1.
    """
    features = np.tile(np.array([radius, 0.0]), (rows, 1))
    features[-1] = small_radius * np.array([-cosine, np.sqrt(1 - cosine**2)])
    return features, np.ones(rows, np.int32)


def steps_bound(
    method: str, rows: int, rho: ArrayLike, scaled_step: ArrayLike = np.inf, *, numpy: Any = np
) -> Any:
    """The proved bound on the steps before the first separating iterate, from 0.

    Args:
      method: a method of ``separate`` but ``adaptive_exponential``.
      rows: n.
      rho: ``R^2 / mu^2``.
      scaled_step: step size times ``R^2``, broadcasts against ``rho``.
      numpy: ``jax.numpy`` for traced arguments.

    Returns:
      The bound, the shape of both.

    References:
      Tyurin (2025) for the rates ``n rho`` and ``rho``; these constants are derived.
    """
    excess = 2 * float(slack_constant(rows)) / numpy.asarray(scaled_step, float)
    rho, n = numpy.asarray(rho, float) + 0 * excess, rows
    if method == "normalized_logistic_gd":
        return rho * (1 + excess)
    if method == "normalized_perceptron":
        return rho
    if method == "batch_perceptron":
        return rho * (2 * n + 1) ** 2 / (8 * n)
    if method in ("logistic_gd", "adaptive_logistic"):
        return numpy.minimum(n / 2 * rho * (1 + 1 / (2 * n) + excess) ** 2, 2 * n * rho * (1 + excess))
    raise ValueError(f"method must be one with a bound on its steps, got {method!r}")
