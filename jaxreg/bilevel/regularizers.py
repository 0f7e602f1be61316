"""Dropout of every kind and penalties, with rates that are arrays (MacKay et al., 2019, arXiv 1903.03088).

The random ones are functions ``(key, x, rate) -> x``, constant in ``rate`` for differentiation: a self-tuning
network learns its rates through the response of its weights and needs no estimator of a gradient through a
mask. They are what training does; at evaluation they are left out. The penalties are plain functions of their
weight and differentiable in it.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxreg import checks


def dropout(key: ArrayLike, x: ArrayLike, rate: ArrayLike, *, shared_axes: Sequence[int] = ()) -> jax.Array:
    r"""Set entries to zero at random and scale up the rest, which keeps the mean.

    .. math:: y_i = \frac{m_i x_i}{1 - p}, \qquad m_i \sim \mathrm{Bernoulli}(1 - p)

    Args:
      key: random key.
      x: floating, any shape.
      rate: probability ``p`` in [0, 1] of a zero: a number, or an array that broadcasts against the leading
        axes of ``x``, such as one rate per example ``[B]`` for ``x [B, ...]``. At 0 the result is ``x``, at
        1 it is 0.
      shared_axes: axes of ``x`` along which all entries share one draw.

    Returns:
      The shape and dtype of ``x``; NaN where a traced ``rate`` is out of range. No gradient goes to ``rate``
      (it is 0).

    Raises:
      TypeError: ``x`` is not floating, or ``rate`` not real.
      ValueError: a Python or NumPy ``rate`` out of range, a shape of it that does not fit, or an axis that
        ``x`` lacks.

    References:
      Srivastava et al. (2014), JMLR 15; inverted as usual. ``jaxreg.theory.self_tuning``.

    Example:
      >>> y = dropout(jax.random.key(0), jnp.ones([4, 100]), jnp.array([0.0, 0.2, 0.5, 1.0]))
      >>> print(y.max(axis=-1))
      [1.   1.25 2.   0.  ]
    """
    values = checks.floating("x", x)
    probability = checks.per_example("rate", rate, "[0, 1]", values)
    shared = _axes("shared_axes", shared_axes, values.ndim)
    shape = tuple(1 if axis in shared else size for axis, size in enumerate(values.shape))
    dropped = _dropped(key, probability, shape)
    return _masked(values, probability, dropped).astype(jnp.asarray(x).dtype)


def channel_dropout(key: ArrayLike, x: ArrayLike, rate: ArrayLike, *, channel_axis: int = -1) -> jax.Array:
    r"""Dropout of whole feature maps of each example, for convolutions.

    .. math:: y_{b \dots c} = \frac{m_{bc}\, x_{b \dots c}}{1 - p}

    Args:
      key: random key.
      x: floating, shape ``[B, ..., C]`` with the examples on axis 0.
      rate: probability in [0, 1] of a zero, a number or one per example ``[B]``.
      channel_axis: the axis of the channels.

    Returns:
      As :func:`dropout`.

    Raises:
      TypeError: as :func:`dropout`.
      ValueError: as :func:`dropout`.

    References:
      Tompson et al. (2015), arXiv 1411.4280.

    Example:
      >>> y = channel_dropout(jax.random.key(0), jnp.ones([2, 5, 5, 64]), 0.5)
      >>> print(jnp.ptp(y, axis=(1, 2)).max())   # a map is dropped or kept as a whole
      0.0
    """
    dimensions = jnp.ndim(x)
    (kept,) = _axes("channel_axis", (channel_axis,), dimensions)
    shared = [axis for axis in range(1, dimensions) if axis != kept]
    return dropout(key, x, rate, shared_axes=shared)


def variational_dropout(key: ArrayLike, x: ArrayLike, rate: ArrayLike, *, time_axis: int = 1) -> jax.Array:
    r"""Dropout with one mask for all times of a sequence.

    .. math:: y_{btd} = \frac{m_{bd}\, x_{btd}}{1 - p}

    Args:
      key: random key.
      x: floating, shape ``[B, T, ...]``.
      rate: probability in [0, 1] of a zero, a number or one per sequence ``[B]``.
      time_axis: the axis of time.

    Returns:
      As :func:`dropout`.

    Raises:
      TypeError: as :func:`dropout`.
      ValueError: as :func:`dropout`.

    References:
      Gal and Ghahramani (2016), arXiv 1512.05287.

    Example:
      >>> y = variational_dropout(jax.random.key(0), jnp.ones([2, 7, 64]), 0.5)
      >>> print(jnp.ptp(y, axis=1).max())
      0.0
    """
    return dropout(key, x, rate, shared_axes=(time_axis,))


def drop_connect(key: ArrayLike, weights: Any, rate: ArrayLike) -> Any:
    r"""Dropout of weights: one mask for the whole batch, and for all arrays given.

    .. math:: W_{ij} \mapsto \frac{m_{ij} W_{ij}}{1 - p}

    Args:
      key: random key.
      weights: a floating array, or a pytree of arrays of one shape that get the same mask, as the two
        matrices of a best-response layer must.
      rate: probability in [0, 1] of a zero, a number.

    Returns:
      The tree with masked arrays, their dtypes kept; NaN for a traced ``rate`` out of range.

    Raises:
      TypeError: an array is not floating, or ``rate`` not a real scalar.
      ValueError: arrays of several shapes, or none; a Python or NumPy ``rate`` out of range.

    References:
      Wan et al. (2013), ICML; Merity, Keskar and Socher (2018), arXiv 1708.02182, who scale it.

    Example:
      >>> weights = jnp.ones([30, 20]), jnp.full([30, 20], 3.0)
      >>> value, response = drop_connect(jax.random.key(0), weights, 0.5)
      >>> print(jnp.unique(value), jnp.unique(response), jnp.unique(response - 3 * value))
      [0. 2.] [0. 6.] [0.]
    """
    return _masked_tree(key, weights, rate, rows=False)


def embedding_dropout(key: ArrayLike, tables: Any, rate: ArrayLike) -> Any:
    r"""Dropout of whole words: rows of an embedding, the same in all tables given.

    .. math:: E_{v} \mapsto \frac{m_{v} E_{v}}{1 - p}

    Args:
      key: random key.
      tables: a floating array ``[V, D]``, or a pytree of arrays of one shape that lose the same rows.
      rate: probability in [0, 1] that a word is dropped, a number.

    Returns:
      The tree with masked tables, their dtypes kept; NaN for a traced ``rate`` out of range.

    Raises:
      TypeError: as :func:`drop_connect`.
      ValueError: as :func:`drop_connect`, or tables without two axes.

    References:
      Gal and Ghahramani (2016), arXiv 1512.05287; Merity, Keskar and Socher (2018), arXiv 1708.02182.

    Example:
      >>> table = embedding_dropout(jax.random.key(0), jnp.ones([1000, 8]), 0.5)
      >>> print(jnp.ptp(table, axis=1).max(), jnp.unique(table))
      0.0 [0. 2.]
    """
    return _masked_tree(key, tables, rate, rows=True)


def weight_decay(params: Any, rate: Any) -> jax.Array:
    r"""Half the rate times the sum of squares; a rate for all parameters or one for each group.

    .. math:: \tfrac12 \sum_g \rho_g \|w_g\|_2^2

    Args:
      params: a pytree of floating arrays.
      rate: ``rho`` in [0, inf), often ``exp(lambda)``: a number, an array ``[B]`` of one per example, or a
        pytree of these whose structure is the beginning of that of ``params``, one for each group.

    Returns:
      The penalty, at least float32: a scalar, or ``[B]``. NaN for a traced rate out of range. Differentiable
      in both arguments.

    Raises:
      TypeError: parameters not floating, or a rate not real.
      ValueError: a Python or NumPy rate out of range, or trees that do not fit.

    References:
      MacKay et al. (2019), arXiv 1903.03088.

    Example:
      >>> params = {"body": {"kernel": jnp.array([[1.0, 2.0]])}, "head": jnp.array([3.0])}
      >>> print(weight_decay(params, 0.1), weight_decay(params, {"body": 1.0, "head": jnp.array([0.0, 2.0])}))
      0.7 [ 2.5 11.5]
    """

    def penalty(weight: ArrayLike, members: Any) -> jax.Array:
        squares = _total([jnp.sum(checks.floating("params", leaf) ** 2) for leaf in jax.tree.leaves(members)])
        weights = checks.per_example("rate", weight, "[0, inf)", jnp.zeros(jnp.shape(weight), squares.dtype))
        return weights * (squares / 2)

    return _total(jax.tree.leaves(jax.tree.map(penalty, rate, params)))


def activation_regularization(hidden: ArrayLike, rate: ArrayLike) -> jax.Array:
    r"""The rate times the mean square of activations, over all entries.

    .. math:: \alpha \, \mathrm{mean}\big(h^2\big)

    Args:
      hidden: activations of the last layer after dropout, floating, shape ``[B, ...]``.
      rate: ``alpha`` in [0, inf), a number or one per example ``[B]``.

    Returns:
      A scalar for one rate, the mean over the whole array; for ``[B]`` one value per example, each from the
      mean over that example's entries. At least float32. NaN for a traced rate out of range.

    Raises:
      TypeError: ``hidden`` not floating, or a rate not real.
      ValueError: a Python or NumPy rate out of range, or a shape that does not fit.

    References:
      Merity, McCann and Socher (2017), arXiv 1708.01009; a mean and not a sum as in the code released with
      MacKay et al. (2019).

    Example:
      >>> print(activation_regularization(jnp.array([[1.0, 3.0], [2.0, 0.0]]), 2.0))   # 2 * 14 / 4
      7.0
    """
    return _mean_square(checks.floating("hidden", hidden), rate)


def temporal_activation_regularization(
    hidden: ArrayLike, rate: ArrayLike, *, time_axis: int = 1
) -> jax.Array:
    r"""The rate times the mean square of the change of activations from one time to the next.

    .. math:: \beta \, \mathrm{mean}\big((h_{t+1} - h_t)^2\big)

    Args:
      hidden: activations of the last layer before dropout, floating, shape ``[B, T, ...]``.
      rate: ``beta`` in [0, inf), a number or one per example ``[B]``.
      time_axis: the axis of time.

    Returns:
      As :func:`activation_regularization`; 0 for a sequence of one time.

    Raises:
      TypeError: as :func:`activation_regularization`.
      ValueError: as :func:`activation_regularization`, or an axis that ``hidden`` lacks.

    References:
      As :func:`activation_regularization`.

    Example:
      >>> print(temporal_activation_regularization(jnp.array([[[1.0], [3.0], [2.0]]]), 2.0))   # 2 * 5 / 2
      5.0
    """
    values = checks.floating("hidden", hidden)
    (axis,) = _axes("time_axis", (time_axis,), values.ndim)
    return _mean_square(jnp.diff(values, axis=axis), rate)


def _dropped(key: ArrayLike, rate: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The mask: what is dropped, boolean, one draw for each entry of ``shape``."""
    # Not "draw >= rate", so that a rate of NaN keeps the entry and reaches the result.
    return jax.random.uniform(key, shape, jnp.float32) < rate.astype(jnp.float32)


def _masked(values: jax.Array, rate: jax.Array, dropped: jax.Array) -> jax.Array:
    """Inverted dropout of ``values``."""
    probability = jax.lax.stop_gradient(rate)
    # Where everything is dropped the scale is 0 and not infinite: gradients are 0 and not NaN.
    kept = jnp.where(probability == 1, 1, 1 - probability)
    scale = jnp.where(probability == 1, 0, 1 / kept).astype(values.dtype)
    return jnp.where(dropped, 0, values * scale)


def _masked_tree(key: ArrayLike, tree: Any, rate: ArrayLike, *, rows: bool) -> Any:
    """All arrays of a tree with one mask, of entries or of rows."""
    probability = checks.scalar("rate", rate, "[0, 1]")
    shapes = {checks.floating("weights", leaf).shape for leaf in jax.tree.leaves(tree)}
    if len(shapes) != 1:
        raise ValueError(f"arrays that share a mask must have one shape, got {sorted(shapes)}")
    (shape,) = shapes
    if rows and len(shape) != 2:
        raise ValueError(f"tables must have the shape [V, D], got {shape}")
    dropped = _dropped(key, probability, (shape[0], 1) if rows else shape)

    def masked(leaf: ArrayLike) -> jax.Array:
        wide = checks.floating("weights", leaf)
        return _masked(wide, probability, dropped).astype(jnp.asarray(leaf).dtype)

    return jax.tree.map(masked, tree)


def _mean_square(values: jax.Array, rate: ArrayLike) -> jax.Array:
    """``rate mean(values^2)``, over all entries, or over each example's for one rate per example."""
    separate = jnp.ndim(rate)
    squares = jnp.sum(values**2, axis=tuple(range(separate, values.ndim)))
    weight = checks.per_example("rate", rate, "[0, inf)", squares)
    return weight * squares / max(values.size // max(squares.size, 1), 1)


def _total(terms: list[jax.Array]) -> jax.Array:
    """The sum in the widest dtype of the terms, at least float32; mixed ones are allowed."""
    # NumPy's promotion, since jax's refuses mixed precisions when it is told to be strict.
    dtype = functools.reduce(np.promote_types, (term.dtype for term in terms), np.dtype(np.float32))
    return sum((term.astype(dtype) for term in terms), jnp.zeros((), dtype))


def _axes(name: str, axes: Sequence[int], dimensions: int) -> tuple[int, ...]:
    if any(not isinstance(axis, int) or not -dimensions <= axis < dimensions for axis in axes):
        raise ValueError(f"{name} must name axes of an array of {dimensions} dimensions, got {axes}")
    return tuple(axis % dimensions for axis in axes)
