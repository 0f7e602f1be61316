"""Comp-sum losses from sum-exponential to MAE (Mao, Mohri and Zhong, ICML 2023, arXiv 2304.07288).

``python -m experiments comp_sum`` trains on scikit-learn's digits with tau from 0 to 2, 5 seeds, in about a
minute on 2 CPU cores; see the README beside this file for the numbers to expect.
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import optax

from experiments import classifier, models, runner, train
from experiments.comp_sum import results
from experiments.faults import UserError
from jaxreg import losses


@dataclasses.dataclass(frozen=True)
class Config(classifier.Config):
    """The comp-sum family."""

    taus: tuple[float, ...] = (0.0, 0.5, 1.0, 1.5, 2.0)
    """Members of the family to compare."""
    visits: int = 3
    """Times the metrics are measured, evenly spaced; divides epochs."""
    learning_rates: tuple[float, ...] = (0.05, 0.2, 0.5)
    """First learning rates to choose from for each tau; they fall to 0 along a half cosine."""
    clip: float = 1.0
    """Largest norm of the gradient, positive: for tau < 1 a badly wrong example has a huge one."""


PRESETS = {
    "default": Config(),
    "smoke": Config(seeds=2, model="mlp", width=16, epochs=4, visits=2, learning_rates=(0.05,)),
    "paper": Config(
        dataset="cifar10", width=256, epochs=40, visits=4, batch_size=128,
        learning_rates=(0.003, 0.01, 0.03, 0.1),
    ),
}  # fmt: skip


def check(config: Config) -> None:
    """Raises ``UserError`` for a configuration that cannot be run."""
    classifier.check(config)
    if not config.taus or min(config.taus) < 0:
        raise UserError(f"taus must be at least 0; got {config.taus}.")


def prepare(config: Config) -> tuple[list[runner.Stage], int]:
    """One stage for all tau, learning rates and seeds, and the data's fingerprint."""
    check(config)
    problem = classifier.load(config)
    table = classifier.grid(tau=config.taus, learning_rate=config.learning_rates, seed=range(config.seeds))
    task = make_task(config, problem)

    def build() -> train.Sweep:
        mesh = train.make_mesh(config.parallel)
        return train.compile_sweep(task, classifier.arrays(table), problem.shared, problem.schedule, mesh)

    schedule = problem.schedule
    stage = runner.Stage(
        "comp_sum", table, schedule.visits, schedule.epochs_per_visit, build, results.curves_of(table)
    )
    return [stage], problem.fingerprint


def make_task(config: Config, problem: classifier.Problem) -> train.Task:
    """One run: steps with clipped gradients, accuracies."""
    model = problem.model

    def init(seed: jax.Array) -> train.Tree:
        params = model.init(jax.random.key(seed))
        return params, classifier.descent(config).init(params)

    def step(state, run, shared, positions, progress):
        params, moments = state
        batch, labels = problem.batch(shared, shared.train[run["seed"]][positions])

        def objective(params: models.Params) -> jax.Array:
            return jnp.mean(losses.comp_sum(model.apply(params, batch), labels, tau=run["tau"]))

        descent = classifier.descent(config, run["learning_rate"], progress)
        updates, moments = descent.update(jax.grad(objective)(params), moments, params)
        return optax.apply_updates(params, updates), moments

    def evaluate(state, run, shared):
        def accuracy(rows: jax.Array) -> jax.Array:
            scores = train.in_batches(
                lambda part: model.apply(state[0], problem.batch(shared, part)[0]), rows
            )
            return train.top_accuracies(scores, shared.labels[rows], rows >= 0, 1)[0]

        parts = {"train": shared.train[run["seed"]][: train.ROWS_TO_EVALUATE]}
        parts |= {"validation": shared.validation[run["seed"]], "test": shared.test[run["seed"]]}
        return {name: accuracy(rows) for name, rows in parts.items()}

    return train.Task(init, lambda run, shared: shared, step, evaluate)


def report(folder: runner.RunFolder) -> Path:
    """Table, results.csv, figures and report.html of a finished run."""
    return results.write(folder, dataclasses.asdict(runner.stored_config(folder.path, "comp_sum", Config)))
