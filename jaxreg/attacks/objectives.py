"""What an attack maximises, as functions of scores: positive where it has succeeded."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxreg import checks


def score_margin(logits: ArrayLike, labels: ArrayLike, *, axis: int = -1) -> jax.Array:
    r"""Largest score of a wrong class less the label's: a mistake where it is positive.

    .. math:: \max_{k \ne y} f_k - f_y

    Unlike cross-entropy, its gradient does not vanish where the model is sure of the label.

    Args:
      logits: scores ``f``, floating, shape ``[..., K, ...]`` with the K >= 2 classes on ``axis``.
      labels: classes ``y`` in 0..K-1, integer, the shape of ``logits`` without ``axis``.
      axis: the class axis of ``logits``.

    Returns:
      One value per example, the shape of ``labels``, at least float32; NaN for a label that is no class.

    Raises:
      TypeError: logits not floating, or labels not integer.
      ValueError: shapes that do not fit, or a single class.

    References:
      Carlini and Wagner (2017), arXiv 1608.04644, the sixth objective without its clip.

    Example:
      >>> print(score_margin(jnp.array([2.0, 5.0, 3.0]), 1))
      -2.0
    """
    batch = checks.classified(logits, labels, axis=axis)
    if batch.logits.shape[batch.axis] < 2:
        raise ValueError(f"logits must have at least 2 classes, got shape {batch.logits.shape}")
    other = jnp.max(jnp.where(batch.wrong, batch.logits, -jnp.inf), batch.axis)
    return batch.checked(other - batch.of_label(batch.logits))


def targeted_margin(logits: ArrayLike, targets: ArrayLike, *, axis: int = -1) -> jax.Array:
    r"""Score of a target class less the largest of the others: positive where the target is predicted.

    .. math:: f_t - \max_{k \ne t} f_k

    Args:
      logits: scores ``f``, floating, shape ``[..., K, ...]`` with the K >= 2 classes on ``axis``.
      targets: classes ``t`` in 0..K-1, integer, the shape of ``logits`` without ``axis``.
      axis: the class axis of ``logits``.

    Returns:
      One value per example, the shape of ``targets``, at least float32; NaN for a target that is no class.

    Raises:
      TypeError: logits not floating, or targets not integer.
      ValueError: shapes that do not fit, or a single class.

    References:
      Carlini and Wagner (2017), arXiv 1608.04644.

    Example:
      >>> print(targeted_margin(jnp.array([2.0, 5.0, 3.0]), 2))
      -2.0
    """
    return -score_margin(logits, targets, axis=axis)
