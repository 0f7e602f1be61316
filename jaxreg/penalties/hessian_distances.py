r"""Squared Frobenius distances of the head Hessians of several domains, without forming a Hessian.

Two exact forms. By **Gram matrices** of the examples,

.. math:: \langle H_e, H_f \rangle = \sum_{ij} w_{ei} w_{fj}\, \mathrm{tr}(A_{ei} A_{fj})
          (\tilde z_{ei} \cdot \tilde z_{fj})^2,

at a cost of :math:`(E B)^2 (D + K^2)` operations; and by **blocks** of the Hessian, each the difference of
:math:`\sum_i c_i \tilde z_i \tilde z_i^\top` between domains, squared and added up, at :math:`E B D^2` for K
<= 2 and :math:`E B D^2 K (K + 1) / 2` beyond, one block in memory at a time. The Gram form subtracts numbers
as large as :math:`\|H\|^2`: with a relative squared distance of r its relative error is about eps / r, that
of the blocks eps / sqrt(r), in both times one plus the largest score, since a score is rounded too.

``"auto"`` takes the cheaper one by these counts; where that is the Gram form and it finds r < 1000 eps in the
dtype of the computation, the blocks are evaluated in its place, at run time.
"""

import functools
import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxreg.penalties.domain_batch import DomainBatch, contract, replicated
from jaxreg.penalties.predictions import Predictions

Method = Literal["auto", "gram", "blocks"]

FEW_CLASSES = 32
"""Up to so many classes the traces are sums of products over pairs of classes, which never cancel."""


def spread(batch: DomainBatch, predictions: Predictions, method: Method) -> jax.Array:
    """Mean over domains of the squared Frobenius distance of their Hessian from the mean one."""

    def by_blocks() -> jax.Array:
        return _over_blocks(batch, predictions, batch.spread)

    def from_pairs(pairs: jax.Array) -> jax.Array:
        both = batch.domain_weights[:, None] * batch.domain_weights[None]
        return jnp.sum(both * pairs) / 2

    return _choose(batch, predictions, method, by_blocks, from_pairs)


def pairwise(batch: DomainBatch, predictions: Predictions, method: Method) -> jax.Array:
    """Squared Frobenius distance of the Hessians of every two domains, shape ``[E, E]``."""

    def of_moments(moments: dict[str, jax.Array]) -> jax.Array:
        def to_all(one: dict[str, jax.Array]) -> jax.Array:
            squares = jax.tree.map(lambda own, all: _squares(own[None] - all), one, moments)
            return functools.reduce(jnp.add, jax.tree.leaves(squares))

        return jax.lax.map(jax.checkpoint(to_all), jax.tree.map(_whole_domains, moments))

    return _choose(
        batch, predictions, method, lambda: _over_blocks(batch, predictions, of_moments), lambda pairs: pairs
    )


def _choose(
    batch: DomainBatch,
    predictions: Predictions,
    method: Method,
    by_blocks: Callable[[], jax.Array],
    from_pairs: Callable[[jax.Array], jax.Array],
) -> jax.Array:
    if method not in ("auto", "gram", "blocks"):
        raise ValueError(f"method must be 'auto', 'gram' or 'blocks', got {method!r}")
    if method == "blocks" or (method == "auto" and not _gram_is_cheaper(batch)):
        return by_blocks()
    pairs, squares = _gram(batch, predictions)
    found = from_pairs(pairs)
    if method == "gram":
        return found
    near = pairs < 1000 * jnp.finfo(pairs.dtype).eps * (squares[:, None] + squares[None])
    close = jnp.any(near & ~jnp.eye(pairs.shape[0], dtype=bool))
    # Recomputed for the gradient, so that nothing has to be kept of blocks that were not evaluated.
    return jax.lax.cond(close, jax.checkpoint(by_blocks), lambda: found)


def _gram_is_cheaper(batch: DomainBatch) -> bool:
    domains, examples, features = batch.features.shape
    classes = batch.kernel.shape[1]
    blocks = 1 if classes <= 2 else classes * (classes + 1) // 2
    traces = min(blocks, 3 * classes)
    return domains * examples * (features + traces) < blocks * features**2


# -- Blocks of the Hessian


def _over_blocks(
    batch: DomainBatch, predictions: Predictions, function: Callable[[dict[str, jax.Array]], jax.Array]
) -> jax.Array:
    """Sum of a quadratic function over the blocks ``S_e = E[c z~ z~^T]`` of the Hessians."""

    def of_block(coefficients: jax.Array) -> jax.Array:
        weighted = batch.weights * coefficients
        moments = {"kernel": second_moment(batch.features, weighted)}
        if batch.bias is not None:
            # The row and the column of the bias are one block each.
            column = contract("ebd,eb->ed", batch.features, weighted)
            moments |= {"column": math.sqrt(2) * column, "bias": jnp.sum(weighted, axis=1)}
        return function(moments)

    p, variances = predictions.probabilities, predictions.variances
    classes = p.shape[-1]
    if classes <= 2:
        return classes**2 * of_block(variances[..., 0])

    # Entries of diag(p) - p p^T up to sign; none is a difference, so that all are accurate where saturated.
    @jax.checkpoint
    def of_pair(pair: jax.Array) -> jax.Array:
        one, other = (jax.lax.dynamic_index_in_dim(p, k, -1, keepdims=False) for k in (pair[0], pair[1]))
        own = jax.lax.dynamic_index_in_dim(variances, pair[0], -1, keepdims=False)
        diagonal = pair[0] == pair[1]
        value = of_block(jnp.where(diagonal, own, one * other))
        return jnp.where(diagonal, 1, 2).astype(value.dtype) * value

    pairs = jnp.asarray(np.stack(np.tril_indices(classes), axis=-1), jnp.int32)
    return jnp.sum(jax.lax.map(of_pair, pairs), axis=0)


@jax.custom_jvp
def second_moment(features: jax.Array, weights: jax.Array) -> jax.Array:
    """Sums ``sum_b w_eb z_eb z_eb^T`` for features ``[E, B, D]`` and weights ``[E, B]``: ``[E, D, D]``."""
    return contract("ebd,ebf->edf", weights[..., None] * features, features)


@second_moment.defjvp
def _second_moment_jvp(primals, tangents):
    features, weights = primals
    d_features, d_weights = tangents
    # Symmetric, so that the transpose takes one product with the features and not one for each factor.
    half = weights[..., None] * d_features + d_weights[..., None] * features / 2
    change = contract("ebd,ebf->edf", half, features)
    return second_moment(features, weights), change + jnp.swapaxes(change, 1, 2)


# -- Gram matrices of the examples


def _gram(batch: DomainBatch, predictions: Predictions) -> tuple[jax.Array, jax.Array]:
    """Squared distances of every two domains ``[E, E]``, and squared norms ``[E]``."""
    products = _all_products(batch.features, batch.features)
    if batch.bias is not None:
        products = products + 1
    weights = _whole_domains(batch.weights)
    weighted = weights[:, :, None, None] * replicated(weights)[None, None]
    # Of domains a and b: [a, b, i, j].
    entries = jnp.swapaxes(weighted * jnp.square(products) * _traces(predictions), 1, 2)
    own = jnp.moveaxis(jnp.diagonal(entries), -1, 0)
    # Terms of the same examples are subtracted before they are added up: their errors then average out.
    differences = (own[:, None] - entries) - (jnp.swapaxes(entries, 0, 1) - own[None])
    return jnp.sum(differences, axis=(2, 3)), jnp.sum(own, axis=(1, 2))


def _traces(predictions: Predictions) -> jax.Array:
    """``tr(A_i A_j)`` of all examples, shape ``[E, B, E, B]``."""
    p, variances = predictions.probabilities, predictions.variances
    classes = p.shape[-1]
    if classes > FEW_CLASSES:
        squares = jnp.square(p)
        own = _all_products(p, p)
        cross = _all_products(squares, p) + _all_products(p, squares)
        return jnp.square(own) + (own - cross)
    if classes <= 2:
        entries = classes * variances[..., :1]
    else:
        columns = [variances, *(math.sqrt(2) * p[..., k, None] * p[..., k + 1 :] for k in range(classes - 1))]
        entries = jnp.concatenate(columns, axis=-1)
    return _all_products(entries, entries)


def _all_products(left: jax.Array, right: jax.Array) -> jax.Array:
    """Inner products of all examples, ``[E, B, E, B]``; in full precision, for they are subtracted."""
    if left is right and all(axis is None for axis in jax.typeof(left).sharding.spec):
        return _own_products(left)
    return contract("aid,bjd->aibj", _whole_domains(left), replicated(right), precision="highest")


@jax.custom_jvp
def _own_products(vectors: jax.Array) -> jax.Array:
    return jnp.einsum("aid,bjd->aibj", vectors, vectors, precision="highest")


@_own_products.defjvp
def _own_products_jvp(primals, tangents):
    # Symmetric, so that the transpose takes one product and not one for each factor.
    change = jnp.einsum("aid,bjd->aibj", *tangents, *primals, precision="highest")
    return _own_products(*primals), change + jnp.transpose(change, (2, 3, 0, 1))


def _whole_domains(array: jax.Array) -> jax.Array:
    """The array with all domains on every device of an explicit mesh."""
    spec = jax.typeof(array).sharding.spec
    return array if spec[0] is None else jax.sharding.reshard(array, jax.P(None, *spec[1:]))


def _squares(values: jax.Array) -> jax.Array:
    return jnp.sum(jnp.square(values), axis=tuple(range(1, values.ndim)))
