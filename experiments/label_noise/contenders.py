"""The losses in the comparison, with the values of their hyper-parameters."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import optax

from experiments.label_noise import released
from jaxreg import losses

Loss = Callable[..., jax.Array]


class Contender(NamedTuple):
    """A loss in the comparison."""

    title: str  # for tables and legends
    loss: Loss  # (logits, labels, **hyper-parameters) -> one value per example
    grid: dict[str, tuple[float, ...]] = {}  # noqa: RUF012  # hyper-parameter -> values; the product is tried
    warm_up: Loss | None = None  # takes the loss's place in the first half of the training
    temperatures: Loss | None = None  # as the loss, but gives each example's temperature
    visit: Loss | None = None
    """(logits, ratio, **hyper-parameters) -> ratio: renews a number that is stored for every training
    example, 1 at first, before the loss takes it as ``ratio``; a multiple of the hyper-parameter
    ``temperature``."""


def _balanced(logits: jax.Array, labels: jax.Array, *, balance: jax.Array) -> jax.Array:
    """Symmetric cross-entropy with one parameter in [0, 1] for both of its weights."""
    return losses.symmetric_cross_entropy(logits, labels, ce_weight=1 - balance, rce_weight=balance)


def _active_and(passive: Loss) -> Loss:
    """Normalized cross-entropy plus a passive loss, weighted by w and 10 - w."""

    def total(logits: jax.Array, labels: jax.Array, *, weight: jax.Array) -> jax.Array:
        active = losses.normalized_cross_entropy(logits, labels)
        return weight * active + (10 - weight) * passive(logits, labels)

    return total


_REVERSE = functools.partial(losses.reverse_cross_entropy, log_zero=float(np.log(1e-4)))
_UNHINGED = functools.partial(losses.asymmetric_unhinged, a=6.0, q=1.5)
_ASYMMETRIC = functools.partial(losses.asymmetric_generalized_cross_entropy, a=3.0, q=1.5)
_TEMPERATURES, _MARGINS, _POWERS = (0.1, 1.0, 10.0), (0.1, 1.0, 10.0), (0.05, 0.7, 0.95)
_ALDR = {"temperature": _TEMPERATURES, "alpha": (2.0,), "margin": (0.1,)}

# One row adds a loss to the comparison. The values are the search grids of Zhu, Ying and Yang (2023).
CONTENDERS = {
    "cross_entropy": Contender("CE", optax.losses.softmax_cross_entropy_with_integer_labels),
    "symmetric_cross_entropy": Contender("SCE", _balanced, {"balance": (0.05, 0.5, 0.95)}),
    "generalized_cross_entropy": Contender("GCE", losses.generalized_cross_entropy, {"q": _POWERS}),
    # Its first scores lie on the plateau of the truncation, where it could not start to learn.
    "truncated_generalized_cross_entropy": Contender(
        "TGCE",
        losses.truncated_generalized_cross_entropy,
        {"q": _POWERS},
        warm_up=losses.generalized_cross_entropy,
    ),
    "weston_watkins": Contender("WW", losses.weston_watkins, {"margin": _MARGINS}),
    "crammer_singer": Contender("CS", losses.crammer_singer, {"margin": _MARGINS}),
    "jensen_shannon": Contender("JS", losses.jensen_shannon, {"label_weight": (0.1, 0.5, 0.9)}),
    "robust_log_loss": Contender("RLL", losses.robust_log_loss, {"a": (0.1, 1.0, 10.0)}),
    "nce_rce": Contender("NCE+RCE", _active_and(_REVERSE), {"weight": (0.1, 5.0, 9.9)}),
    "nce_aul": Contender("NCE+AUL", _active_and(_UNHINGED), {"weight": (0.1, 5.0, 9.9)}),
    "nce_agce": Contender("NCE+AGCE", _active_and(_ASYMMETRIC), {"weight": (0.1, 5.0, 9.9)}),
    "brier": Contender("MSE", losses.brier),
    "mean_absolute_error": Contender("MAE", losses.mean_absolute_error),
    "ldr_kl": Contender("LDR-KL", losses.ldr_kl, {"temperature": _TEMPERATURES, "margin": (0.1,)}),
    "aldr_kl": Contender("ALDR-KL", losses.aldr_kl, _ALDR, temperatures=losses.aldr_temperature),
}

# The same two losses as the paper's code computes them; see :mod:`experiments.label_noise.released`.
RELEASED = {
    "ldr_kl_released": Contender(
        "LDR-KL, released", released.ldr_kl, {"temperature": _TEMPERATURES, "margin": (0.1,)}
    ),
    "aldr_kl_released": Contender("ALDR-KL, released", released.aldr_kl, _ALDR, visit=released.visit),
}


def entrants(names: tuple[str, ...], variant: str) -> dict[str, Contender]:
    """The contenders of a run by name, in order.

    Args:
      names: keys of ``CONTENDERS``.
      variant: ``definition``; ``released`` puts the released code's LDR-KL and ALDR-KL in the place of the
        definitions; ``both`` adds them.
    """
    chosen: dict[str, Contender] = {}
    for name in names:
        twin = f"{name}_released"
        if twin not in RELEASED or variant != "released":
            chosen[name] = CONTENDERS[name]
        if twin in RELEASED and variant != "definition":
            chosen[twin] = RELEASED[twin]
    return chosen
