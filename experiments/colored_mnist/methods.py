"""What is added to the mean loss of the training domains, in the scale of the released ColoredMNIST scripts."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.colored_mnist import standins as penalties

Head = dict[str, jax.Array]


class Method(NamedTuple):
    """One way of training."""

    title: str
    penalty: Callable[[Head, jax.Array, jax.Array, jax.Array, jax.Array], jax.Array] | None
    """(head, features [E, B, D], labels [E, B], where [E, B], key) -> scalar; ``None``: no penalty."""
    weight: float | None = None
    """Weight of the penalty; ``None``: that of the configuration."""
    reweight: Callable[[jax.Array, jax.Array], jax.Array] | None = None
    """(weights of the domains [E], their mean losses [E]) -> next weights; ``None``: the domains count alike."""
    grey: bool = False
    """Whether the colours are hidden from the network."""


def methods(outputs: int) -> dict[str, Method]:
    """All methods by name.

    Args:
      outputs: scores of the head. A softmax over two classes has larger gradients and Hessians than the one
        logit that has the same probabilities; the weights below make up for that.
    """
    one = outputs == 1
    gradient, diagonal, product = (1.0, 1.0, 1.0) if one else (1 / 2, 1 / 2, 1 / 8)

    def hgp(head, features, labels, where, key):
        # Summed over the two domains, the reference not detached.
        return 2 * penalties.hessian_gradient_alignment(
            head, features, labels, hessian_weight=product, gradient_weight=gradient,
            detach_reference=False, where=where,
        )  # fmt: skip

    def exact_diagonal(head, features, labels, where, key):
        return 2 * penalties.hessian_diagonal_alignment(
            head, features, labels, hessian_weight=diagonal, gradient_weight=gradient, where=where
        )

    def irm(head, features, labels, where, key):
        return penalties.irm(head, features, labels, where=where)

    def v_rex(head, features, labels, where, key):
        # The squared difference of two losses is four times their variance.
        return 4 * penalties.v_rex(head, features, labels, where=where)

    def fishr(head, features, labels, where, key):
        # A sum over domains and entries instead of two means.
        entries = head["kernel"].size + head["bias"].size
        scale = 2 * entries * (1.0 if one else 1 / 2)
        return scale * penalties.fishr(head, features, labels, where=where)

    return {
        "erm": Method("ERM", None),
        "irm": Method("IRM", irm),
        "v_rex": Method("V-REx", v_rex),
        "fishr": Method("Fishr", fishr),
        "hgp": Method("HGP", hgp),
        "hessian_diagonal": Method("Hessian diagonal, exact", exact_diagonal),
        "erm_grey": Method("ERM, grey digits (oracle)", None, grey=True),
    }


def losses(scores: jax.Array, labels: jax.Array, where: jax.Array) -> jax.Array:
    """Mean logistic or cross-entropy loss of each domain, ``[E]``."""
    if scores.shape[-1] == 1:
        each = jax.nn.softplus(scores[..., 0]) - labels * scores[..., 0]
    else:
        own = jnp.take_along_axis(jax.nn.log_softmax(scores), labels[..., None], axis=-1)
        each = -own[..., 0]
    return jnp.sum(jnp.where(where, each, 0), axis=-1) / jnp.sum(where, axis=-1)


Tree = Any
