"""The methods as loops: up to the first separating iterate, or for a given number of steps.

Every method moves along an average of the examples, ``theta += alpha sum_i p_i x_i`` with ``x_i = y_i a_i``
and weights ``p_i`` proportional to slopes; they differ in the slopes and in the advance ``alpha``.
"""

import functools
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxreg import checks


class Method(NamedTuple):
    """What one step needs of the margins."""

    weights: Callable[[jax.Array], tuple[jax.Array, jax.Array]]
    """margins ``[..., n]`` -> weights in [0, 1] over a scale, and the logarithm of that scale."""
    factor: Callable[[jax.Array, jax.Array, int, jax.Array], jax.Array]
    """(sum of weights, scale, n, mean loss) -> what the weighted sum of the examples is multiplied with."""
    plain: Callable[[jax.Array], jax.Array] | None = None
    """margins -> the weights themselves, where they are at most 1 and not all tiny before separation."""


def _slopes(margins: jax.Array) -> tuple[jax.Array, jax.Array]:
    logarithms = -jax.nn.softplus(margins)
    # Divided by the largest, they do not vanish all together however large the margins are.
    largest = jax.lax.stop_gradient(logarithms.max(-1))
    return jnp.exp(logarithms - largest[..., None]), largest


def _plain_slopes(margins: jax.Array) -> jax.Array:
    return jax.nn.sigmoid(-margins)


def _exponentials(margins: jax.Array) -> tuple[jax.Array, jax.Array]:
    smallest = jax.lax.stop_gradient(margins.min(-1))
    return jnp.exp(smallest[..., None] - margins), -smallest


def _mistakes(margins: jax.Array) -> tuple[jax.Array, jax.Array]:
    """1, 1/2, 0 for a negative, zero, positive margin: exact, since ties are."""
    return _plain_mistakes(margins), jnp.zeros_like(margins[..., 0])


def _plain_mistakes(margins: jax.Array) -> jax.Array:
    return jnp.where(margins > 0, 0.0, jnp.where(margins < 0, 1.0, 0.5)).astype(margins.dtype)


MethodName = Literal[
    "logistic_gd",
    "normalized_logistic_gd",
    "batch_perceptron",
    "normalized_perceptron",
    "adaptive_logistic",
    "adaptive_exponential",
]

METHODS: dict[str, Method] = {
    "logistic_gd": Method(_slopes, lambda total, scale, rows, loss: scale / rows, _plain_slopes),
    "normalized_logistic_gd": Method(_slopes, lambda total, scale, rows, loss: 1 / total, _plain_slopes),
    "batch_perceptron": Method(_mistakes, lambda total, scale, rows, loss: scale / rows, _plain_mistakes),
    "normalized_perceptron": Method(_mistakes, lambda total, scale, rows, loss: 1 / total, _plain_mistakes),
    "adaptive_logistic": Method(
        _slopes, lambda total, scale, rows, loss: scale / rows / -jnp.expm1(-loss), _plain_slopes
    ),
    "adaptive_exponential": Method(_exponentials, lambda total, scale, rows, loss: 1 / total),
}
assert set(METHODS) == set(get_args(MethodName))


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
        matrix is read once a step; must divide n. None reads it twice.

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
    examples = signed_examples(features, labels)
    rows = examples.shape[0]
    if block_rows is not None and (block_rows < 1 or rows % block_rows):
        raise ValueError(f"block_rows must divide the number of rows, {rows}, got {block_rows}")
    if block_rows is not None and method == "adaptive_exponential":
        raise ValueError("block_rows must be None for adaptive_exponential")
    if checks.is_concrete(step_size) and not np.all(np.asarray(step_size, float) > 0):
        raise ValueError(f"step_size must be positive, got {step_size!r}")
    sizes = jnp.asarray(step_size).astype(examples.dtype)
    found = _separate(examples, sizes.reshape(-1), method, max_steps, record, block_rows)
    shape = sizes.shape
    trajectories = [None if t is None else t.reshape(max_steps + 1, *shape) for t in found[3:]]
    iterate = found.iterate.reshape(*shape, examples.shape[1])
    return Separation(iterate, found.count.reshape(shape), found.separated.reshape(shape), *trajectories)


def signed_examples(features: ArrayLike, labels: ArrayLike) -> jax.Array:
    """Features times labels, ``x_i = y_i a_i``, ``[n, d]``; NaN for labels that are no classes.

    >>> print(signed_examples(jnp.ones((2, 1)), jnp.array([1, 0])).ravel())
    [ 1. -1.]
    """
    rows = checks.floating("features", features)
    if rows.ndim != 2 or 0 in rows.shape:
        raise ValueError(f"features must have shape [n, d] with n and d at least 1, got {rows.shape}")
    if jnp.shape(labels) != rows.shape[:1]:
        raise ValueError(f"labels must have shape {rows.shape[:1]}, one a row, got {jnp.shape(labels)}")
    if checks.is_concrete(labels):
        values = set(np.unique(np.asarray(labels)).tolist())
        if not (values <= {-1, 1} or values <= {0, 1}):
            raise ValueError(f"labels must lie in {{-1, 1}} or in {{0, 1}}, got {sorted(values)[:5]}")
    given = jnp.asarray(labels).astype(rows.dtype)
    known = (given == 1) | (given == -1) | (given == 0)
    sign = jnp.where(known, jnp.where(given > 0, 1.0, -1.0), jnp.nan)
    return rows * sign.astype(rows.dtype)[:, None]


class _Sums(NamedTuple):
    """What a pass over the rows gives for S iterates."""

    move: jax.Array  # sum_i w_i x_i, ``[S, d]``
    total: jax.Array  # sum_i w_i, ``[S]``
    scale: jax.Array  # what the weights were divided by, ``[S]``
    loss: jax.Array  # mean logistic loss, ``[S]``
    wrong: jax.Array  # number of margins at most 0, int32, ``[S]``
    smallest: jax.Array  # smallest margin, ``[S]``


_dot = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def _weights(method: Method, margins: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Weights and their scale, by the cheaper way: until separation, which is where the loop ends."""
    if method.plain is not None:
        return method.plain(margins), jnp.ones_like(margins[..., 0])
    weights, log_scale = method.weights(margins)
    return weights, jnp.exp(log_scale)


def _one_block(examples: jax.Array, iterates: jax.Array, method: Method) -> _Sums:
    margins = _dot(iterates, examples.T)
    weights, scale = _weights(method, margins)
    return _Sums(
        _dot(weights, examples),
        weights.sum(-1),
        scale,
        jax.nn.softplus(-margins).mean(-1),
        (~(margins > 0)).sum(-1, dtype=jnp.int32),
        margins.min(-1),
    )


def _many_blocks(examples: jax.Array, iterates: jax.Array, method: Method, size: int) -> _Sums:
    """The same with the rows in blocks; slopes are at most 1, so that their sums need no common scale."""

    def block(sums: _Sums, rows: jax.Array) -> tuple[_Sums, None]:
        margins = _dot(iterates, rows.T)
        weights, _ = _weights(method, margins)
        return _Sums(
            sums.move + _dot(weights, rows),
            sums.total + weights.sum(-1),
            sums.scale,
            sums.loss + jax.nn.softplus(-margins).sum(-1),
            sums.wrong + (~(margins > 0)).sum(-1, dtype=jnp.int32),
            jnp.minimum(sums.smallest, margins.min(-1)),
        ), None

    zero = jnp.zeros(iterates.shape[0], examples.dtype)
    start = _Sums(jnp.zeros_like(iterates), zero, zero + 1, zero, zero.astype(jnp.int32), zero + jnp.inf)
    sums = jax.lax.scan(block, start, examples.reshape(-1, size, examples.shape[1]))[0]
    return sums._replace(loss=sums.loss / examples.shape[0])


@functools.partial(jax.jit, static_argnames=("name", "max_steps", "record", "block_rows"))
def _separate(
    examples: jax.Array, sizes: jax.Array, name: str, max_steps: int, record: bool, block_rows: int | None
) -> Separation:
    method, count = METHODS[name], sizes.shape[0]

    def body(carry: tuple) -> tuple:
        step, iterates, found, separated, kept = carry
        if block_rows is None:
            sums = _one_block(examples, iterates, method)
        else:
            sums = _many_blocks(examples, iterates, method, block_rows)
        if record:
            values = (sums.loss, sums.wrong, sums.smallest)
            kept = tuple(
                all_steps.at[step].set(jnp.where(separated, all_steps[step], now))
                for all_steps, now in zip(kept, values, strict=True)
            )
        found = jnp.where(separated, found, step)
        separated = separated | (sums.wrong == 0)
        factor = method.factor(sums.total, sums.scale, examples.shape[0], sums.loss)
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
