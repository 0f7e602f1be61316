"""LDR-KL and ALDR-KL as the code released with the paper computes them, which is not what the paper defines.

The scores are normalised first, so that both losses ignore their scale: ``K softplus(f) / sum softplus(f)``
for LDR-KL, ``K f / ||f||_1`` for ALDR-KL. ALDR-KL does not solve for its temperature: every training example
keeps one, which takes a single fixed-point step whenever the example is visited, with a distribution that
knows nothing of the margin and is smoothed. ``jaxreg.losses`` has the definitions.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxreg import losses

# Added to every probability before the divergence is taken.
SMOOTHING = 1e-5


def ldr_kl(logits: jax.Array, labels: jax.Array, *, temperature: jax.Array, margin: jax.Array) -> jax.Array:
    """LDR-KL of softplus scores that are scaled to a mean of one.

    Args:
      logits: scores, float ``[B, K]``.
      labels: classes, integer ``[B]``.
      temperature: > 0.
      margin: added to every wrong class.

    Returns:
      ``[B]``.
    """
    positive = jax.nn.softplus(logits)
    scaled = positive / jnp.mean(positive, axis=-1, keepdims=True)
    return losses.ldr_kl(scaled, labels, temperature=temperature, margin=margin)


def normalized(logits: jax.Array) -> jax.Array:
    """Scores scaled to a mean absolute value of one; not a number if all are zero."""
    return logits / jnp.mean(jnp.abs(logits), axis=-1, keepdims=True)


def visit(
    logits: jax.Array, ratio: jax.Array, *, temperature: jax.Array, alpha: jax.Array, margin: jax.Array
) -> jax.Array:
    """The stored temperatures after one fixed-point step from where the last visit left them.

    Args:
      logits: scores, float ``[B, K]``.
      ratio: stored temperatures as multiples of ``temperature``, ``[B]``; 1 before the first visit.
      temperature: > 0, the largest temperature.
      alpha: > 1, dimensionless.
      margin: takes no part.

    Returns:
      The new multiples, ``[B]``; no gradient flows through them.
    """
    del margin
    scores = normalized(jax.lax.stop_gradient(logits))
    smoothed = jax.nn.softmax(scores / (ratio * temperature)[:, None], axis=-1) + SMOOTHING
    weights = smoothed / jnp.sum(smoothed, axis=-1, keepdims=True)
    classes = logits.shape[-1]
    divergence = jnp.sum(weights * jnp.log(classes * weights), axis=-1)
    return 1 - divergence / (alpha * np.log(classes))


def aldr_kl(
    logits: jax.Array,
    labels: jax.Array,
    *,
    temperature: jax.Array,
    alpha: jax.Array,
    margin: jax.Array,
    ratio: jax.Array,
) -> jax.Array:
    """ALDR-KL of normalised scores at given temperatures.

    Args:
      logits: scores, float ``[B, K]``.
      labels: classes, integer ``[B]``.
      temperature: > 0, the largest temperature.
      alpha: > 1, dimensionless.
      margin: added to every wrong class.
      ratio: temperatures as multiples of ``temperature``, ``[B]``, from :func:`visit`.

    Returns:
      ``[B]``.
    """
    own = losses.ldr_kl(normalized(logits), labels, temperature=ratio * temperature, margin=margin)
    return own - alpha * np.log(logits.shape[-1]) * temperature * (ratio - 1) ** 2 / 2
