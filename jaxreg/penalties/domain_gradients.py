"""What other methods make equal across domains in the head's gradients: their means, products and variances.

IGA (Koyama, Yamaguchi, 2020), Fish (Shi et al., 2022) and Fishr (Rame et al., 2022), on gradients of the head
in closed form, so that no penalty back-propagates twice. Arguments name the variants of DomainBed where these
differ. Throughout, ``g_e`` is the gradient of domain e's mean cross-entropy in the head.
"""

import functools
import math
import operator
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxreg import checks
from jaxreg.penalties.domain_batch import DomainBatch, Head, HeadTree, contract, domain_batch, replicated
from jaxreg.penalties.head_moments import HeadMoments


def iga(
    head: Head,
    features: ArrayLike,
    labels: ArrayLike,
    *,
    domain_reduction: Literal["mean", "sum"] = "mean",
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> jax.Array:
    r"""Inter-domain gradient alignment: squared distance of the domains' gradients from their mean.

    .. math:: \frac1n \sum_e \|g_e - \bar g\|^2

    Args:
      head, features, labels, where, weights: as for :func:`jaxreg.penalties.irm`.
      domain_reduction: ``"sum"`` leaves out the 1/n, as DomainBed does (over all parameters, not the head's).

    Returns:
      A scalar in [0, inf), at least float32; 0 for one domain.

    Raises:
      TypeError, ValueError: an argument is not as above.

    References:
      Koyama, Yamaguchi (2020), arXiv 2008.01883, with gradients of the head.

    Example:
      >>> features, labels = jnp.ones((2, 1, 1)), jnp.array([[0], [1]])
      >>> print(iga({"kernel": jnp.zeros((1, 2))}, features, labels))   # gradients (-1/2, 1/2), (1/2, -1/2)
      0.5
    """
    checks.one_of("domain_reduction", domain_reduction, ("mean", "sum"))
    batch = domain_batch(head, features, labels, where=where, weights=weights)
    spread = batch.spread(HeadMoments.of(batch).gradient)
    return spread if domain_reduction == "mean" else spread * batch.domain_count


def fish(
    head: Head,
    features: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> jax.Array:
    r"""Fish: minus the inner product of two domains' gradients, averaged over the pairs.

    .. math:: -\frac{2}{n(n-1)} \sum_{a < b} g_a \cdot g_b

    The objective itself. Training on one domain after the other moves along its gradient to second order in
    the step, by which the paper approximates it; DomainBed has that approximation and no penalty.

    Args:
      head, features, labels, where, weights: as for :func:`jaxreg.penalties.irm`.

    Returns:
      A scalar of either sign, at least float32; 0 for one domain.

    Raises:
      TypeError, ValueError: an argument is not as above.

    References:
      Shi et al. (2022), arXiv 2104.09937, the IDGM objective, with gradients of the head.

    Example:
      >>> features, labels = jnp.ones((2, 1, 1)), jnp.array([[0], [1]])
      >>> print(fish({"kernel": jnp.zeros((1, 2))}, features, labels))   # gradients (-1/2, 1/2), (1/2, -1/2)
      0.5
    """
    batch = domain_batch(head, features, labels, where=where, weights=weights)
    return -mean_product(HeadMoments.of(batch).gradient, batch.domain_weights > 0)


def fishr(
    head: Head,
    features: ArrayLike,
    labels: ArrayLike,
    *,
    entry_reduction: Literal["sum", "mean"] = "sum",
    averages: HeadTree | None = None,
    decay: ArrayLike = 0.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> jax.Array:
    r"""Fishr: squared distance of the domains' gradient variances from their mean.

    .. math:: \frac1n \sum_e \|v_e - \bar v\|^2

    with ``v_e`` from :func:`gradient_variances`.

    Args:
      head, features, labels, where, weights: as for :func:`jaxreg.penalties.irm`.
      entry_reduction: ``"mean"`` divides by the number of the head's entries (DomainBed).
      averages: moving averages of the variances, ``{"kernel": [E, D, K], "bias": [E, K]}``. With them
        ``v_e`` is ``v_e + decay / (1 - decay) * averages``, whose gradient does not depend on the decay
        (DomainBed); the caller's next ones are ``decay * averages + (1 - decay) * gradient_variances(...)``,
        from 0. They are held constant.
      decay: of the moving averages, in [0, 1), a scalar.

    Returns:
      A scalar in [0, inf), at least float32; 0 for one domain.

    Raises:
      TypeError, ValueError: an argument is not as above.

    References:
      Rame et al. (2022), arXiv 2109.02934, eq. (4), on the head.

    Example:
      >>> features, labels = jnp.ones((2, 2, 1)), jnp.array([[0, 1], [1, 1]])
      >>> print(fishr({"kernel": jnp.zeros((1, 2))}, features, labels))   # variances 1/4 and 0, twice
      0.03125
    """
    checks.one_of("entry_reduction", entry_reduction, ("sum", "mean"))
    batch = domain_batch(head, features, labels, where=where, weights=weights)
    variances = corrected(_variances(batch), averages, decay)
    spread = batch.spread(variances)
    return spread if entry_reduction == "sum" else spread / entries(variances)


def gradient_variances(
    head: Head,
    features: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> HeadTree:
    r"""Variance over a domain's examples of each entry of their gradients, what :func:`fishr` compares.

    .. math:: v_{kd} = \mathrm{mean}_i (p_{ik} - y_{ik})^2 z_{id}^2 - g_{kd}^2

    Args:
      head, labels, where, weights: as for :func:`jaxreg.penalties.irm`.
      features: ``z``, floating, shape ``[E, B, D]``.

    Returns:
      ``{"kernel": [E, D, K], "bias": [E, K]}``, without the bias if the head has none; at least float32.

    Raises:
      TypeError, ValueError: an argument is not as above.

    References:
      Rame et al. (2022), arXiv 2109.02934; the closed form derived, ``jaxreg.theory.hessian_alignment``.

    Example:
      >>> features, labels = jnp.ones((1, 2, 1)), jnp.array([[0, 1]])
      >>> print(gradient_variances({"kernel": jnp.zeros((1, 2))}, features, labels)["kernel"])
      [[[0.25 0.25]]]
    """
    return _variances(domain_batch(head, features, labels, where=where, weights=weights))


def mean_product(gradients: Any, present: jax.Array) -> jax.Array:
    """Mean over pairs of domains of the inner product of their gradients, a tree ``[E, ...]``.

    Args:
      gradients: tree of arrays with a leading domain axis, at least float32.
      present: the domains that count, boolean, shape ``[E]``.

    Returns:
      A scalar; 0 where there is no pair.
    """
    leaves = [
        replicated(leaf).reshape(leaf.shape[0], math.prod(leaf.shape[1:]))
        for leaf in jax.tree.leaves(gradients)
    ]
    products = functools.reduce(operator.add, [contract("ap,bp->ab", leaf, leaf) for leaf in leaves])
    there = replicated(present.astype(products.dtype))
    pairs = there[:, None] * there[None, :] * (1 - jnp.eye(len(there), dtype=products.dtype))
    return jnp.sum(pairs * products) / jnp.maximum(jnp.sum(pairs), 1)


def corrected(variances: Any, averages: Any, decay: ArrayLike) -> Any:
    """Variances ``[E, ...]``, with their moving averages added as :func:`fishr` does if there are any."""
    if averages is None:
        return variances
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (averages, variances)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"averages must have the shapes of gradient_variances, {shapes[1]}, got {shapes[0]}")
    rate = checks.scalar("decay", decay, "[0, 1)")

    def add(new: jax.Array, old: ArrayLike) -> jax.Array:
        factor = rate.astype(new.dtype)
        return new + factor / (1 - factor) * jax.lax.stop_gradient(jnp.asarray(old, new.dtype))

    return jax.tree.map(add, variances, averages)


def entries(tree: Any) -> int:
    """Number of entries of one domain in a tree of arrays ``[E, ...]``."""
    return sum(math.prod(leaf.shape[1:]) for leaf in jax.tree.leaves(tree))


def _variances(batch: DomainBatch) -> HeadTree:
    moments = HeadMoments.of(batch)
    squared = batch._replace(features=jnp.square(batch.features)).adjoint(jnp.square(moments.errors))
    return jax.tree.map(lambda square, mean: square - jnp.square(mean), squared, moments.gradient)
