"""What the penalties of any head share: derivatives of every domain, and how far they are apart."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxreg import checks, linalg

LossFn = Callable[[Any, Any], jax.Array]
"""``loss_fn(params, batch)``: the mean loss of one domain, a scalar."""


def count(batches: Any) -> int:
    """Number of domains of a tree of arrays with a leading domain axis; ValueError if they do not agree."""
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(batches)}
    if len(sizes) != 1 or () in sizes or (0,) in sizes:
        raise ValueError(
            f"batches must be a tree of arrays with one leading domain axis, got leading axes {sorted(sizes)}"
        )
    return sizes.pop()[0]


def wide(tree: Any) -> Any:
    """The tree in at least float32, in which differences are taken, squared and averaged."""
    return jax.tree.map(lambda leaf: leaf.astype(checks.widest(leaf)), tree)


def gradients_of(loss_fn: LossFn, params: Any, batches: Any) -> Any:
    """Gradient of every domain, a tree like ``params`` with a leading domain axis, at least float32."""
    return wide(jax.vmap(jax.grad(loss_fn), (None, 0))(params, batches))


def products_of(loss_fn: LossFn, params: Any, batches: Any, vectors: Any, axis: int | None) -> Any:
    """Hessian of each domain times one vector for all (axis None) or its own (axis 0); at least float32."""
    fitted = jax.tree.map(lambda leaf, like: leaf.astype(jnp.result_type(like)), vectors, params)

    def product(vector: Any, batch: Any) -> Any:
        return linalg.hessian_vector_product(loss_fn, params, vector, batch)

    return wide(jax.vmap(product, (axis, 0))(fitted, batches))


def over_basis(squared: Callable[[Any], jax.Array], params: Any) -> jax.Array:
    """Sum of a function over the unit vectors of the parameters."""
    flat, unravel = ravel_pytree(params)
    indices = jnp.arange(flat.size, dtype=jnp.int32)

    def of_index(index: jax.Array) -> jax.Array:
        return squared(unravel((indices == index).astype(flat.dtype)))

    return jnp.sum(linalg.each_index(of_index, flat.size, 16))


def mean_of(tree: Any) -> Any:
    """Mean over domains."""
    return jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), tree)


def spread_of(tree: Any, reference: Any) -> jax.Array:
    """Mean over domains of the squared distance from a reference, or from the mean over domains."""
    reference = mean_of(tree) if reference is None else reference
    return square_of(jax.tree.map(jnp.subtract, tree, reference))


def square_of(tree: Any) -> jax.Array:
    """Mean over domains of the squared norm."""
    return linalg.inner_product(tree, tree) / jax.tree.leaves(tree)[0].shape[0]
