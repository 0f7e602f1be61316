"""Linear algebra of functions and trees: inner products, Hessian-vector products, diagonals, spectral norms.

A symmetric matrix is given as its product: a function ``product(vector) -> vector`` of trees of one
structure. Nothing here forms a matrix of the size of the parameters squared.
"""

import functools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike

from jaxreg import checks

Tree = Any
"""A tree of floating arrays."""
Product = Callable[[Tree], Tree]


def inner_product(left: Tree, right: Tree) -> jax.Array:
    r"""Inner product of two trees, :math:`\sum_i a_i b_i` over all entries of all leaves.

    Args:
      left: tree of floating arrays.
      right: tree of the same structure and shapes.

    Returns:
      A scalar, at least float32, in the widest dtype of the leaves; 0 for a tree without leaves.

    Raises:
      ValueError: structures or shapes differ.

    Example:
      >>> tree = {"kernel": jnp.array([3.0, 0.0]), "bias": jnp.array(4.0)}
      >>> print(inner_product(tree, tree))
      25.0
    """
    _check_alike("right", right, left)
    pairs = list(zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True))
    dtype = checks.widest(*(jnp.asarray(leaf) for pair in pairs for leaf in pair))
    products = (jnp.sum(jnp.asarray(a, dtype) * jnp.asarray(b, dtype)) for a, b in pairs)
    return functools.reduce(jnp.add, products, jnp.zeros((), dtype))


def norm(tree: Tree) -> jax.Array:
    r"""Euclidean norm of a tree, :math:`\sqrt{\sum_i a_i^2}`, with gradient 0 at 0.

    Args:
      tree: tree of floating arrays.

    Returns:
      A scalar in [0, inf), at least float32; accurate also where squares of the entries leave the dtype's
      range.

    Example:
      >>> print(norm([jnp.array([3.0, 0.0]), jnp.array(4.0)]))
      5.0
    """
    leaves = [checks.floating("tree", leaf) for leaf in jax.tree.leaves(tree)]
    dtype = checks.widest(*leaves)
    sizes = [jnp.max(jnp.abs(leaf), initial=0).astype(dtype) for leaf in leaves]
    largest = jax.lax.stop_gradient(functools.reduce(jnp.maximum, sizes, jnp.zeros((), dtype)))
    unit = jnp.where((largest > 0) & (largest < jnp.inf), largest, 1)
    scaled = [leaf.astype(dtype) / unit for leaf in leaves]
    return unit * root(inner_product(scaled, scaled))


def root(square: jax.Array) -> jax.Array:
    """Square root of a non-negative number, with gradient 0 at 0."""
    return jnp.where(square == 0, 0, jnp.sqrt(jnp.where(square == 0, 1, square)))


def hessian_vector_product(
    function: Callable[..., jax.Array], params: Tree, vector: Tree, *args: Any
) -> Tree:
    r"""Hessian of a function times a vector, :math:`\nabla^2 f(\theta) v`, forward over reverse.

    Args:
      function: ``f(params, *args)``, a scalar.
      params: where, a tree of floating arrays.
      vector: a tree of the structure, shapes and dtypes of ``params``.
      args: further arguments, not differentiated.

    Returns:
      A tree like ``params``.

    Raises:
      ValueError: ``vector`` and ``params`` differ in structure or shapes.

    Example:
      >>> cubic = lambda x: jnp.sum(x**3)
      >>> print(hessian_vector_product(cubic, jnp.array([1.0, 2.0]), jnp.array([1.0, 1.0])))
      [ 6. 12.]
    """
    _check_alike("vector", vector, params)
    gradient = jax.grad(lambda params: function(params, *args))
    return jax.jvp(gradient, (params,), (vector,))[1]


def hessian_diagonal(
    function: Callable[..., jax.Array], params: Tree, *args: Any, batch_size: int = 16
) -> Tree:
    r"""Exact diagonal of a Hessian, :math:`\partial^2 f / \partial \theta_i^2`, by one product an entry.

    Args:
      function: ``f(params, *args)``, a scalar.
      params: where, a tree of floating arrays, all of one dtype, with N entries in all.
      args: further arguments, not differentiated.
      batch_size: how many of the N products run side by side, at least 1.

    Returns:
      A tree like ``params``.

    Raises:
      ValueError: ``batch_size`` below 1.

    Example:
      >>> print(hessian_diagonal(lambda x: x[0] ** 2 * x[1] + x[1] ** 3, jnp.array([2.0, 1.0])))
      [2. 6.]
    """
    flat, unravel = ravel_pytree(params)

    def entry(index: jax.Array) -> jax.Array:
        product = hessian_vector_product(function, params, unravel(_basis(index, flat)), *args)
        return jnp.sum(_basis(index, flat) * ravel_pytree(product)[0])

    return unravel(each_index(entry, flat.size, batch_size))


def each_index(function: Callable[[jax.Array], Tree], size: int, batch_size: int) -> Tree:
    """``function(i)`` for i in 0..size-1, stacked, so many at a time; each is recomputed for its gradient."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    indices = jnp.arange(size, dtype=jnp.int32)
    return jax.lax.map(jax.checkpoint(function), indices, batch_size=min(batch_size, size))


def random_signs(key: ArrayLike, like: Tree) -> Tree:
    """Independent signs, -1 or 1 with equal probability, in the shapes and dtypes of a tree.

    Args:
      key: random key.
      like: tree of floating arrays.

    Example:
      >>> sorted(set(random_signs(jax.random.key(0), jnp.zeros(50)).tolist()))
      [-1.0, 1.0]
    """
    leaves, structure = jax.tree.flatten(like)
    keys = jax.random.split(key, len(leaves)) if leaves else []
    signs = [
        jax.random.rademacher(one, leaf.shape, jnp.int8).astype(leaf.dtype)
        for one, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, signs)


def hutchinson_diagonal(product: Product, like: Tree, *, key: ArrayLike, probes: int) -> Tree:
    r"""Unbiased estimate of a matrix's diagonal (Bekas, Kokiopoulou and Saad, 2007).

    .. math:: \hat D = \frac1R \sum_{r=1}^R v_r \circ M v_r, \qquad v_r \in \{-1, 1\}^n
              \text{ uniform}, \qquad E\|\hat D - \operatorname{diag} M\|^2
              = \frac{\|M\|_F^2 - \|\operatorname{diag} M\|^2}{R}

    Args:
      product: ``M v`` for a tree ``v``, a linear function; ``M`` symmetric.
      like: a tree of the structure, shapes and dtypes of ``v``.
      key: random key of the probes.
      probes: their number ``R``, at least 1.

    Returns:
      A tree like ``like``.

    Raises:
      ValueError: ``probes`` below 1.

    Example:
      >>> diagonal = jnp.array([1.0, -2.0, 3.0])
      >>> print(hutchinson_diagonal(lambda v: diagonal * v, diagonal, key=jax.random.key(0), probes=1))
      [ 1. -2.  3.]
    """

    def sample(one: jax.Array) -> Tree:
        signs = random_signs(one, like)
        return jax.tree.map(operator.mul, signs, product(signs))

    return mean_of_samples(sample, like, key=key, probes=probes)


def squared_frobenius_norm(product: Product, like: Tree, *, key: ArrayLike, probes: int = 1) -> jax.Array:
    r"""Unbiased estimate of :math:`\|M\|_F^2` from random signs, without cancellation.

    .. math:: \frac1R \sum_{r=1}^R \|M v_r\|^2, \qquad v_r \in \{-1, 1\}^n \text{ uniform}

    With ``M`` the difference of two matrices this is their squared distance, however small that is.

    Args:
      product: ``M v`` for a tree ``v``, a linear function; ``M`` any matrix.
      like: a tree of the structure, shapes and dtypes of ``v``.
      key: random key of the probes.
      probes: their number ``R``, at least 1.

    Returns:
      A scalar in [0, inf), at least float32.

    Raises:
      ValueError: ``probes`` below 1.

    Example:
      >>> diagonal = jnp.array([1.0, -2.0, 3.0])
      >>> print(squared_frobenius_norm(lambda v: diagonal * v, diagonal, key=jax.random.key(0)))
      14.0
    """

    def sample(one: jax.Array) -> jax.Array:
        image = product(random_signs(one, like))
        return inner_product(image, image)

    shape = jax.eval_shape(sample, jax.random.key(0))
    return mean_of_samples(sample, jnp.zeros(shape.shape, shape.dtype), key=key, probes=probes)


def mean_of_samples(sample: Callable[[jax.Array], Tree], like: Tree, *, key: ArrayLike, probes: int) -> Tree:
    """Mean of ``sample(key)``, a tree like ``like``, over so many keys, one after the other."""
    if not isinstance(probes, int | np.integer):
        raise TypeError(f"probes must be a whole number, got {probes!r}")
    if probes < 1:
        raise ValueError(f"probes must be at least 1, got {probes}")

    # Recomputed for the gradient: what one sample keeps may be as large as a batch.
    @jax.checkpoint
    def add(total: Tree, one: jax.Array) -> tuple[Tree, None]:
        return jax.tree.map(operator.add, total, sample(one)), None

    total, _ = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, like), jax.random.split(key, probes))
    return jax.tree.map(lambda leaf: leaf / probes, total)


class Eigenpair(NamedTuple):
    """An eigenvalue and its eigenvector."""

    value: jax.Array
    """The eigenvalue, a scalar."""
    vector: Tree
    """The eigenvector, of norm 1; constant for differentiation."""


def leading_eigenpair(
    product: Product, like: Tree, *, steps: int = 40, key: ArrayLike | None = None
) -> Eigenpair:
    """The eigenvalue of largest modulus of a symmetric matrix, with its sign, by Lanczos' method.

    Every new direction is made orthogonal to all earlier ones, twice. Where two eigenvalues of opposite sign
    tie, either is returned. The vector is constant for differentiation and the value is its Rayleigh
    quotient, so that the value's gradient is that of a simple eigenvalue.

    Args:
      product: ``M v`` for a tree ``v``, a linear function; ``M`` symmetric.
      like: a tree of the structure, shapes and dtypes of ``v``, all leaves of one dtype, with N entries in
        all.
      steps: products to take, at least 1; exact, up to rounding, with N steps. At most N are taken.
      key: random key of the first direction; None takes a fixed one.

    Returns:
      The eigenvalue and its eigenvector.

    Raises:
      ValueError: ``steps`` below 1, or no entries.

    References:
      Golub and Van Loan, Matrix Computations, section 10.1 (Lanczos) and 10.3.1 (orthogonalisation).

    Example:
      >>> diagonal = jnp.array([1.0, -2.0, 1.5])
      >>> print(f"{leading_eigenpair(lambda v: diagonal * v, diagonal).value:.4f}")
      -2.0000
    """
    flat, unravel = ravel_pytree(like)
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if not flat.size:
        raise ValueError("like must have at least one entry")
    start = jax.random.normal(jax.random.key(0) if key is None else key, flat.shape, flat.dtype)
    vector = jax.lax.stop_gradient(
        _ritz_vector(lambda v: ravel_pytree(product(unravel(v)))[0], start, min(steps, flat.size))
    )
    image = ravel_pytree(product(unravel(vector)))[0]
    return Eigenpair(jnp.sum(vector * image), unravel(vector))


def spectral_norm(
    product: Product, like: Tree, *, steps: int = 40, key: ArrayLike | None = None
) -> jax.Array:
    r"""Spectral norm of a symmetric matrix, :math:`\|M\|_2 = \max_i |\lambda_i|`; it may be indefinite.

    Args:
      product: as in :func:`leading_eigenpair`.
      like: as in :func:`leading_eigenpair`.
      steps: as in :func:`leading_eigenpair`.
      key: as in :func:`leading_eigenpair`.

    Returns:
      A scalar in [0, inf), never above the norm but for rounding.

    Raises:
      ValueError: as in :func:`leading_eigenpair`.

    Example:
      >>> print(f"{spectral_norm(lambda v: jnp.array([1.0, -2.0]) * v, jnp.zeros(2)):.4f}")
      2.0000
    """
    return jnp.abs(leading_eigenpair(product, like, steps=steps, key=key).value)


def _ritz_vector(product: Callable[[jax.Array], jax.Array], start: jax.Array, steps: int) -> jax.Array:
    """Unit vector of the Krylov space whose Rayleigh quotient has the largest modulus."""
    dtype = checks.widest(start)
    start = start.astype(dtype)
    basis = jnp.zeros((steps, start.size), dtype).at[0].set(start / norm(start))

    def step(index: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        basis, images = carry
        image = product(basis[index].astype(start.dtype)).astype(dtype)
        rest = image
        for _ in range(2):
            rest = rest - _times(_times(basis, rest), basis)
        # In an invariant subspace only rounding is left, which is no direction.
        rounding = 10 * jnp.finfo(dtype).eps * norm(image)
        size = norm(rest)
        direction = jnp.where(size > rounding, rest / jnp.where(size > rounding, size, 1), 0)
        return basis.at[index + 1].set(direction, mode="drop"), images.at[index].set(image)

    basis, images = jax.lax.fori_loop(0, steps, step, (basis, jnp.zeros_like(basis)))
    projected = jnp.einsum("in,jn->ij", basis, images, precision="highest")
    values, vectors = one_by_one(jnp.linalg.eigh)(jax.lax.stop_gradient(projected + projected.T) / 2)
    weights = jnp.where(jnp.abs(values[0]) > jnp.abs(values[-1]), vectors[:, 0], vectors[:, -1])
    vector = _times(weights, basis)
    return vector / jnp.where(norm(vector) == 0, 1, norm(vector))


def one_by_one(function: Callable[[jax.Array], Tree]) -> Callable[[jax.Array], Tree]:
    """A decomposition of a matrix whose ``vmap`` takes one matrix after the other; not differentiable.

    On a CPU a batched decomposition waits for threads of the pool on which it runs itself: as many of them at
    once as the pool has threads wait for ever.
    """

    @jax.custom_batching.sequential_vmap
    def decompose(matrix: jax.Array) -> Tree:
        return function(matrix)

    return decompose


def _times(left: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.matmul(left, right, precision="highest")


def _basis(index: jax.Array, flat: jax.Array) -> jax.Array:
    return (jnp.arange(flat.size, dtype=index.dtype) == index).astype(flat.dtype)


def _check_alike(name: str, tree: Tree, like: Tree) -> None:
    found, wanted = jax.tree.structure(tree), jax.tree.structure(like)
    if found != wanted:
        raise ValueError(f"{name} must be a tree like the other, {wanted}, got {found}")
    for leaf, other in zip(jax.tree.leaves(tree), jax.tree.leaves(like), strict=True):
        if jnp.shape(leaf) != jnp.shape(other):
            raise ValueError(f"{name} must have leaves of shape {jnp.shape(other)}, got {jnp.shape(leaf)}")
