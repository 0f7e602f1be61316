"""Random separable problems for the statements, with their radii and margins."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxreg.theory.large_step.margin import max_margin


class Problems(NamedTuple):
    """N problems of one size, labels multiplied in."""

    examples: jax.Array  # ``[N, n, d]``
    radius: jax.Array  # R, ``[N]``
    margin: jax.Array  # mu, ``[N]``

    @property
    def rho(self) -> jax.Array:
        """``R^2 / mu^2``, ``[N]``."""
        return (self.radius / self.margin) ** 2


def draw(seed: int, cases: int, *, rows: int = 8, features: int = 3, hardest: float = 60.0) -> Problems:
    """Separable problems with ``R^2 / mu^2`` up to ``hardest`` and rows of unequal lengths."""
    rng = np.random.default_rng(seed)
    found, margins = [], []
    while len(found) < cases:
        normal = rng.normal(size=features)
        normal /= np.linalg.norm(normal)
        examples = rng.normal(size=(rows, features)) * 10 ** rng.uniform(-0.7, 0.7, (rows, 1))
        examples *= np.sign(examples @ normal)[:, None]
        examples += rng.uniform(0, 2) * normal * rng.integers(2)
        if rng.integers(3) == 0:
            examples[2:] = examples[rng.integers(1, 3)]
        examples *= 10 ** rng.uniform(-1, 1)
        margin = max_margin(examples, np.ones(rows, int))
        if margin and np.sum(examples**2, axis=-1).max() <= hardest * margin**2:
            found.append(examples)
            margins.append(margin)
    examples = np.stack(found)
    radius = np.linalg.norm(examples, axis=-1).max(-1)
    return Problems(*(jnp.asarray(leaf) for leaf in (examples, radius, np.array(margins))))


def forced_separable(free: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Examples whose first feature is positive, from free numbers: for searches, which move them.

    Returns:
      The examples, their largest length, and the margin of the first axis, a lower bound of the best one that
      the proofs can do with.
    """
    first = jax.nn.softplus(free[..., :1]) + 0.05
    examples = jnp.concatenate([first, free[..., 1:]], axis=-1)
    # At a maximum that is attained twice the gradient would be shared; a search does not mind.
    return examples, jnp.sqrt(jnp.sum(examples**2, axis=-1).max()), first.min()
