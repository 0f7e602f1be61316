"""Alignment of Hessians and gradients of any head across domains, by products forward over reverse."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxreg import checks, linalg
from jaxreg.penalties.general.parts import (
    LossFn,
    count,
    gradients_of,
    mean_of,
    over_basis,
    products_of,
    spread_of,
    square_of,
)


def hessian_gradient_alignment(
    loss_fn: LossFn,
    params: Any,
    batches: Any,
    *,
    hessian_weight: ArrayLike = 1.0,
    gradient_weight: ArrayLike = 1.0,
    reference: str = "pooled",
    detach_reference: bool = True,
) -> jax.Array:
    """:func:`jaxreg.penalties.hessian_gradient_alignment` for any loss, by products forward over reverse.

    Args:
      loss_fn: mean loss of one domain, ``loss_fn(params, batch)``, a scalar.
      params: tree of floating arrays.
      batches: tree of arrays with a leading domain axis.
      hessian_weight: in [0, inf).
      gradient_weight: in [0, inf).
      reference: ``"pooled"`` or ``"mean"``.
      detach_reference: whether the references are constant for differentiation.

    Returns:
      A scalar in [0, inf), at least float32.

    Raises:
      TypeError: a weight that is not a real scalar.
      ValueError: a number or name out of range, or domains that do not agree in number.

    References:
      Hemati, Zhang, Estiri and Chen (2023), arXiv 2308.11778.

    Example:
      >>> loss_fn = lambda x, scale: scale * jnp.sum(x**2) / 2   # H = scale, g = scale x
      >>> print(hessian_gradient_alignment(loss_fn, jnp.ones(1), jnp.array([1.0, 3.0]), gradient_weight=0.0))
      17.0
    """
    checks.one_of("reference", reference, ("pooled", "mean"))
    alpha, beta = _weights(batches, hessian_weight, gradient_weight)
    gradients = gradients_of(loss_fn, params, batches)
    mean = mean_of(gradients)
    products = products_of(loss_fn, params, batches, gradients, 0)
    pooled = reference == "pooled"
    target = mean_of(products_of(loss_fn, params, batches, mean, None) if pooled else products)
    if detach_reference:
        mean, target = jax.lax.stop_gradient((mean, target))
    return _sum(alpha, spread_of(products, target), beta, spread_of(gradients, mean))


def hessian_diagonal_alignment(
    loss_fn: LossFn,
    params: Any,
    batches: Any,
    *,
    hessian_weight: ArrayLike = 1.0,
    gradient_weight: ArrayLike = 1.0,
) -> jax.Array:
    """:func:`jaxreg.penalties.hessian_diagonal_alignment` for any loss, one product an entry of ``params``.

    Args:
      loss_fn, batches, hessian_weight, gradient_weight: as in :func:`hessian_gradient_alignment`.
      params: tree of floating arrays, all of one dtype.

    Returns:
      A scalar in [0, inf), at least float32.

    Raises:
      TypeError, ValueError: as in :func:`hessian_gradient_alignment`.

    References:
      Hemati, Zhang, Estiri and Chen (2023), arXiv 2308.11778.

    Example:
      >>> loss_fn = lambda x, scale: scale * jnp.sum(x**2) / 2
      >>> print(hessian_diagonal_alignment(loss_fn, jnp.ones(1), jnp.array([1.0, 3.0]), gradient_weight=0.0))
      1.0
    """
    alpha, beta = _weights(batches, hessian_weight, gradient_weight)

    def squared(basis: Any) -> jax.Array:
        images = products_of(loss_fn, params, batches, basis, None)
        entries = jax.tree.map(
            lambda image, one: jnp.sum(image * one.astype(image.dtype), tuple(range(1, image.ndim))),
            images,
            basis,
        )
        return spread_of(sum(jax.tree.leaves(entries)), None)

    distance = over_basis(squared, params)
    return _sum(alpha, distance, beta, spread_of(gradients_of(loss_fn, params, batches), None))


def hessian_alignment(
    loss_fn: LossFn,
    params: Any,
    batches: Any,
    *,
    hessian_weight: ArrayLike = 1.0,
    gradient_weight: ArrayLike = 1.0,
) -> jax.Array:
    """:func:`jaxreg.penalties.hessian_alignment` for any loss, by one product an entry of ``params``.

    No more than a few columns of the Hessians are in memory. For many parameters take
    ``jaxreg.linalg.squared_frobenius_norm``, which estimates the same from a few products.

    Args:
      loss_fn, batches, hessian_weight, gradient_weight: as in :func:`hessian_gradient_alignment`.
      params: tree of floating arrays, all of one dtype.

    Returns:
      A scalar in [0, inf), at least float32.

    Raises:
      TypeError, ValueError: as in :func:`hessian_gradient_alignment`.

    References:
      Hemati, Zhang, Estiri and Chen (2023), arXiv 2308.11778; Chen, Si, Zhang and Zhao (2025), arXiv
      2506.07378.

    Example:
      >>> loss_fn = lambda x, scale: scale * jnp.sum(x**2) / 2
      >>> print(hessian_alignment(loss_fn, jnp.ones(3), jnp.array([1.0, 3.0]), gradient_weight=0.0))
      3.0
    """
    alpha, beta = _weights(batches, hessian_weight, gradient_weight)
    distance = over_basis(
        lambda basis: spread_of(products_of(loss_fn, params, batches, basis, None), None), params
    )
    return _sum(alpha, distance, beta, spread_of(gradients_of(loss_fn, params, batches), None))


def hutchinson_alignment(
    loss_fn: LossFn,
    params: Any,
    batches: Any,
    *,
    key: ArrayLike,
    probes: int = 300,
    shared_probes: bool = False,
    remove_bias: bool = False,
    hessian_weight: ArrayLike = 1.0,
    gradient_weight: ArrayLike = 1.0,
    detach_reference: bool = True,
) -> jax.Array:
    """:func:`jaxreg.penalties.hutchinson_alignment` for any loss, by products forward over reverse.

    Args:
      loss_fn, params, batches: as in :func:`hessian_gradient_alignment`.
      key, probes, shared_probes, remove_bias, hessian_weight, gradient_weight, detach_reference: as for its
        namesake; the bias is estimated from the samples' variance, so that removing it takes 2 probes.

    Returns:
      A scalar, at least float32.

    Raises:
      TypeError: as in :func:`hessian_gradient_alignment`.
      ValueError: as in :func:`hessian_gradient_alignment`, or too few probes.

    References:
      Hemati, Zhang, Estiri and Chen (2023), arXiv 2308.11778.

    Example:
      >>> loss_fn = lambda x, scale: scale * jnp.sum(x**2) / 2
      >>> domains = jnp.array([1.0, 3.0])
      >>> key = jax.random.key(0)
      >>> print(hutchinson_alignment(loss_fn, jnp.ones(1), domains, key=key, probes=1, gradient_weight=0.0))
      1.0
    """
    alpha, beta = _weights(batches, hessian_weight, gradient_weight)
    fewest = 2 if remove_bias else 1
    if probes < fewest:
        raise ValueError(f"probes must be at least {fewest}, got {probes}")
    gradients = gradients_of(loss_fn, params, batches)
    mean = mean_of(gradients)

    def sample(one: jax.Array) -> tuple[Any, Any, Any]:
        own, of_reference = (one, one) if shared_probes else jax.random.split(one)
        signs = linalg.random_signs(own, mean if shared_probes else gradients)
        images = products_of(loss_fn, params, batches, signs, None if shared_probes else 0)
        diagonals = jax.tree.map(jnp.multiply, signs, images)
        if shared_probes:
            pooled = mean_of(diagonals)
            noise = jax.tree.map(jnp.subtract, diagonals, pooled)
            return diagonals, pooled, square_of(noise)
        signs = linalg.random_signs(of_reference, mean)
        images = products_of(loss_fn, params, batches, signs, None)
        pooled = jax.tree.map(jnp.multiply, signs, mean_of(images))
        return diagonals, pooled, square_of(diagonals) + linalg.inner_product(pooled, pooled)

    like = (gradients, mean, jnp.zeros_like(square_of(gradients)))
    estimates, target, square = linalg.mean_of_samples(sample, like, key=key, probes=probes)
    # Variance of the mean of the samples, of each domain and of the reference or of their difference.
    if shared_probes:
        centre = spread_of(estimates, target)
    else:
        centre = square_of(estimates) + linalg.inner_product(target, target)
    bias = (square - centre) / max(probes - 1, 1)
    if detach_reference:
        mean, target = jax.lax.stop_gradient((mean, target))
    distance = spread_of(estimates, target)
    return _sum(alpha, distance - bias if remove_bias else distance, beta, spread_of(gradients, mean))


def _weights(
    batches: Any, hessian_weight: ArrayLike, gradient_weight: ArrayLike
) -> tuple[jax.Array, jax.Array]:
    count(batches)
    alpha = checks.scalar("hessian_weight", hessian_weight, "[0, inf)")
    return alpha, checks.scalar("gradient_weight", gradient_weight, "[0, inf)")


def _sum(alpha: jax.Array, first: jax.Array, beta: jax.Array, second: jax.Array) -> jax.Array:
    return alpha.astype(first.dtype) * first + beta.astype(second.dtype) * second
