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


class Sums(NamedTuple):
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


def one_pass_each(examples: jax.Array, iterates: jax.Array, method: Method) -> Sums:
    """The sums at iterates ``[S, d]``, by a product with all rows from either side."""
    margins = _dot(iterates, examples.T)
    weights, scale = _weights(method, margins)
    return Sums(
        _dot(examples.T, weights.T).T,  # faster than the transposed product for several iterates
        weights.sum(-1),
        scale,
        jax.nn.softplus(-margins).mean(-1),
        (~(margins > 0)).sum(-1, dtype=jnp.int32),
        margins.min(-1),
    )


def in_blocks(
    examples: jax.Array, iterates: jax.Array, method: Method, size: int, axis: str | None = None
) -> Sums:
    """The same with the rows in blocks; slopes are at most 1, so that their sums need no common scale.

    With ``axis`` the examples are those of one device, and sums are over the devices on that axis of a mesh.
    """

    def block(sums: Sums, rows: jax.Array) -> tuple[Sums, None]:
        margins = _dot(iterates, rows.T)
        weights, _ = _weights(method, margins)
        return Sums(
            sums.move + _dot(weights, rows),
            sums.total + weights.sum(-1),
            sums.scale,
            sums.loss + jax.nn.softplus(-margins).sum(-1),
            sums.wrong + (~(margins > 0)).sum(-1, dtype=jnp.int32),
            jnp.minimum(sums.smallest, margins.min(-1)),
        ), None

    zero = jnp.zeros(iterates.shape[0], examples.dtype)
    start = Sums(jnp.zeros_like(iterates), zero, zero + 1, zero, zero.astype(jnp.int32), zero + jnp.inf)
    sums = jax.lax.scan(block, start, examples.reshape(-1, size, examples.shape[1]))[0]
    rows = examples.shape[0]
    if axis is not None:
        move, total, loss, wrong = jax.lax.psum((sums.move, sums.total, sums.loss, sums.wrong), axis)
        smallest = jax.lax.pmin(sums.smallest, axis)
        sums = Sums(move, total, sums.scale, loss, wrong, smallest)
        rows *= jax.lax.axis_size(axis)
    return sums._replace(loss=sums.loss / rows)
