"""Comp-sum losses for adversarial robustness, of the scores at a perturbed input (arXiv 2304.07288).

What perturbs the input is the caller's choice; ``jaxreg.attacks`` looks for the worst perturbation in a ball.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxreg import checks
from jaxreg.checks import Classified
from jaxreg.losses.comp_sum import comp_sum_of
from jaxreg.losses.log_odds import cross_entropy_of


def smooth_adversarial_comp_sum(
    logits: ArrayLike,
    perturbed_logits: ArrayLike,
    labels: ArrayLike,
    *,
    tau: ArrayLike = 1.0,
    rho: ArrayLike = 1.0,
    nu: ArrayLike = 1.0,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Comp-sum loss of the clean scores plus how far the perturbation moves the score differences.

    .. math:: \Phi^\tau\Big(\sum_{k \ne y} e^{-\Delta_k / \rho}\Big) + \nu\, \|\Delta' - \Delta\|_2, \qquad
              \Delta_k = f_y - f_k

    with :math:`\Delta'` those of the perturbed scores and :math:`\Phi^\tau` as in
    :func:`jaxreg.losses.comp_sum`. If the perturbation maximises the distance and
    :math:`\nu \ge \sqrt{K - 1} / \rho`, this bounds the adversarial margin loss from above, and with it
    the adversarial zero-one loss. For tau between 0 and 2 a smaller weight suffices,
    :math:`\max_j \sqrt j\, (1 + j)^{-\tau} / \rho` over 1 <= j < K: 1 / (2 rho) at tau = 1.

    Args:
      logits: clean scores ``f``, floating, shape ``[..., K, ...]`` with the classes on ``axis``.
      perturbed_logits: scores at the perturbed inputs, floating, the shape of ``logits``.
      labels: classes ``y`` in 0..K-1, integer, the shape of ``logits`` without ``axis``.
      tau: member of the comp-sum family, in [0, inf), broadcast against ``labels``.
      rho: margin, in (0, inf), in the units of the scores, broadcast against ``labels``.
      nu: weight of the distance, in [0, inf), broadcast against ``labels``.
      axis: the class axis of both scores.
      where: classes to keep, boolean, broadcastable to ``logits``.

    Returns:
      One non-negative value per example, the shape of ``labels``, at least float32; NaN for a label that is
      no class or a removed one, and for a traced hyper-parameter out of range. Where the perturbation
      changes nothing, the derivative of the distance is 0.

    Raises:
      TypeError: scores not floating, labels not integer, or a hyper-parameter not real.
      ValueError: shapes that do not fit, or a Python or NumPy hyper-parameter out of range.

    References:
      Mao, Mohri and Zhong (2023), arXiv 2304.07288, the smooth adversarial comp-sum losses;
      ``jaxreg.theory.comp_sum``.

    Example:
      >>> clean, perturbed = jnp.zeros([2]), jnp.array([0.0, 3.0])
      >>> print(f"{smooth_adversarial_comp_sum(clean, perturbed, 0, tau=2.0):.4f}")   # 1/2 + 3
      3.5000
    """
    batch = checks.classified(logits, labels, axis=axis, where=where)
    perturbed = checks.floating("perturbed_logits", perturbed_logits).astype(batch.logits.dtype)
    if perturbed.shape != batch.logits.shape:
        raise ValueError(
            f"perturbed_logits must have the shape of logits, {batch.logits.shape}, got {perturbed.shape}"
        )
    exponent = 1 - checks.hyperparameter("tau", tau, "[0, inf)", batch)
    margin = checks.hyperparameter("rho", rho, "(0, inf)", batch)
    weight = checks.hyperparameter("nu", nu, "[0, inf)", batch)
    # A score of -inf stays one, and must not turn the derivative in rho into NaN.
    never = jnp.isneginf(batch.logits)
    scaled = jnp.where(never, -jnp.inf, jnp.where(never, 0, batch.logits) / batch.per_class(margin))
    cross_entropy, remainder = cross_entropy_of(batch._replace(logits=scaled))
    return comp_sum_of(cross_entropy, exponent, remainder) + weight * _distance(batch, perturbed)


def margin_adversarial_comp_sum(
    perturbed_logits: ArrayLike,
    labels: ArrayLike,
    *,
    tau: ArrayLike = 1.0,
    rho: ArrayLike = 1.0,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Comp-sum loss of the scores' margins, each clipped between 0 and rho.

    .. math:: \Phi^\tau\Big(\sum_{k \ne y} \min\big(\max(0,\, 1 - \Delta'_k / \rho),\, 1\big)\Big), \qquad
              \Delta'_k = f'_y - f'_k

    with :math:`\Phi^\tau` as in :func:`jaxreg.losses.comp_sum`. At the worst perturbation in a ball, divided
    by :math:`\Phi^\tau(1)`, it bounds the adversarial zero-one loss from above.

    Args:
      perturbed_logits: scores ``f'`` at the perturbed inputs, floating, shape ``[..., K, ...]`` with the
        classes on ``axis``.
      labels: classes ``y`` in 0..K-1, integer, the shape of ``perturbed_logits`` without ``axis``.
      tau: member of the comp-sum family, in [0, inf), broadcast against ``labels``.
      rho: margin, in (0, inf), in the units of the scores, broadcast against ``labels``.
      axis: the class axis of the scores.
      where: classes to keep, boolean, broadcastable to the scores.

    Returns:
      One value per example between 0 and that of K - 1 unit terms, the shape of ``labels``, at least float32;
      NaN for a label that is no class or a removed one, and for a traced hyper-parameter out of range. Its
      derivative is 0 where all margins are clipped.

    Raises:
      TypeError: scores not floating, labels not integer, or a hyper-parameter not real.
      ValueError: shapes that do not fit, or a Python or NumPy hyper-parameter out of range.

    References:
      Mao, Mohri and Zhong (2023), arXiv 2304.07288, the adversarial comp-sum rho-margin losses;
      ``jaxreg.theory.comp_sum``.

    Example:
      >>> print(f"{margin_adversarial_comp_sum(jnp.array([1.0, 0.0, -5.0]), 0, tau=0.0, rho=4.0):.4f}")
      0.7500
    """
    batch = checks.classified(perturbed_logits, labels, axis=axis, where=where)
    exponent = 1 - checks.hyperparameter("tau", tau, "[0, inf)", batch)
    margin = checks.hyperparameter("rho", rho, "(0, inf)", batch)
    score = batch.of_label(batch.logits)
    own = batch.per_class(score)
    tied = batch.logits == own  # also where both are -inf, whose difference is none
    gaps = jnp.where(tied, 0, own) - jnp.where(tied, 0, batch.logits)
    terms = jnp.clip(1 - gaps / batch.per_class(margin), 0, 1)
    total = jnp.sum(jnp.where(_counted(batch), terms, 0), batch.axis)
    # The gradient of a bad label is NaN as well, also where all terms are clipped.
    bad = jnp.where(batch.valid, 0, score) * jnp.where(batch.valid, 0, jnp.nan).astype(score.dtype)
    return comp_sum_of(jnp.log1p(total), exponent) + bad


def _distance(batch: Classified, perturbed: jax.Array) -> jax.Array:
    """Euclidean distance of the score differences; derivative 0 where it is 0."""
    # Equal infinities have not moved.
    still = perturbed == batch.logits
    moved = jnp.where(still, 0, perturbed) - jnp.where(still, 0, batch.logits)
    # Differences first: to expand their squares would cancel.
    change = jnp.where(_counted(batch), batch.per_class(batch.of_label(moved)) - moved, 0)
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(change), batch.axis))
    unit = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    squares = jnp.sum(jnp.square(change / batch.per_class(unit)), batch.axis)
    nowhere = squares == 0
    return batch.checked(jnp.where(nowhere, 0, unit * jnp.sqrt(jnp.where(nowhere, 1, squares))))


def _counted(batch: Classified) -> jax.Array:
    return batch.wrong if batch.where is None else batch.wrong & batch.where
