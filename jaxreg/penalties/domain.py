"""What other methods make equal across domains in features, logits and losses.

CORAL (Sun, Saenko, 2016), IRM (Arjovsky et al., 2019), V-REx (Krueger et al., 2021), spectral decoupling
(Pezeshki et al., 2021) and the weights of group DRO (Sagawa et al., 2020); those that compare gradients are
in ``domain_gradients``. Arguments name the variants of DomainBed where these differ.

Throughout, ``L_e`` is the mean cross-entropy of domain e, ``g_e`` its gradient in the head, ``s`` are logits,
``p`` probabilities, ``y`` targets, and means are those within a domain unless said otherwise.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxreg import checks
from jaxreg.penalties.domain_batch import DomainBatch, Head, contract, domain_batch
from jaxreg.penalties.domain_gradients import fish, fishr, gradient_variances, iga
from jaxreg.penalties.head_moments import HeadMoments
from jaxreg.penalties.predictions import Predictions

__all__ = [
    "coral",
    "fish",
    "fishr",
    "gradient_variances",
    "group_dro_weights",
    "iga",
    "irm",
    "spectral_decoupling",
    "v_rex",
]


def coral(
    head: Head,
    features: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    mean_weight: ArrayLike = 1.0,
    covariance_weight: ArrayLike = 1.0,
    unbiased: bool = False,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> jax.Array:
    r"""Distance of the features' means and covariances between two domains, averaged over the pairs.

    .. math:: \frac{2}{n(n-1)} \sum_{a < b} \Big( \frac{\alpha}{D} \|\mu_a - \mu_b\|^2
        + \frac{\beta}{D^2} \|C_a - C_b\|_F^2 \Big)

    Neither head nor labels enter; they are checked so that all penalties are called alike.

    Args:
      head, features, labels, where, weights: as for :func:`irm`; the labels may be None.
      mean_weight: ``alpha`` in [0, inf), a scalar; 0 with ``covariance_weight=0.25`` is the paper's.
      covariance_weight: ``beta`` in [0, inf), a scalar.
      unbiased: divide each covariance by one less than the number of examples (DomainBed), or by one less
        the sum of squared weights; that of a single example is 0. Duplicated examples then count.

    Returns:
      A scalar in [0, inf), at least float32; 0 for one domain.

    Raises:
      TypeError, ValueError: an argument is not as above.

    References:
      Sun, Saenko (2016), arXiv 1607.01719, without means; DomainBed for means, pairs and reductions.

    Example:
      >>> features = jnp.array([[[0.0], [2.0]], [[3.0], [3.0]]])   # means 1 and 3, variances 1 and 0
      >>> print(coral({"kernel": jnp.zeros((1, 2))}, features))
      5.0
    """
    batch = domain_batch(head, features, labels, where=where, weights=weights)
    size = batch.features.shape[-1]
    mean = batch.mean(batch.features)
    # An example that does not count has weight 0.
    centred = batch.features - mean[:, None, :]
    covariance = contract("ebd,ebc->edc", batch.weights[..., None] * centred, centred)
    if unbiased:
        left = 1 - jnp.sum(jnp.square(batch.weights), axis=1)
        covariance = covariance / jnp.where(left <= 0, 1, left)[:, None, None]
    alpha = _number("mean_weight", mean_weight, "[0, inf)", batch)
    beta = _number("covariance_weight", covariance_weight, "[0, inf)", batch)
    spreads = alpha / size * batch.spread({"mean": mean}) + beta / size**2 * batch.spread({"cov": covariance})
    # The mean of squared distances over pairs is 2n / (n - 1) times that from the average.
    return spreads * 2 * batch.domain_count / jnp.maximum(batch.domain_count - 1, 1)


def irm(
    head: Head,
    features: ArrayLike,
    labels: ArrayLike,
    *,
    halves: bool = False,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> jax.Array:
    r"""IRMv1: squared slope of each domain's loss in a common factor of the logits, averaged over domains.

    .. math:: \frac1n \sum_e d_e^2, \qquad d_e = \frac{d}{da} L_e(a s) \Big|_{a=1}
        = \mathrm{mean}_i \langle p_i - y_i, s_i \rangle = \langle g_e, T \rangle

    for the head T, bias included.

    Args:
      head: ``{"kernel": [D, K], "bias": [K]}``, floating; the bias may be absent, K = 1 is one logit.
      features: inputs of the head, floating, shape ``[E, B, D]``.
      labels: classes, integer, shape ``[E, B]``, or probabilities, floating, shape ``[E, B, K]``.
      halves: the product of the slopes of even- and odd-numbered examples, in place of the square
        (DomainBed): unbiased over minibatches, may be negative, and depends on the order of the examples.
      where: examples that count, boolean, broadcastable to ``[E, B]``.
      weights: of the examples within their domain, in [0, inf), broadcastable to ``[E, B]``.

    Returns:
      A scalar, at least float32, in [0, inf) unless ``halves``.

    Raises:
      TypeError, ValueError: an argument is not as above.

    References:
      Arjovsky et al. (2019), arXiv 1907.02893, IRMv1; the closed form derived,
      ``jaxreg.theory.hessian_alignment``.

    Example:
      >>> head = {"kernel": jnp.array([[0.0, 2.0]])}
      >>> features, labels = jnp.ones((2, 1, 1)), jnp.array([[0], [1]])
      >>> print(f"{irm(head, features, labels):.4f}")   # with p = sigmoid(2): mean of (2 p)^2, (2 - 2 p)^2
      1.5800
    """
    batch = domain_batch(head, features, labels, where=where, weights=weights)
    slopes = _slopes(batch)
    if not halves:
        return batch.over_domains(jnp.square(batch.mean(slopes)))
    odd = jax.lax.broadcasted_iota(jnp.int32, slopes.shape, 1) % 2 == 1
    first, second = (_mean_where(batch, slopes, half) for half in (~odd, odd))
    return batch.over_domains(first * second)


def v_rex(
    head: Head,
    features: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> jax.Array:
    r"""Variance of the domains' mean losses.

    .. math:: \frac1n \sum_e (L_e - \bar L)^2

    Args:
      head, features, labels, where, weights: as for :func:`irm`.

    Returns:
      A scalar in [0, inf), at least float32; 0 for one domain.

    Raises:
      TypeError, ValueError: an argument is not as above.

    References:
      Krueger et al. (2021), arXiv 2003.00688, V-REx.

    Example:
      >>> head = {"kernel": jnp.array([[0.0, 2.0]])}
      >>> features, labels = jnp.ones((2, 1, 1)), jnp.array([[0], [1]])   # the losses differ by 2
      >>> print(f"{v_rex(head, features, labels):.4f}")
      1.0000
    """
    batch = domain_batch(head, features, labels, where=where, weights=weights)
    assert batch.targets is not None
    return batch.spread({"loss": batch.mean(Predictions.of(batch.logits).loss(batch.targets))})


def spectral_decoupling(
    head: Head,
    features: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    target: ArrayLike = 0.0,
    class_reduction: Literal["mean", "sum"] = "mean",
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> jax.Array:
    r"""Spectral decoupling: mean square of the logits, averaged over domains.

    .. math:: \frac1n \sum_e \mathrm{mean}_i \frac1K \|s_i - \gamma\|^2

    The labels do not enter. The paper writes half of a weight before it, and has one logit.

    Args:
      head, features, labels, where, weights: as for :func:`irm`; the labels may be None.
      target: ``gamma``, a scalar; the value that logits are drawn to.
      class_reduction: ``"sum"`` leaves out the 1/K.

    Returns:
      A scalar in [0, inf), at least float32.

    Raises:
      TypeError, ValueError: an argument is not as above.

    References:
      Pezeshki et al. (2021), arXiv 2011.09468; DomainBed for the mean over classes.

    Example:
      >>> print(spectral_decoupling({"kernel": jnp.array([[1.0, 3.0]])}, jnp.ones((2, 4, 1))))
      5.0
    """
    checks.one_of("class_reduction", class_reduction, ("mean", "sum"))
    batch = domain_batch(head, features, labels, where=where, weights=weights)
    squares = jnp.square(batch.logits - _number("target", target, "(-inf, inf)", batch))
    # Every example that does not count has a logit too, that of its bias, but the weight 0.
    total = batch.over_domains(batch.mean(jnp.sum(squares, axis=-1)))
    return total if class_reduction == "sum" else total / batch.kernel.shape[1]


def group_dro_weights(weights: ArrayLike, losses: ArrayLike, step_size: ArrayLike) -> jax.Array:
    r"""Group DRO: weights of the domains after one step of exponentiated gradient ascent.

    .. math:: q_e \mapsto q_e e^{\eta L_e} \Big/ \sum_f q_f e^{\eta L_f}

    Then descend on ``sum(weights * losses)``. The losses are held constant here, as the method does: no
    gradient flows through the weights.

    Args:
      weights: ``q``, those of the last step, non-negative, floating, shape ``[E]``; any positive multiple of
        them is the same. Start with equal ones. A weight of 0 stays 0.
      losses: ``L``, mean losses of the domains, finite, floating, shape ``[E]``; the paper's adjustments
        ``C / sqrt(n_e)`` may be added to them.
      step_size: ``eta`` in [0, inf), a scalar.

    Returns:
      The new weights, which add up to 1, shape ``[E]``, at least float32; NaN if a weight is negative, all
      are 0, or a loss is not finite.

    Raises:
      TypeError: a dtype is not the one above.
      ValueError: the shapes differ or are not ``[E]``, or a Python or NumPy ``step_size`` is out of range.

    References:
      Sagawa et al. (2020), arXiv 1911.08731, Algorithm 1.

    Example:
      >>> weights = group_dro_weights(jnp.array([0.5, 0.5]), jnp.log(jnp.array([1.0, 3.0])), step_size=1.0)
      >>> print([f"{weight:.2f}" for weight in weights])
      ['0.25', '0.75']
    """
    given, values = checks.floating("weights", weights), checks.floating("losses", losses)
    if given.ndim != 1 or given.shape != values.shape:
        raise ValueError(
            f"weights and losses must have one shape, [domains], got {given.shape} and {values.shape}"
        )
    dtype = jnp.result_type(given.dtype, values.dtype)
    given, values = given.astype(dtype), jax.lax.stop_gradient(values.astype(dtype))
    rate = checks.scalar("step_size", step_size, "[0, inf)", dtype=dtype)
    values = jnp.where(jnp.isfinite(values), values, jnp.nan)
    return jax.nn.softmax(jnp.log(given) + rate * values)


def _slopes(batch: DomainBatch) -> jax.Array:
    """``(p - y) . s`` of each example, shape ``[E, B]``."""
    errors, logits = HeadMoments.of(batch).errors, batch.logits
    if logits.shape[-1] > 1:
        # Errors add up to 0, so a common part of the logits is irrelevant but for its rounding.
        logits = logits - jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
        # A class that is ruled out, by a bias of -inf, is nowhere predicted: p log p is 0 there.
        logits = jnp.where(jnp.isneginf(logits) & (errors == 0), 0, logits)
    return jnp.sum(errors * logits, axis=-1)


def _mean_where(batch: DomainBatch, values: jax.Array, kept: jax.Array) -> jax.Array:
    """Mean within each domain over the examples kept, shape ``[E]``; 0 if there are none."""
    weights = batch.weights * kept.astype(batch.weights.dtype)
    total = jnp.sum(weights, axis=1)
    return jnp.sum(weights * values, axis=1) / jnp.where(total == 0, 1, total)


def _number(name: str, value: ArrayLike, interval: str, batch: DomainBatch) -> jax.Array:
    return checks.scalar(name, value, interval, dtype=batch.features.dtype)
