"""A loss under a distribution over labels: soft labels, label smoothing, conditional risk."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxreg import checks


def expected(loss: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    r"""Turn a loss of a label into its expectation over a distribution of labels.

    .. math:: (f, q) \mapsto \sum_y q_y \, \ell(f, y)

    With ``q`` a smoothed one-hot vector this is label smoothing; with the class probabilities at a
    point it is the conditional risk of the theory.

    Args:
      loss: any function of this package's signature ``loss(logits, labels, *, axis, where, ...)``.

    Returns:
      A function ``(logits, probabilities, *, axis=-1, where=None, **hyper)`` of scores with K classes
      on ``axis`` and probabilities of the same shape, non-negative; it returns one value per example.
      A class of probability 0 does not count, even where its loss is infinite or it is removed. It
      evaluates the loss K times, and keeps one evaluation in memory at a time.

    Raises:
      TypeError: logits or probabilities not floating, or ``where`` not boolean.
      ValueError: probabilities and logits differ in shape, ``where`` does not broadcast, or there is no such
        axis; and what the loss raises.

    Example:
      >>> from jaxreg.losses import mean_absolute_error
      >>> uniform = jnp.full([4], 0.25)
      >>> risk = expected(mean_absolute_error)(jnp.array([3.0, 0.0, 1.0, 2.0]), uniform)
      >>> print(f"{risk:.4f}")   # 2 (K - 1) / K
      1.5000
    """

    def expectation(
        logits: ArrayLike,
        probabilities: ArrayLike,
        *,
        axis: int = -1,
        where: ArrayLike | None = None,
        **hyper: ArrayLike,
    ) -> jax.Array:
        scores = checks.floating("logits", logits)
        weights = checks.floating("probabilities", probabilities).astype(scores.dtype)
        if weights.shape != scores.shape:
            raise ValueError(
                f"probabilities must have the shape of logits, {scores.shape}, got {weights.shape}"
            )
        axis = checks.class_axis(scores, axis)
        weights = jnp.moveaxis(weights, axis, 0)
        keep = None if where is None else jnp.moveaxis(checks.kept(where, scores.shape), axis, 0)

        @jax.checkpoint
        def of_class(label):
            weight = weights[label]
            labels = jnp.zeros_like(weight, dtype=label.dtype) + label
            if keep is not None:
                # A removed class of probability 0 stands aside for one whose loss is a number.
                labels = jnp.where((weight == 0) & ~keep[label], jnp.argmax(keep, axis=0), labels)
            value = loss(logits, labels, axis=axis, where=where, **hyper)
            return weight * jnp.where((weight == 0) & jnp.isinf(value), 0, value)

        return jnp.sum(jax.lax.map(of_class, jnp.arange(weights.shape[0])), axis=0)

    return expectation
