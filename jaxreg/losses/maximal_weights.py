"""Losses that are a maximum over weights of the classes: their derivatives are those at the maximum."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxreg.checks import Classified
from jaxreg.losses.class_sums import tangent_sum


class Parts(NamedTuple):
    """The maximum and where it is attained."""

    batch: Classified
    value: jax.Array
    weights: jax.Array
    mass: jax.Array
    """Sum of the weights."""
    divergence: jax.Array
    """What the temperature is multiplied by."""


def class_count(batch: Classified) -> jax.Array:
    """Number of classes kept, in the dtype of the logits."""
    dtype = batch.logits.dtype
    if batch.where is None:
        return jnp.asarray(batch.logits.shape[batch.axis], dtype)
    return jnp.sum(batch.where, batch.axis, dtype=dtype)


def value_and_tangent(parts: Parts, primals, tangents):
    """The value and its tangent: that of the maximised function, at the maximising weights."""
    batch, weights = parts.batch, parts.weights
    slope = jnp.where(batch.wrong, weights, weights - batch.per_class(parts.mass))
    of_wrong = jnp.sum(jnp.where(batch.wrong, weights, 0), batch.axis)
    slopes = slope, of_wrong, -parts.divergence
    value = _with_slopes(batch.axis, parts.value, *slopes, *primals)
    return value, _tangent(batch.axis, parts.value, slopes, tangents)


def _tangent(axis, value, slopes, tangents):
    absent = jax.custom_derivatives.SymbolicZero
    (slope, *others), (d_logits, *d_others) = slopes, tangents
    tangent = jnp.zeros_like(value)
    if not isinstance(d_logits, absent):
        tangent = tangent + tangent_sum(slope, d_logits, axis, value)
    for factor, change in zip(others, d_others, strict=True):
        if not isinstance(change, absent):
            tangent = tangent + factor * change
    return tangent


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _with_slopes(axis, value, slope, of_wrong, less_divergence, logits, margin, temperature):
    """The value, for further differentiation: the rule of a first derivative is itself differentiated."""
    return value


def _with_slopes_jvp(axis, primals, tangents):
    return _with_slopes(axis, *primals), _tangent(axis, primals[0], primals[1:4], tangents[4:])


_with_slopes.defjvp(_with_slopes_jvp, symbolic_zeros=True)
