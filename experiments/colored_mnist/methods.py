"""What is added to the mean loss of the training domains, in the scale of the released ColoredMNIST scripts.

These sum over the two domains where :mod:`jaxreg.penalties` takes means, and have a head of one logit. The
softmax over two classes has larger gradients and Hessians than the one logit with the same probabilities, by
constant factors, which are divided out so that one weight serves both.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxreg import penalties

Penalty = Callable[..., jax.Array]
GROUP_DRO_STEP = 0.01
PROBES = 150


class Method(NamedTuple):
    """One way of training."""

    title: str
    penalty: Penalty | None
    """(head, features [E, B, D], labels [E, B], *, where [E, B], key) -> scalar; ``None``: no penalty."""
    weight: float = 1.0
    """Weight of the penalty, relative to that of the configuration."""
    reweight: Callable[[jax.Array, jax.Array], jax.Array] | None = None
    """(weights of the domains [E], their mean losses [E]) -> next weights; ``None``: they count alike."""
    grey: bool = False
    """Whether the colours are hidden from the network."""


@cache
def methods(outputs: int) -> dict[str, Method]:
    """All methods by name, for a head of one logit or of two."""
    softmax = outputs > 1
    # Factors of |g|^2, of the squared distances of diagonals, of Hessians, and of Hg.
    gradient, diagonal, hessian, product = (2.0, 2.0, 4.0, 8.0) if softmax else (1.0, 1.0, 1.0, 1.0)

    def summed(penalty: Penalty, factor: float = 1.0, **options: Any) -> Penalty:
        return _scaled(penalty, 2 / factor, **options)

    def aligned(penalty: Penalty, factor: float, **options: Any) -> Penalty:
        return summed(penalty, hessian_weight=1 / factor, gradient_weight=1 / gradient, **options)

    hgp = aligned(penalties.hessian_gradient_alignment, product, detach_reference=False)
    exact = aligned(penalties.hessian_diagonal_alignment, diagonal)
    sampled = partial(
        penalties.hutchinson_alignment, hessian_weight=1 / diagonal, gradient_weight=1 / gradient,
        probes=PROBES, detach_reference=False,
    )  # fmt: skip
    reweight = partial(penalties.group_dro_weights, step_size=GROUP_DRO_STEP)
    return {
        "erm": Method("ERM", None),
        "irm": Method("IRM", _scaled(penalties.irm, 1.0)),
        # The squared difference of two losses is four times their variance.
        "v_rex": Method("V-REx", _scaled(penalties.v_rex, 4.0)),
        "fishr": Method("Fishr", summed(penalties.fishr, diagonal)),
        "coral": Method("CORAL", _scaled(penalties.coral, 1.0)),
        "iga": Method("IGA", summed(penalties.iga, gradient)),
        # An inner product has no lower bound: a large weight makes the gradients grow instead of agree.
        "fish": Method("Fish", _scaled(penalties.fish, 1 / gradient), weight=1e-5),
        "group_dro": Method("GroupDRO", None, reweight=reweight),
        "hgp": Method("HGP", hgp),
        "hessian_diagonal": Method("Hessian diagonal, exact", exact),
        "hutchinson": Method("Hutchinson, sampled", lambda *rows, **options: 2 * sampled(*rows, **options)),
        "hessian": Method("full Hessian (CMA)", aligned(penalties.hessian_alignment, hessian)),
        "erm_grey": Method("ERM, grey digits (oracle)", None, grey=True),
    }


def _scaled(penalty: Penalty, scale: float, **options: Any) -> Penalty:
    """A penalty without randomness times a number."""

    def value(head, features, labels, *, where, key):
        del key
        return scale * penalty(head, features, labels, where=where, **options)

    return value


def losses(scores: jax.Array, labels: jax.Array, where: jax.Array) -> jax.Array:
    """Mean logistic or cross-entropy loss of each domain, ``[E]``."""
    if scores.shape[-1] == 1:
        each = jax.nn.softplus(scores[..., 0]) - labels * scores[..., 0]
    else:
        own = jnp.take_along_axis(jax.nn.log_softmax(scores), labels[..., None], axis=-1)
        each = -own[..., 0]
    return jnp.sum(jnp.where(where, each, 0), axis=-1) / jnp.sum(where, axis=-1)
