"""Maps between the real line and a range, accurate in both directions up to the ends.

``softplus(u)`` is as small as the dtype's numbers get; its inverse is not ``log(exp(x) - 1)``, which
overflows from x = 89 on and cancels below 1e-4 in float32.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

LARGEST = 2.0**23
"""An integer without an upper end stops here: beyond, float32 has no middles of cells."""


def inverse_softplus(x: jax.Array) -> jax.Array:
    r"""The ``u`` with ``softplus(u) = x``.

    .. math:: x + \log(-\mathrm{expm1}(-x))

    Args:
      x: floating, in [0, inf).

    Returns:
      The shape and dtype of ``x``; at 0 the most negative number whose image is not below the dtype's
      smallest.

    Example:
      >>> print(inverse_softplus(jnp.array([1e-30, 1.0, 100.0])))
      [-69.07755      0.54132485 100.        ]
    """
    positive = jnp.maximum(x, jnp.finfo(x.dtype).tiny)
    return positive + jnp.log(-jnp.expm1(-positive))


def log_softplus(u: jax.Array) -> jax.Array:
    r"""Logarithm of ``softplus(u)``, for which ``u`` itself stands where that would underflow.

    .. math:: \log \log(1 + e^u)

    Args:
      u: floating.

    Returns:
      The shape and dtype of ``u``.

    Example:
      >>> print(log_softplus(jnp.array([-1000.0, 0.0])))
      [-1.0000000e+03 -3.6651292e-01]
    """
    # log(log1p(e) / e) = -e / 2 + O(e^2) for e = exp(u), less than the rounding of u.
    far = u < math.log(jnp.finfo(u.dtype).eps)
    return jnp.where(far, u - jnp.exp(jnp.minimum(u, 0)) / 2, jnp.log(jax.nn.softplus(jnp.where(far, 0, u))))


class Range(NamedTuple):
    """An interval of reals, or of integers as the floor of the reals below ``high``."""

    low: float
    """The lower end, -inf for none."""
    high: float
    """The upper end, inf for none; of integers, one more than the largest."""
    whole: bool = False
    """Whether the values are integers."""

    def __str__(self) -> str:
        low = "(-inf" if math.isinf(self.low) else f"[{self.low:g}"
        high = "inf)" if math.isinf(self.high) else f"{self.high - self.whole:g}]"
        return f"{low}, {high}"

    def contains(self, values: Any) -> Any:
        """Whether each value of a NumPy or JAX array is inside, ends included; infinity never is."""
        low, high = self.low, self.high - self.whole
        return (values >= low) & (values <= high) & (abs(values) < math.inf)

    def constrain(self, u: jax.Array) -> jax.Array:
        """The value at ``u``, in its shape and dtype; int32 for integers."""
        low, high = self.low, self.high
        if math.isinf(low) and math.isinf(high):
            value = u
        elif math.isinf(high):
            value = low + jax.nn.softplus(u)
        elif math.isinf(low):
            value = high - jax.nn.softplus(u)
        else:
            # Each half is measured from its own end, so that values next to either keep their digits.
            width = high - low
            value = jnp.where(u < 0, low + width * jax.nn.sigmoid(u), high - width * jax.nn.sigmoid(-u))
        if not self.whole:
            return value
        last = LARGEST if math.isinf(high) else high - 1
        first = -LARGEST if math.isinf(low) else low
        # NaN must not become an integer; the least there is stands for it.
        return jnp.where(jnp.isnan(value), _NO_INTEGER, jnp.clip(jnp.floor(value), first, last)).astype(
            jnp.int32
        )

    def unconstrain(self, values: jax.Array) -> jax.Array:
        """The ``u`` whose image is each value, finite at the ends; NaN outside the range."""
        low, high = self.low, self.high
        inside = self.contains(values)
        x = values + 0.5 if self.whole else values
        if math.isinf(low) and math.isinf(high):
            u = x
        elif math.isinf(high):
            u = inverse_softplus(jnp.where(inside, x - low, 1))
        elif math.isinf(low):
            u = inverse_softplus(jnp.where(inside, high - x, 1))
        else:
            width, tiny = high - low, jnp.finfo(x.dtype).tiny
            u = jnp.log(jnp.maximum((x - low) / width, tiny)) - jnp.log(jnp.maximum((high - x) / width, tiny))
        return jnp.where(inside, u, jnp.nan)


_NO_INTEGER = -(2.0**31)
