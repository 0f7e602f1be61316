"""Adversarial training as pairs of functions: what the search maximises, and the training minimises."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxreg import losses

cross_entropy = optax.losses.softmax_cross_entropy_with_integer_labels


class Method(NamedTuple):
    """A way of adversarial training. Scores are of clean and of perturbed inputs, ``[B, K]``."""

    title: str  # for tables
    ascends: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]  # clean, perturbed, labels -> [B]
    descends: Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]  # and the weight -> [B]
    weights: tuple[float, ...]  # to choose from, of what the method adds; 0 alone for nothing


def _moved(clean: jax.Array, perturbed: jax.Array, labels: jax.Array) -> jax.Array:
    """Squared distance of the score differences; its root has no gradient where the search starts."""
    change = perturbed - clean
    own = jnp.take_along_axis(change, labels[:, None], -1)
    return jnp.sum(jnp.square(own - change), -1)


def _divergence(clean: jax.Array, perturbed: jax.Array, labels: jax.Array) -> jax.Array:
    return losses.trades(clean, perturbed, labels, weight=1.0)


def _of_perturbed(clean: jax.Array, perturbed: jax.Array, labels: jax.Array) -> jax.Array:
    return cross_entropy(perturbed, labels)


def methods(
    rho: float, nus: tuple[float, ...], trades_weights: tuple[float, ...], mart_weights: tuple[float, ...]
) -> dict[str, Method]:
    """The methods of the comparison, by name."""

    def smooth(tau: float) -> Method:
        def descends(clean: jax.Array, perturbed: jax.Array, labels: jax.Array, nu: jax.Array) -> jax.Array:
            return losses.smooth_adversarial_comp_sum(clean, perturbed, labels, tau=tau, rho=rho, nu=nu)

        return Method(f"smooth comp-sum, tau = {tau:g}", _moved, descends, nus)

    return {
        "standard": Method(
            "no adversary", _of_perturbed, lambda f, g, y, weight: cross_entropy(f, y), (0.0,)
        ),
        "plain": Method(
            "adversarial training", _of_perturbed, lambda f, g, y, weight: cross_entropy(g, y), (0.0,)
        ),
        "trades": Method(
            "TRADES", _divergence, lambda f, g, y, w: losses.trades(f, g, y, weight=w), trades_weights
        ),
        "mart": Method(
            "MART", _of_perturbed, lambda f, g, y, w: losses.mart(f, g, y, weight=w), mart_weights
        ),
        "smooth": smooth(1.0),
        "smooth_0.5": smooth(0.5),
        "smooth_1.5": smooth(1.5),
    }


NAMES = tuple(methods(1.0, (1.0,), (1.0,), (1.0,)))
