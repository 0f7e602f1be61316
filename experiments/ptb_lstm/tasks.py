"""What one run does: a language model trained with given hyper-parameters, or tuning them."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments import pool
from experiments.ptb_lstm import language
from jaxreg import bilevel

TRAIN_STEPS, VALID_STEPS = 2, 1  # of one alternation
CYCLE = TRAIN_STEPS + VALID_STEPS

Tree = Any


class Streams(NamedTuple):
    """Texts as parallel streams, int32 ``[rows, length]``."""

    train: Any
    valid: Any
    test: Any


class Problem(NamedTuple):
    """What all runs share."""

    sizes: language.Sizes
    rows: int  # parallel streams
    window: int  # words of a step
    learning_rate: float  # of Adam
    clip: float  # largest norm of the gradient
    visits: int
    steps_per_visit: int  # gradient steps

    def optimiser(self) -> optax.GradientTransformation:
        """Adam with clipped gradients."""
        return optax.chain(optax.clip_by_global_norm(self.clip), optax.adam(self.learning_rate))


def part(problem: Problem, stream: jax.Array, step: jax.Array, carry: Tree) -> Tree:
    """The words of a step with those that follow, and the state before: nothing at the text's beginning."""
    windows = (stream.shape[1] - 1) // problem.window
    place = step % windows
    words = jax.lax.dynamic_slice_in_dim(stream, place * problem.window, problem.window + 1, axis=1)
    fresh = jax.tree.map(lambda leaf: jnp.where(place == 0, 0, leaf), carry)
    return {"carry": fresh, "words": words}


def training_loss(params: Tree, response: Any, values: Tree, batch: Tree, key: jax.Array) -> Tree:
    """Cross-entropy with all regularisers, and the state after the words."""
    words = batch["words"]
    response, regularize = _from_centre(response, batch), (key, values)
    said = language.read(params, words[:, :-1], batch["carry"], response=response, regularize=regularize)
    loss = language.cross_entropy(said.scores, words[:, 1:]) + language.penalty(said, values)
    return loss, said.carry


def validation_loss(params: Tree, response: Any, values: Tree, batch: Tree, key: jax.Array) -> Tree:
    """Cross-entropy of the model as it is used, and the state after the words."""
    words = batch["words"]
    response = _from_centre(response, batch)
    said = language.read(params, words[:, :-1], batch["carry"], response=response, regularize=None)
    return language.cross_entropy(said.scores, words[:, 1:]), said.carry


def _from_centre(response: Any, batch: Tree) -> Any:
    """What the weights respond to: hyper-parameters less where their responses are 0, if the batch says."""
    return None if response is None else response - batch.get("centre", 0.0)


def evaluate(problem: Problem, params: Tree, response: Any, shared: Streams) -> dict[str, jax.Array]:
    """Cross-entropy in nats a word, whose exponential is the perplexity."""

    def of(stream: jax.Array) -> jax.Array:
        def one(carry: Tree, step: jax.Array) -> tuple[Tree, jax.Array]:
            batch = part(problem, stream, step, carry)
            loss, carry = validation_loss(params, response, {}, batch, jax.random.key(0))
            return carry, loss

        windows = (stream.shape[1] - 1) // problem.window
        first = language.nothing(problem.sizes, stream.shape[0])
        return jnp.mean(jax.lax.scan(one, first, jnp.arange(windows))[1])

    return {"validation_loss": of(shared.valid), "test_loss": of(shared.test)}


@functools.cache
def fixed_task(problem: Problem) -> pool.Task:
    """Training with given hyper-parameters: ``run["values"]``, one a visit, which the state keeps."""
    optimiser = problem.optimiser()

    def init(run: Tree) -> Tree:
        params = language.init(jax.random.key(run["seed"]), problem.sizes, 1)
        return {
            "params": params, "moments": optimiser.init(params), "step": jnp.zeros((), jnp.int32),
            "carry": language.nothing(problem.sizes, problem.rows), "values": run["values"],
        }  # fmt: skip

    def step(state: Tree, run: Tree, shared: Streams) -> Tree:
        key = jax.random.fold_in(jax.random.key(run["seed"] + 1000), state["step"])
        visit = jnp.minimum(state["step"] // problem.steps_per_visit, problem.visits - 1)
        values = {name: rows[visit] for name, rows in state["values"].items()}
        batch = part(problem, shared.train, state["step"], state["carry"])

        def loss(params: Tree) -> Tree:
            return training_loss(params, None, values, batch, key)

        gradient, carry = jax.grad(loss, has_aux=True)(state["params"])
        updates, moments = optimiser.update(gradient, state["moments"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        return state | {"params": params, "moments": moments, "carry": carry, "step": state["step"] + 1}

    return pool.Task(init, step, lambda state, run, shared: evaluate(problem, state["params"], None, shared))


class Options(NamedTuple):
    """How hyper-parameters are tuned."""

    scale: float  # first standard deviation of the perturbation
    outer_rate: float  # of Adam on hyper-parameters and scales
    entropy_weight: float
    warmup_steps: int  # training steps before hyper-parameters move
    centred: bool  # whether responses are 0 where tuning starts, and not at 0


@functools.cache
def tuned_task(problem: Problem, options: Options) -> pool.Task:
    """Training from ``run["values"]`` on; one step is one alternation."""
    tuner = bilevel.self_tuning(
        training_loss, validation_loss, inner=problem.optimiser(), outer=optax.adam(options.outer_rate),
        scale=optax.adam(options.outer_rate), train_steps=TRAIN_STEPS, valid_steps=VALID_STEPS,
        entropy_weight=options.entropy_weight, warmup_steps=options.warmup_steps, has_aux=True,
        batch_size=problem.rows,
    )  # fmt: skip

    def init(run: Tree) -> Tree:
        tree = language.tree({name: rows[0] for name, rows in run["values"].items()}, options.scale)
        params = language.init(jax.random.key(run["seed"]), problem.sizes, len(tree))
        nothing = language.nothing(problem.sizes, problem.rows)
        start = bilevel.unconstrain(tree)
        return {
            "tuner": tuner.init(params, tree), "step": jnp.zeros((), jnp.int32), "train": nothing,
            "valid": nothing, "centre": start if options.centred else jnp.zeros_like(start),
        }  # fmt: skip

    def step(state: Tree, run: Tree, shared: Streams) -> Tree:
        # Not the whole alternation at once: every step needs the state of the words before.
        key = jax.random.fold_in(jax.random.key(run["seed"] + 1000), state["step"])
        tuned, carries = state["tuner"], {}
        for name, count, move in (
            ("train", TRAIN_STEPS, tuner.train_step), ("valid", VALID_STEPS, tuner.tune_step),
        ):  # fmt: skip
            carry = state[name]
            for index in range(count):
                batch = part(problem, getattr(shared, name), count * state["step"] + index, carry)
                batch["centre"] = state["centre"]
                key, own = jax.random.split(key)
                tuned, (_, carry) = move(tuned, batch, own)
            carries[name] = carry
        return state | {"tuner": tuned, "step": state["step"] + 1} | carries

    def measure(state: Tree, run: Tree, shared: Streams) -> dict[str, jax.Array]:
        tuned = state["tuner"]
        response = bilevel.unconstrain(tuned.hyperparameters) - state["centre"]
        found = evaluate(problem, tuned.params, response, shared)
        found |= {f"value_{name}": value for name, value in bilevel.constrain(tuned.hyperparameters).items()}
        return found | {f"scale_{name}": part.scale for name, part in tuned.hyperparameters.items()}

    return pool.Task(init, step, measure)
