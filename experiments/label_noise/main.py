"""Fifteen losses under label noise (Zhu, Ying and Yang, ICML 2023, arXiv 2112.14869).

``python -m experiments label_noise`` compares them on vowel and digits by five-fold cross-validation, in
minutes on 2 CPU cores; ``--preset demo`` compares five of them on digits in about one. See the README
beside this file for the numbers to expect.
"""

import dataclasses
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

from experiments import data, models, runner, train
from experiments.faults import UserError, check_chosen, check_counts
from experiments.label_noise import results, selection, sweep
from experiments.label_noise.contenders import CONTENDERS, Contender, entrants

STANDARD = ("vowel", "digits")


@dataclasses.dataclass(frozen=True)
class Config:
    """Robust losses under label noise."""

    dataset: tuple[str, ...] = ()
    """digits, wine, breast_cancer (bundled); letter, vowel (tabular files); TFDS image sets, as
    fashion_mnist. None
    named: vowel and digits, or digits alone if no data folder is given."""
    data_dir: str | None = None
    """Folder of the data that is not bundled; by default TFDS_DATA_DIR from the environment."""
    losses: tuple[str, ...] = tuple(CONTENDERS)
    """Losses to compare: names in jaxreg.losses, cross_entropy, or the sums nce_rce, nce_aul, nce_agce."""
    variant: Literal["definition", "released", "both"] = "definition"
    """LDR-KL and ALDR-KL as the paper defines them, as its released code computes them, or each in both
    ways."""
    uniform_noise: tuple[float, ...] = (0.0, 0.3, 0.6, 0.9)
    """Probabilities that a label becomes another class, all others equally likely; 0 is clean."""
    class_dependent_noise: tuple[float, ...] = (0.1, 0.3, 0.5)
    """Probabilities that a label becomes the next class."""
    folds: int = 5
    """Parts of the rows not for testing; each part in turn is for validation, the others for training."""
    seeds: int = 1
    """Repetitions of the cross-validation; each has its own folds, noise, first weights and, where the
    source fixes none, test rows."""
    model: Literal["mlp", "cnn"] = "mlp"
    """mlp: two-layer perceptron; cnn: two convolutions and two layers, for images."""
    width: int = 64
    """Units of the hidden layer."""
    epochs: int = 50
    """Passes over the training rows."""
    visits: int = 5
    """Times the metrics are measured, evenly spaced; divides epochs."""
    batch_size: int = 64
    """Rows of one step."""
    learning_rates: tuple[float, ...] = (0.001, 0.01, 0.1)
    """First learning rates to choose from; they fall tenfold at 1/2 and at 3/4 of the training."""
    momentum: float = 0.9
    """Momentum of stochastic gradient descent, in [0, 1)."""
    weight_decay: float = 5e-3
    """Multiple of the weights added to the gradient."""
    parallel: train.Parallel = "runs"
    """What the devices share out: whole runs, or the rows of every batch."""
    devices: int = 0
    """CPU devices to make; 0: one a core, at most 8. Without effect on accelerators."""
    checkpoint_seconds: float = 15.0
    """Least time between two checkpoints."""


PRESETS = {
    "default": Config(),
    "demo": Config(
        dataset=("digits",),
        losses=("cross_entropy", "ldr_kl", "aldr_kl", "generalized_cross_entropy", "mean_absolute_error"),
        uniform_noise=(0.0, 0.4, 0.6), class_dependent_noise=(), width=128, epochs=100, visits=10,
        batch_size=32, learning_rates=(0.003, 0.01, 0.1), weight_decay=0.0,
    ),
    "smoke": Config(
        dataset=("wine",), losses=("cross_entropy", "aldr_kl"), uniform_noise=(0.0, 0.4),
        class_dependent_noise=(), folds=2, width=16, epochs=8, visits=2, batch_size=16, learning_rates=(0.1,),
    ),
    "paper": Config(dataset=("vowel", "letter", "digits", "fashion_mnist"), epochs=100, visits=10),
}  # fmt: skip


def check(config: Config) -> None:
    """Raises ``UserError`` for a configuration that cannot be run."""
    check_chosen(config, "losses", tuple(CONTENDERS))
    if len(set(config.dataset)) < len(config.dataset):
        raise UserError("a data set is named twice; name each once.")
    check_counts(config, "seeds", "width", "epochs", "visits", "batch_size")
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


def resolve(config: Config) -> Config:
    """Names the data sets where none is named, so that a run keeps its own wherever it is resumed."""
    if config.dataset:
        return config
    if data.chosen_folder(config.data_dir):
        return dataclasses.replace(config, dataset=STANDARD)
    print(
        "note: no data folder is given, so vowel is left out; --data-dir FOLDER or TFDS_DATA_DIR adds it.",
        file=sys.stderr,
    )
    return dataclasses.replace(config, dataset=tuple(name for name in STANDARD if name in data.BUNDLED))


def prepare(config: Config) -> tuple[list[runner.Stage], int]:
    """One stage a data set and loss, and the data's fingerprint."""
    check(config)
    stages, fingerprint = [], 0
    for name in config.dataset:
        source = data.load(name, config.data_dir)
        fingerprint = zlib.crc32(source.fingerprint().to_bytes(4, "big"), fingerprint)
        stages += [_stage(config, own) for own in _settings(config, source)]
    return stages, fingerprint


class Setting(NamedTuple):
    """A loss on a data set."""

    name: str  # data set/loss
    runs: sweep.Run
    noises: list[str]  # what the numbers of the noises in ``runs`` stand for
    build: Callable[[sweep.Run], train.Sweep]  # compiles any of the runs


def settings(config: Config, dataset: str) -> list[Setting]:
    """All losses on a data set."""
    check(config)
    return _settings(config, data.load(dataset, config.data_dir))


def _settings(config: Config, source: data.Dataset) -> list[Setting]:
    noises = [("uniform", rate, data.uniform_noise(source.classes, rate)) for rate in config.uniform_noise]
    noises += [
        ("class-dependent", rate, data.class_dependent_noise(source.classes, rate))
        for rate in config.class_dependent_noise
    ]
    labels = [f"{kind} {rate:g}" if rate else "clean" for kind, rate, _ in noises]
    if len(set(labels)) < len(labels):
        raise UserError("a noise is named twice; give each once, and 0, which is clean, for one kind only.")
    shared = sweep.tables(source, [matrix for *_, matrix in noises], config.seeds, config.folds)
    schedule = train.Schedule(config.epochs, config.visits, shared.train.shape[-1], config.batch_size)
    found = []
    for name, (contender, task) in _tasks(config, source, schedule.examples).items():

        def build(runs: sweep.Run, task: train.Task = task) -> train.Sweep:
            return train.compile_sweep(task, runs, shared, schedule, train.make_mesh(config.parallel))

        runs = sweep.runs_of(contender, len(noises), config.learning_rates, config.seeds, config.folds)
        found.append(Setting(f"{source.name}/{name}", runs, labels, build))
    return found


def _tasks(config: Config, source: data.Dataset, examples: int) -> dict[str, tuple[Contender, train.Task]]:
    try:
        model = models.make(config.model, source.features.shape[1:], config.width, source.classes)
    except ValueError as error:
        raise UserError(f"{error}.") from error
    optimiser = sweep.Optimiser(config.momentum, config.weight_decay)
    plain = sweep.make_init(model, optimiser, stored=0)
    # As many guesses as classes would always be right.
    top, found = min(5, source.classes - 1), {}
    for name, contender in entrants(config.losses, config.variant).items():
        init = sweep.make_init(model, optimiser, examples) if contender.visit else plain
        found[name] = contender, sweep.make_task(contender, model, optimiser, init, top)
    return found


def _stage(config: Config, setting: Setting) -> runner.Stage:
    runs = setting.runs
    table = {
        "noise": [setting.noises[index] for index in runs["noise"]],
        "learning_rate": runs["learning_rate"].tolist(),
        **{key: runs[key].tolist() for key in selection.REPETITION},
        **{f"hyper.{key}": values.tolist() for key, values in runs["hyper"].items()},
    }
    return runner.Stage(
        setting.name, table, config.visits, config.epochs // config.visits, lambda: setting.build(runs),
        selection.curves_of(table),
    )  # fmt: skip


def report(folder: runner.RunFolder) -> Path:
    """Table, results.csv, figures and report.html of a finished run."""
    config = runner.stored_config(folder.path, "label_noise", Config)
    return results.write(folder, config)
