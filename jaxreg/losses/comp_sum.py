"""Comp-sum losses, the family between sum-exponential and mean absolute error (arXiv 2304.07288)."""

import math

import jax
import jax.numpy as jnp

_SERIES_TERMS = 18


def comp_sum_of(cross_entropy: jax.Array, exponent: jax.Array) -> jax.Array:
    r"""The comp-sum loss as a function of the cross-entropy :math:`L`, exact through tau = 1.

    .. math:: \Phi^\tau = \frac{e^{(1-\tau)L} - 1}{1-\tau}, \qquad \Phi^1 = L

    Args:
      cross_entropy: ``L`` in [0, inf], floating, any shape.
      exponent: ``1 - tau`` in (-inf, 1], the dtype of ``cross_entropy``, broadcasts against it.

    Returns:
      The loss; 1 / (tau - 1) at L = inf if tau > 1, else inf there.

    Example:
      >>> comp_sum_of(jnp.array([0.5, jnp.inf]), jnp.array(-1.0))
      Array([0.39346933, 1.        ], dtype=float32)
    """
    return _comp_sum_of(cross_entropy, exponent)


@jax.custom_jvp
def _comp_sum_of(cross_entropy, exponent):
    zero = exponent == 0
    safe = jnp.where(zero, 1, exponent)
    return jnp.where(zero, cross_entropy, jnp.expm1(safe * cross_entropy) / safe)


def _comp_sum_jvp(primals, tangents):
    cross_entropy, exponent = primals
    value = _comp_sum_of(cross_entropy, exponent)
    absent = jax.custom_derivatives.SymbolicZero
    tangent = jnp.zeros_like(value)
    if not isinstance(tangents[0], absent):
        tangent = tangent + _power(cross_entropy, exponent) * tangents[0]
    if not isinstance(tangents[1], absent):
        tangent = tangent + _slope_by_exponent(cross_entropy, exponent) * tangents[1]
    return value, tangent


_comp_sum_of.defjvp(_comp_sum_jvp, symbolic_zeros=True)


@jax.custom_jvp
def _power(cross_entropy, exponent):
    """exp(exponent L), 1 at exponent 0 even if L is infinite."""
    zero = exponent == 0
    return jnp.where(zero, 1, jnp.exp(jnp.where(zero, 1, exponent) * cross_entropy))


@_power.defjvp
def _power_jvp(primals, tangents):
    cross_entropy, exponent = primals
    value = _power(cross_entropy, exponent)
    # L exp(-q L) vanishes as L -> inf.
    by_exponent = jnp.where(value == 0, 0, jnp.where(value == 0, 1, cross_entropy) * value)
    return value, exponent * value * tangents[0] + by_exponent * tangents[1]


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
