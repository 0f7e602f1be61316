"""Training that tunes its own hyper-parameters: the contenders STN and Delta-STN."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments import pool, tables
from experiments.self_tuning import network, space, tasks
from jaxreg import bilevel

TRAIN_STEPS, VALID_STEPS = 2, 1  # of one alternation, as in the paper
CYCLE = TRAIN_STEPS + VALID_STEPS

Tree = Any


class Options(NamedTuple):
    """How hyper-parameters are tuned."""

    centred: bool  # Delta-STN
    scale: float  # first standard deviation of the perturbation
    outer_rate: float  # of Adam on hyper-parameters and on scales
    entropy_weight: float
    warmup_steps: int  # training steps before hyper-parameters move
    side: int  # of an image
    augment: bool


def make_tuner(problem: tasks.Problem, options: Options) -> bilevel.SelfTuning:
    """The alternation."""

    def outputs(params: Tree, response: Any, values: Tree, batch: Tree, key: jax.Array) -> Tree:
        first, second = jax.random.split(key)
        values = space.applied(values)
        images = network.augmented(first, batch[0], values)
        scores = network.scores(
            params, images, body=problem.body, response=response, regularize=(second, values)
        )
        return scores, network.kernels(params, response)

    def penalised(made: Tree, values: Tree, batch: Tree) -> jax.Array:
        scores, kernels = made
        decay = space.applied(values)["weight_decay"]
        return tasks.cross_entropy(scores, batch[1]) + bilevel.weight_decay(kernels, decay)

    def valid_loss(params: Tree, response: Any, values: Tree, batch: Tree, key: jax.Array) -> jax.Array:
        scores = network.scores(params, batch[0], body=problem.body, response=response, regularize=None)
        return tasks.cross_entropy(scores, batch[1])

    return bilevel.self_tuning(
        bilevel.NetworkLoss(outputs, penalised), valid_loss, inner=problem.optimiser(),
        outer=optax.adam(options.outer_rate), scale=optax.adam(options.outer_rate),
        train_steps=TRAIN_STEPS, valid_steps=VALID_STEPS, entropy_weight=options.entropy_weight,
        warmup_steps=options.warmup_steps, centred=options.centred,
    )  # fmt: skip


@functools.cache
def task(problem: tasks.Problem, options: Options) -> pool.Task:
    """Training from the hyper-parameters ``run["values"]`` on; one step is one alternation."""
    tuner = make_tuner(problem, options)

    def init(run: Tree) -> Tree:
        tree = space.tree(
            {name: rows[0] for name, rows in run["values"].items()}, options.side, options.scale
        )
        params = network.init(jax.random.key(run["seed"]), problem.body, problem.shape, len(tree))
        return {"tuner": tuner.init(params, tree), "step": jnp.zeros((), jnp.int32)}

    def step(state: Tree, run: Tree, shared: tables.Tables) -> Tree:
        key = jax.random.fold_in(jax.random.key(run["seed"] + 1000), state["step"])
        keys = jax.random.split(key, CYCLE + 1)

        def batches(rows: jax.Array, keys: jax.Array) -> Tree:
            return jax.vmap(lambda key: tasks.draw(problem, rows, key, shared))(keys)

        train = batches(shared.train[run["seed"]], keys[:TRAIN_STEPS])
        valid = batches(shared.validation[run["seed"]], keys[TRAIN_STEPS:CYCLE])
        tuned, _ = tuner.step(state["tuner"], train, valid, keys[CYCLE])
        return {"tuner": tuned, "step": state["step"] + 1}

    def evaluate(state: Tree, run: Tree, shared: tables.Tables) -> dict[str, jax.Array]:
        tuned = state["tuner"]
        # Centred, the layers take the deviation from the current hyper-parameters, which is 0.
        response = None if options.centred else bilevel.unconstrain(tuned.hyperparameters)
        found = tasks.evaluate(problem, tuned.params, response, run, shared)
        values = bilevel.constrain(tuned.hyperparameters)
        # Metrics keep six decimals, of which a weight decay has none to spare.
        decay = space.applied(values)["weight_decay"]
        values = {name: value for name, value in values.items() if name != "weight_decay"}
        values["log10_weight_decay"] = jnp.log10(decay)
        found |= {f"value_{name}": value for name, value in values.items()}
        return found | {f"scale_{name}": part.scale for name, part in tuned.hyperparameters.items()}

    return pool.Task(init, step, evaluate)
