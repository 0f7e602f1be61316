"""The kinds of hyper-parameters; what can be done with trees of them is in ``hyperparameters``."""

import math

import jax
import numpy as np
from jax.typing import ArrayLike

from jaxreg import checks
from jaxreg.bilevel.hyperparameters import Hyperparameter
from jaxreg.bilevel.maps import Range

WIDEST = 2**20
"""Integers in a two-sided range at most; with more, float32 no longer tells neighbours apart."""


def _register(cls: type) -> type:
    """A pytree with two leaves, the unconstrained array and the raw scale; all else is structure."""

    def flatten(node):
        names = ("unconstrained", "raw_scale")
        return [(jax.tree_util.GetAttrKey(name), getattr(node, name)) for name in names], (
            node.range,
            node.shared,
        )

    def unflatten(structure, leaves):
        node = object.__new__(cls)
        node.unconstrained, node.raw_scale = leaves
        node.range, node.shared = structure
        return node

    jax.tree_util.register_pytree_with_keys(cls, flatten, unflatten)
    return cls


@_register
class Bounded(Hyperparameter):
    r"""A real number between two ends.

    .. math:: a + (b - a)\,\sigma(u), \qquad a + \mathrm{softplus}(u), \qquad b - \mathrm{softplus}(u)

    for both ends, ``low`` alone and ``high`` alone.

    Args:
      value: where it starts, in [low, high], floating or integer, any shape. At an end ``u`` is finite and as
        far out as the dtype allows (87 in float32), so the value is that end but no longer moves; layers,
        which take ``u``, may then diverge at usual step sizes. Start off the ends.
      low: ``a``, a Python number, or None for none.
      high: ``b``, likewise.
      scale: initial standard deviation of the perturbation of ``u``, in (0, inf), broadcast to ``value``.
      shared: True where one value serves a whole batch, as the coefficient of a weight decay does: all
        examples then get the same perturbation.

    Raises:
      TypeError: a value or scale that is not real, an end that is not a number.
      ValueError: ends that are not in order, or a Python or NumPy value or scale out of range. A traced one
        gives NaN.

    References:
      MacKay et al. (2019), arXiv 1903.03088; inverses derived.

    Example:
      >>> rate = Bounded(0.2, low=0.0, high=0.9)
      >>> print(f"{rate.unconstrained:.3f} {rate.constrain():.3f} {rate.constrain(0.0):.3f}")
      -1.253 0.200 0.450
    """

    def __init__(
        self,
        value: ArrayLike,
        low: float | None = None,
        high: float | None = None,
        *,
        scale: ArrayLike = 0.5,
        shared: bool = False,
    ):
        self._set(value, _range(low, high), scale, shared)


@_register
class Positive(Hyperparameter):
    """A positive real number, ``softplus(u)``; see :class:`Bounded` for the arguments.

    Example:
      >>> print(f"{Positive(1e-4, shared=True).constrain():.1e}")
      1.0e-04
    """

    def __init__(self, value: ArrayLike, *, scale: ArrayLike = 0.5, shared: bool = False):
        self._set(value, _range(0.0, None), scale, shared)


@_register
class Unbounded(Hyperparameter):
    """A real number, ``u`` itself, such as the logarithm of a coefficient; see :class:`Bounded`.

    Example:
      >>> print(Unbounded(-3.0).constrain())
      -3.0
    """

    def __init__(self, value: ArrayLike, *, scale: ArrayLike = 0.5, shared: bool = False):
        self._set(value, _range(None, None), scale, shared)


@_register
class Integer(Hyperparameter):
    r"""An integer in low..high, both of which are reached.

    .. math:: \lfloor m(u) \rfloor, \qquad m(u) \in (\text{low}, \text{high} + 1)

    with the maps of :class:`Bounded`. The inverse is the middle of the integer's cell. The derivative is 0:
    where the loss depends on the integer itself and not through the network's response, nothing tunes it.

    Args:
      value: where it starts, an integer in low..high, any shape.
      low: a Python int, or None for none.
      high: likewise; at most 2^20 above ``low``.
      scale: as in :class:`Bounded`.
      shared: as in :class:`Bounded`.

    Raises:
      TypeError: an end that is not an int, a value that is not a whole number.
      ValueError: as in :class:`Bounded`.

    References:
      MacKay et al. (2019), arXiv 1903.03088; the released code's range ends one short of its last integer.

    Example:
      >>> holes = Integer(1, low=0, high=4)
      >>> print(holes.constrain(), [int(holes.constrain(u)) for u in (-9.0, 0.0, 9.0)])
      1 [0, 2, 4]
    """

    def __init__(
        self,
        value: ArrayLike,
        low: int | None = None,
        high: int | None = None,
        *,
        scale: ArrayLike = 0.5,
        shared: bool = False,
    ):
        for name, end in (("low", low), ("high", high)):
            if end is not None and (isinstance(end, bool) or not isinstance(end, int)):
                raise TypeError(f"{name} must be an int or None, got {end!r}")
            if end is not None and abs(end) > WIDEST:
                raise ValueError(f"{name} must lie within -2^20 and 2^20, got {end}")
        if low is not None and high is not None and not low <= high:
            raise ValueError(f"low must not exceed high, got {low} and {high}")
        if low is not None and high is not None and high - low > WIDEST:
            raise ValueError(f"high must be at most 2^20 above low, got {low} and {high}")
        value = np.asarray(value) if isinstance(value, list | tuple) else value
        if checks.is_concrete(value) and np.any(np.asarray(value) != np.floor(np.asarray(value, float))):
            raise TypeError(f"value must be a whole number, got {value!r}")
        bounds = Range(
            -math.inf if low is None else float(low),
            math.inf if high is None else float(high + 1),
            whole=True,
        )
        self._set(value, bounds, scale, shared)


def _range(low: float | None, high: float | None) -> Range:
    ends = []
    for name, end, missing in (("low", low, -math.inf), ("high", high, math.inf)):
        if end is not None and (isinstance(end, bool) or not isinstance(end, int | float | np.number)):
            raise TypeError(f"{name} must be a Python number or None, got {end!r}")
        ends.append(missing if end is None else float(end))
    if not ends[0] < ends[1]:
        raise ValueError(f"low must be less than high, got {low!r} and {high!r}")
    return Range(*ends)
