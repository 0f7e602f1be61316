"""Comp-sum losses from sum-exponential to MAE (Mao, Mohri and Zhong, ICML 2023, arXiv 2304.07288).

``python -m experiments comp_sum`` trains on scikit-learn's digits with tau from 0 to 2, 5 seeds, in about a
minute on 2 CPU cores; see the README beside this file for the numbers to expect.
"""

import dataclasses
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import data, models, runner, tables, train
from experiments.comp_sum import results
from experiments.faults import UserError
from jaxreg import losses


@dataclasses.dataclass(frozen=True)
class Config:
    """The comp-sum family."""

    dataset: str = "digits"
    """digits (bundled), or a TFDS image set, as fashion_mnist or cifar10."""
    data_dir: str | None = None
    """Folder of the data that is not bundled; by default TFDS_DATA_DIR from the environment."""
    taus: tuple[float, ...] = (0.0, 0.5, 1.0, 1.5, 2.0)
    """Members of the family to compare."""
    seeds: int = 5
    """Repetitions; each has its own split, first weights and batches."""
    model: Literal["mlp", "cnn"] = "cnn"
    """mlp: two-layer perceptron; cnn: two convolutions and two layers."""
    width: int = 64
    """Units of the hidden layer."""
    epochs: int = 30
    """Passes over the training rows."""
    visits: int = 3
    """Times the metrics are measured, evenly spaced; divides epochs."""
    batch_size: int = 64
    """Rows of one step."""
    train_rows: int = 0
    """Training rows used, drawn at random; 0 takes all."""
    test_rows: int = 0
    """Validation and test rows used, at most; 0 takes all."""
    learning_rates: tuple[float, ...] = (0.05, 0.2, 0.5)
    """First learning rates to choose from for each tau; they fall to 0 along a half cosine."""
    momentum: float = 0.9
    """Momentum of stochastic gradient descent, in [0, 1)."""
    clip: float = 1.0
    """Largest norm of the gradient, positive: for tau < 1 a badly wrong example has a huge one."""
    parallel: train.Parallel = "runs"
    """What the devices share out: whole runs, or the rows of every batch."""
    devices: int = 0
    """CPU devices to make; 0: one a core, at most 8. Without effect on accelerators."""
    checkpoint_seconds: float = 15.0
    """Least time between two checkpoints."""


PRESETS = {
    "default": Config(),
    "smoke": Config(seeds=2, model="mlp", width=16, epochs=4, visits=2, learning_rates=(0.05,)),
    "paper": Config(
        dataset="cifar10", width=256, epochs=40, batch_size=128, learning_rates=(0.003, 0.01, 0.03, 0.1)
    ),
}


def check(config: Config) -> None:
    """Raises ``UserError`` for a configuration that cannot be run."""
    for name in ("seeds", "width", "epochs", "visits", "batch_size"):
        if getattr(config, name) < 1:
            raise UserError(f"{name} must be at least 1; got {getattr(config, name)}.")
    if config.epochs % config.visits:
        raise UserError(f"visits must divide epochs; got {config.visits} and {config.epochs}.")
    if not config.taus or min(config.taus) < 0:
        raise UserError(f"taus must be at least 0; got {config.taus}.")
    if not config.learning_rates or min(config.learning_rates) <= 0 or config.clip <= 0:
        raise UserError(
            f"learning_rates and clip must be positive; got {config.learning_rates}, {config.clip}."
        )
    if not 0 <= config.momentum < 1 or min(config.train_rows, config.test_rows) < 0:
        raise UserError("momentum must lie in [0, 1), and train_rows and test_rows be at least 0.")


def prepare(config: Config) -> tuple[list[runner.Stage], int]:
    """One stage for all tau, learning rates and seeds, and the data's fingerprint."""
    check(config)
    source = data.load(config.dataset, config.data_dir)
    shared = tables.tables(source, config.seeds, config.train_rows, config.test_rows)
    try:
        model = models.make(config.model, source.features.shape[1:], config.width, source.classes)
    except ValueError as error:
        raise UserError(f"{error}.") from error
    grid = [
        (tau, rate, seed)
        for tau in config.taus
        for rate in config.learning_rates
        for seed in range(config.seeds)
    ]
    tau, rate, seed = (np.array(column) for column in zip(*grid, strict=True))
    runs = {
        "tau": tau.astype(np.float32),
        "learning_rate": rate.astype(np.float32),
        "seed": seed.astype(np.int32),
    }
    schedule = train.Schedule(config.epochs, config.visits, shared.train.shape[1], config.batch_size)
    task = make_task(config, model, float(np.max(source.features)))

    def build() -> train.Sweep:
        return train.compile_sweep(task, runs, shared, schedule, train.make_mesh(config.parallel))

    table = {"tau": tau.tolist(), "learning_rate": rate.tolist(), "seed": seed.tolist()}
    stage = runner.Stage(
        "comp_sum", table, schedule.visits, schedule.epochs_per_visit, build, results.curves_of(table)
    )
    return [stage], source.fingerprint()


def make_task(config: Config, model: models.Model, largest: float) -> train.Task:
    """One run: steps with clipped gradients, accuracies."""

    def init(seed: jax.Array) -> train.Tree:
        params = model.init(jax.random.key(seed))
        return params, tables.momentum_descent(jnp.ones(()), jnp.zeros(()), config.momentum).init(params)

    def step(state, run, shared, positions, progress):
        params, moments = state
        rows = shared.train[run["seed"]][positions]
        batch, labels = tables.images(shared, rows, largest), shared.labels[rows]

        def objective(params: models.Params) -> jax.Array:
            return jnp.mean(losses.comp_sum(model.apply(params, batch), labels, tau=run["tau"]))

        gradient, _ = optax.clip_by_global_norm(config.clip).update(
            jax.grad(objective)(params), optax.EmptyState()
        )
        update = tables.momentum_descent(run["learning_rate"], progress, config.momentum).update
        updates, moments = update(gradient, moments, params)
        return optax.apply_updates(params, updates), moments

    def evaluate(state, run, shared):
        def accuracy(rows: jax.Array) -> jax.Array:
            scores = train.in_batches(
                lambda part: model.apply(state[0], tables.images(shared, part, largest)), rows
            )
            return train.top_accuracies(scores, shared.labels[rows], rows >= 0, 1)[0]

        parts = {"train": shared.train[run["seed"]][: train.ROWS_TO_EVALUATE]}
        parts |= {"validation": shared.validation[run["seed"]], "test": shared.test[run["seed"]]}
        return {name: accuracy(rows) for name, rows in parts.items()}

    return train.Task(init, lambda run, shared: shared, step, evaluate)


def report(folder: runner.RunFolder) -> Path:
    """Table, results.csv, figures and report.html of a finished run."""
    return results.write(folder, dataclasses.asdict(runner.stored_config(folder.path, "comp_sum", Config)))
