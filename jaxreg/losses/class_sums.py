"""Sums over the classes in one pass over the scores.

XLA's CPU reductions are fast for an array that lies in memory, and write to memory what is not there yet:
of a sum of hinges all hinges, with one write and one more read of an array as large as the scores. Sums
that are taken of whole slabs of classes first are evaluated as they are read.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxreg.checks import expand

_COLUMNS = 16
"""Up to this many classes are added up one by one, vectorised over the examples: a short axis is slow."""
_SLABS = 8
"""Slabs into which more classes are cut."""
_WIDTH = 16
"""Classes of the narrowest slab that pays."""


class Group(NamedTuple):
    """What several classes are made one term of, where that is cheaper than adding their terms."""

    merge: Callable[[Any, Any], Any]
    """What ``term`` returns of two classes, or groups, made that of one."""
    finish: Callable[[Any], jax.Array]
    """The term of a group."""


_PLAIN = Group(jnp.add, lambda term: term)


def class_sum(
    term: Callable[..., Any],
    axis: int,
    arrays: Sequence[jax.Array],
    rows: Sequence[jax.Array] = (),
    group: Group = _PLAIN,
) -> jax.Array:
    """Add up a function of the scores over the classes.

    Args:
      term: elementwise function of ``*arrays, *rows``.
      axis: the class axis of the arrays, non-negative.
      arrays: scores, and what else has a class axis, all of one shape.
      rows: scalars and arrays of one value per example.
      group: how up to 8 classes are put together before they are added up.

    Returns:
      The sums, one value per example.

    Example:
      >>> scores, least = jnp.array([[3.0, 1.0, 2.0]]), jnp.array([1.5])
      >>> class_sum(lambda score, least: jnp.maximum(score - least, 0), 1, [scores], [least]).tolist()
      [2.0]
    """
    size = arrays[0].shape[axis]

    def column(k):
        return term(*(jax.lax.index_in_dim(array, k, axis, keepdims=False) for array in arrays), *rows)

    def slab(start, stop):
        parts = (jax.lax.slice_in_dim(array, start, stop, axis=axis) for array in arrays)
        return term(*parts, *(expand(row, axis) for row in rows))

    def columns(start):
        ends = range(start, size, _SLABS)
        return [
            group.finish(_merged(group, list(map(column, range(n, min(n + _SLABS, size)))))) for n in ends
        ]

    width = size // _SLABS
    if size <= _COLUMNS:
        return apart(functools.reduce(jnp.add, columns(0)))
    if width < _WIDTH:
        return apart(jnp.sum(_written(group.finish(slab(0, size))), axis))
    slabs = [slab(n * width, (n + 1) * width) for n in range(_SLABS)]
    total = jnp.sum(_written(group.finish(_merged(group, slabs))), axis)
    return apart(functools.reduce(jnp.add, columns(_SLABS * width), total))


def _merged(group: Group, terms: list) -> Any:
    """By halves, so that errors do not add up."""
    if len(terms) == 1:
        return terms[0]
    half = len(terms) // 2
    return group.merge(_merged(group, terms[:half]), _merged(group, terms[half:]))


def tangent_sum(slope: jax.Array, tangent: jax.Array, axis: int, value: jax.Array) -> jax.Array:
    """Sum over the classes of slope times tangent, for the rule of a derivative of ``value``.

    Its transpose, the gradient, is one multiplication a score: what the cotangents are made of is
    evaluated once per example, see :func:`apart`.
    """
    one = jax.lax.stop_gradient(jnp.where(jnp.isnan(value), value, 1))
    return jnp.sum(slope * tangent, axis) / one


@jax.custom_jvp
def apart(values: jax.Array) -> jax.Array:
    """The values themselves, one per example, evaluated once.

    What is used for every class XLA's CPU loops over the scores evaluate for every class, unless a division
    is among it.
    """
    kept = values / jnp.where(values == jnp.inf, 2, 1).astype(values.dtype)
    return _written(kept)


@apart.defjvp
def _apart_jvp(primals, tangents):
    return apart(*primals), tangents[0]


@jax.custom_jvp
def evaluated_once(scores: jax.Array) -> jax.Array:
    """The scores themselves, for what compares them with one of them.

    Scores that come of a product or quotient in the same program are otherwise computed again for each
    use, here as part of a fused multiplication and addition and there not, and the largest is not the
    largest any more. A division, as in :func:`apart`, is not repeated by XLA's CPU fusions; its other ones
    respect the barrier.
    """
    return jax.lax.optimization_barrier(scores / jnp.where(scores == jnp.inf, 2, 1).astype(scores.dtype))


@evaluated_once.defjvp
def _evaluated_once_jvp(primals, tangents):
    return evaluated_once(*primals), tangents[0]


@jax.custom_jvp
def _written(values: jax.Array) -> jax.Array:
    """The values themselves, to be reduced: what comes before is not left to the library.

    It takes over the additions before a reduction, at the price of arrays for their terms, but no selections.
    """
    return jnp.where(values == 0, 0, values)


@_written.defjvp
def _written_jvp(primals, tangents):
    return _written(*primals), tangents[0]
