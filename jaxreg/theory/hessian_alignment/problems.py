"""Random domains under one linear head, and their losses and derivatives by automatic differentiation.

The head is ``T = [W | b]`` of shape ``[K, D + 1]``, flattened by rows: the entry of class k and feature d
stands at ``k (D + 1) + d``.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Domains(NamedTuple):
    """E domains of B weighted examples under one head; any leading axes."""

    kernel: jax.Array  # W transposed, ``[D, K]``
    bias: jax.Array  # b, ``[K]``
    features: jax.Array  # z, ``[E, B, D]``
    targets: jax.Array  # y on the simplex, ``[E, B, K]``; with K = 1 the probability of class 1
    weights: jax.Array  # w, sum 1 in each domain, ``[E, B]``

    @property
    def head(self) -> dict[str, jax.Array]:
        """As the penalties take it."""
        return {"kernel": self.kernel, "bias": self.bias}

    @property
    def matrix(self) -> jax.Array:
        """``T``, ``[K, D + 1]``."""
        return jnp.concatenate([jnp.swapaxes(self.kernel, -1, -2), self.bias[..., None]], axis=-1)


class Derivatives(NamedTuple):
    """Of each domain's mean loss in the flattened head of n entries."""

    loss: jax.Array  # ``[E]``
    gradient: jax.Array  # ``[E, n]``
    hessian: jax.Array  # ``[E, n, n]``


def draw(
    seed: int, cases: int, *, domains: int = 3, examples: int = 6, features: int = 3, classes: int = 4
) -> Domains:
    """Domains of different means and scales, labels hard and soft, weights unequal; leading axis of cases."""
    rng = np.random.default_rng(seed)
    shape = (cases, domains, examples)
    size = 10 ** rng.uniform(-1, 0.5, (cases, 1, 1))
    inputs = rng.normal(size=(*shape, features)) * rng.uniform(0.5, 2, (cases, domains, 1, features))
    inputs += rng.normal(size=(cases, domains, 1, features))
    soft = rng.dirichlet(np.ones(max(classes, 2)), shape)[..., :classes]
    hard = soft == soft.max(-1, keepdims=True) if classes > 1 else soft > 0.5
    targets = np.where(rng.integers(2, size=shape)[..., None] == 1, soft, hard)
    found = (
        size * rng.normal(size=(cases, features, classes)),
        size[..., 0] * rng.normal(size=(cases, classes)),
        inputs,
        targets,
        rng.dirichlet(np.full(examples, 3.0), shape[:2]),
    )
    return Domains(*(jnp.asarray(leaf) for leaf in found))


def plain_loss(matrix: jax.Array, features: jax.Array, targets: jax.Array, weights: jax.Array) -> jax.Array:
    """Weighted mean cross-entropy of one domain, as it is defined; ``matrix`` flat or ``[K, D + 1]``."""
    rows = matrix.reshape(-1, features.shape[-1] + 1)
    scores = features @ rows[:, :-1].T + rows[:, -1]
    if rows.shape[0] == 1:
        return weights @ (jax.nn.softplus(scores[:, 0]) - targets[:, 0] * scores[:, 0])
    return weights @ (jax.nn.logsumexp(scores, axis=-1) - jnp.sum(targets * scores, axis=-1))


def derivatives(domains: Domains) -> Derivatives:
    """Loss, gradient and dense Hessian of each domain by differentiation; traceable, no leading axes."""
    flat = domains.matrix.ravel()

    def of_one(features: jax.Array, targets: jax.Array, weights: jax.Array) -> Derivatives:
        data = (features, targets, weights)
        loss, gradient = jax.value_and_grad(plain_loss)(flat, *data)
        return Derivatives(loss, gradient, jax.hessian(plain_loss)(flat, *data))

    return jax.vmap(of_one)(*domains[2:])


def flat(tree: Any) -> jax.Array:
    """A tree like the head, with any leading axes, as vectors ``[..., n]`` in the order of ``T``."""
    kernel, bias = tree["kernel"], tree["bias"]
    rows = jnp.concatenate([jnp.swapaxes(kernel, -1, -2), bias[..., None]], axis=-1)
    return rows.reshape(*rows.shape[:-2], rows.shape[-2] * rows.shape[-1])


def augmented(features: Any) -> np.ndarray:
    """Features with a 1 appended, in NumPy."""
    features = np.asarray(features)
    return np.concatenate([features, np.ones_like(features[..., :1])], axis=-1)


def softmax(scores: np.ndarray) -> np.ndarray:
    """In NumPy."""
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def predictions(domains: Domains) -> np.ndarray:
    """Probabilities of all examples, ``[..., E, B, K]``, in NumPy."""
    scores = np.einsum("...ebd,...kd->...ebk", augmented(domains.features), np.asarray(domains.matrix))
    return softmax(scores)


def curvature(p: np.ndarray) -> np.ndarray:
    """``diag(p) - p p^T``, ``[..., K, K]``, in NumPy."""
    return p[..., :, None] * (np.eye(p.shape[-1], dtype=p.dtype) - p[..., None, :])


def size_of(vectors: Any) -> np.ndarray:
    """One plus the largest entry of each case ``[cases, ...]``: what errors are measured in."""
    values = np.abs(np.asarray(vectors))
    return 1 + values.max(tuple(range(1, values.ndim)), keepdims=True)


def called(penalty: Any, domains: Domains, **options: Any) -> jax.Array:
    """A penalty on domains."""
    return penalty(domains.head, *domains[2:4], weights=domains.weights, **options)
