"""IRM, V-REx, IGA, Fish and Fishr for any head: by losses, gradients and examples' gradients of every domain.

References: those of the namesakes in ``jaxreg.penalties``, whose formulas these have. Variants of DomainBed
are arguments, as there.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxreg import checks, linalg
from jaxreg.penalties.domain_gradients import corrected, entries, mean_product
from jaxreg.penalties.general.parts import LossFn, count, gradients_of, spread_of, wide


def irm(loss_fn: LossFn, params: Any, batches: Any, *, halves: bool = False) -> jax.Array:
    r"""IRMv1: squared slope of each domain's loss in a common factor of ``params``, averaged over domains.

    .. math:: \frac1n \sum_e d_e^2, \qquad d_e = \frac{d}{da} L_e(a \theta) \Big|_{a=1}
        = \langle \nabla L_e(\theta), \theta \rangle

    With the last linear layer as ``params`` (and the rest closed over) the factor is that of the logits, as
    in :func:`jaxreg.penalties.irm`. For a head that is not linear, let ``params`` be the factor itself, 1:
    the fixed classifier of the paper.

    Args:
      loss_fn: mean loss of one domain, ``loss_fn(params, batch)``, a scalar.
      params: tree of floating arrays.
      batches: tree of arrays with a leading domain axis.
      halves: the product of the slopes of even- and odd-numbered examples, in place of the square
        (DomainBed); every leaf of ``batches`` then has their axis, of at least 2, behind that of domains.

    Returns:
      A scalar, at least float32, in [0, inf) unless ``halves``.

    Raises:
      ValueError: domains or examples that do not agree in number, or fewer than two examples to halve.

    References:
      Arjovsky et al. (2019), arXiv 1907.02893, IRMv1.

    Example:
      >>> def loss_fn(factor, batch):   # of any network: its logits are what the domains have
      ...     return jnp.mean(jax.nn.softplus(-factor * batch))
      >>> print(f"{irm(loss_fn, 1.0, jnp.array([[2.0], [-2.0]])):.4f}")
      1.5800
    """
    count(batches)

    def slopes(part: Any) -> jax.Array:
        gradients = gradients_of(loss_fn, params, part)
        return jax.vmap(linalg.inner_product, (0, None))(gradients, params)

    if not halves:
        return jnp.mean(jnp.square(slopes(batches)))
    if _examples(batches) < 2:
        raise ValueError("batches must have at least two examples a domain for halves=True, got one")
    first, second = (slopes(jax.tree.map(lambda leaf, s=s: leaf[:, s::2], batches)) for s in (0, 1))
    return jnp.mean(first * second)


def v_rex(loss_fn: LossFn, params: Any, batches: Any) -> jax.Array:
    r"""Variance of the domains' mean losses, :math:`\frac1n \sum_e (L_e - \bar L)^2`.

    Where the losses are at hand this is ``jnp.var`` of them.

    Args:
      loss_fn, params, batches: as in :func:`irm`.

    Returns:
      A scalar in [0, inf), at least float32; 0 for one domain.

    Raises:
      ValueError: domains that do not agree in number, or a loss that is no scalar.

    References:
      Krueger et al. (2021), arXiv 2003.00688, V-REx.

    Example:
      >>> print(v_rex(lambda x, domain: x * domain, jnp.array(2.0), jnp.array([1.0, 3.0])))
      4.0
    """
    count(batches)
    losses = jax.vmap(loss_fn, (None, 0))(params, batches)
    if losses.ndim != 1:
        raise ValueError(f"loss_fn must return a scalar, got shape {losses.shape[1:]}")
    return spread_of(wide(losses), None)


def iga(
    loss_fn: LossFn, params: Any, batches: Any, *, domain_reduction: Literal["mean", "sum"] = "mean"
) -> jax.Array:
    r"""Squared distance of the domains' gradients from their mean, :math:`\frac1n \sum_e \|g_e - \bar g\|^2`.

    Args:
      loss_fn, batches: as in :func:`irm`.
      params: as in :func:`irm`; all parameters of the network in DomainBed and in the paper.
      domain_reduction: ``"sum"`` leaves out the 1/n (DomainBed).

    Returns:
      A scalar in [0, inf), at least float32; 0 for one domain.

    Raises:
      ValueError: domains that do not agree in number, or an unknown reduction.

    References:
      Koyama, Yamaguchi (2020), arXiv 2008.01883.

    Example:
      >>> loss_fn = lambda x, scale: scale * jnp.sum(x**2) / 2
      >>> print(iga(loss_fn, jnp.ones(1), jnp.array([1.0, 3.0])))
      1.0
    """
    checks.one_of("domain_reduction", domain_reduction, ("mean", "sum"))
    domains = count(batches)
    spread = spread_of(gradients_of(loss_fn, params, batches), None)
    return spread if domain_reduction == "mean" else spread * domains


def fish(loss_fn: LossFn, params: Any, batches: Any) -> jax.Array:
    r"""Minus the inner product of two domains' gradients, averaged over the pairs.

    .. math:: -\frac{2}{n(n-1)} \sum_{a < b} g_a \cdot g_b

    Args:
      loss_fn, batches: as in :func:`irm`.
      params: as in :func:`irm`; all parameters of the network in the paper.

    Returns:
      A scalar of either sign, at least float32; 0 for one domain.

    Raises:
      ValueError: domains that do not agree in number.

    References:
      Shi et al. (2022), arXiv 2104.09937, the IDGM objective.

    Example:
      >>> loss_fn = lambda x, scale: scale * jnp.sum(x**2) / 2
      >>> print(fish(loss_fn, jnp.ones(1), jnp.array([1.0, 3.0])))
      -3.0
    """
    present = jnp.ones(count(batches), bool)
    return -mean_product(gradients_of(loss_fn, params, batches), present)


def fishr(
    loss_fn: LossFn,
    params: Any,
    batches: Any,
    *,
    entry_reduction: Literal["sum", "mean"] = "sum",
    averages: Any = None,
    decay: ArrayLike = 0.0,
    weights: ArrayLike | None = None,
) -> jax.Array:
    r"""Squared distance of the domains' gradient variances from their mean.

    .. math:: \frac1n \sum_e \|v_e - \bar v\|^2

    with ``v_e`` from :func:`gradient_variances`, which has one gradient an example in memory.

    Args:
      loss_fn: as in :func:`gradient_variances`.
      params: as in :func:`irm`; the last layer in DomainBed and in the paper.
      batches: as in :func:`gradient_variances`.
      entry_reduction: ``"mean"`` divides by the number of entries of ``params`` (DomainBed).
      averages: moving averages of the variances, a tree like ``params`` with a leading domain axis, as in
        :func:`jaxreg.penalties.fishr`; they are held constant.
      decay: of the moving averages, in [0, 1), a scalar.
      weights: as in :func:`gradient_variances`.

    Returns:
      A scalar in [0, inf), at least float32; 0 for one domain.

    Raises:
      TypeError: a number that is not real, or ``weights`` that are not floating.
      ValueError: domains or examples that do not agree in number, an unknown reduction, averages of another
        shape, or a number out of range.

    References:
      Rame et al. (2022), arXiv 2109.02934, eq. (4).

    Example:
      >>> loss_fn = lambda x, batch: jnp.mean(batch) * x
      >>> print(fishr(loss_fn, jnp.array(1.0), jnp.array([[0.0, 2.0], [1.0, 1.0]])))   # variances 1 and 0
      0.25
    """
    checks.one_of("entry_reduction", entry_reduction, ("sum", "mean"))
    variances = gradient_variances(loss_fn, params, batches, weights=weights)
    variances = corrected(variances, averages, decay)
    spread = spread_of(variances, None)
    return spread if entry_reduction == "sum" else spread / entries(variances)


def gradient_variances(
    loss_fn: LossFn, params: Any, batches: Any, *, weights: ArrayLike | None = None
) -> Any:
    r"""Variance over a domain's examples of each entry of their gradients, what :func:`fishr` compares.

    .. math:: v = \sum_i w_i (g_i - g)^2, \qquad g = \sum_i w_i g_i

    Args:
      loss_fn: as in :func:`irm`; called on batches of one example, whose axis is kept.
      params: as in :func:`irm`.
      batches: as in :func:`irm`; the second axis of every leaf is that of examples.
      weights: ``w`` of the examples within their domain, in [0, inf), shape ``[E, B]``, of any sum that is
        not 0; None weighs them alike. An example of weight 0 is left out.

    Returns:
      A tree like ``params`` with a leading domain axis, at least float32.

    Raises:
      TypeError: ``weights`` that are not floating.
      ValueError: domains or examples that do not agree in number, ``weights`` of another shape, or a NumPy
        weight out of range.

    References:
      Rame et al. (2022), arXiv 2109.02934.

    Example:
      >>> loss_fn = lambda x, batch: jnp.mean(batch) * x
      >>> print(gradient_variances(loss_fn, jnp.array(1.0), jnp.array([[0.0, 2.0], [1.0, 1.0]])))
      [1. 0.]
    """
    shape = (count(batches), _examples(batches))
    each = _each_gradient(loss_fn, params, batches)
    if weights is None:
        return jax.tree.map(
            lambda leaf: jnp.mean(jnp.square(leaf - jnp.mean(leaf, 1, keepdims=True)), 1), each
        )
    shares = _shares(weights, shape)

    def variance(leaf: jax.Array) -> jax.Array:
        share = jnp.expand_dims(shares.astype(leaf.dtype), tuple(range(2, leaf.ndim)))
        kept = jnp.where(share == 0, 0, leaf)
        mean = jnp.sum(share * kept, axis=1, keepdims=True)
        return jnp.sum(share * jnp.square(kept - mean), axis=1)

    return jax.tree.map(variance, each)


def _each_gradient(loss_fn: LossFn, params: Any, batches: Any) -> Any:
    """Gradients of single examples, a tree like ``params`` with leading axes ``[E, B]``."""

    def of_one(example: Any) -> Any:
        return jax.grad(loss_fn)(params, jax.tree.map(lambda leaf: leaf[None], example))

    return wide(jax.vmap(jax.vmap(of_one))(batches))


def _shares(weights: ArrayLike, shape: tuple[int, int]) -> jax.Array:
    """The weights over their sum in each domain; NaN in one with a weight that is none."""
    raw = checks.floating("weights", weights)
    if checks.is_concrete(weights):
        checks.known("weights", weights, "[0, inf)", raw.dtype)
    if raw.shape != shape:
        raise ValueError(f"weights must have one entry an example, shape {shape}, got {raw.shape}")
    raw = jnp.where((raw >= 0) & (raw < jnp.inf), raw, jnp.nan)
    return raw / jnp.sum(raw, axis=1, keepdims=True)


def _examples(batches: Any) -> int:
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(batches)]
    sizes = {shape[1:2] for shape in shapes}
    if len(sizes) != 1 or () in sizes or (0,) in sizes:
        raise ValueError(
            f"batches must have an axis of examples behind that of domains on every leaf, got {shapes}"
        )
    return sizes.pop()[0]
