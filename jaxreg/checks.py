"""Argument checks shared by all families: what is static is refused at trace time, by name.

What is known only at run time cannot be refused under ``jit``; it turns into NaN instead.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike


class Classified(NamedTuple):
    """Scores and labels, checked."""

    logits: jax.Array
    """Scores in the dtype of the computation (float32 or float64), shape ``[..., K, ...]``."""
    labels: jax.Array
    """Classes, integer, the shape of ``logits`` without ``axis``; clipped to the range where outside it."""
    valid: jax.Array
    """Whether the label was a class that is kept, boolean, the shape of ``labels``."""
    where: jax.Array | None
    """Classes kept, boolean, the shape of ``logits``; None keeps all."""
    axis: int
    """The class axis, non-negative."""

    @property
    def wrong(self) -> jax.Array:
        """True at the classes that are not the label, boolean, the shape of ``logits``."""
        classes = jax.lax.broadcasted_iota(self.labels.dtype, self.logits.shape, self.axis)
        return classes != self.per_class(self.labels)

    @property
    def where_or_bad(self) -> jax.Array | None:
        """Classes kept; all of an example with a bad label, so that its gradient is NaN as its value."""
        return None if self.where is None else self.where | ~self.per_class(self.valid)

    def of_label(self, values: jax.Array) -> jax.Array:
        """The label's entry of ``values`` along the class axis: one value per example."""
        labels = jnp.expand_dims(self.labels, self.axis)
        return jnp.squeeze(jnp.take_along_axis(values, labels, self.axis, mode="clip"), self.axis)

    def per_class(self, values: jax.Array) -> jax.Array:
        """Let a scalar or one value per example broadcast against ``logits``."""
        return expand(values, self.axis)

    def checked(self, values: jax.Array) -> jax.Array:
        """Put NaN where the label was not a class that is kept."""
        # A factor of NaN (and no selection) makes the gradient NaN as well.
        return values * jnp.where(self.valid, 1, jnp.nan).astype(values.dtype)


def classified(
    logits: ArrayLike, labels: ArrayLike, *, axis: int = -1, where: ArrayLike | None = None
) -> Classified:
    """Check scores against labels; what every loss does first.

    Args:
      logits: scores, floating, shape ``[..., K, ...]`` with the K >= 1 classes on ``axis``.
      labels: classes in 0..K-1, integer, the shape of ``logits`` without ``axis``.
      axis: the class axis of ``logits``.
      where: classes to keep, boolean, broadcastable to ``logits``; None keeps all.

    Returns:
      The checked arguments, scores promoted to at least float32.

    Raises:
      TypeError: a dtype is not the one above (so also if logits and labels are swapped).
      ValueError: a shape is not the one above, or there is no class.
    """
    scores = floating("logits", logits)
    if is_concrete(labels) and np.asarray(labels).dtype.kind in "iu":
        # A 64-bit label must not wrap around into the range on its way to 32 bits.
        labels = np.clip(np.asarray(labels), -1, np.iinfo(np.int32).max)
    classes = jnp.asarray(labels)
    if not jnp.issubdtype(classes.dtype, jnp.integer):
        raise TypeError(f"labels must have an integer dtype, got {classes.dtype}")
    axis = class_axis(scores, axis)
    expected = scores.shape[:axis] + scores.shape[axis + 1 :]
    if classes.shape != expected:
        raise ValueError(
            f"labels must have the shape of logits without axis {axis}, {expected}, "
            f"got {classes.shape} for logits of shape {scores.shape}"
        )
    size = scores.shape[axis]
    if size == 0:
        raise ValueError(f"logits must have at least one class on axis {axis}, got shape {scores.shape}")
    if classes.dtype.itemsize < 4:
        classes = classes.astype(jnp.int32)
    valid = (classes >= 0) & (classes < size)
    keep = None if where is None else kept(where, scores.shape)
    batch = Classified(scores, jnp.clip(classes, 0, size - 1), valid, keep, axis)
    return batch if keep is None else batch._replace(valid=valid & batch.of_label(keep))


def class_axis(scores: jax.Array, axis: int) -> int:
    """The class axis of checked scores, non-negative.

    Args:
      scores: an array.
      axis: as it was given.

    Returns:
      The axis, counted from the front.

    Raises:
      ValueError: the scores have no axis, or not this one.
    """
    if scores.ndim == 0:
        raise ValueError("logits must have a class axis, got a scalar")
    if not isinstance(axis, int) or not -scores.ndim <= axis < scores.ndim:
        raise ValueError(f"axis must be an int in [{-scores.ndim}, {scores.ndim - 1}], got {axis!r}")
    return axis % scores.ndim


def kept(where: ArrayLike, shape: tuple[int, ...]) -> jax.Array:
    """The classes to keep, broadcast to the shape of the logits.

    Args:
      where: boolean, broadcastable to ``shape``.
      shape: of the logits.

    Returns:
      An array of that shape.

    Raises:
      TypeError: not boolean.
      ValueError: does not broadcast.
    """
    keep = jnp.asarray(where)
    if keep.dtype != jnp.bool_:
        raise TypeError(f"where must be boolean, got {keep.dtype}")
    try:
        return jnp.broadcast_to(keep, shape)
    except ValueError:
        raise ValueError(
            f"where must broadcast to logits, of shape {shape}, got shape {keep.shape}"
        ) from None


def expand(values: jax.Array, axis: int) -> jax.Array:
    """Insert a class axis of size 1; a scalar stays one."""
    # Per-example values are kept without that axis until they meet the scores: over arrays whose last
    # axis has size 1, XLA's CPU loops are not vectorised.
    return values if values.ndim == 0 else jnp.expand_dims(values, axis)


def floating(name: str, values: ArrayLike) -> jax.Array:
    """Promote a floating array to at least float32; refuse any other dtype.

    >>> floating("logits", np.zeros(3, np.float16)).dtype
    dtype('float32')
    """
    array = jnp.asarray(values)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{name} must have a floating dtype, got {array.dtype}")
    return array if array.dtype.itemsize >= 4 else array.astype(jnp.float32)


def widest(*arrays: jax.Array) -> jnp.dtype:
    """The widest dtype of floating arrays, at least float32; strict promotion has no word in it.

    >>> widest(jnp.zeros(3, jnp.bfloat16), jnp.zeros(3, jnp.float16))
    dtype('float32')
    """
    return max((jnp.dtype(jnp.float32), *(array.dtype for array in arrays)), key=lambda dtype: dtype.itemsize)


def is_concrete(value: object) -> bool:
    """Whether a value is a plain Python or NumPy number or array, and so known at trace time."""
    return isinstance(value, int | float | np.ndarray | np.generic)


def known(name: str, values: ArrayLike, interval: str, dtype: Any, *, reason: str = "") -> np.ndarray:
    """Numbers known at trace time, in the dtype of the computation.

    Args:
      name: the argument's name, for messages.
      values: a Python or NumPy number or array, real.
      interval: the values accepted, as in ``"(0, 1]"`` or ``"[0, inf]"``.
      dtype: of the computation. What rounds to an end that the interval excludes, or is too large or too
        small for a normal number and so counts as infinite or 0, is inside only if that is.
      reason: why no other value is accepted, for the message, where that is not plain.

    Returns:
      The numbers, floating.

    Raises:
      ValueError: a number is outside the interval, as it was given or in ``dtype``.

    >>> print(known("temperature", 1e39, "[0, inf]", jnp.float32))
    inf
    >>> known("temperature", 1e39, "[0, inf)", jnp.float32)
    Traceback (most recent call last):
    ValueError: temperature must lie in [0, inf), got 1e+39, which is inf in float32
    """
    given = np.asarray(values)
    with np.errstate(over="ignore", under="ignore"):
        rounded = given.astype(dtype)
        # Compiled programs flush numbers below the smallest normal one to 0.
        flushed = np.where(np.abs(rounded) < jnp.finfo(dtype).tiny, np.zeros_like(rounded), rounded)
    for numbers in (given, flushed):
        outside = ~np.asarray(_inside(numbers, interval))
        if np.any(outside):
            first = given[outside].flat[0]
            became = "" if numbers is given else f", which is {flushed[outside].flat[0]} in {rounded.dtype}"
            shown = f"{first}" if given.ndim == 0 else f"{first} in an array of shape {given.shape}"
            raise ValueError(
                f"{name} must lie in {interval}, got {shown}{became}" + (reason and f": {reason}")
            )
    return rounded


def hyperparameter(
    name: str, value: ArrayLike, interval: str, batch: Classified, *, reason: str = ""
) -> jax.Array:
    """A hyper-parameter in the dtype of the computation: a scalar, or one value per example.

    Args:
      name: its name, for messages.
      value: a number or array that broadcasts against the labels.
      interval: the values accepted, as in ``"(0, 1]"`` or ``"[0, inf]"``.
      batch: the checked scores and labels.
      reason: why no other value is accepted, for the message, where that is not plain.

    Returns:
      A scalar, or an array of the labels' shape; NaN at values outside the interval that were not
      known at trace time.

    Raises:
      TypeError: the value is not real.
      ValueError: a value known at trace time is outside the interval, or the shape does not broadcast.
    """
    shape = batch.labels.shape
    try:
        number = np.asarray(value) if is_concrete(value) else jnp.asarray(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a real number or array, got {value!r}") from None
    if not (jnp.issubdtype(number.dtype, jnp.floating) or jnp.issubdtype(number.dtype, jnp.integer)):
        raise TypeError(f"{name} must be a real number or array, got dtype {number.dtype}")
    if isinstance(number, np.ndarray):
        array = jnp.asarray(known(name, number, interval, batch.logits.dtype, reason=reason))
    else:
        array = number.astype(batch.logits.dtype)
        array = jnp.where(_inside(array, interval), array, jnp.nan)
    if array.ndim == 0:
        return array
    try:
        return jnp.broadcast_to(array, shape)
    except ValueError:
        raise ValueError(
            f"{name} must broadcast against the labels, of shape {shape}, got shape {array.shape}"
        ) from None


def scalar(
    name: str, value: ArrayLike | None, interval: str, *, rounding: bool = False, dtype: Any = None
) -> jax.Array:
    """A real scalar that is no hyper-parameter of a batch, such as a learning rate, in at least float32.

    Args:
      name: its name, for messages.
      value: a number, or an array without axes; None counts as missing.
      interval: the values accepted, as in ``"(0, 1]"`` or ``"[0, inf]"``.
      rounding: move a value outside the interval by less than the square root of its dtype's precision onto
        its end, for what was computed and may be off by as much.
      dtype: of the computation, floating; None for the value's own, at least float32.

    Returns:
      The value; NaN if it was not known at trace time and is outside the interval.

    Raises:
      TypeError: the value is missing or not a real scalar.
      ValueError: a value known at trace time is outside the interval.

    >>> scalar("value", 0.5, "[0, inf]").dtype
    dtype('float32')
    """
    if value is None:
        raise TypeError(f"{name} is missing: pass {name}=..., a real scalar")
    try:
        number = np.asarray(value) if is_concrete(value) else jnp.asarray(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a real scalar, got {value!r}") from None
    if not (jnp.issubdtype(number.dtype, jnp.floating) or jnp.issubdtype(number.dtype, jnp.integer)):
        raise TypeError(f"{name} must be a real scalar, got dtype {number.dtype}")
    if number.ndim:
        raise TypeError(f"{name} must be a real scalar, got shape {number.shape}")
    own = number.dtype if jnp.issubdtype(number.dtype, jnp.floating) else jnp.dtype(jnp.float32)
    wide = dtype or (own if own.itemsize >= 4 else jnp.dtype(jnp.float32))
    low, high = (float(end) for end in interval[1:-1].split(","))
    slack = float(jnp.finfo(own).eps) ** 0.5 if rounding else 0.0
    inside = f"{interval[0]}{low - slack}, {high + slack}{interval[-1]}"
    if isinstance(number, np.ndarray):
        if np.all(_inside(number, inside)):
            number = np.clip(number, low, high)
        return jnp.asarray(known(name, number, interval, jax.dtypes.canonicalize_dtype(wide)))
    array = number.astype(wide)
    return jnp.where(_inside(array, inside), jnp.clip(array, low, high), jnp.nan)


def count(name: str, size: object) -> int:
    """A number of things, at least 1.

    Args:
      name: the argument's name, for the message.
      size: what was given.

    Returns:
      The number.

    Raises:
      TypeError: not an int.
      ValueError: below 1.
    """
    if isinstance(size, bool) or not isinstance(size, int | np.integer):
        raise TypeError(f"{name} must be an int, got {size!r}")
    if size < 1:
        raise ValueError(f"{name} must be at least 1, got {size}")
    return int(size)


def one_of(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse a name that is not one of the choices.

    Args:
      name: the argument's name, for the message.
      value: what was given.
      choices: the names accepted.

    Raises:
      ValueError: ``value`` is none of them.
    """
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def per_example(name: str, value: ArrayLike, interval: str, array: jax.Array) -> jax.Array:
    """A number that belongs to whole examples: a scalar, or one for each entry of the leading axes.

    Args:
      name: its name, for messages.
      value: a real number, or an array that broadcasts against the leading axes of ``array``.
      interval: the values accepted, as in ``"[0, 1]"`` or ``"[0, inf)"``.
      array: what it will be combined with, in the dtype of the computation.

    Returns:
      The value in the dtype of ``array``, with axes of size 1 added so that it broadcasts against it; NaN
      where it was not known at trace time and is outside the interval.

    Raises:
      TypeError: the value is not real.
      ValueError: a value known at trace time is outside the interval, or the shape does not broadcast.

    >>> per_example("rate", np.array([0.1, 0.2]), "[0, 1]", jnp.ones([2, 3, 4])).shape
    (2, 1, 1)
    """
    try:
        number = np.asarray(value) if is_concrete(value) else jnp.asarray(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a real number or array, got {value!r}") from None
    if not (jnp.issubdtype(number.dtype, jnp.floating) or jnp.issubdtype(number.dtype, jnp.integer)):
        raise TypeError(f"{name} must be a real number or array, got dtype {number.dtype}")
    leading = array.shape[: number.ndim]
    if number.ndim > array.ndim or any(n not in (1, m) for n, m in zip(number.shape, leading, strict=True)):
        raise ValueError(
            f"{name} must be a scalar or broadcast against the leading axes of {array.shape}, "
            f"got shape {number.shape}"
        )
    if isinstance(number, np.ndarray):
        number = known(name, number, interval, array.dtype)
    wide = jnp.asarray(number, array.dtype)
    if not isinstance(number, np.ndarray):
        # As given and as rounded; the 8 bits of a narrow integer may not hold the ends.
        inside = _inside(wide, interval)
        if jnp.issubdtype(number.dtype, jnp.floating):
            inside = inside & _inside(number, interval)
        wide = jnp.where(inside, wide, jnp.nan)
    return wide.reshape(wide.shape + (1,) * (array.ndim - wide.ndim))


def _inside(values, interval: str):
    low, high = (float(end) for end in interval[1:-1].split(","))
    above = values >= low if interval[0] == "[" else values > low
    below = values <= high if interval[-1] == "]" or not math.isfinite(high) else values < high
    if interval[-1] == ")" and math.isinf(high):
        below = values < high
    return above & below
