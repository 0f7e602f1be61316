"""Third derivatives of the loss along a line: what is left of the transfer measure beyond second order."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from jaxreg.theory import falsify
from jaxreg.theory.check import Check
from jaxreg.theory.hessian_alignment.problems import augmented, plain_loss, softmax
from jaxreg.theory.oracles import quick_jit

THIRD_MOMENT = 1 / (6 * 3**0.5)


def constant(classes: int) -> float:
    """HA-14: c, so that the third derivative along V is at most ``c mean|z~|^3 |V|^3``; 1 is one logit."""
    return THIRD_MOMENT * (1 if classes == 1 else 2 * 2**0.5)


def third_central_moment_is_bounded(logits: jax.Array, values: jax.Array) -> Check:
    """HA-14: of any distribution, by its range."""
    p = jax.nn.softmax(logits)
    centred = values - jnp.sum(p * values)
    spread = jnp.max(values) - jnp.min(values)
    return Check(
        "third-central-moment-is-bounded",
        "derived",
        "HA-14: E (u - E u)^3 <= range(u)^3 / (6 sqrt 3)",
        jnp.sum(p * centred**3),
        "<=",
        THIRD_MOMENT * spread**3,
        scale=spread**3,
        tolerance_float32=1e-6,
    )


def third_derivative_is_a_third_moment(seed: int) -> Check:
    """HA-14: of the loss along a line."""
    rng = np.random.default_rng(seed)
    z = augmented(rng.normal(size=(20, 8, 2)))
    head, direction = rng.normal(size=(2, 20, 3, 3))
    logits, u = (np.einsum("cbd,ckd->cbk", z, matrix) for matrix in (head, direction))
    p = softmax(logits)
    moments = (p * (u - (p * u).sum(-1, keepdims=True)) ** 3).sum(-1).mean(-1)

    def along(t: jax.Array, logits: jax.Array, u: jax.Array) -> jax.Array:
        return jnp.mean(jax.nn.logsumexp(logits + t * u, axis=-1))  # the labels' term is linear

    third = quick_jit(jax.vmap(jax.grad(jax.grad(jax.grad(along))), (None, 0, 0)))
    found = third(jnp.zeros(()), jnp.asarray(logits), jnp.asarray(u))
    statement = "HA-14: the third derivative along V is the mean third central moment of V z~ under p"
    size = 1 + np.abs(moments)
    return Check(
        "third-derivative-is-a-third-moment",
        "derived",
        statement,
        found,
        "==",
        moments,
        size,
        tolerance_float32=1e-4,
    )


def third_derivative_is_bounded(head: jax.Array, move: jax.Array, features: jax.Array) -> Check:
    """HA-14: along any line of heads ``[K, D + 1]``, one example or more; the labels do not enter."""
    classes = head.shape[0]
    targets = jnp.zeros((features.shape[0], classes), head.dtype)
    weights = jnp.full_like(features[:, 0], 1 / features.shape[0])

    def along(t: jax.Array) -> jax.Array:
        return plain_loss(head + t * move, features, targets, weights)

    third = jax.grad(jax.grad(jax.grad(along)))(jnp.zeros((), head.dtype))
    cubes = jnp.mean((1 + jnp.sum(features**2, axis=-1)) ** 1.5)
    bound = constant(classes) * cubes * jnp.sum(move**2) ** 1.5
    which = "one logit, c = 1 / (6 sqrt 3)" if classes == 1 else "softmax, c = 2 sqrt 2 / (6 sqrt 3)"
    return Check(
        f"third-derivative-is-bounded-{classes}",
        "derived",
        f"HA-14: |third derivative along V| <= c mean |z~|^3 |V|^3, {which}",
        jnp.abs(third),
        "<=",
        bound,
        scale=bound,
        tolerance_float32=1e-4,
    )


def expansion_is_of_third_order(
    head: jax.Array, move: jax.Array, features: jax.Array, free: jax.Array
) -> Check:
    """HA-14: both sides of the remainder, for any move; the measure is its supremum over the moves."""
    targets = jax.nn.softmax(free, axis=-1)
    weights = jnp.full_like(features[0, :, 0], 1 / features.shape[1])

    def along(t: jax.Array) -> jax.Array:
        matrix = head + t * move
        source, target = (plain_loss(matrix, features[e], targets[e], weights) for e in range(2))
        return target - source

    zero, one = jnp.zeros((), head.dtype), jnp.ones((), head.dtype)
    second = jax.grad(jax.grad(along))(zero)
    rise = along(one) - along(zero) - jax.grad(along)(zero)
    cubes = jnp.sum(jnp.mean((1 + jnp.sum(features**2, axis=-1)) ** 1.5, axis=1))
    bound = constant(head.shape[0]) * cubes * jnp.sum(move**2) ** 1.5 / 6
    return Check(
        "expansion-is-of-third-order",
        "derived",
        "HA-14: |rise of L_T - L_S - <g_T - g_S, V> - <V, (H_T - H_S) V>/2| <= (C_S + C_T) |V|^3/6",
        jnp.abs(rise - second / 2),
        "<=",
        bound,
        scale=bound + 1e-6,
        tolerance=1e-9,  # differences of losses, in units of a cube
        tolerance_float32=1e-1,
    )


def excess_is_bounded(head: jax.Array, move: jax.Array, features: jax.Array, free: jax.Array) -> Check:
    """HA-14: before the supremum is taken: any source and target ``[2, B, D]``, any labels, any move."""
    targets = jax.nn.softmax(free, axis=-1)
    weights = jnp.full_like(features[0, :, 0], 1 / features.shape[1])
    at, step = head.ravel(), move.ravel()

    def of_one(features: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        data = features, targets, weights
        rise = plain_loss(at + step, *data) - plain_loss(at, *data)
        return rise, jax.grad(plain_loss)(at, *data), jax.hessian(plain_loss)(at, *data)

    rises, gradients, hessians = jax.vmap(of_one)(features, targets)
    length = jnp.linalg.norm(step)
    curvature = jnp.maximum(jnp.linalg.eigvalsh(hessians[1] - hessians[0])[-1], 0)
    cubes = jnp.sum(jnp.mean((1 + jnp.sum(features**2, axis=-1)) ** 1.5, axis=1))
    bound = length * jnp.linalg.norm(gradients[1] - gradients[0]) + length**2 / 2 * curvature
    bound = bound + constant(head.shape[0]) * cubes * length**3 / 6
    return Check(
        "excess-of-any-move-is-bounded",
        "derived",
        "HA-14: rise of L_T - L_S <= |V| |g_T - g_S| + |V|^2/2 lambda+ + (C_S + C_T) |V|^3 / 6 for every V",
        rises[1] - rises[0],
        "<=",
        bound,
        scale=bound + 1e-6,
        tolerance_float32=1e-3,
    )


def statements(seed: int) -> Iterator[Check]:
    """What HA-14 says of third derivatives."""
    rng = np.random.default_rng(seed)
    yield third_derivative_is_a_third_moment(seed)
    starts = rng.normal(size=(64, 3)), rng.normal(size=(64, 3))
    yield falsify.search(third_central_moment_is_bounded, starts).check
    for classes in (1, 3):
        starts = (*rng.normal(size=(2, 32, classes, 2)), rng.normal(size=(32, 2, 1)))
        yield falsify.search(third_derivative_is_bounded, starts).check
    starts = (*rng.normal(size=(2, 32, 3, 2)), rng.normal(size=(32, 2, 3, 1)), rng.normal(size=(32, 2, 3, 3)))
    for claim in (excess_is_bounded, expansion_is_of_third_order):
        yield falsify.search(claim, starts, steps=100).check
