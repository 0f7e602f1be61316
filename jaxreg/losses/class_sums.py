"""Sums over the classes in one pass over the scores.

XLA's CPU reductions are fast for an array that lies in memory, and write to memory what is not there yet:
of a sum of hinges all hinges, with one write and one more read of an array as large as the scores. Sums
that are taken of whole slabs of classes first are evaluated as they are read.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from jaxreg.checks import expand

_COLUMNS = 16
"""Up to this many classes are added up one by one, vectorised over the examples: a short axis reduces slowly."""
_SLABS = 8
"""Slabs into which more classes are cut."""
_WIDTH = 16
"""Classes of the narrowest slab that pays."""


def class_sum(
    term: Callable[..., jax.Array],
    axis: int,
    arrays: Sequence[jax.Array],
    rows: Sequence[jax.Array] = (),
) -> jax.Array:
    """Add up a function of the scores over the classes.

    Args:
      term: elementwise function of ``*arrays, *rows``.
      axis: the class axis of the arrays, non-negative.
      arrays: scores, and what else has a class axis, all of one shape.
      rows: scalars and arrays of one value per example.

    Returns:
      The sums, one value per example.

    Example:
      >>> scores, least = jnp.array([[3.0, 1.0, 2.0]]), jnp.array([1.5])
      >>> class_sum(lambda score, least: jnp.maximum(score - least, 0), 1, [scores], [least]).tolist()
      [2.0]
    """
    return class_reduce(term, jnp.add, jnp.sum, axis, arrays, rows)


def class_reduce(term, combine, reduce, axis, arrays, rows=()):
    """The same for another associative operation: ``combine`` of two arrays, ``reduce`` of an axis."""
    size = arrays[0].shape[axis]

    def column(k):
        return term(*(jax.lax.index_in_dim(array, k, axis, keepdims=False) for array in arrays), *rows)

    def slab(start, stop):
        return term(
            *(jax.lax.slice_in_dim(array, start, stop, axis=axis) for array in arrays),
            *(expand(row, axis) for row in rows),
        )

    if size <= _COLUMNS:
        return apart(functools.reduce(combine, [column(k) for k in range(size)]))
    width = size // _SLABS
    if width < _WIDTH:
        return apart(reduce(_written(slab(0, size)), axis))
    slabs = functools.reduce(combine, [slab(n * width, (n + 1) * width) for n in range(_SLABS)])
    rest = [column(k) for k in range(_SLABS * width, size)]
    return apart(functools.reduce(combine, [reduce(_written(slabs), axis), *rest]))


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
def _written(values: jax.Array) -> jax.Array:
    """The values themselves, to be reduced: what comes before is not left to the library.

    It takes over the additions before a reduction, at the price of arrays for their terms, but no selections.
    """
    return jnp.where(values == 0, 0, values)


@_written.defjvp
def _written_jvp(primals, tangents):
    return _written(*primals), tangents[0]
