"""Accuracies, and how far apart the heads' gradients and Hessians of the domains are."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from experiments.colored_mnist import network
from experiments.colored_mnist.domains import Benchmark, Domains
from experiments.colored_mnist.methods import losses
from jaxreg import linalg

Tree = Any


@jax.jit
def measure(params: Tree, data: Benchmark, grey: jax.Array) -> dict[str, jax.Array]:
    """Metrics of every restart; each has a leading axis of restarts."""
    return jax.vmap(_measure, in_axes=(0, 0, None))(params, data, grey)


def _measure(params: Tree, data: Benchmark, grey: jax.Array) -> dict[str, jax.Array]:
    read = partial(network.features, params, grey=grey)
    train = read(data.train.images)
    scores = network.scores(params, train)
    accuracy = _accuracy(scores, data.train)
    found = {
        "train": jnp.mean(accuracy),
        "train_domains": accuracy,
        "loss": jnp.mean(losses(scores, data.train.labels, data.train.where)),
        "held_out": jnp.mean(_accuracy(network.scores(params, read(data.held_out.images)), data.held_out)),
    }
    test = network.scores(params, read(data.test.images))
    found["test"] = _accuracy(test, data.test)[0]
    found["test_loss"] = losses(test, data.test.labels, data.test.where)[0]
    both = network.features_of_both_channels(params, data.test.images)
    found["grey_test"] = _accuracy(network.scores(params, both), data.test)[0]
    gradients, hessians = _moments(scores, train, data.train)
    found["gradient_distance"] = jnp.linalg.norm(gradients[0] - gradients[1])
    found["hessian_distance"] = jnp.linalg.norm(hessians[0] - hessians[1])
    found["hessian_norm"] = jnp.sqrt(jnp.mean(jnp.sum(hessians**2, (-2, -1))))
    found["gradient_norm"] = jnp.sqrt(jnp.mean(jnp.sum(gradients**2, -1)))
    return found


def _accuracy(scores: jax.Array, domains: Domains) -> jax.Array:
    right = (network.margins(scores) > 0) == (domains.labels == 1)
    return jnp.sum(right & domains.where, -1) / jnp.sum(domains.where, -1)


def _moments(scores: jax.Array, features: jax.Array, domains: Domains) -> tuple[jax.Array, jax.Array]:
    """Gradient ``[E, D + 1]`` and Hessian ``[E, D + 1, D + 1]`` in the parameters of the log odds."""
    chance = jax.nn.sigmoid(network.margins(scores))
    weights = domains.where / jnp.sum(domains.where, -1, keepdims=True)
    extended = jnp.concatenate([features, jnp.ones_like(features[..., :1])], -1)
    gradients = jnp.einsum("eb,ebd->ed", weights * (chance - domains.labels), extended)
    curved = (weights * chance * (1 - chance))[..., None] * extended
    return gradients, jnp.einsum("ebc,ebd->ecd", curved, extended)


STARTS = 4
ASCENT_STEPS = 80


@jax.jit
def transfer(params: Tree, data: Benchmark, radii: jax.Array, grey: jax.Array) -> dict[str, jax.Array]:
    """How much more the loss of another domain can rise than a domain's own, within balls of heads.

    Between the two training domains (``between``, on rows that were not trained on) and from these to the
    test domain (``to_test``): the largest difference found by a search, and its bound from the distance of
    the gradients, the largest eigenvalue of the difference of the Hessians and a cubic remainder.

    Returns:
      Each ``[restarts, radii]``.
    """
    return jax.vmap(_transfer, in_axes=(0, 0, None, None))(params, data, radii, grey)


def _transfer(params: Tree, data: Benchmark, radii: jax.Array, grey: jax.Array) -> dict[str, jax.Array]:
    kernel, bias = params["head"]["kernel"], params["head"]["bias"]
    # The log odds of label 1 as one linear function of the features and a constant.
    head = jnp.append(network.margins(kernel), network.margins(bias))

    def rows(domains: Domains) -> tuple[jax.Array, jax.Array, jax.Array]:
        features = network.features(params, domains.images, grey=grey)
        weights = domains.where / jnp.sum(domains.where, -1, keepdims=True)
        return jnp.concatenate([features, jnp.ones_like(features[..., :1])], -1), domains.labels, weights

    own, other = rows(data.held_out), rows(data.test)
    first, second = (jax.tree.map(lambda leaf, e=e: leaf[e], own) for e in (0, 1))
    pooled = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), own)
    pooled = (pooled[0], pooled[1], pooled[2] / own[2].shape[0])
    found = {}
    for name, source, target in (
        ("between", first, second),
        ("to_test", pooled, jax.tree.map(lambda leaf: leaf[0], other)),
    ):
        found[f"{name}_transfer"] = _search(head, source, target, radii)
        found[f"{name}_bound"], found[f"{name}_quadratic"] = _bound(head, source, target, radii)
    return found


def _rise(head: jax.Array, move: jax.Array, rows: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
    """By how much the loss rises with the head's move, example by example: no difference of two losses."""
    features, labels, weights = rows
    scores, change = features @ head, features @ move
    small = jnp.abs(change) < 1
    near = jnp.log1p(jax.nn.sigmoid(scores) * jnp.expm1(jnp.where(small, change, 0)))
    far = jax.nn.softplus(scores + change) - jax.nn.softplus(scores)
    return jnp.sum(weights * (jnp.where(small, near, far) - labels * change))


def _search(head: jax.Array, source: tuple, target: tuple, radii: jax.Array) -> jax.Array:
    """Projected gradient ascent with several starts; a lower bound of the supremum."""

    def rise(move: jax.Array) -> jax.Array:
        return _rise(head, move, target) - _rise(head, move, source)

    def ascend(radius: jax.Array, move: jax.Array) -> jax.Array:
        def step(number: jax.Array, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            move, best = state
            value, slope = jax.value_and_grad(rise)(move)
            size = radius * 0.5 * (1 - number / ASCENT_STEPS)
            move = move + size * slope / jnp.maximum(jnp.linalg.norm(slope), 1e-30)
            move = move * jnp.minimum(1, radius / jnp.maximum(jnp.linalg.norm(move), 1e-30))
            return move, jnp.maximum(best, value)

        move, best = jax.lax.fori_loop(0, ASCENT_STEPS, step, (move, jnp.zeros(())))
        return jnp.maximum(best, rise(move))

    drawn = jax.random.normal(jax.random.key(0), (STARTS, head.shape[0]))
    starts = (drawn / jnp.linalg.norm(drawn, axis=-1, keepdims=True)).at[0].set(0)
    found = jax.vmap(lambda radius: jax.vmap(lambda start: ascend(radius, radius * start))(starts))(radii)
    return jnp.max(found, axis=-1)


def _bound(head: jax.Array, source: tuple, target: tuple, radii: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The bound with its remainder, and without it."""

    def moments(rows: tuple) -> tuple[jax.Array, jax.Array, jax.Array]:
        features, labels, weights = rows
        chance = jax.nn.sigmoid(features @ head)
        curved = (weights * chance * (1 - chance))[:, None] * features
        cubes = jnp.sum(weights * jnp.linalg.norm(features, axis=-1) ** 3)
        return (weights * (chance - labels)) @ features, curved.T @ features, cubes / (6 * jnp.sqrt(3))

    (g, h, c), (other_g, other_h, other_c) = moments(source), moments(target)
    top = jnp.maximum(linalg.one_by_one(jnp.linalg.eigvalsh)(other_h - h)[-1], 0)
    quadratic = radii * jnp.linalg.norm(other_g - g) + 0.5 * radii**2 * top
    return quadratic + (c + other_c) * radii**3 / 6, quadratic
