"""Robust accuracy and the check of its attack, at the cost of the rows that are still right.

A row that an attack has fooled needs no further restart, and one that is wrong without an attack needs none.
So the restarts of all rows stand in one queue, and a portion of it is attacked at a time.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxreg import attacks

ROWS_AT_ONCE = 64
"""Rows that are attacked side by side: their activations should fit in the cache."""

Score = Callable[[jax.Array], jax.Array]  # images [B, ...] -> scores [B, K]
Batch = Callable[[jax.Array], tuple[jax.Array, jax.Array]]  # rows [B] -> images and labels


def survivors(
    score: Score,
    batch: Batch,
    rows: jax.Array,
    alive: jax.Array,
    key: jax.Array,
    *,
    epsilon: float,
    steps: int,
    restarts: int,
) -> jax.Array:
    """Which of some rows stay right under an l_inf attack of the score margin.

    Args:
      score: the network.
      batch: reads images in [0, 1] and labels.
      rows: numbers of the rows, ``[N]``.
      alive: those that are right so far, ``[N]``; only these are attacked.
      key: random key of the starts.
      epsilon: radius of the perturbations.
      steps: steps of each restart.
      restarts: attacks on a row, each from a start of its own, until one succeeds.

    Returns:
      Those that no point on any path fools, ``[N]``.
    """
    size = min(ROWS_AT_ONCE, rows.shape[0])

    def pending(tries: jax.Array, alive: jax.Array) -> jax.Array:
        return alive & (tries < restarts)

    def portion(state: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        number, tries, alive = state
        waiting = pending(tries, alive)
        # The rows with the fewest tries go first; behind those that wait come some that do not count.
        front = jnp.argsort(jnp.where(waiting, tries, restarts))[:size]
        images, labels = batch(rows[front])
        right = _outlasts(
            score, images, labels, jax.random.fold_in(key, number), epsilon=epsilon, steps=steps
        )
        counts = waiting[front]
        return number + 1, tries.at[front].add(counts), alive.at[front].set(alive[front] & (right | ~counts))

    start = jnp.int32(0), jnp.zeros(rows.shape, jnp.int32), alive
    return jax.lax.while_loop(lambda state: jnp.any(pending(*state[1:])), portion, start)[2]


def _outlasts(
    score: Score, images: jax.Array, labels: jax.Array, key: jax.Array, *, epsilon: float, steps: int
) -> jax.Array:
    """One restart for each image: whether it is right at every point of the path."""
    found = attacks.projected_gradient_ascent(
        lambda x: attacks.score_margin(score(x), labels), images, key,
        radius=epsilon, step_size=2.5 * epsilon / steps, steps=steps, lower=0.0, upper=1.0, keep_best=True,
    )  # fmt: skip
    return attacks.score_margin(score(found), labels) < 0
