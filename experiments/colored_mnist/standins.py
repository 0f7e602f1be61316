"""Stand-ins for jaxreg.penalties: closed forms of the linear softmax or one-logit head."""

import jax
import jax.numpy as jnp


def moments(head, features, labels, where):
    """Per-domain weights, augmented features, slopes E [E,B,K], curvature as a function, losses [E]."""
    z = jnp.concatenate([features, jnp.ones_like(features[..., :1])], axis=-1)
    table = jnp.concatenate([head["kernel"], head["bias"][None]], axis=0)
    scores = z @ table
    w = where / jnp.sum(where, axis=-1, keepdims=True)
    if scores.shape[-1] == 1:
        p = jax.nn.sigmoid(scores)
        error = p - labels[..., None]
        nll = jax.nn.softplus(scores[..., 0]) - labels * scores[..., 0]
        curve = lambda u: p * (1 - p) * u  # noqa: E731
    else:
        p = jax.nn.softmax(scores)
        error = p - jax.nn.one_hot(labels, scores.shape[-1])
        nll = -jnp.take_along_axis(jax.nn.log_softmax(scores), labels[..., None], -1)[..., 0]
        curve = lambda u: p * (u - jnp.sum(p * u, -1, keepdims=True))  # noqa: E731
    return w, z, p, error, curve, jnp.sum(w * nll, -1), table


def gradients(w, z, error):
    return jnp.einsum("ebk,ebd->edk", w[..., None] * error, z)


def hvp(w, z, curve, v):
    return jnp.einsum("ebk,ebd->edk", w[..., None] * curve(z @ v), z)


def spread(x, reference=None):
    x = x.reshape(x.shape[0], -1)
    reference = x.mean(0) if reference is None else reference.reshape(-1)
    return jnp.mean(jnp.sum((x - reference) ** 2, -1))


def hessian_gradient_alignment(
    head, features, labels, *, hessian_weight=1.0, gradient_weight=1.0, detach_reference=True, where
):
    w, z, _, error, curve, _, _ = moments(head, features, labels, where)
    g = gradients(w, z, error)
    v = hvp(w, z, curve, g)
    reference = hvp(w, z, curve, jnp.broadcast_to(g.mean(0), g.shape)).mean(0)
    if detach_reference:
        reference = jax.lax.stop_gradient(reference)
    return hessian_weight * spread(v, reference) + gradient_weight * spread(g)


def hessian_diagonal_alignment(
    head, features, labels, *, hessian_weight=1.0, gradient_weight=1.0, where
):
    w, z, p, error, _, _, _ = moments(head, features, labels, where)
    diagonal = jnp.einsum("ebk,ebd->edk", w[..., None] * p * (1 - p), z * z)
    return hessian_weight * spread(diagonal) + gradient_weight * spread(gradients(w, z, error))


def irm(head, features, labels, *, where):
    w, z, _, error, _, _, table = moments(head, features, labels, where)
    return jnp.mean(jnp.sum(gradients(w, z, error) * table, (-2, -1)) ** 2)


def v_rex(head, features, labels, *, where):
    return jnp.var(moments(head, features, labels, where)[5])


def fishr(head, features, labels, *, where):
    w, z, _, error, _, _, _ = moments(head, features, labels, where)
    second = jnp.einsum("ebk,ebd->edk", w[..., None] * error**2, z * z)
    variance = second - gradients(w, z, error) ** 2
    return jnp.mean((variance - variance.mean(0)) ** 2)
