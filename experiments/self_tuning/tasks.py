"""What one run does: training with given hyper-parameters, and training that tunes them."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments import pool, tables, train
from experiments.self_tuning import network
from jaxreg import bilevel

Tree = Any


class Problem(NamedTuple):
    """Everything about the network and its training that all contenders share."""

    body: tuple[network.Layer, ...]
    shape: tuple[int, ...]  # of an image
    largest: float  # pixel value
    batch_size: int
    learning_rate: float
    momentum: float
    clip: float  # largest norm of a gradient
    steps_per_visit: int  # gradient steps

    def optimiser(self) -> optax.GradientTransformation:
        """Momentum SGD at a constant rate: schedules of regularisation show best without another one."""
        descent = optax.sgd(self.learning_rate, self.momentum, nesterov=True)
        return optax.chain(optax.clip_by_global_norm(self.clip), descent)


def draw(problem: Problem, rows: jax.Array, key: jax.Array, shared: tables.Tables) -> tuple[Tree, Tree]:
    """Images and labels of a random batch of some rows."""
    chosen = rows[jax.random.randint(key, (problem.batch_size,), 0, rows.shape[0])]
    return tables.images(shared, chosen, problem.largest), shared.labels[chosen]


def cross_entropy(scores: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean over a batch."""
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(scores, labels))


def training_loss(
    problem: Problem, params: Tree, response: jax.Array | None, values: Tree, batch: Tree, key: jax.Array
) -> jax.Array:
    """Cross-entropy with everything that regularises."""
    images, labels = batch
    first, second = jax.random.split(key)
    images = network.augmented(first, images, values)
    scores = network.scores(params, images, body=problem.body, response=response, regularize=(second, values))
    decayed = network.kernels(params, response)
    return cross_entropy(scores, labels) + bilevel.weight_decay(decayed, values["weight_decay"])


def validation_loss(problem: Problem, params: Tree, response: jax.Array | None, batch: Tree) -> jax.Array:
    """Cross-entropy of the network as it is used."""
    images, labels = batch
    scores = network.scores(params, images, body=problem.body, response=response, regularize=None)
    return cross_entropy(scores, labels)


def evaluate(
    problem: Problem, params: Tree, response: jax.Array | None, run: Tree, shared: tables.Tables
) -> dict[str, jax.Array]:
    """Losses and accuracies on the validation and the test rows."""

    def of(rows: jax.Array) -> tuple[jax.Array, jax.Array]:
        def score(part: jax.Array) -> jax.Array:
            images = tables.images(shared, part, problem.largest)
            return network.scores(params, images, body=problem.body, response=response, regularize=None)

        scores, labels = train.in_batches(score, rows), shared.labels[rows]
        return cross_entropy(scores, labels), jnp.mean(jnp.argmax(scores, axis=-1) == labels)

    valid, valid_accuracy = of(shared.validation[run["seed"]])
    test, test_accuracy = of(shared.test[run["seed"]])
    return {
        "validation_loss": valid, "validation_accuracy": valid_accuracy,
        "test_loss": test, "test_accuracy": test_accuracy,
    }  # fmt: skip


@functools.cache
def fixed_task(problem: Problem) -> pool.Task:
    """Training with given hyper-parameters, ``run["values"]``: a row a visit, the last one lasting."""
    optimiser = problem.optimiser()

    def init(run: Tree) -> Tree:
        params = network.init(jax.random.key(run["seed"]), problem.body, problem.shape, 0)
        return {"params": params, "moments": optimiser.init(params), "step": jnp.zeros((), jnp.int32)}

    def step(state: Tree, run: Tree, shared: tables.Tables) -> Tree:
        keys = jax.random.split(jax.random.fold_in(jax.random.key(run["seed"] + 1000), state["step"]))
        batch = draw(problem, shared.train[run["seed"]], keys[0], shared)
        visit = state["step"] // problem.steps_per_visit
        values = {name: rows[jnp.minimum(visit, len(rows) - 1)] for name, rows in run["values"].items()}

        def loss(params: Tree) -> jax.Array:
            return training_loss(problem, params, None, values, batch, keys[1])

        updates, moments = optimiser.update(jax.grad(loss)(state["params"]), state["moments"])
        params = optax.apply_updates(state["params"], updates)
        return {"params": params, "moments": moments, "step": state["step"] + 1}

    return pool.Task(
        init, step, lambda state, run, shared: evaluate(problem, state["params"], None, run, shared)
    )
