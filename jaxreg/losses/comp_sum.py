"""Comp-sum losses, the family between sum-exponential and mean absolute error (arXiv 2304.07288)."""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxreg import checks
from jaxreg.losses.log_odds import cross_entropy_of

_SERIES_TERMS = 18
_EXPM1_TERMS = {4: 9, 8: 16}  # of expm1(x) / x up to 1/2, by bytes of the dtype


def comp_sum(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    tau: ArrayLike = 1.0,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Increasing concave function of the sum of exponentials of all score gaps.

    .. math:: \Phi^\tau(u) = \frac{(1 + u)^{1 - \tau} - 1}{1 - \tau}, \qquad \Phi^1(u) = \log(1 + u), \qquad
              u = \sum_{k \ne y} e^{f_k - f_y}

    The sum-exponential loss at tau = 0, cross-entropy at 1, generalized cross-entropy with q = tau - 1
    between 1 and 2, half the mean absolute error at 2. A larger tau bounds the loss by 1 / (tau - 1) and
    pays less attention to the examples that are most wrong.

    Args:
      logits: scores ``f``, floating, shape ``[..., K, ...]`` with the classes on ``axis``.
      labels: classes ``y`` in 0..K-1, integer, the shape of ``logits`` without ``axis``.
      tau: which member of the family, in [0, inf), broadcast against ``labels``.
      axis: the class axis of ``logits``.
      where: classes to keep, boolean, broadcastable to ``logits``.

    Returns:
      One value per example, the shape of ``labels``, at least float32: in [0, inf] for tau <= 1, in
      [0, 1 / (tau - 1)] for tau > 1; NaN for a label that is no class or a removed one, and for a traced
      ``tau`` out of range. For tau < 1 it grows like :math:`s_y^{\tau - 1}` and may exceed the range of the
      dtype: then it is inf, and its derivative the largest number.

    Raises:
      TypeError: logits not floating, labels not integer, or ``tau`` not real.
      ValueError: shapes that do not fit, or a Python or NumPy ``tau`` out of range.

    References:
      Mao, Mohri and Zhong (2023), arXiv 2304.07288, the comp-sum losses; ``jaxreg.theory.comp_sum``.

    Example:
      >>> for tau in (0.0, 1.0, 2.0):   # 3, log 4, 1 - 1/4
      ...     print(f"{comp_sum(jnp.zeros([4]), 2, tau=tau):.4f}")
      3.0000
      1.3863
      0.7500
    """
    batch = checks.classified(logits, labels, axis=axis, where=where)
    member = checks.hyperparameter("tau", tau, "[0, inf)", batch)
    exponent = 1 - member
    cross_entropy, remainder = cross_entropy_of(batch)
    # Below tau = 1/2 the difference from 1 rounds; it is not small there.
    rounded = jnp.where(exponent > 0.5, ((1 - exponent) - member) / exponent, 0)
    return comp_sum_of(cross_entropy, exponent, remainder + jax.lax.stop_gradient(rounded * cross_entropy))


def comp_sum_of(
    cross_entropy: jax.Array, exponent: jax.Array, remainder: jax.Array | None = None
) -> jax.Array:
    r"""The comp-sum loss as a function of the cross-entropy :math:`L`, exact through tau = 1.

    .. math:: \Phi^\tau = \frac{e^{(1-\tau)L} - 1}{1-\tau}, \qquad \Phi^1 = L

    Args:
      cross_entropy: ``L`` in [0, inf], floating, any shape.
      exponent: ``1 - tau`` in (-inf, 1], the dtype of ``cross_entropy``, broadcasts against it.
      remainder: what rounding took from ``L``, of which a power of e^L is that many times less accurate;
        a constant to derivatives, passed over where it is not finite.

    Returns:
      The loss; 1 / (tau - 1) at L = inf if tau > 1, else inf there.

    Example:
      >>> comp_sum_of(jnp.array([0.5, jnp.inf]), jnp.array(-1.0))
      Array([0.39346933, 1.        ], dtype=float32)
    """
    return _comp_sum_of(cross_entropy, exponent, remainder)


@jax.custom_jvp
def _comp_sum_of(cross_entropy: jax.Array, exponent: jax.Array, remainder: jax.Array | None) -> jax.Array:
    scaled = exponent * cross_entropy
    near = (jnp.abs(scaled) < 0.5) | (exponent == 0)
    # The logarithm's limit, also where exponent 0 meets an infinite cross-entropy.
    x = jnp.where(near & (exponent != 0), scaled, 0)
    series = jnp.zeros_like(x)
    for n in range(_EXPM1_TERMS[x.dtype.itemsize], 0, -1):
        series = series * x + 1 / math.factorial(n)
    # The power is what the derivative needs too: one exponential for both.
    far = (_power(cross_entropy, exponent, remainder) - 1) / jnp.where(near, 1, exponent)
    return jnp.where(near, cross_entropy * series, far)


def _comp_sum_jvp(primals, tangents):
    cross_entropy, exponent, remainder = primals
    value = _comp_sum_of(*primals)
    absent = jax.custom_derivatives.SymbolicZero
    tangent = jnp.zeros_like(value)
    if not isinstance(tangents[0], absent):
        # A slope beyond the range of the dtype would turn into NaN where it meets a probability of 0.
        slope = jnp.minimum(_power(cross_entropy, exponent, remainder), jnp.finfo(value.dtype).max)
        tangent = tangent + slope * tangents[0]
    if not isinstance(tangents[1], absent):
        tangent = tangent + _slope_by_exponent(cross_entropy, exponent) * tangents[1]
    return value, tangent


_comp_sum_of.defjvp(_comp_sum_jvp, symbolic_zeros=True)


@jax.custom_jvp
def _power(cross_entropy, exponent, remainder):
    """exp(exponent L), 1 at exponent 0 even if L is infinite."""
    zero = exponent == 0
    exponent = jnp.where(zero, 1, exponent)
    scaled = exponent * cross_entropy
    if remainder is None:
        return jnp.where(zero, 1, jnp.exp(scaled))
    # The product of the leading halves of the digits is exact; the rest of it is below 1/16 of the range.
    (high, low), (steep, slight) = (_halves(factor) for factor in (cross_entropy, exponent))
    rest = steep * low + (slight * high + (slight * low + exponent * remainder))
    finite = jnp.isfinite(rest)
    rest = jnp.where(finite, rest, 0)
    correction = 1 - rest * (1 - rest / 2 * (1 - rest / 3 * (1 - rest / 4)))  # exp(-rest)
    # A division, unlike a product, is not evaluated again for each use.
    return jnp.where(zero, 1, jnp.exp(jnp.where(finite, steep * high, scaled)) / correction)


def _halves(number):
    width = jnp.finfo(number.dtype).bits
    words = jax.lax.bitcast_convert_type(number, f"int{width}")
    leading = words & jnp.array(-1 << (jnp.finfo(number.dtype).nmant + 2) // 2, words.dtype)
    high = jax.lax.bitcast_convert_type(leading, number.dtype)
    return high, number - high


def _power_jvp(primals, tangents):
    cross_entropy, exponent, _ = primals
    value = _power(*primals)
    absent = jax.custom_derivatives.SymbolicZero
    tangent = jnp.zeros_like(value)
    if not isinstance(tangents[0], absent):
        tangent = tangent + exponent * value * tangents[0]
    if not isinstance(tangents[1], absent):
        # L exp(-q L) vanishes as L -> inf; at exponent 0 it is infinite there.
        by_exponent = jnp.where(value == 0, 0, jnp.where(value == 0, 1, cross_entropy) * value)
        tangent = tangent + by_exponent * tangents[1]
    return value, tangent


_power.defjvp(_power_jvp, symbolic_zeros=True)


def _slope_by_exponent(cross_entropy, exponent):
    """(e^x (x - 1) + 1) / exponent^2 with x = exponent L; by its Taylor polynomial near x = 0."""
    infinite = jnp.isposinf(cross_entropy)
    finite = jnp.where(infinite, 0, cross_entropy)
    x = exponent * finite
    near = jnp.abs(x) < 1
    small = jnp.where(near, x, 0)
    series = jnp.zeros_like(small)
    for n in range(_SERIES_TERMS, 0, -1):
        series = series * small + n / math.factorial(n + 1)
    large = jnp.where(near, 1, x)
    far = (jnp.exp(large) * (large - 1) + 1) / jnp.where(near, 1, exponent) ** 2
    slope = jnp.where(near, finite**2 * series, far)
    # At an infinite cross-entropy the loss is -1 / exponent if that is negative, and infinite otherwise.
    negative = exponent < 0
    limit = jnp.where(negative, 1 / jnp.where(negative, exponent, 1) ** 2, jnp.inf)
    return jnp.where(infinite, limit, slope)
