"""Plain definitions of the penalties, by automatic differentiation of the mean loss and dense Hessians.

Each takes a head, features ``[E, B, D]``, targets ``[E, B, K]`` and weights ``[E, B]`` of any sum.
"""

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxreg import linalg


def domain_loss(head, features, targets, weights):
    """Weighted mean cross-entropy of one domain; one logit stands for two classes with logits (0, s)."""
    logits = features @ head["kernel"] + head.get("bias", jnp.zeros(head["kernel"].shape[1]))
    if logits.shape[-1] == 1:
        logits = jnp.concatenate([jnp.zeros_like(logits), logits], -1)
        targets = jnp.concatenate([1 - targets, targets], -1)
    total = jnp.sum(weights)
    losses = -jnp.sum(targets * jax.nn.log_softmax(logits), -1)
    return jnp.sum(weights * losses) / jnp.where(total > 0, total, jnp.ones_like(total))


def derivatives(head, features, targets, weights):
    """Gradients ``[E, N]``, Hessians ``[E, N, N]`` and the weights of the domains ``[E]``."""
    flat, unravel = ravel_pytree(head)

    def loss(flat, *batch):
        return domain_loss(unravel(flat), *batch)

    gradients = jax.vmap(jax.grad(loss), (None, 0, 0, 0))(flat, features, targets, weights)
    hessians = jax.vmap(jax.hessian(loss), (None, 0, 0, 0))(flat, features, targets, weights)
    present = (jnp.sum(weights, 1) > 0).astype(features.dtype)
    return gradients, hessians, present / jnp.sum(present)


def spread(values, share, reference=None):
    """Mean over domains of the squared distance from a reference, by default the mean."""
    reference = jnp.tensordot(share, values, 1) if reference is None else reference
    squares = jnp.square(values - reference).reshape(len(values), -1).sum(-1)
    return jnp.sum(share * squares)


def hessian_gradient_alignment(
    head, features, targets, weights, *, hessian_weight, gradient_weight, reference="pooled", detach=True
):
    gradients, hessians, share = derivatives(head, features, targets, weights)
    products = jnp.einsum("eij,ej->ei", hessians, gradients)
    if reference == "pooled":
        target = jnp.tensordot(share, hessians, 1) @ jnp.tensordot(share, gradients, 1)
    else:
        target = jnp.tensordot(share, products, 1)
    target = jax.lax.stop_gradient(target) if detach else target
    mean = jnp.tensordot(share, gradients, 1)
    mean = jax.lax.stop_gradient(mean) if detach else mean
    return hessian_weight * spread(products, share, target) + gradient_weight * spread(gradients, share, mean)


def hessian_diagonal_alignment(head, features, targets, weights, *, hessian_weight, gradient_weight):
    gradients, hessians, share = derivatives(head, features, targets, weights)
    diagonals = jnp.einsum("eii->ei", hessians)
    return hessian_weight * spread(diagonals, share) + gradient_weight * spread(gradients, share)


def hessian_alignment(head, features, targets, weights, *, hessian_weight, gradient_weight):
    gradients, hessians, share = derivatives(head, features, targets, weights)
    return hessian_weight * spread(hessians, share) + gradient_weight * spread(gradients, share)


def hutchinson_alignment(
    head, features, targets, weights, *, hessian_weight, gradient_weight, key, probes, shared_probes=False
):
    """With the same draws: signs of all domains, then of the reference, probe by probe."""
    gradients, hessians, share = derivatives(head, features, targets, weights)
    mean_hessian = jnp.tensordot(share, hessians, 1)
    like = jax.tree.map(lambda leaf: jnp.stack([leaf] * len(features)), head)
    flatten = jax.vmap(lambda tree: ravel_pytree(tree)[0])
    estimates, target = 0, 0
    for one in jax.random.split(key, probes):
        own, of_reference = jax.random.split(one)
        if shared_probes:
            signs = ravel_pytree(linalg.random_signs(one, head))[0]
            estimates += signs * (hessians @ signs) / probes
            target += signs * (mean_hessian @ signs) / probes
        else:
            signs = flatten(linalg.random_signs(own, like))
            estimates += signs * jnp.einsum("eij,ej->ei", hessians, signs) / probes
            signs = ravel_pytree(linalg.random_signs(of_reference, head))[0]
            target += signs * (mean_hessian @ signs) / probes
    target = jax.lax.stop_gradient(target)
    mean = jax.lax.stop_gradient(jnp.tensordot(share, gradients, 1))
    return hessian_weight * spread(estimates, share, target) + gradient_weight * spread(
        gradients, share, mean
    )
