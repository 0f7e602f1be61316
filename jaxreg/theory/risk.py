"""Losses of all labels at once: conditional risks, sums over labels, label noise."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

Loss = Callable[..., jax.Array]


def loss_of_every_label(loss: Loss, logits: jax.Array, **hyper: ArrayLike) -> jax.Array:
    """The loss of each label at the same scores; shape ``[..., K]`` to ``[..., K]``.

    Hyper-parameters broadcast against ``[...]``, as for one label.

    Example:
      >>> from jaxreg import losses
      >>> print(loss_of_every_label(losses.mean_absolute_error, jnp.zeros(4)).round(4))
      [1.5 1.5 1.5 1.5]
    """
    num_classes = logits.shape[-1]
    repeated = jnp.broadcast_to(logits[..., None, :], (*logits.shape[:-1], num_classes, num_classes))
    labels = jnp.broadcast_to(jnp.arange(num_classes, dtype=jnp.int32), logits.shape)
    # A Python number stays one: the loss checks it, and leaves out what it rules out.
    fitted = {name: jnp.expand_dims(x, -1) if jnp.ndim(x) else x for name, x in hyper.items()}
    return loss(repeated, labels, **fitted)


def conditional_risk(
    loss: Loss, logits: jax.Array, probabilities: jax.Array, **hyper: ArrayLike
) -> jax.Array:
    """``sum_y q_y loss(f, y)``, shape ``[...]``, by the losses of all labels at once.

    ``jaxreg.losses.expected`` gives the same with one label's intermediates in memory at a time.

    Example:
      >>> from jaxreg import losses
      >>> print(conditional_risk(losses.mean_absolute_error, jnp.zeros(2), jnp.array([0.3, 0.7])))
      1.0
    """
    return (probabilities * loss_of_every_label(loss, logits, **hyper)).sum(-1)


def sum_over_labels(loss: Loss, logits: jax.Array, **hyper: ArrayLike) -> jax.Array:
    """``sum_y loss(f, y)``, shape ``[...]`` for logits ``[..., K]``: constant in f for a symmetric loss.

    Example:
      >>> from jaxreg import losses
      >>> print(sum_over_labels(losses.mean_absolute_error, jnp.array([3.0, -1.0, 0.5])).round(4))
      4.0
    """
    return loss_of_every_label(loss, logits, **hyper).sum(-1)


def uniform_noise(probabilities: jax.Array, rate: ArrayLike) -> jax.Array:
    """Class probabilities after each label flips with probability ``rate`` to any other class, equally "
    "likely.

    Args:
      probabilities: ``q``, shape ``[..., K]``, K >= 2.
      rate: in [0, 1], broadcast against ``[...]``.

    Returns:
      ``(1 - rate) q + rate (1 - q) / (K - 1)``, shape ``[..., K]``.

    Example:
      >>> print(uniform_noise(jnp.array([1.0, 0.0, 0.0]), 0.4))
      [0.6 0.2 0.2]
    """
    share = jnp.asarray(rate, probabilities.dtype)[..., None]
    return (1 - share) * probabilities + share * (1 - probabilities) / (probabilities.shape[-1] - 1)
