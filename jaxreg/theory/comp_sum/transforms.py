"""How much zero-one regret a comp-sum regret allows: the H-consistency bound's transform and its inverse.

``transform(b, tau, n)`` bounds the surrogate regret from below where the zero-one regret is b, and
``inverse_transform(t, tau, n)`` bounds the zero-one regret from above where the surrogate regret is t.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxreg import checks
from jaxreg.losses.comp_sum import comp_sum_of
from jaxreg.theory.comp_sum.risks import as_tau, log1p_ratio, phi

_NEWTON_STEPS = 40


def transform(beta: ArrayLike, tau: ArrayLike, n: int) -> jax.Array:
    r"""The transform T of the H-consistency bound, convex and increasing from 0.

    With :math:`m = \frac{(1+\beta)^a + (1-\beta)^a}{2}` and :math:`a = 1/(2-\tau)`:

    .. math:: 2^{1-\tau}\frac{1 - m^{2-\tau}}{1-\tau} \; (\tau < 1), \quad
              \tfrac{1+\beta}{2}\log(1+\beta) + \tfrac{1-\beta}{2}\log(1-\beta) \; (\tau = 1), \quad
              \frac{m^{2-\tau} - 1}{(\tau-1)\, n^{\tau-1}} \; (1 < \tau < 2), \quad
              \frac{\beta}{(\tau-1)\, n^{\tau-1}} \; (\tau \ge 2)

    Args:
      beta: zero-one regret, in [0, 1], floating, any shape.
      tau: member of the family, in [0, inf), broadcasts against ``beta``.
      n: number of classes, at least 2.

    Returns:
      The least surrogate regret, the shape of both; NaN outside [0, 1].

    References:
      Mao, Mohri and Zhong (2023), arXiv 2304.07288, the H-consistency bounds of comp-sum losses.

    Example:
      >>> print(f"{transform(1.0, 1.0, 10):.4f} {transform(0.6, 0.0, 10):.4f}")   # log 2, 1 - 0.8
      0.6931 0.2000
    """
    beta, tau, n = _arguments("beta", beta, tau, n)
    factor = jnp.where(tau < 1, 2.0 ** (1 - tau), float(n) ** (1 - tau))
    return jnp.where((beta >= 0) & (beta <= 1), factor * _two_class_shape(beta, tau), jnp.nan)


def inverse_transform(t: ArrayLike, tau: ArrayLike, n: int) -> jax.Array:
    r"""The inverse Gamma of :func:`transform`: the largest zero-one regret, at most 1.

    .. math:: R_{01}(h) - R_{01}^* + M_{01} \le \Gamma_\tau\big(R_\tau(h) - R_\tau^* + M_\tau\big)

    Args:
      t: surrogate regret plus minimizability gap, in [0, inf], floating, any shape.
      tau: member of the family, in [0, inf), broadcasts against ``t``.
      n: number of classes, at least 2.

    Returns:
      The zero-one regret in [0, 1], 1 beyond ``transform(1, tau, n)``; NaN below 0. Closed forms at tau = 0
      and tau >= 2, Newton's method inside a bracket in between; the derivative is that of the inverse.

    References:
      Mao, Mohri and Zhong (2023), arXiv 2304.07288.

    Example:
      >>> print(f"{inverse_transform(0.2, 0.0, 10):.4f}")
      0.6000
    """
    t, tau, n = _arguments("t", t, tau, n)
    end = transform(jnp.ones_like(t), tau, n)
    inside = jnp.clip(t, 0, end)
    linear = jnp.where(tau >= 2, _linear_bound(inside, tau, n), 0)
    found = jnp.where(tau >= 2, linear, _root(n, inside, tau))
    found = jnp.where(inside > 0, found, 0 * inside)
    # Beyond the end, which may be too small for the dtype, but not at 0.
    return jnp.where((t >= end) & (t > 0), 1, jnp.where(t >= 0, jnp.minimum(found, 1), jnp.nan))


def simple_bound(t: ArrayLike, tau: ArrayLike, n: int) -> jax.Array:
    r"""A closed upper bound of :func:`inverse_transform`.

    .. math:: \sqrt{2^\tau (2-\tau)\, t} \; (\tau < 1), \quad \sqrt{2 n^{\tau-1} t} \; (1 \le \tau < 2), \quad
              (\tau-1)\, n^{\tau-1} t \; (\tau \ge 2)

    A factor 2 - tau under the second root would give the leading order at t -> 0, and no bound for
    tau > 4/3: see ``false_simple_bound_is_violated`` in ``jaxreg.theory.comp_sum.bounds``.

    Args:
      t: surrogate regret plus minimizability gap, in [0, inf), floating, any shape.
      tau: member of the family, in [0, inf), broadcasts against ``t``.
      n: number of classes, at least 2.

    Returns:
      A bound of the zero-one regret, which may exceed 1.

    References:
      Mao, Mohri and Zhong (2023), arXiv 2304.07288, with the constant for 1 < tau < 2 that holds.

    Example:
      >>> print(f"{simple_bound(0.02, 1.0, 10):.4f}")   # sqrt(2 t)
      0.2000
    """
    t, tau, n = _arguments("t", t, tau, n)
    low, middle = 2.0**tau * jnp.where(tau < 2, 2 - tau, 1), 2 * float(n) ** (tau - 1)
    inner = jnp.where(tau < 1, low, middle) * t
    root = jnp.where(inner > 0, jnp.sqrt(jnp.where(inner > 0, inner, 1)), inner)
    return jnp.where(t >= 0, jnp.where(tau < 2, root, _linear_bound(t, tau, n)), jnp.nan)


def sharper_transform(beta: ArrayLike, tau: ArrayLike, n: int) -> jax.Array:
    r"""A larger transform that still bounds the surrogate regret: an addition to the paper.

    For 1 < tau <= 3/2 the factor :math:`n^{\tau-1}` of :func:`transform` may be replaced by
    :math:`2^{\tau-1}`, which is then exact for every n. For tau >= 2

    .. math:: T = \frac{\beta}{\tau-1}\min\Big(1, \min_{1 \le m < n} 1 - m (m+1)^{1-\tau}\Big)

    Elsewhere it is :func:`transform` (exact for tau <= 1; for 3/2 < tau < 2 neither form is).

    Args:
      beta: zero-one regret, in [0, 1], floating, any shape.
      tau: member of the family, in [0, inf), broadcasts against ``beta``.
      n: number of classes, at least 2.

    Returns:
      The least surrogate regret, the shape of both; NaN outside [0, 1].

    References:
      derived.

    Example:
      >>> print(f"{sharper_transform(1.0, 3.0, 10) / transform(1.0, 3.0, 10):.1f}")   # 0.375 / (1 / 200)
      75.0
    """
    beta, tau, n = _arguments("beta", beta, tau, n)
    m = jnp.arange(1, n, dtype=beta.dtype)
    high = jnp.where(tau >= 2, tau, 2)
    # 1 - m (m + 1)^(1 - tau), which at tau = 2 is 1 / (m + 1).
    slope = jnp.min((1 - m * jnp.expm1((2 - high[..., None]) * jnp.log1p(m))) / (m + 1), -1)
    linear = beta * jnp.minimum(1, slope) / (high - 1)
    middle = (tau > 1) & (tau <= 1.5)
    found = transform(beta, tau, n) * jnp.where(middle, (n / 2) ** (jnp.where(middle, tau, 1) - 1), 1)
    found = jnp.where(tau >= 2, linear, found)
    return jnp.where((beta >= 0) & (beta <= 1), found, jnp.nan)


def bounded_transform(beta: ArrayLike, tau: ArrayLike, bound: ArrayLike) -> jax.Array:
    r"""The exact transform of two classes for scores with :math:`|h| \le \Lambda`, tau < 2.

    .. math:: \Phi^\tau(1) - \min_{|d| \le 2\Lambda}
              \Big[\tfrac{1+\beta}{2}\Phi^\tau(e^{-d}) + \tfrac{1-\beta}{2}\Phi^\tau(e^d)\Big]

    Args:
      beta: zero-one regret, in [0, 1], floating, any shape.
      tau: member of the family, in [0, 2), broadcasts against ``beta``; NaN comes back beyond.
      bound: ``Lambda`` in (0, inf), broadcasts against ``beta``.

    Returns:
      The least surrogate regret. For three or more classes it is no lower bound.

    References:
      derived.

    Example:
      >>> print(f"{bounded_transform(0.5, 1.0, 30.0):.4f} {transform(0.5, 1.0, 2):.4f}")
      0.1308 0.1308
    """
    beta, tau, _ = _arguments("beta", beta, tau, 2)
    # The best gap of the scores, or the largest there is.
    free = (jnp.log1p(beta) - jnp.log1p(-beta)) / jnp.where(tau < 2, 2 - tau, jnp.nan)
    gap, exponent = 2 * jnp.asarray(bound, beta.dtype), 1 - tau
    unbounded = free < gap
    smaller = jnp.log1p(jnp.expm1(-gap) / 2)  # log((1 + e^-d) / 2)
    fall = -(1 + beta) / 2 * comp_sum_of(smaller, exponent)
    rise = jnp.where(beta < 1, (1 - beta) / 2 * comp_sum_of(gap + smaller, exponent), 0)
    bounded = 2**exponent * (fall - rise)
    found = jnp.where(unbounded, transform(jnp.where(unbounded, beta, 0), tau, 2), bounded)
    return jnp.where(jnp.isnan(free), jnp.nan, found)


def minimizability_gap(
    least_risk: ArrayLike, pointwise: ArrayLike, weights: ArrayLike | None = None
) -> jax.Array:
    """Least risk of a hypothesis set less the mean of its least conditional risks: M = R*(H) - E C*(H, x).

    Args:
      least_risk: ``R*(H)``, scalar.
      pointwise: ``C*(H, x)`` at N points, for all scores ``bayes_risk(p, tau)``, shape ``[N]``.
      weights: probabilities of the points, shape ``[N]``; None takes them as equal.

    Returns:
      The gap, a scalar; between 0 and what an unrestricted hypothesis set would leave.

    References:
      Mao, Mohri and Zhong (2023), arXiv 2304.07288, the minimizability gap.

    Example:
      >>> print(f"{minimizability_gap(0.5, jnp.array([0.2, 0.4])):.4f}")
      0.2000
    """
    values = checks.floating("pointwise", pointwise)
    mean = jnp.mean(values) if weights is None else jnp.sum(jnp.asarray(weights, values.dtype) * values)
    return jnp.asarray(least_risk, values.dtype) - mean


def minimizability_gap_bound(
    least_exponential_risk: ArrayLike, tau: ArrayLike, pointwise: ArrayLike, weights: ArrayLike | None = None
) -> jax.Array:
    r"""Upper bound :math:`\Phi^\tau(R_0^*(H)) - E\, C_\tau^*(H, x)` of the gap, by Jensen's inequality.

    Args:
      least_exponential_risk: ``R*(H)`` of the sum-exponential loss tau = 0, scalar.
      tau: member of the family, in [0, inf), scalar.
      pointwise: ``C*(H, x)`` of the loss tau at N points, shape ``[N]``.
      weights: probabilities of the points, shape ``[N]``; None takes them as equal.

    Returns:
      The bound, a scalar.

    References:
      Mao, Mohri and Zhong (2023), arXiv 2304.07288, the bound of the minimizability gaps.

    Example:
      >>> print(f"{minimizability_gap_bound(3.0, 1.0, jnp.zeros(4)):.4f}")   # log 4
      1.3863
    """
    risk = checks.floating("least_exponential_risk", least_exponential_risk)
    return minimizability_gap(phi(risk, tau), pointwise, weights)


def _arguments(name: str, value: ArrayLike, tau: ArrayLike, n: int) -> tuple[jax.Array, jax.Array, int]:
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 2:
        raise ValueError(f"n must be an int of at least 2, got {n!r}")
    value = checks.floating(name, value)
    value, tau = jnp.broadcast_arrays(value, as_tau(tau, value.dtype))
    return value, tau, int(n)


def _two_class_shape(beta: jax.Array, tau: jax.Array) -> jax.Array:
    """(1 - m^(2 - tau)) / (1 - tau), for tau >= 2 b / (tau - 1), in a form smooth through tau = 1."""
    low = tau < 2
    rest = jnp.where(low, 2 - tau, 1)
    power = jnp.where(low, tau - 1, 0) / rest
    inside = beta < 1
    log_right, log_left = jnp.log1p(beta), jnp.log1p(-jnp.where(inside, beta, 0))
    # Near tau = 2 the powers overflow: rest * log m with (1 + b)^a taken out of m.
    steep = power * log_right > 2
    share = jnp.where(inside, jnp.exp(jnp.where(steep, (power + 1) * (log_left - log_right), 0)), 0)
    far = log_right + rest * (jnp.log1p(share) - jnp.log(2.0).astype(beta.dtype))
    # Elsewhere log m^(2 - tau) / (tau - 1) = log(m) / power.
    power = jnp.where(steep, 0, power)
    excess = _mean_of_powers_less_one(beta, log_right, log_left, power)
    logarithm = jnp.where(steep, far / jnp.where(steep, tau - 1, 1), excess * log1p_ratio(power * excess))
    value = comp_sum_of(logarithm, jnp.where(low, tau - 1, 0))
    # At its end the curve is as steep as a root at 0.
    end = ~inside & (tau <= 1)
    value = value - jnp.where(end, jnp.sqrt(jnp.where(end, 1 - beta, 1)), 0)
    return jnp.where(low, value, beta / jnp.where(low, 1, tau - 1))


def _mean_of_powers_less_one(
    beta: jax.Array, log_right: jax.Array, log_left: jax.Array, power: jax.Array
) -> jax.Array:
    """(m - 1) / power with m the mean of (1 + b)^a and (1 - b)^a, a = 1 + power."""
    # Of a power above 0 the derivative at the end is finite, and this is its limit.
    log_left = jnp.where(beta < 1, log_left, jnp.where(power > 0, -jnp.inf, 0))
    direct = ((1 + beta) * comp_sum_of(log_right, power) - (1 - beta) * comp_sum_of(-log_left, -power)) / 2
    # The first orders cancel for small b, where the binomial series has none.
    a = power + 1
    near = jnp.maximum(a, 1) * beta < 0.05
    b = jnp.where(near, beta, 0)
    terms = jnp.ones_like(b)
    for n in (8, 6, 4, 2):
        terms = 1 + (a - n) * (a - n - 1) / ((n + 1) * (n + 2)) * b**2 * terms
    return jnp.where(near, (a * b) * b / 2 * terms, direct)


def _linear_bound(t: jax.Array, tau: jax.Array, n: int) -> jax.Array:
    """(tau - 1) n^(tau-1) t, the power in two halves, for it may be out of range where the product is not."""
    half = float(n) ** ((tau - 1) / 2)
    # At 0 the slope is at most about the largest number, so that the value is 0 and not NaN.
    half = jnp.where(t == 0, jnp.minimum(half, float(jnp.finfo(t.dtype).max) ** 0.5 / 256), half)
    return (tau - 1) * half * t * half


def _value_and_slope(beta: jax.Array, tau: jax.Array, n: int) -> tuple[jax.Array, jax.Array]:
    return jax.jvp(lambda b: transform(b, tau, n), (beta,), (jnp.ones_like(beta),))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _root(n: int, t: jax.Array, tau: jax.Array) -> jax.Array:
    """Newton's method from a point right of the root, bisection where it leaves the bracket."""

    def step(_, state):
        low, high, beta = state
        value, slope = _value_and_slope(beta, tau, n)
        above = value >= t
        low, high = jnp.where(above, low, beta), jnp.where(above, beta, high)
        newton = beta - (value - t) / slope
        # The ends included: a root that is reached is kept.
        good = (newton >= low) & (newton <= high) & jnp.isfinite(slope)
        return low, high, jnp.where(good, newton, jnp.where(value == t, beta, (low + high) / 2))

    start = jnp.minimum(simple_bound(t, tau, n), 1 - jnp.finfo(t.dtype).epsneg)
    found = jax.lax.fori_loop(0, _NEWTON_STEPS, step, (jnp.zeros_like(t), jnp.ones_like(t), start))[2]
    return jnp.where(tau == 0, jnp.sqrt(t * (2 - t)), found)


@_root.defjvp
def _root_jvp(n, primals, tangents):
    """Of T(root, tau) = t, so that derivatives of every order are right."""
    (t, tau), (d_t, d_tau) = primals, tangents
    root = _root(n, t, tau)
    slope = _value_and_slope(root, tau, n)[1]
    by_tau = jax.jvp(lambda tau: transform(root, tau, n), (tau,), (jnp.ones_like(tau),))[1]
    # At 0 the slope is 0, and at 1 it is infinite for tau <= 1.
    usable = jnp.isfinite(slope) & (slope > 0)
    return root, jnp.where(usable, (d_t - by_tau * d_tau) / jnp.where(usable, slope, 1), 0)
