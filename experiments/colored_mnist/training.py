"""Training that shares what the methods have in common.

Until the penalty is switched on all methods take the same steps, so these are taken once: a run first trains
on the mean loss, and every method then continues from there.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.colored_mnist import measures, network
from experiments.colored_mnist.domains import Benchmark, Domains
from experiments.colored_mnist.methods import Method, losses
from experiments.train import Sweep

Tree = Any

START = Method("before the penalty", None)


class Setting(NamedTuple):
    """What all methods share."""

    width: int  # units of each hidden layer
    outputs: int  # scores of the head, 1 or 2
    learning_rate: float  # of Adam
    l2: float  # weight of the sum of squares of all parameters
    penalty_weight: float
    penalty_from: int  # first step with the penalty
    steps: int
    steps_per_visit: int
    radii: tuple[float, ...]  # radii of the balls of the transfer measure


class Portion(NamedTuple):
    """The steps between two host visits."""

    method: str
    first: int  # number of its first step
    last: int  # one more than the number of its last step
    fresh: bool  # whether a method begins here
    kept: bool  # whether the others begin where it ends


def portions(setting: Setting, every: dict[str, Method], names: tuple[str, ...]) -> list[Portion]:
    """The host visits of a run in their order."""

    def cut(method: str, first: int, last: int, *, kept: bool = False) -> list[Portion]:
        starts = range(first, last, setting.steps_per_visit)
        ends = [*starts[1:], last]
        return [
            Portion(method, a, b, a == first, kept and b == last) for a, b in zip(starts, ends, strict=True)
        ]

    found: list[Portion] = []
    if any(not every[name].grey for name in names) and setting.penalty_from:
        found += cut("start", 0, setting.penalty_from, kept=True)
    for name in names:
        found += cut(name, 0 if every[name].grey else setting.penalty_from, setting.steps)
    return found


def sweep(
    setting: Setting,
    every: dict[str, Method],
    names: tuple[str, ...],
    seeds: list[int],
    load: Callable[[], Benchmark],
) -> Sweep:
    """Lays the domains of some restarts out and builds the programs, one a method.

    Args:
      setting: what the methods share.
      every: the methods by name.
      names: those that are trained, in this order.
      seeds: one a restart.
      load: makes the domains, every array with a leading axis of restarts.

    Returns:
      The sweep; its metrics have a leading axis of restarts.
    """
    data = jax.tree.map(jnp.asarray, load())
    pixels = data.train.images.shape[-1]
    keys = jnp.stack([jax.random.key_data(jax.random.key(seed)) for seed in seeds])
    domains = data.train.labels.shape[1]
    schedule = portions(setting, every, names)
    begin, advance_one = _programs(setting)

    def start() -> Tree:
        return {"common": begin(keys, pixels, domains), "now": begin(keys, pixels, domains)}

    def advance(state: Tree, visit: int) -> tuple[Tree, dict[str, np.ndarray]]:
        portion = schedule[visit]
        method, now = every.get(portion.method, START), state["now"]
        if portion.fresh and method.grey:
            now = begin(keys, pixels, domains, grey=True)
        elif portion.fresh:
            now = jax.tree.map(jnp.copy, state["common"])
        bounds = jnp.int32(portion.first), jnp.int32(portion.last)
        now = advance_one(method, now, data.train, keys, *bounds)
        grey = jnp.asarray(method.grey)
        metrics = measures.measure(now[0], data, grey)
        if portion.last == setting.steps and setting.radii:
            metrics |= measures.transfer(now[0], data, jnp.asarray(setting.radii), grey)
        common = jax.tree.map(jnp.copy, now) if portion.kept else state["common"]
        return {"common": common, "now": now}, {k: np.asarray(v) for k, v in metrics.items()}

    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), jax.eval_shape(start)
    )
    return Sweep(start, advance, abstract)


@cache
def _programs(setting: Setting) -> tuple[Callable[..., Tree], Callable[..., Tree]]:
    """The function that makes the first state, and the one that takes the steps of a portion.

    The latter is one program a method, whatever the number of steps.
    """
    optimizer = optax.adam(setting.learning_rate)

    @partial(jax.jit, static_argnums=(1, 2), static_argnames="grey")
    def begin(keys: jax.Array, pixels: int, domains: int, *, grey: bool = False) -> Tree:
        def fresh(words: jax.Array) -> Tree:
            key = jax.random.wrap_key_data(words)
            params = network.init(key, pixels, setting.width, setting.outputs, grey=grey)
            return params, optimizer.init(params), jnp.full(domains, 1 / domains)

        return jax.vmap(fresh)(keys)

    def run(method: Method, state: Tree, train: Domains, words: jax.Array, first, last) -> Tree:
        key = jax.random.fold_in(jax.random.wrap_key_data(words), 1)

        def step(number: jax.Array, state: Tree) -> Tree:
            params, moments, weights = state
            gradient, weights = jax.grad(_objective, has_aux=True)(
                params, setting, method, train, weights, jax.random.fold_in(key, number)
            )
            updates, moments = optimizer.update(gradient, moments, params)
            return optax.apply_updates(params, updates), moments, weights

        return jax.lax.fori_loop(first, last, step, state)

    @partial(jax.jit, static_argnums=0, donate_argnums=1)
    def run_all(method: Method, state: Tree, train: Domains, keys: jax.Array, first, last) -> Tree:
        return jax.vmap(partial(run, method), in_axes=(0, 0, 0, None, None))(state, train, keys, first, last)

    return begin, run_all


def _objective(
    params: Tree, setting: Setting, method: Method, train: Domains, weights: jax.Array, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Loss with penalties, and the weights of the domains after the step."""
    features = network.features(params, train.images, grey=method.grey)
    each = losses(network.scores(params, features), train.labels, train.where)
    if method.reweight is not None:
        weights = method.reweight(weights, each)
    squares = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))
    value = jnp.sum(jax.lax.stop_gradient(weights) * each) + setting.l2 * squares
    if method.penalty is not None:
        weight = setting.penalty_weight * method.weight
        value += weight * method.penalty(params["head"], features, train.labels, where=train.where, key=key)
        # Keeps the gradients in the range that they had before.
        value /= max(weight, 1.0)
    return value, weights
