"""Asymmetric losses: powers of the label's probability, shifted; accurate for confident examples."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxreg import checks
from jaxreg.losses.comp_sum import comp_sum_of
from jaxreg.losses.log_odds import odds_against


def asymmetric_unhinged(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    a: ArrayLike = 1.5,
    q: ArrayLike = 0.9,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Asymmetric unhinged loss, a power of the label's probability below a.

    .. math:: \frac{(a - s_y)^q - (a - 1)^q}{q}, \qquad s = \mathrm{softmax}(f)

    At q = 1 it is 1 - s_y, half the mean absolute error.

    Args:
      logits: scores ``f``, floating, shape ``[..., K, ...]`` with the classes on ``axis``.
      labels: classes ``y`` in 0..K-1, integer, the shape of ``logits`` without ``axis``.
      a: offset in (1, inf), broadcast against ``labels``.
      q: exponent in (0, inf), broadcast against ``labels``.
      axis: the class axis of ``logits``.
      where: classes to keep, boolean, broadcastable to ``logits``.

    Returns:
      One value per example in [0, (a^q - (a - 1)^q)/q], the shape of ``labels``, at least float32; NaN
      for a label that is no class or a removed one, and for a traced hyper-parameter out of range.

    Raises:
      TypeError: logits not floating, labels not integer, or a hyper-parameter not real.
      ValueError: shapes that do not fit, or a Python or NumPy hyper-parameter out of range.

    References:
      Zhou et al. (2021), arXiv 2106.03110, the AUL loss.

    Example:
      >>> print(f"{asymmetric_unhinged(jnp.zeros([4]), 2, a=3.0, q=1.0):.4f}")
      0.7500
    """
    batch = checks.classified(logits, labels, axis=axis, where=where)
    offset = checks.hyperparameter("a", a, "(1, inf)", batch)
    power = checks.hyperparameter("q", q, "(0, inf)", batch)
    complement, least = odds_against(batch).complement, offset - 1
    mild = _is_mild(a, q, -1)
    return _power_difference(mild, complement, least + complement, least, power)


def asymmetric_generalized_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    a: ArrayLike = 1.0,
    q: ArrayLike = 2.0,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Asymmetric generalized cross-entropy, a power of the label's probability above -a.

    .. math:: \frac{(a + 1)^q - (a + s_y)^q}{q}, \qquad s = \mathrm{softmax}(f)

    At q = 1 it is 1 - s_y, half the mean absolute error.

    Args:
      logits: scores ``f``, floating, shape ``[..., K, ...]`` with the classes on ``axis``.
      labels: classes ``y`` in 0..K-1, integer, the shape of ``logits`` without ``axis``.
      a: offset in (0, inf), broadcast against ``labels``.
      q: exponent in (0, inf), broadcast against ``labels``.
      axis: the class axis of ``logits``.
      where: classes to keep, boolean, broadcastable to ``logits``.

    Returns:
      One value per example in [0, ((a + 1)^q - a^q)/q], the shape of ``labels``, at least float32; NaN
      for a label that is no class or a removed one, and for a traced hyper-parameter out of range.

    Raises:
      TypeError: logits not floating, labels not integer, or a hyper-parameter not real.
      ValueError: shapes that do not fit, or a Python or NumPy hyper-parameter out of range.

    References:
      Zhou et al. (2021), arXiv 2106.03110, the AGCE loss.

    Example:
      >>> print(f"{asymmetric_generalized_cross_entropy(jnp.zeros([4]), 2, a=3.0, q=1.0):.4f}")
      0.7500
    """
    batch = checks.classified(logits, labels, axis=axis, where=where)
    offset = checks.hyperparameter("a", a, "(0, inf)", batch)
    power = checks.hyperparameter("q", q, "(0, inf)", batch)
    odds = odds_against(batch)
    raised = offset + jax.nn.sigmoid(-odds.logarithm)
    return -_power_difference(_is_mild(a, q, 1), -odds.complement, raised, offset + 1, power)


def _is_mild(a: ArrayLike, q: ArrayLike, step: int) -> bool:
    """Whether no power of the ratio of a to a + step can be large or small, as known at trace time."""
    if not checks.is_concrete(a) or not checks.is_concrete(q):
        return False
    offset, power = np.asarray(a, np.float64), np.asarray(q, np.float64)
    growth = np.abs(np.log(offset / (offset + step)))
    # A ratio below a half is a difference that lacks digits.
    falls = (step > 0) & (growth > 0.7)
    return bool(np.all(~falls & (np.maximum(power, 1) * growth <= 1.2) & (power > 1e-3)))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _power_difference(
    mild: bool, change: jax.Array, raised: jax.Array, base: jax.Array, power: jax.Array
) -> jax.Array:
    """(raised^power - base^power) / power, for raised = base + change; accurate for all of them small."""
    return _difference(mild, change, raised, base, power)


def _difference(
    mild: bool, change: jax.Array, raised: jax.Array, base: jax.Array, power: jax.Array
) -> jax.Array:
    if mild:
        return base**power * jnp.expm1(power * jnp.log1p(change / base)) / power
    growth = _growth(change, raised, base)
    # Apart, the first power may underflow and the second factor overflow.
    far = power * growth > 1
    near = base**power * comp_sum_of(jnp.where(far, 0, growth), power)
    return jnp.where(far, (raised**power - base**power) / power, near)


def _growth(change, raised, base):
    """Logarithm of the ratio; the sum of base and a change of about minus that lacks digits."""
    falls = change < -base / 2
    small = jnp.log1p(jnp.where(falls, 0, change) / base)
    return jnp.where(falls, jnp.log(jnp.where(falls, raised, base) / base), small)


@_power_difference.defjvp
def _power_difference_jvp(mild, primals, tangents):
    change, raised, base, power = primals
    growth, less = jnp.log1p(change / base) if mild else _growth(change, raised, base), power - 1
    by_change = base**less * jnp.exp(less * growth) if mild else raised**less
    far = less * growth > 1
    near = base**less * jnp.expm1(jnp.where(far, 0, less * growth))
    by_base = jnp.where(far, by_change - base**less, near)
    value, by_power = jax.jvp(
        lambda power: _difference(mild, change, raised, base, power), (power,), (tangents[3],)
    )
    return value, by_change * tangents[0] + by_base * tangents[2] + by_power
