r"""Maximum of a linear function over the simplex less a divergence: value and maximising weights.

.. math:: H(v) = \max_{p \in \Delta} \; \langle p, v \rangle - \lambda \, \mathrm{KL}(p \,\|\, u)
          = \lambda \log \tfrac1K \sum_k e^{v_k / \lambda}, \qquad u = \mathbf 1 / K

for any temperature :math:`\lambda` from 0 (the largest score) to infinity (the mean score), both included.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxreg.checks import expand, floating

# Where the powers of a row are summed less one, they are less one by a series this close to 0.
_SERIES = 0.35

_LARGEST_ROUNDING = 1e-3
"""Of scores of 4e3 in float32, 2e12 in float64."""


class Maximum(NamedTuple):
    """The maximum over the simplex and where it is attained."""

    value: jax.Array
    """The maximum, the shape of the scores without the class axis."""
    weights: jax.Array
    """The maximising distribution, the shape of the scores."""
    divergence: jax.Array
    """KL divergence of the weights from the uniform distribution, the shape of ``value``."""
    rest: jax.Array | None = None
    """Weights of all classes but the one apart, the shape of ``value``; None if there is none."""


class Apart(NamedTuple):
    """One class of each row, whose weight's distance from 1 is wanted to full relative accuracy."""

    others: jax.Array
    """False at that class, boolean, the shape of the scores."""
    score: jax.Array
    """Its score, the shape of ``value``."""


class Left(NamedTuple):
    """What is known of the classes kept, to leave out passes over the scores."""

    number: jax.Array
    """How many they are in each row."""
    removed: int | None
    """No row has more others; None where that is not known."""


def kl_maximum(
    scores: ArrayLike, temperature: ArrayLike, *, axis: int = -1, where: jax.Array | None = None
) -> Maximum:
    r"""Maximise :math:`\langle p, v \rangle - \lambda\,\mathrm{KL}(p \,\|\, u)` over distributions p.

    Args:
      scores: ``v``, floating, K classes on ``axis``.
      temperature: ``lambda`` in [0, inf], a scalar or one value per row, the shape of the result's value.
      axis: the class axis.
      where: classes to keep, boolean, the shape of ``scores``; the uniform distribution is that of
        the classes kept.

    Returns:
      Value, weights and divergence, in the dtype of ``scores`` and at least float32. At temperature 0
      the weights are shared equally among the largest scores.

    Example:
      >>> maximum = kl_maximum(jnp.array([1.0, 3.0]), 0.0)
      >>> float(maximum.value), maximum.weights.tolist()
      (3.0, [0.0, 1.0])
      >>> float(kl_maximum(jnp.array([1.0, 3.0]), jnp.inf).value)
      2.0
    """
    scores = floating("scores", scores)
    kept = scores if where is None else jnp.where(where, scores, -jnp.inf)
    axis = axis % scores.ndim
    top = jax.lax.stop_gradient(jnp.max(kept, axis))
    temperature = jnp.asarray(temperature, scores.dtype)
    centred, rounding = scores - expand(top, axis), rounding_of(top)
    maximum = centred_kl_maximum(centred, temperature, where, axis=axis, rounding=rounding)
    return maximum._replace(value=maximum.value + top)


def centred_kl_maximum(
    centred: jax.Array,
    temperature: jax.Array,
    where: jax.Array | None = None,
    *,
    axis: int,
    limits: bool = True,
    rounding: jax.Array | float = 0.0,
    left: Left | None = None,
    apart: Apart | None = None,
) -> Maximum:
    r"""The same for scores from which (about) their maximum has been taken.

    The value is exact to rounding *relative to the spread of the scores*, for any temperature: with
    :math:`w = d/\lambda`, rows whose temperature exceeds their spread add up
    :math:`\lambda\,\mathrm{expm1}(w_k)`, the others :math:`\exp(w_k)`. A sixteenth of the classes
    decides which, so that it costs no pass over the scores.

    Args:
      centred: scores less a reference, at most 0, and not all far below 0 in units of temperature.
      temperature: ``lambda`` in [0, inf], a scalar or one value per row, the shape of the result's value.
      where: classes to keep, boolean, the shape of ``centred``.
      axis: the class axis, non-negative.
      limits: whether the temperature may be 0 or infinite; False saves work.
      rounding: how far below 0 a score may lie and still be the largest, a scalar or one value per row.
        A compiler that computes the scores twice, in two ways, can leave them all below the reference.
      left: what is known of ``where``.
      apart: a class whose term is not added up with the others'.
    """
    rounding = jnp.asarray(rounding, centred.dtype)
    count, removed = (None, None) if left is None else left
    return Maximum(*_maximum(axis, limits, removed, centred, temperature, where, rounding, count, apart))


def shared_maximum(
    centred: jax.Array, where: jax.Array | None, *, axis: int, rounding: jax.Array | float
) -> Maximum:
    """What :func:`centred_kl_maximum` gives at temperature 0, in fewer passes and without exponentials.

    Args:
      centred: scores less a reference, at most 0.
      where: classes to keep, boolean, the shape of ``centred``.
      axis: the class axis, non-negative.
      rounding: as in :func:`centred_kl_maximum`.

    Returns:
      The maximum 0, equal weights of the largest scores, and log K less the logarithm of their number.
    """
    return Maximum(*_shared(axis, centred, where, jnp.asarray(rounding, centred.dtype)))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _shared(axis, centred, where, rounding):
    largest = centred >= -expand(rounding, axis)
    largest = largest if where is None else largest & where
    count = centred.shape[axis] if where is None else jnp.sum(where, axis, dtype=centred.dtype)
    terms = jnp.where(largest, jnp.ones_like(centred), 0)
    ties = jnp.sum(terms, axis)
    # Where a score is NaN none is the largest, and the product is NaN.
    weights = terms * expand(1 / ties, axis)
    return 0 / ties, weights, jnp.log(count / ties)


@_shared.defjvp
def _shared_jvp(axis, primals, tangents):
    value, weights, divergence = _shared(axis, *primals)
    slope = jnp.sum(jnp.where(weights > 0, weights * tangents[0], 0), axis)
    return (value, weights, divergence), (slope, jnp.zeros_like(weights), jnp.zeros_like(divergence))


def rounding_of(reference: jax.Array) -> jax.Array:
    """How far scores of this size may differ from themselves, computed in another way."""
    size = 2 * jnp.finfo(reference.dtype).eps * jnp.abs(reference)
    return jnp.where(jnp.isfinite(size), size, 0)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _maximum(axis, limits, removed, centred, temperature, where, rounding, count, apart):
    return _evaluate(axis, limits, removed, centred, temperature, where, rounding, count, apart)


def _maximum_jvp(axis, limits, removed, primals, tangents):
    centred, temperature, *_ = primals
    value, weights, divergence, rest = _maximum(axis, limits, removed, *primals)
    d_centred, d_temperature, *_ = tangents
    inverse = _inverse(temperature)
    out = [jnp.zeros_like(value), jnp.zeros_like(weights), jnp.zeros_like(value)]
    scaled = jnp.where(weights > 0, centred, 0) * expand(inverse, axis)
    spread = weights * (scaled - expand(jnp.sum(weights * scaled, axis), axis))
    if not isinstance(d_centred, jax.custom_derivatives.SymbolicZero):
        along = jnp.where(weights > 0, d_centred, 0)
        mean = jnp.sum(weights * along, axis)
        out[0] += jnp.sum(weights * d_centred, axis)
        out[1] += weights * (along - expand(mean, axis)) * expand(inverse, axis)
        out[2] += jnp.sum(spread * along, axis) * inverse
    if not isinstance(d_temperature, jax.custom_derivatives.SymbolicZero):
        relative = jnp.broadcast_to(inverse * d_temperature, value.shape)
        out[0] -= divergence * d_temperature
        out[1] -= spread * expand(relative, axis)
        out[2] -= jnp.sum(spread * scaled, axis) * relative
    apart = primals[-1]
    d_rest = None if apart is None else jnp.sum(jnp.where(apart.others, out[1], 0), axis)
    return (value, weights, divergence, rest), (*out, d_rest)


_maximum.defjvp(_maximum_jvp, symbolic_zeros=True)


def _evaluate(axis, limits, removed, centred, temperature, where, rounding, count, apart):
    if count is None:
        count = centred.shape[axis] if where is None else jnp.sum(where, axis, dtype=centred.dtype)
    inverse = _inverse(temperature)
    infinite = jnp.isinf(temperature)
    flat = (temperature > _partial_spread(centred, where, axis, removed)) | infinite
    one = flat.astype(centred.dtype)

    def terms_of(centred, where, axis):
        """Of all scores, or of one score a row for no axis."""
        exponent = _exponents(limits, centred, temperature, rounding, axis)
        if where is not None:
            # Zeros before the exponential are far cheaper than a selection after it.
            centred, exponent = (jnp.where(where, array, 0) for array in (centred, exponent))
        terms = _terms(centred, exponent, temperature, flat, axis)
        return terms if where is None else jnp.where(where, terms, 0)

    terms = terms_of(centred, where, axis)
    if apart is None:
        total = jnp.sum(terms, axis)
        others = own = jnp.zeros_like(total)
    else:
        # The selected terms serve the weights too, and so are an array when they are added up.
        terms = jnp.where(apart.others, terms, 0)
        others, own = jnp.sum(terms, axis), terms_of(apart.score, None, None)
        total = others + own

    excess = jnp.where(flat & ~infinite, total * inverse / count, 0)
    logarithm = temperature * jnp.log(jnp.where(flat, 1, total) / count)
    value = jnp.where(flat, total / count * _log1p_over_x(excess), logarithm)

    # The weights are affine in the terms, and so is their ratio to the uniform distribution less one.
    normaliser = jnp.where(flat, count * (1 + excess), total)
    slope = jnp.where(flat, inverse, 1) / normaliser
    weights = terms * expand(slope, axis) + expand(one / normaliser, axis)
    less_one = jnp.where(flat, -excess / (1 + excess), -1)
    ratio_less_one = terms * expand(slope * count, axis) + expand(less_one, axis)
    if apart is not None:
        weights = jnp.where(apart.others, weights, expand(own * slope + one / normaliser, axis))
        ratio = own * (slope * count) + less_one
        ratio_less_one = jnp.where(apart.others, ratio_less_one, expand(ratio, axis))
    if limits:
        weights = jnp.where(
            expand(infinite, axis), expand(jnp.asarray(1 / count, weights.dtype), axis), weights
        )
        ratio_less_one = jnp.where(expand(infinite, axis), 0, ratio_less_one)
    if where is not None:
        weights = jnp.where(where, weights, 0)
        ratio_less_one = jnp.where(where, ratio_less_one, 0)
    divergence = jnp.sum(relative_entropy(ratio_less_one), axis) / count
    if apart is None:
        return value, weights, divergence, None
    rest = others * slope + (count - 1) * one / normaliser
    return value, weights, divergence, jnp.where(infinite, (count - 1) / count, rest) if limits else rest


def _exponents(limits, centred, temperature, rounding, axis):
    exponent = centred * _per_class(_inverse(temperature), axis)
    if not limits:
        return exponent
    infinite = jnp.isinf(temperature)
    exponent = jnp.where(_per_class(temperature == 0, axis), -jnp.inf, exponent)
    # A temperature that rounding exceeds would turn its error into a factor, of 0 or infinity. Not so for
    # scores so large that a margin is lost in their rounding: their differences may be exact.
    cold = (temperature == 0) | ((temperature <= rounding) & (rounding <= _LARGEST_ROUNDING))
    largest = _per_class(cold, axis) & (centred >= -_per_class(rounding, axis))
    exponent = jnp.where(largest, 0, exponent)
    return jnp.where(_per_class(infinite, axis), 0, exponent)


def _terms(centred, exponent, temperature, flat, axis):
    series = centred * _expm1_over_x(exponent)
    one = flat.astype(centred.dtype)
    direct = (jnp.exp(exponent) - _per_class(one, axis)) * _per_class(jnp.where(flat, temperature, 1), axis)
    # Infinity and not zero where no series is wanted: a compiler that computes the scores twice, in two ways,
    # can leave the largest a rounding error above the reference.
    least = jnp.where(flat, -_SERIES, jnp.inf)
    return jnp.where(exponent > _per_class(least, axis), series, direct)


def _per_class(values, axis):
    return values if axis is None else expand(values, axis)


def _inverse(temperature):
    """1 / temperature; 0 at both limits, where the weights do not change, and NaN at NaN."""
    zero = temperature == 0
    return jnp.where(zero, 0, 1 / jnp.where(zero, 1, temperature))


def _partial_spread(centred, where, axis, removed):
    """How far the first classes lie below the reference: a lower bound of the spread of a row."""
    size = centred.shape[axis]
    some = max(-(-size // 16), min(size, 4))
    if where is not None:
        some += size if removed is None else removed
        # Most of a few classes are slower than all of them.
        some = size if 2 * some > size else some
    first = jax.lax.slice_in_dim(centred, 0, some, axis=axis)
    if where is not None:
        first = jnp.where(jax.lax.slice_in_dim(where, 0, some, axis=axis), first, 0)
    return -jnp.min(first, axis)


def _expm1_over_x(x):
    """(exp(x) - 1) / x for -0.35 <= x <= 0, by its Taylor polynomial: multiplications and additions only."""
    terms = 7 if x.dtype == jnp.float32 else 14
    result = jnp.full_like(x, 1 / math.factorial(terms + 1))
    for n in range(terms - 1, -1, -1):
        result = result * x + 1 / math.factorial(n + 1)
    return result


def _log1p_over_x(x):
    small = jnp.abs(x) < 1e-4
    safe = jnp.where(small, 1, x)
    return jnp.where(small, 1 - x * (0.5 - x * (1 / 3 - x * 0.25)), jnp.log1p(safe) / safe)


def relative_entropy(x: jax.Array) -> jax.Array:
    """Evaluate (1 + x) log(1 + x) - x >= 0 for x >= -1, without cancellation as x -> 0.

    Its sum over the classes, with x the ratio of a distribution to the uniform one less 1, is K times
    the divergence between the two.

    >>> float(relative_entropy(jnp.float32(-1.0)))
    1.0
    """
    small = jnp.abs(x) < 0.1
    safe = jnp.where(small | (x <= -1), 0.5, x)
    terms = 8 if x.dtype == jnp.float32 else 16
    series = jnp.zeros_like(x)
    for n in range(terms, 1, -1):
        series = 1 / (n * (n - 1)) - x * series
    direct = jnp.where(x <= -1, -x, (1 + safe) * jnp.log1p(safe) - safe)
    return jnp.where(small, x * x * series, direct)
