"""How well a loss's own temperatures tell corrupted training labels from right ones."""

import jax
import jax.numpy as jnp

LEVELS = 41
"""Number of evenly spaced quantiles, from the least temperature to the largest."""


def detection(scores: jax.Array, positive: jax.Array) -> jax.Array:
    """Area under the receiver operating characteristic: how likely a positive scores above a negative.

    Args:
      scores: float ``[N]``.
      positive: boolean ``[N]``.

    Returns:
      A number in [0, 1], ties counted as one half; 0.5 if there are no positives or no negatives.

    >>> detection(jnp.array([1.0, 2.0, 3.0, 2.0]), jnp.array([False, True, True, False]))
    Array(0.875, dtype=float32)
    """
    ordered = jnp.sort(scores)
    below, up_to = (jnp.searchsorted(ordered, scores, side) for side in ("left", "right"))
    rank = (below + up_to + 1) / 2
    count = jnp.sum(positive)
    pairs = count * (len(scores) - count)
    area = jnp.sum(jnp.where(positive, rank, 0)) - count * (count + 1) / 2
    return jnp.where(pairs > 0, area / jnp.maximum(pairs, 1), 0.5)


def summary(temperatures: jax.Array, wrong: jax.Array) -> dict[str, jax.Array]:
    """What the report shows of the temperatures of the training examples.

    Args:
      temperatures: float ``[N]``.
      wrong: whether the label was corrupted, boolean ``[N]``.

    Returns:
      ``detection``, and quantiles ``[LEVELS]`` of the temperatures with right and with wrong labels; not a
      number where there are none.
    """
    levels = jnp.linspace(0, 1, LEVELS)

    def quantiles(where: jax.Array) -> jax.Array:
        return jnp.nanquantile(jnp.where(where, temperatures, jnp.nan), levels)

    return {
        "detection": detection(temperatures, wrong),
        "temperature_right": quantiles(~wrong),
        "temperature_wrong": quantiles(wrong),
    }
