"""The generalised Jensen-Shannon divergence between label and prediction, accurate for confident examples."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxreg import checks
from jaxreg.losses.log_odds import Odds, odds_against


def jensen_shannon(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    label_weight: ArrayLike = 0.5,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Jensen-Shannon divergence between the one-hot label and the prediction, scaled.

    .. math:: \frac{H(\pi_1 e_y + \pi_2 s) - \pi_2 H(s)}{-\pi_2 \log \pi_2}, \qquad
              \pi_2 = 1 - \pi_1, \quad s = \mathrm{softmax}(f)

    with the entropy H. It tends to the cross-entropy as the weight of the label tends to 0, and to half
    the mean absolute error as it tends to 1.

    Args:
      logits: scores ``f``, floating, shape ``[..., K, ...]`` with the classes on ``axis``.
      labels: classes ``y`` in 0..K-1, integer, the shape of ``logits`` without ``axis``.
      label_weight: ``pi_1`` in (0, 1), broadcast against ``labels``.
      axis: the class axis of ``logits``.
      where: classes to keep, boolean, broadcastable to ``logits``.

    Returns:
      One non-negative, bounded value per example, the shape of ``labels``, at least float32; NaN for a
      label that is no class or a removed one, and for a traced ``label_weight`` out of range.

    Raises:
      TypeError: logits not floating, labels not integer, or ``label_weight`` not real.
      ValueError: shapes that do not fit, or a Python or NumPy ``label_weight`` out of range.

    References:
      Englesson and Azizpour (2021), arXiv 2105.04522.

    Example:
      >>> print(f"{jensen_shannon(jnp.array([-jnp.inf, 0.0]), 0):.4f}")   # its maximum at equal weights
      2.0000
    """
    batch = checks.classified(logits, labels, axis=axis, where=where)
    weight = checks.hyperparameter("label_weight", label_weight, "(0, 1)", batch)
    return _jensen_shannon(odds_against(batch), weight, label_weight)


def _jensen_shannon(odds: Odds, weight: jax.Array, known: ArrayLike) -> jax.Array:
    # The complement d plus N / ((1 - w) log(1/(1 - w))), with N in three forms whose terms are all as
    # small as N itself: of order 1 - w if w is large, else of order w.
    given = np.asarray(known) if checks.is_concrete(known) else np.array([0.0, 1.0])
    if np.all(given >= 0.5):
        return _heavy(odds, jnp.broadcast_to(weight, odds.logarithm.shape))
    if np.all(given < 0.5):
        numerator = _light_numerator(odds, weight)
    else:
        heavy, light = _heavy_numerator(odds, weight), _light_numerator(odds, weight)
        numerator = jnp.where(weight >= 0.5, heavy, light)
    return odds.complement + numerator / ((weight - 1) * jnp.log1p(-weight))


@jax.custom_jvp
def _heavy(odds: Odds, weight: jax.Array) -> jax.Array:
    return odds.complement + _heavy_numerator(odds, weight) / ((weight - 1) * jnp.log1p(-weight))


def _heavy_jvp(primals, tangents):
    (odds, weight), (d_odds, d_weight) = primals, tangents
    value = _heavy(odds, weight)
    absent = jax.custom_derivatives.SymbolicZero
    tangent = jnp.zeros_like(value)
    if not isinstance(d_odds.logarithm, absent):
        # Of the logarithms that the value has taken: d s (1 + log(m / s) / log(1 / (1 - w))), with d the
        # complement and m = 1 - (1 - w) d. What depends on the odds is a function of their logarithm alone.
        missing, present = odds.complement, odds.probability
        surprise = present * jnp.minimum(odds.cross_entropy, 1e3)
        mixed = present * jnp.log1p((weight - 1) * missing)
        slope = missing * (present - (surprise + mixed) / jnp.log1p(-weight))
        tangent = tangent + slope * d_odds.logarithm
    if not isinstance(d_weight, absent):
        rest = 1 - weight
        unit = -jnp.log(rest)
        numerator = _heavy_numerator(odds, weight)
        present = odds.probability
        surprise = present * jnp.minimum(odds.cross_entropy, 1e3)
        turned = surprise - odds.complement * (1 + jnp.log1p(-rest * odds.complement))
        tangent = tangent + d_weight * (turned + numerator * (1 / rest - 1 / (rest * unit))) / (rest * unit)
    return value, tangent


_heavy.defjvp(_heavy_jvp, symbolic_zeros=True)


def _heavy_numerator(odds: Odds, weight: jax.Array) -> jax.Array:
    rest = 1 - weight
    # Beyond 1e3 the probability is 0 in every dtype, and so is its product with its logarithm.
    surprise = odds.probability * jnp.minimum(odds.cross_entropy, 1e3)
    less = -rest * odds.complement
    return -rest * surprise - (1 + less) * jnp.log1p(less)


def _light_numerator(odds: Odds, weight: jax.Array) -> jax.Array:
    rest = 1 - weight
    likely = odds.logarithm < 0
    finite = jnp.where(likely, odds.cross_entropy, 0)
    light_likely = weight * finite - (1 - rest * odds.complement) * jnp.log1p(weight * odds.capped)
    log_odds = jnp.clip(jnp.where(likely, 0, odds.logarithm), 0, 1e3)
    inverse = jnp.exp(-log_odds)
    light_doubtful = weight * (jnp.log1p(inverse) - jnp.log(weight + inverse)) - (
        rest * jax.nn.sigmoid(-odds.logarithm) * jax.nn.softplus(log_odds + jnp.log(weight))
    )
    return jnp.where(likely, light_likely, light_doubtful)
