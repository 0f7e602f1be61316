"""The methods as loops: up to the first separating iterate, or for a given number of steps."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from jaxreg import checks
from jaxreg.theory.large_step.sums import METHODS, MethodName, in_blocks, of_rows, over_devices, split


class Separation(NamedTuple):
    """Where a method first separates. S stands for the shape of ``step_size``, T for ``max_steps``."""

    iterate: jax.Array  # the first separating iterate, or the last one, ``[*S, d]``
    count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride]  # steps taken up to it, int32, ``S``; ``max_steps`` if there is none
    separated: jax.Array  # whether it separates, boolean, ``S``
    losses: jax.Array | None  # mean logistic loss of every iterate, ``[T + 1, *S]``, NaN after the last
    misclassified: jax.Array | None  # number of margins at most 0, int32, ``[T + 1, *S]``, -1 after the last
    margins: jax.Array | None  # smallest margin, ``[T + 1, *S]``, NaN after the last


def separate(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    method: MethodName = "normalized_logistic_gd",
    step_size: ArrayLike = 1.0,
    max_steps: int = 10_000,
    record: bool = False,
    block_rows: int | None = None,
) -> Separation:
    """Run a method from 0 until all margins are positive: one compiled loop for all step sizes together.

    Args:
      features: ``a_i``, floating, ``[n, d]``; append a column of ones for a bias.
      labels: classes of the rows, all in {-1, 1} or all in {0, 1}, ``[n]``.
      method: ``logistic_gd`` (LR+GD), ``normalized_logistic_gd``, ``batch_perceptron``,
        ``normalized_perceptron`` (both count a zero margin half), ``adaptive_logistic`` or
        ``adaptive_exponential``.
      step_size: ``gamma`` or ``eta``, positive, any shape; immaterial to the count of the perceptrons.
      max_steps: where to give up, at least 0.
      record: also return the trajectories; they take memory for ``max_steps`` + 1 numbers a step size.
      block_rows: compute margins and gradient of so many rows together, while they are in cache, so that the
        matrix is read once a step; must divide n, or the rows of a device where ``features`` are an array
        whose rows are spread over devices, which then work side by side. None reads it twice.

    Returns:
      A ``Separation``, in the dtype of ``features`` but at least float32.

    Raises:
      TypeError: features are not floating.
      ValueError: shapes that do not fit, an unknown method, labels or step sizes out of range.

    References:
      Tyurin (2025), arXiv 2412.08424; Zhang et al. (2025), arXiv 2504.04105 for the adaptive methods.

    Example:
      >>> from jaxreg.theory.large_step import hard_instance
      >>> features, labels = hard_instance(1000)
      >>> for method in ("batch_perceptron", "normalized_perceptron"):
      ...     print(separate(features, labels, method=method).count)
      251
      2
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if not isinstance(max_steps, int) or max_steps < 0:
        raise ValueError(f"max_steps must be an int of at least 0, got {max_steps!r}")
    given = _checked_rows(features, labels)
    spread = _spread(features) if block_rows is not None else None
    rows = given.shape[0] // (1 if spread is None else spread[0].shape[spread[1]])
    if block_rows is not None and (block_rows < 1 or rows % block_rows):
        raise ValueError(f"block_rows must divide the number of rows, {rows}, got {block_rows}")
    if block_rows is not None and method == "adaptive_exponential":
        raise ValueError("block_rows must be None for adaptive_exponential")
    if checks.is_concrete(step_size) and not np.all(np.asarray(step_size, float) > 0):
        raise ValueError(f"step_size must be positive, got {step_size!r}")
    sizes = jnp.asarray(step_size).astype(given.dtype)
    if spread is not None:
        labels = jax.device_put(labels, NamedSharding(spread[0], PartitionSpec(spread[1])))
    found = _separate(
        given, jnp.asarray(labels), sizes.reshape(-1), method, max_steps, record, block_rows, spread
    )
    shape = sizes.shape
    trajectories = [None if t is None else t.reshape(max_steps + 1, *shape) for t in found[3:]]
    iterate = found.iterate.reshape(*shape, given.shape[1])
    return Separation(iterate, found.count.reshape(shape), found.separated.reshape(shape), *trajectories)


def signed_examples(features: ArrayLike, labels: ArrayLike) -> jax.Array:
    """Features times labels, ``x_i = y_i a_i``, ``[n, d]``; NaN for labels that are no classes.

    >>> print(signed_examples(jnp.ones((2, 1)), jnp.array([1, 0])).ravel())
    [ 1. -1.]
    """
    return _signed(_checked_rows(features, labels), jnp.asarray(labels))


def _checked_rows(features: ArrayLike, labels: ArrayLike) -> jax.Array:
    rows = checks.floating("features", features)
    if rows.ndim != 2 or 0 in rows.shape:
        raise ValueError(f"features must have shape [n, d] with n and d at least 1, got {rows.shape}")
    if jnp.shape(labels) != rows.shape[:1]:
        raise ValueError(f"labels must have shape {rows.shape[:1]}, one a row, got {jnp.shape(labels)}")
    if checks.is_concrete(labels):
        values = set(np.unique(np.asarray(labels)).tolist())
        if not (values <= {-1, 1} or values <= {0, 1}):
            raise ValueError(f"labels must lie in {{-1, 1}} or in {{0, 1}}, got {sorted(values)[:5]}")
    return rows


def _signed(rows: jax.Array, labels: jax.Array) -> jax.Array:
    known = (labels == 1) | (labels == -1) | (labels == 0)
    sign = jnp.where(known, jnp.where(labels > 0, 1.0, -1.0), jnp.nan)
    return rows * sign.astype(rows.dtype)[:, None]


def _spread(features: ArrayLike) -> tuple[Mesh, str] | None:
    """The mesh of an array whose rows are spread over devices, and the axis they are spread along."""
    sharding = None if isinstance(features, Tracer) else getattr(features, "sharding", None)
    if not isinstance(sharding, NamedSharding) or not sharding.spec or not isinstance(sharding.spec[0], str):
        return None
    return sharding.mesh, sharding.spec[0]  # pyright: ignore[reportReturnType]


@functools.partial(jax.jit, static_argnames=("name", "max_steps", "record", "block_rows", "spread"))
def _separate(
    rows: jax.Array,
    labels: jax.Array,
    sizes: jax.Array,
    name: str,
    max_steps: int,
    record: bool,
    block_rows: int | None,
    spread: tuple[Mesh, str] | None,
) -> Separation:
    def run(rows: jax.Array, labels: jax.Array, sizes: jax.Array) -> Separation:
        axis = None if spread is None else spread[1]
        return _loop(_signed(rows, labels), sizes, name, max_steps, record, block_rows, axis)

    if spread is None:
        return run(rows, labels, sizes)
    mesh, axis = spread
    # What every device returns is of sums over all of them, hence the same.
    return jax.shard_map(
        run,
        mesh=mesh,
        in_specs=(PartitionSpec(axis), PartitionSpec(axis), PartitionSpec()),
        out_specs=PartitionSpec(),
        check_vma=False,
    )(rows, labels, sizes)


def _loop(examples, sizes, name, max_steps, record, block_rows, axis) -> Separation:
    method, count = METHODS[name], sizes.shape[0]
    rows = examples.shape[0] * (1 if axis is None else jax.lax.axis_size(axis))
    blocks = None if block_rows is None else split(examples, block_rows)

    def body(carry: tuple) -> tuple:
        step, iterates, found, separated, kept = carry
        sums = of_rows(examples, iterates, method) if blocks is None else in_blocks(blocks, iterates, method)
        if axis is not None:
            sums = over_devices(sums, axis)
        loss = sums.loss / rows
        if record:
            values = (loss, sums.wrong, sums.smallest)
            kept = tuple(
                all_steps.at[step].set(jnp.where(separated, all_steps[step], now))
                for all_steps, now in zip(kept, values, strict=True)
            )
        found = jnp.where(separated, found, step)
        separated = separated | (sums.wrong == 0)
        factor = method.factor(sums.total, sums.scale, rows, loss)
        stays = separated | (step == max_steps)
        move = sizes[:, None] * (factor[:, None] * sums.move)
        return (
            step + 1,
            jnp.where(stays[:, None], iterates, iterates + move),
            found,
            separated,
            kept,
        )

    def unfinished(carry: tuple) -> jax.Array:
        return (carry[0] <= max_steps) & ~jnp.all(carry[3])

    empty = (
        jnp.full((max_steps + 1, count), jnp.nan, examples.dtype),
        jnp.full((max_steps + 1, count), -1, jnp.int32),
        jnp.full((max_steps + 1, count), jnp.nan, examples.dtype),
    )
    start = (
        jnp.int32(0),
        jnp.zeros((count, examples.shape[1]), examples.dtype),
        jnp.zeros(count, jnp.int32),
        jnp.zeros(count, bool),
        empty if record else (),
    )
    _, iterates, found, separated, kept = jax.lax.while_loop(unfinished, body, start)
    return Separation(iterates, found, separated, *(kept or (None, None, None)))


class Path(NamedTuple):
    """A fixed number of steps, for statements about every iterate."""

    iterates: jax.Array  # ``[steps + 1, d]``
    advances: jax.Array  # alpha of each step, ``[steps]``; 0 once separated if the path stops there
    slopes: jax.Array  # mean slope before each step, ``[steps]``
    separated: jax.Array  # whether an iterate separates, or an earlier one did, ``[steps + 1]``

    @property
    def first(self) -> jax.Array:
        """Steps before the first separating iterate; the number of steps if none separates."""
        return jnp.sum(~self.separated[:-1])


def follow(
    examples: jax.Array,
    step_size: ArrayLike,
    method: str,
    steps: int,
    *,
    stop: bool = True,
    start: jax.Array | None = None,
) -> Path:
    """Iterates of a method on signed examples ``[n, d]``; differentiable, and to be vectorised over
    problems.
    """
    rule = METHODS[method]

    def step(carry: tuple, _: None) -> tuple:
        iterate, before = carry
        margins = examples @ iterate
        separated = before | jnp.all(margins > 0)
        halted = separated & stop
        weights, log_scale = rule.weights(jnp.where(halted, 0.0, margins))
        total, loss = weights.sum(), jax.nn.softplus(-margins).mean()
        factor = rule.factor(total, jnp.exp(log_scale), len(margins), jnp.where(halted, 1.0, loss))
        factor = jnp.where(halted, 0.0, step_size * factor)
        moved = iterate + factor * (weights @ examples)
        advance, slope = factor * total, total * jnp.exp(log_scale) / len(margins)
        return (moved, separated), (iterate, advance, slope, separated)

    origin = jnp.zeros(examples.shape[1], examples.dtype) if start is None else start
    (last, before), (iterates, advances, slopes, separated) = jax.lax.scan(
        step, (origin, jnp.zeros((), bool)), length=steps
    )
    final = before | jnp.all(examples @ last > 0)
    return Path(jnp.concatenate([iterates, last[None]]), advances, slopes, jnp.append(separated, final))
