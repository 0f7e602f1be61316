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
        zero = exponent == 0
        slope = jnp.where(zero, 1, jnp.exp(jnp.where(zero, 1, exponent) * cross_entropy))
        tangent = tangent + slope * tangents[0]
    if not isinstance(tangents[1], absent):
        tangent = tangent + _slope_by_exponent(cross_entropy, exponent) * tangents[1]
    return value, tangent


_comp_sum_of.defjvp(_comp_sum_jvp, symbolic_zeros=True)


def _slope_by_exponent(cross_entropy, exponent):
    """(e^x (x - 1) + 1) / exponent^2 with x = exponent L; by its Taylor polynomial near x = 0."""
    zero = exponent == 0
    x = jnp.where(zero, 0, jnp.where(zero, 1, exponent) * cross_entropy)
    near = jnp.abs(x) < 1
    small = jnp.where(near, x, 0)
    series = jnp.zeros_like(small)
    for n in range(_SERIES_TERMS, 0, -1):
        series = series * small + n / math.factorial(n + 1)
    # The product vanishes as x -> -inf, where its factors are 0 and inf.
    power = jnp.where(x < -1e4, 0, jnp.exp(x) * (jnp.maximum(x, -1e4) - 1))
    far = (power + 1) / jnp.where(near, 1, exponent) ** 2
    return jnp.where(near, jnp.where(near, cross_entropy, 0) ** 2 * series, far)
