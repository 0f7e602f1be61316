"""What distinguishes the methods, and the sums over the rows that a step of them needs.

Every method moves along an average of the examples, ``theta += alpha sum_i p_i x_i`` with ``x_i = y_i a_i``
and weights ``p_i`` proportional to slopes; they differ in the slopes and in the advance ``alpha``.
"""

import functools
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp


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


MOST_UNROLLED = 64
"""Up to so many blocks are a part of the program each; more would take too long to compile."""


class Sums(NamedTuple):
    """What a pass over the rows gives for S iterates."""

    move: jax.Array  # sum_i w_i x_i, ``[S, d]``
    total: jax.Array  # sum_i w_i, ``[S]``
    scale: jax.Array  # what the weights were divided by, ``[S]``
    loss: jax.Array  # sum of the logistic losses, ``[S]``
    wrong: jax.Array  # number of margins at most 0, int32, ``[S]``
    smallest: jax.Array  # smallest margin, ``[S]``


_dot = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def _weights(method: Method, margins: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Weights and their scale, by the cheaper way: until separation, which is where the loop ends."""
    if method.plain is not None:
        return method.plain(margins), jnp.ones_like(margins[..., 0])
    weights, log_scale = method.weights(margins)
    return weights, jnp.exp(log_scale)


def of_rows(examples: jax.Array, iterates: jax.Array, method: Method) -> Sums:
    """The sums at iterates ``[S, d]``, by a product with the rows from either side."""
    margins = _dot(iterates, examples.T)
    weights, scale = _weights(method, margins)
    return _sums(_dot(weights, examples), margins, weights, scale)


def _sums(move: jax.Array, margins: jax.Array, weights: jax.Array, scale: jax.Array) -> Sums:
    return Sums(
        move,
        weights.sum(-1),
        scale,
        jax.nn.softplus(-margins).sum(-1),
        (~(margins > 0)).sum(-1, dtype=jnp.int32),
        margins.min(-1),
    )


def split(examples: jax.Array, size: int) -> tuple[jax.Array, ...] | jax.Array:
    """The rows in blocks for :func:`in_blocks`: arrays of their own if these are few, else one array.

    A product with a part of an array copies that part first, which costs as much as the product.
    """
    count = examples.shape[0] // size
    if count > MOST_UNROLLED:
        return examples.reshape(count, size, examples.shape[1])
    return tuple(jnp.split(examples, count))


def in_blocks(blocks: tuple[jax.Array, ...] | jax.Array, iterates: jax.Array, method: Method) -> Sums:
    """The sums over blocks of rows; slopes are at most 1, so that their sums need no common scale."""

    def block(move: jax.Array, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
        # The compiler would take the margins of all blocks first. With this it cannot: the second product of
        # a block follows the first and finds the block in cache. The iterates stay what they are.
        now = jnp.where(move == move, iterates, jnp.nan)
        # With one iterate a product with a vector: on one core, which is all a device has, it is faster.
        margins = _dot(rows, now[0])[None] if len(now) == 1 else _dot(now, rows.T)
        weights, _ = _weights(method, margins)
        return move + (_dot(weights[0], rows) if len(now) == 1 else _dot(weights, rows)), margins

    move = jnp.zeros_like(iterates)
    if isinstance(blocks, tuple):
        kept = []
        for rows in blocks:
            move, margins = block(move, rows)
            kept.append(margins)
        margins = jnp.concatenate(kept, axis=-1)
    else:
        move, kept = jax.lax.scan(block, move, blocks)
        margins = jnp.moveaxis(kept, 0, 1).reshape(iterates.shape[0], -1)
    # Once more the weights of all rows, in the place of several small sums a block.
    return _sums(move, margins, *_weights(method, margins))


def over_devices(sums: Sums, axis: str) -> Sums:
    """The sums over the devices along an axis of a mesh, of what each has of its own rows."""
    # In one reduction, for devices wait for each other in each; of the others an unused one is left out. The
    # count in two digits, which float32 does not round.
    dtype = sums.move.dtype
    wide = jnp.promote_types(dtype, jnp.float32)
    digits = jnp.stack(jnp.divmod(sums.wrong, 4096), axis=-1)
    columns = [part.astype(wide) for part in (digits, sums.total[:, None], sums.move)]
    added = jax.lax.psum(jnp.concatenate(columns, axis=-1), axis)
    digits, total, move = added[:, :2], added[:, 2].astype(dtype), added[:, 3:].astype(dtype)
    wrong = (digits.astype(jnp.int32) * jnp.array([4096, 1])).sum(-1, dtype=jnp.int32)
    loss, smallest = jax.lax.psum(sums.loss, axis), jax.lax.pmin(sums.smallest, axis)
    return Sums(move, total, sums.scale, loss, wrong, smallest)
