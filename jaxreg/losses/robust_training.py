"""Losses of adversarial training to compare with: TRADES and MART, of clean and perturbed scores.

Plain adversarial training needs none of its own: it is any loss of the perturbed scores.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxreg import checks
from jaxreg.checks import Classified


def trades(
    logits: ArrayLike,
    perturbed_logits: ArrayLike,
    labels: ArrayLike,
    *,
    weight: ArrayLike = 6.0,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Cross-entropy of the clean scores plus how far the perturbation moves the class probabilities.

    .. math:: -\log s_y + \beta\, \mathrm{KL}(s \,\|\, s'), \qquad s = \mathrm{softmax}(f), \;
              s' = \mathrm{softmax}(f')

    The perturbation that it is meant for maximises the divergence. The mean over a batch is the loss of the
    released code, which adds small normal noise to the input where the search for the perturbation starts.

    Args:
      logits: clean scores ``f``, floating, shape ``[..., K, ...]`` with the classes on ``axis``.
      perturbed_logits: scores ``f'`` at the perturbed inputs, floating, the shape of ``logits``.
      labels: classes ``y`` in 0..K-1, integer, the shape of ``logits`` without ``axis``.
      weight: ``beta`` in [0, inf), broadcast against ``labels``; the paper's 1 / lambda.
      axis: the class axis of both scores.
      where: classes to keep, boolean, broadcastable to ``logits``.

    Returns:
      One non-negative value per example, the shape of ``labels``, at least float32; NaN for a label that is
      no class or a removed one, and for a traced ``weight`` out of range.

    Raises:
      TypeError: scores not floating, labels not integer, or ``weight`` not real.
      ValueError: shapes that do not fit, or a Python or NumPy ``weight`` out of range.

    References:
      Zhang et al. (2019), arXiv 1901.08573, the TRADES objective.

    Example:
      >>> clean = jnp.array([0.0, 0.0])
      >>> print(f"{trades(clean, clean, 0):.4f}")   # log 2, and no divergence
      0.6931
    """
    batch, clean, perturbed = _log_softmax(logits, perturbed_logits, labels, axis, where)
    factor = checks.hyperparameter("weight", weight, "[0, inf)", batch)
    return batch.checked(-batch.of_label(clean) + factor * _divergence(clean, perturbed, batch.axis))


def mart(
    logits: ArrayLike,
    perturbed_logits: ArrayLike,
    labels: ArrayLike,
    *,
    weight: ArrayLike = 5.0,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Boosted cross-entropy of the perturbed scores plus the divergence, more for misclassified examples.

    .. math:: -\log s'_y - \log\big(1 - \max_{k \ne y} s'_k\big)
              + \lambda\, \mathrm{KL}(s \,\|\, s')\, (1 - s_y)

    The released code adds 1e-4 to the 1 of the second term, 1e-7 to that of the last factor and 1e-12 inside
    logarithms, which bounds the loss and its gradient where a perturbed score is confidently wrong. Here
    nothing is added, and these terms are computed without cancellation. Its default weight is 6.

    Args:
      logits: clean scores ``f``, floating, shape ``[..., K, ...]`` with the K >= 2 classes on ``axis``.
      perturbed_logits: scores ``f'`` at the perturbed inputs, floating, the shape of ``logits``.
      labels: classes ``y`` in 0..K-1, integer, the shape of ``logits`` without ``axis``.
      weight: ``lambda`` in [0, inf), broadcast against ``labels``.
      axis: the class axis of both scores.
      where: classes to keep, boolean, broadcastable to ``logits``.

    Returns:
      One non-negative value per example, the shape of ``labels``, at least float32; NaN for a label that is
      no class or a removed one, and for a traced ``weight`` out of range.

    Raises:
      TypeError: scores not floating, labels not integer, or ``weight`` not real.
      ValueError: shapes that do not fit, a single class, or a Python or NumPy ``weight`` out of range.

    References:
      Wang et al. (2020), "Improving adversarial robustness requires revisiting misclassified examples", ICLR.

    Example:
      >>> clean = jnp.array([0.0, 0.0])
      >>> print(f"{mart(clean, clean, 0):.4f}")   # 2 log 2
      1.3863
    """
    batch, clean, perturbed = _log_softmax(logits, perturbed_logits, labels, axis, where)
    factor = checks.hyperparameter("weight", weight, "[0, inf)", batch)
    if batch.logits.shape[batch.axis] < 2:
        raise ValueError(f"logits must have at least 2 classes, got shape {batch.logits.shape}")
    # 1 - the largest wrong probability is the sum of the others, which does not cancel.
    wrong = jnp.where(batch.wrong, perturbed, -jnp.inf)
    classes = jax.lax.broadcasted_iota(jnp.int32, wrong.shape, batch.axis)
    top = classes == batch.per_class(jnp.argmax(wrong, batch.axis).astype(jnp.int32))
    others = jax.nn.logsumexp(jnp.where(top, -jnp.inf, perturbed), axis=batch.axis)
    boosted = -batch.of_label(perturbed) - others
    share = -jnp.expm1(batch.of_label(clean))
    return batch.checked(boosted + factor * _divergence(clean, perturbed, batch.axis) * share)


def _log_softmax(
    logits: ArrayLike, perturbed_logits: ArrayLike, labels: ArrayLike, axis: int, where: ArrayLike | None
) -> tuple[Classified, jax.Array, jax.Array]:
    batch = checks.classified(logits, labels, axis=axis, where=where)
    perturbed = checks.floating("perturbed_logits", perturbed_logits).astype(batch.logits.dtype)
    if perturbed.shape != batch.logits.shape:
        raise ValueError(
            f"perturbed_logits must have the shape of logits, {batch.logits.shape}, got {perturbed.shape}"
        )
    kept = batch.where_or_bad
    both = [scores if kept is None else jnp.where(kept, scores, -jnp.inf)
            for scores in (batch.logits, perturbed)]  # fmt: skip
    clean, moved = (jax.nn.log_softmax(scores, axis=batch.axis) for scores in both)
    return batch, clean, moved


def _divergence(clean: jax.Array, perturbed: jax.Array, axis: int) -> jax.Array:
    """KL(s || s') of two log-softmaxes; a class of probability 0 under s does not count."""
    counted = jnp.exp(clean) > 0
    gaps = jnp.where(counted, clean, 0) - jnp.where(counted, perturbed, 0)
    return jnp.sum(jnp.exp(clean) * gaps, axis)
