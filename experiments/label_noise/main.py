"""Cross-entropy, LDR-KL, GCE and MAE under label noise (Zhu, Ying and Yang, ICML 2023, arXiv 2112.14869).

``python -m experiments label_noise`` trains on scikit-learn's digits with 0 %, 40 % and 60 % uniform noise,
5 seeds, in about a minute on 2 CPU cores; see the README beside this file for the numbers to expect.
"""

import dataclasses
from pathlib import Path
from typing import Literal

from experiments import data, models, runner, train
from experiments.faults import UserError
from experiments.label_noise import results, sweep


@dataclasses.dataclass(frozen=True)
class Config:
    """Robust losses under label noise."""

    dataset: str = "digits"
    """digits, wine, breast_cancer (bundled); letter, vowel (tabular files); or a TFDS image set, as mnist."""
    data_dir: str | None = None
    """Folder of the data that is not bundled; by default TFDS_DATA_DIR from the environment."""
    losses: tuple[str, ...] = ("cross_entropy", "ldr_kl", "generalized_cross_entropy", "mean_absolute_error")
    """Losses to compare: names in jaxreg.losses, cross_entropy, or the sums nce_rce, nce_aul, nce_agce."""
    uniform_noise: tuple[float, ...] = (0.0, 0.4, 0.6)
    """Probabilities that a label becomes another class, all others equally likely; 0 is clean."""
    class_dependent_noise: tuple[float, ...] = ()
    """Probabilities that a label becomes the next class."""
    seeds: int = 5
    """Repetitions; each has its own split, noise, first weights and batches."""
    model: Literal["mlp", "cnn"] = "mlp"
    """mlp: two-layer perceptron; cnn: two convolutions and two layers, for images."""
    width: int = 128
    """Units of the hidden layer."""
    epochs: int = 100
    """Passes over the training rows."""
    visits: int = 10
    """Times the metrics are measured, evenly spaced; divides epochs."""
    batch_size: int = 32
    """Rows of one step."""
    learning_rates: tuple[float, ...] = (0.003, 0.01, 0.1)
    """First learning rates to choose from; they fall tenfold at 1/2 and at 3/4 of the training."""
    momentum: float = 0.9
    """Momentum of stochastic gradient descent, in [0, 1)."""
    weight_decay: float = 0.0
    """Multiple of the weights added to the gradient."""
    parallel: train.Parallel = "runs"
    """What the devices share out: whole runs, or the rows of every batch."""
    devices: int = 0
    """CPU devices to make; 0: one a core, at most 8. Without effect on accelerators."""
    checkpoint_seconds: float = 15.0
    """Least time between two checkpoints."""


PRESETS = {
    "default": Config(),
    "smoke": Config(
        losses=("cross_entropy", "ldr_kl"), uniform_noise=(0.0, 0.4), seeds=2, width=16, epochs=4, visits=4,
        learning_rates=(0.03,),
    ),
    "paper": Config(batch_size=64, learning_rates=(0.001, 0.01, 0.1), weight_decay=5e-3),
}  # fmt: skip


def check(config: Config) -> None:
    """Raises ``UserError`` for a configuration that cannot be run."""
    unknown = [name for name in config.losses if name not in sweep.CONTENDERS]
    if unknown or not config.losses:
        raise UserError(
            f"unknown loss {', '.join(unknown) or '(none given)'}; known: {', '.join(sweep.CONTENDERS)}."
        )
    positive = ("seeds", "width", "epochs", "visits", "batch_size")
    for name in positive:
        if getattr(config, name) < 1:
            raise UserError(f"{name} must be at least 1; got {getattr(config, name)}.")
    if config.epochs % config.visits:
        raise UserError(f"visits must divide epochs; got {config.visits} and {config.epochs}.")
    if not config.learning_rates or min(config.learning_rates) <= 0:
        raise UserError(f"learning_rates must be positive; got {config.learning_rates}.")
    if not 0 <= config.momentum < 1 or config.weight_decay < 0:
        raise UserError(
            f"momentum must lie in [0, 1) and weight_decay be at least 0; got {config.momentum}, "
            f"{config.weight_decay}."
        )
    if not config.uniform_noise + config.class_dependent_noise:
        raise UserError("give at least one noise rate, such as --uniform-noise 0.4.")


def prepare(config: Config) -> tuple[list[runner.Stage], int]:
    """One stage a loss, and the data's fingerprint."""
    check(config)
    source = data.load(config.dataset, config.data_dir)
    noises = [("uniform", rate, data.uniform_noise(source.classes, rate)) for rate in config.uniform_noise]
    noises += [
        ("class-dependent", rate, data.class_dependent_noise(source.classes, rate))
        for rate in config.class_dependent_noise
    ]
    shared = sweep.tables(source, [matrix for *_, matrix in noises], config.seeds)
    try:
        model = models.make(config.model, source.features.shape[1:], config.width, source.classes)
    except ValueError as error:
        raise UserError(f"{error}.") from error
    labels = [f"{kind} {rate:g}" if rate else "clean" for kind, rate, _ in noises]
    optimiser = sweep.Optimiser(config.momentum, config.weight_decay)
    init, top = sweep.make_init(model, optimiser), min(5, source.classes)
    tasks = {
        name: sweep.make_task(sweep.CONTENDERS[name], model, optimiser, init, top) for name in config.losses
    }
    return [_stage(config, name, task, shared, labels) for name, task in tasks.items()], source.fingerprint()


def _stage(
    config: Config, name: str, task: train.Task, shared: sweep.Tables, noises: list[str]
) -> runner.Stage:
    runs = sweep.runs_of(sweep.CONTENDERS[name], len(noises), config.learning_rates, config.seeds)
    schedule = train.Schedule(config.epochs, config.visits, shared.train.shape[1], config.batch_size)

    def build() -> train.Sweep:
        return train.compile_sweep(task, runs, shared, schedule, train.make_mesh(config.parallel))

    table = {
        "noise": [noises[index] for index in runs["noise"]],
        "learning_rate": runs["learning_rate"].tolist(),
        "seed": runs["seed"].tolist(),
        **{f"hyper.{key}": values.tolist() for key, values in runs["hyper"].items()},
    }
    return runner.Stage(
        name, table, schedule.visits, schedule.epochs_per_visit, build, results.curves_of(table)
    )


def report(folder: runner.RunFolder) -> Path:
    """Table, results.csv, figures and report.html of a finished run."""
    config = runner.stored_config(folder.path, "label_noise", Config)
    titles = {name: contender.title for name, contender in sweep.CONTENDERS.items()}
    return results.write(folder, dataclasses.asdict(config), titles)
