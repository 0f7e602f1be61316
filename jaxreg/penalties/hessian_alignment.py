"""Alignment of head Hessians and gradients across domains (Hemati et al., ICCV 2023, arXiv 2308.11778)."""

from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxreg import checks, linalg
from jaxreg.penalties import hessian_distances
from jaxreg.penalties.domain_batch import Head, HeadTree, domain_batch
from jaxreg.penalties.head_moments import HeadMoments

Reference = Literal["pooled", "mean"]


def hessian_gradient_alignment(
    head: Head,
    features: ArrayLike,
    labels: ArrayLike,
    *,
    hessian_weight: ArrayLike = 1.0,
    gradient_weight: ArrayLike = 1.0,
    reference: Reference = "pooled",
    detach_reference: bool = True,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> jax.Array:
    r"""Hessian-gradient product matching (HGP): distance of H g and of g from their references over domains.

    .. math:: \frac1E \sum_e \alpha \|H_e g_e - r\|^2 + \beta \|g_e - \bar g\|^2, \qquad
              r = \bar H \bar g \ \text{(pooled)} \quad\text{or}\quad r = \tfrac1E \sum_e H_e g_e
              \ \text{(mean)}

    with the gradient :math:`g_e` and Hessian :math:`H_e` of domain e's mean cross-entropy in the head, bars
    for means over domains. Add it to the mean loss. It is blind to Hessians that differ at a common optimum.

    Args:
      head: ``{"kernel": [D, K], "bias": [K]}``, floating; the bias may be absent. K = 1 is one logit.
      features: inputs of the head, floating, shape ``[E, B, D]``.
      labels: classes, integer ``[E, B]``, or their probabilities ``[E, B, K]``.
      hessian_weight: ``alpha`` in [0, inf).
      gradient_weight: ``beta`` in [0, inf).
      reference: ``"pooled"``, as in the released code, or ``"mean"``; they differ by a covariance over
        domains.
      detach_reference: whether the references are constant for differentiation, as in the released code. This
        matters for the pooled reference alone.
      where: examples that count, boolean, broadcastable to ``[E, B]``.
      weights: of the examples within their domain, in [0, inf), broadcastable to ``[E, B]``.

    Returns:
      A scalar in [0, inf), in the widest dtype of head and features and at least float32.

    Raises:
      TypeError: a dtype that is not the one above.
      ValueError: a shape, a Python or NumPy number or a name that is not one of the above.

    References:
      Hemati, Zhang, Estiri and Chen (2023), HGP, and the code released with it; the closed form is derived.

    Example:
      >>> head = {"kernel": jnp.zeros([1, 1])}                      # one logit: H = 1/4, g = +-1/2
      >>> features, labels = jnp.ones([2, 1, 1]), jnp.array([[0], [1]])
      >>> print(hessian_gradient_alignment(head, features, labels, gradient_weight=0.0))   # (1/8)^2
      0.015625
    """
    checks.one_of("reference", reference, ("pooled", "mean"))
    batch, alpha, beta = _checked(head, features, labels, where, weights, hessian_weight, gradient_weight)
    moments = HeadMoments.of(batch)
    gradients = moments.gradient
    mean = jax.tree.map(batch.over_domains, gradients)
    if reference == "mean":
        products = moments.hessian_times(gradients)
        target = jax.tree.map(batch.over_domains, products)
    else:
        products, of_mean = _both_products(moments, gradients, mean, detach=detach_reference)
        target = jax.tree.map(batch.over_domains, of_mean)
    if detach_reference:
        mean, target = jax.lax.stop_gradient((mean, target))
    return alpha * batch.spread(products, target) + beta * batch.spread(gradients, mean)


def hessian_diagonal_alignment(
    head: Head,
    features: ArrayLike,
    labels: ArrayLike,
    *,
    hessian_weight: ArrayLike = 1.0,
    gradient_weight: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> jax.Array:
    r"""Distance of exact Hessian diagonals, and of gradients, from their means over domains.

    .. math:: \frac1E \sum_e \alpha \|\mathrm{diag}(H_e - \bar H)\|^2 + \beta \|g_e - \bar g\|^2

    What :func:`hutchinson_alignment` estimates from samples; for a linear head none are needed.

    Args:
      head, features, labels, where, weights: as in :func:`hessian_gradient_alignment`.
      hessian_weight: ``alpha`` in [0, inf).
      gradient_weight: ``beta`` in [0, inf).

    Returns:
      A scalar in [0, inf), in the widest dtype of head and features and at least float32.

    Raises:
      TypeError: as in :func:`hessian_gradient_alignment`.
      ValueError: as in :func:`hessian_gradient_alignment`.

    References:
      Hemati, Zhang, Estiri and Chen (2023), the target of their Hutchinson method; the closed form is
      derived.

    Example:
      >>> head = {"kernel": jnp.zeros([1, 1])}                      # one logit: H = z^2 / 4
      >>> features, labels = jnp.array([[[1.0]], [[3.0]]]), jnp.array([[0], [1]])
      >>> print(hessian_diagonal_alignment(head, features, labels, gradient_weight=0.0))
      1.0
    """
    batch, alpha, beta = _checked(head, features, labels, where, weights, hessian_weight, gradient_weight)
    moments = HeadMoments.of(batch)
    return alpha * batch.spread(moments.hessian_diagonal) + beta * batch.spread(moments.gradient)


def hessian_alignment(
    head: Head,
    features: ArrayLike,
    labels: ArrayLike,
    *,
    hessian_weight: ArrayLike = 1.0,
    gradient_weight: ArrayLike = 1.0,
    method: hessian_distances.Method = "auto",
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> jax.Array:
    r"""Frobenius distance of exact Hessians, and of gradients, from their means over domains.

    .. math:: \frac1E \sum_e \alpha \|H_e - \bar H\|_F^2 + \beta \|g_e - \bar g\|^2

    Together with the mean loss this has the form of closed-form moment alignment (CMA), with weights of your
    choice. No Hessian is formed. The Gram form costs :math:`(E B)^2 (D + K^2)` operations and subtracts
    numbers as large as the Hessians; the blocks cost :math:`E B D^2` up to two classes, :math:`K (K + 1) / 2`
    times that beyond, and do not. ``"auto"`` takes the cheaper one by these counts, and the blocks as well
    wherever the Gram form finds two Hessians nearer than 1000 times the dtype's precision of their squared
    norms.

    Args:
      head, features, labels, where, weights: as in :func:`hessian_gradient_alignment`.
      hessian_weight: ``alpha`` in [0, inf).
      gradient_weight: ``beta`` in [0, inf).
      method: ``"auto"``, ``"gram"`` or ``"blocks"``.

    Returns:
      A scalar in [0, inf), in the widest dtype of head and features and at least float32; the Gram form can
      round to a negative number.

    Raises:
      TypeError: as in :func:`hessian_gradient_alignment`.
      ValueError: as in :func:`hessian_gradient_alignment`, or an unknown method.

    References:
      Hemati, Zhang, Estiri and Chen (2023), arXiv 2308.11778; Chen, Si, Zhang and Zhao (2025), arXiv
      2506.07378; the two forms are derived.

    Example:
      >>> head = {"kernel": jnp.zeros([1, 1])}                      # one logit: H = z^2 / 4
      >>> features, labels = jnp.array([[[1.0]], [[3.0]]]), jnp.array([[0], [1]])
      >>> print(hessian_alignment(head, features, labels, gradient_weight=0.0))
      1.0
    """
    batch, alpha, beta = _checked(head, features, labels, where, weights, hessian_weight, gradient_weight)
    moments = HeadMoments.of(batch)
    distance = hessian_distances.spread(batch, moments.predictions, method)
    return alpha * distance + beta * batch.spread(moments.gradient)


def hutchinson_alignment(
    head: Head,
    features: ArrayLike,
    labels: ArrayLike,
    *,
    key: ArrayLike,
    probes: int = 300,
    shared_probes: bool = False,
    remove_bias: bool = False,
    hessian_weight: ArrayLike = 1.0,
    gradient_weight: ArrayLike = 1.0,
    detach_reference: bool = True,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> jax.Array:
    r"""Alignment of Hessian diagonals estimated from random signs, and of gradients.

    .. math:: \frac1E \sum_e \alpha \|\hat D_e - \hat D\|^2 + \beta \|g_e - \bar g\|^2, \qquad
              \hat D_e = \frac1R \sum_r v_{er} \circ H_e v_{er}, \quad
              \hat D = \frac1R \sum_r v_r \circ \bar H v_r

    The first term is larger in expectation than with the exact diagonals, by
    :math:`(\mathrm{off}(H_e) + \mathrm{off}(\bar H)) / R` with independent probes and
    :math:`\mathrm{off}(H_e - \bar H) / R` with shared ones, :math:`\mathrm{off}(M) = \|M\|_F^2 -
    \|\mathrm{diag}\,M\|^2`. For a linear head :func:`hessian_diagonal_alignment` is exact and far cheaper.

    Args:
      head, features, labels, where, weights: as in :func:`hessian_gradient_alignment`.
      key: random key of the probes.
      probes: their number ``R``, at least 1; 300 as in the released code.
      shared_probes: whether all domains and the reference share their probes; in the released code they do
        not.
      remove_bias: whether to subtract an unbiased estimate of the bias, made from the samples' distance to
        the exact diagonals. The result is then unbiased, and may be negative.
      hessian_weight: ``alpha`` in [0, inf).
      gradient_weight: ``beta`` in [0, inf).
      detach_reference: whether the references are constant for differentiation, as in the released code.

    Returns:
      A scalar, in the widest dtype of head and features and at least float32.

    Raises:
      TypeError: as in :func:`hessian_gradient_alignment`.
      ValueError: as in :func:`hessian_gradient_alignment`, or ``probes`` below 1.

    References:
      Hemati, Zhang, Estiri and Chen (2023), the Hutchinson method, and the code released with it; its bias is
      derived.

    Example:
      >>> head = {"kernel": jnp.zeros([1, 1])}                      # one entry: nothing off the diagonal
      >>> features, labels = jnp.array([[[1.0]], [[3.0]]]), jnp.array([[0], [1]])
      >>> print(hutchinson_alignment(head, features, labels, key=jax.random.key(0), gradient_weight=0.0))
      1.0
    """
    batch, alpha, beta = _checked(head, features, labels, where, weights, hessian_weight, gradient_weight)
    moments = HeadMoments.of(batch)
    sampled = _sampled_shared if shared_probes else _sampled_independent
    estimates, reference, bias = sampled(moments, key, probes)
    gradients = moments.gradient
    mean = jax.tree.map(batch.over_domains, gradients)
    if detach_reference:
        mean, reference = jax.lax.stop_gradient((mean, reference))
    distance = batch.spread(estimates, reference)
    distance = distance - bias if remove_bias else distance
    return alpha * distance + beta * batch.spread(gradients, mean)


# -- Parts


def _checked(head, features, labels, where, weights, hessian_weight, gradient_weight):
    batch = domain_batch(head, features, labels, where=where, weights=weights)
    dtype = batch.kernel.dtype
    alpha = checks.scalar("hessian_weight", hessian_weight, "[0, inf)", dtype=dtype)
    beta = checks.scalar("gradient_weight", gradient_weight, "[0, inf)", dtype=dtype)
    return batch, alpha, beta


def _both_products(
    moments: HeadMoments, gradients: HeadTree, mean: HeadTree, *, detach: bool
) -> tuple[HeadTree, HeadTree]:
    """Each domain's Hessian times its own gradient, and times the mean gradient."""
    fixed, vector = jax.lax.stop_gradient((moments, mean)) if detach else (moments, mean)
    return moments.hessian_times(gradients), fixed.hessian_times(vector)


def _sampled_independent(
    moments: HeadMoments, key: ArrayLike, probes: int
) -> tuple[HeadTree, HeadTree, jax.Array]:
    batch = moments.batch
    exact = moments.hessian_diagonal
    mean = jax.tree.map(batch.over_domains, exact)

    def sample(one: jax.Array) -> tuple:
        own, of_reference = jax.random.split(one)
        signs = linalg.random_signs(own, exact)
        diagonals = jax.tree.map(jnp.multiply, signs, moments.hessian_times(signs))
        signs = linalg.random_signs(of_reference, mean)
        images = jax.tree.map(batch.over_domains, moments.hessian_times(signs))
        pooled = jax.tree.map(jnp.multiply, signs, images)
        errors = jax.tree.map(jnp.subtract, pooled, mean)
        return diagonals, pooled, batch.spread(diagonals, exact) + linalg.inner_product(errors, errors)

    return _averaged(sample, (exact, mean), key, probes)


def _sampled_shared(
    moments: HeadMoments, key: ArrayLike, probes: int
) -> tuple[HeadTree, HeadTree, jax.Array]:
    batch = moments.batch
    exact = moments.hessian_diagonal
    mean = jax.tree.map(batch.over_domains, exact)

    def sample(one: jax.Array) -> tuple:
        signs = linalg.random_signs(one, mean)
        diagonals = jax.tree.map(lambda sign, image: sign[None] * image, signs, moments.hessian_times(signs))
        pooled = jax.tree.map(batch.over_domains, diagonals)
        return diagonals, pooled, batch.spread(jax.tree.map(jnp.subtract, diagonals, exact))

    return _averaged(sample, (exact, mean), key, probes)


def _averaged(sample, like, key, probes):
    none = jnp.zeros_like(jnp.sum(jax.tree.leaves(like)[0]))
    estimates, reference, square = linalg.mean_of_samples(sample, (*like, none), key=key, probes=probes)
    return estimates, reference, square / probes
