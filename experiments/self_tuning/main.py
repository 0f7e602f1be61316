"""Self-tuning networks against searches for hyper-parameters (MacKay et al., ICLR 2019, arXiv 1903.03088).

``python -m experiments self_tuning`` tunes dropout, cutout, input scale and weight decay of a small
convolutional network on Fashion-MNIST (digits, where no data folder is given) in minutes on 2 CPU cores; see
the README beside this file for the numbers to expect.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np

from experiments import data, runner, tables
from experiments.faults import UserError, check_chosen, check_counts, check_positive
from experiments.self_tuning import hyperband, network, results, space, stages, tasks, tuning

CONTENDERS = ("fixed", "self_tuning", "delta_self_tuning", "random", "hyperband")


@dataclasses.dataclass(frozen=True)
class Config:
    """Self-tuning networks and searches."""

    dataset: str = ""
    """digits (bundled) or a TFDS image set, as fashion_mnist or cifar10. Not named: fashion_mnist, or digits
    if no data folder is given."""
    data_dir: str | None = None
    """Folder of the data that is not bundled; by default TFDS_DATA_DIR from the environment."""
    contenders: tuple[str, ...] = CONTENDERS
    """fixed, self_tuning, delta_self_tuning, random, hyperband."""
    network: Literal["small", "alexnet"] = "small"
    """small: two convolutions and two layers; alexnet: five and three."""
    width: int = 64
    """Units of a hidden layer."""
    augment: bool = False
    """Tune the strengths of hue, contrast, saturation and brightness too."""
    seeds: int = 3
    """Repetitions; each has its own split, first weights and batches."""
    train_rows: int = 2000
    """Training rows used, drawn at random; 0 takes all."""
    test_rows: int = 2000
    """Validation and test rows used, at most; 0 takes all."""
    visits: int = 9
    """Times the metrics are measured; Hyperband ends trials at a third, a ninth, ... of them."""
    steps_per_visit: int = 150
    """Gradient steps between two of them, on the training or the validation loss."""
    batch_size: int = 64
    """Rows of a step."""
    learning_rate: float = 0.03
    """Of momentum SGD, constant."""
    momentum: float = 0.9
    """In [0, 1)."""
    clip: float = 2.0
    """Largest norm of a gradient."""
    trials: int = 6
    """Trials of the random search."""
    brackets: int = 3
    """Brackets of Hyperband."""
    dropouts: tuple[float, ...] = (0.05, 0.3, 0.6)
    """Dropout rates from which tuning starts; the first is compared with the searches."""
    scale: float = 0.5
    """First standard deviation of the perturbation of hyper-parameters."""
    outer_rate: float = 0.03
    """Learning rate of Adam on hyper-parameters and scales."""
    entropy_weight: float = 0.001
    """Weight of the entropy of the perturbation."""
    warmup: float = 0.1
    """Share of the training before hyper-parameters move."""
    devices: int = 0
    """CPU devices to make; 0: one a core, at most 8. Without effect on accelerators."""
    checkpoint_seconds: float = 15.0
    """Least time between two checkpoints."""


PRESETS = {
    "default": Config(),
    "smoke": Config(
        dataset="digits", seeds=2, width=16, train_rows=200, test_rows=100, visits=3, steps_per_visit=6,
        batch_size=16, trials=2, brackets=2, dropouts=(0.05, 0.5),
    ),
    "paper": Config(
        dataset="cifar10", network="alexnet", width=1024, augment=True, seeds=5, train_rows=0, test_rows=0,
        visits=54, steps_per_visit=1500, batch_size=128, learning_rate=0.01, trials=20, brackets=4,
        outer_rate=0.003,
    ),
}  # fmt: skip


def resolve(config: Config) -> Config:
    """Names the data set: bundled digits where there is no folder of others."""
    if config.dataset:
        return config
    if data.chosen_folder(config.data_dir):
        return dataclasses.replace(config, dataset="fashion_mnist")
    print(
        "note: digits in place of fashion_mnist, which needs --data-dir FOLDER or TFDS_DATA_DIR.",
        file=sys.stderr,
    )
    return dataclasses.replace(config, dataset="digits")


def check(config: Config) -> None:
    """Raises ``UserError`` for a configuration that cannot be run."""
    check_counts(config, "seeds", "width", "visits", "steps_per_visit", "batch_size", "trials", "brackets")
    check_chosen(config, "contenders", CONTENDERS)
    if "hyperband" in config.contenders and config.visits % hyperband.KEPT ** (config.brackets - 1):
        raise UserError(
            f"visits must be a multiple of {hyperband.KEPT ** (config.brackets - 1)} for {config.brackets} "
            f"brackets; got {config.visits}."
        )
    if config.steps_per_visit % tuning.CYCLE:
        raise UserError(
            f"steps_per_visit must be a multiple of {tuning.CYCLE}; got {config.steps_per_visit}."
        )
    if not config.dropouts or not all(0 < rate < space.MAX_DROPOUT for rate in config.dropouts):
        raise UserError(f"dropouts must lie in (0, {space.MAX_DROPOUT}); got {config.dropouts}.")
    check_positive(config, "learning_rate", "outer_rate", "scale", "clip")
    if not (0 <= config.momentum < 1 and 0 <= config.warmup < 1 and config.entropy_weight >= 0):
        raise UserError("momentum and warmup must lie in [0, 1), and entropy_weight be at least 0.")
    if min(config.train_rows, config.test_rows) < 0:
        raise UserError("train_rows and test_rows must be at least 0.")


def prepare(config: Config) -> tuple[list[runner.Stage], int]:
    """One stage a contender, and the data's fingerprint."""
    check(config)
    source = data.load(config.dataset, config.data_dir)
    if not source.is_image or min(source.features.shape[1:3]) < 4:
        raise UserError(f"data set {config.dataset!r} has no images of at least 4x4 pixels; choose another.")
    if config.augment and source.features.shape[3] not in (1, 3):
        raise UserError(f"augment needs images of 1 or 3 channels; got {source.features.shape[3]}.")
    shared = tables.tables(source, config.seeds, config.train_rows, config.test_rows)
    problem = tasks.Problem(
        network.layers(config.network, config.width, source.classes), source.features.shape[1:],
        float(np.max(source.features)), config.batch_size, config.learning_rate, config.momentum,
        config.clip, config.steps_per_visit,
    )  # fmt: skip
    side = min(source.features.shape[1:3])
    makers = {
        "fixed": _fixed, "random": _random, "hyperband": _hyperband,
        "self_tuning": _tuned, "delta_self_tuning": _tuned,
    }  # fmt: skip
    return [
        makers[name](name, config, problem, shared, side) for name in config.contenders
    ], source.fingerprint()


def _runs(values: list[space.Values], labels: list[Any], seeds: int) -> tuple[dict, dict[str, list]]:
    """Every setting with every seed: arrays for the program, and what distinguishes the runs."""
    stacked = space.stacked([one for one in values for _ in range(seeds)])
    seed = np.tile(np.arange(seeds, dtype=np.int32), len(values))
    arrays = {"seed": seed, "values": {name: rows[:, None] for name, rows in stacked.items()}}
    return arrays, {"setting": [label for label in labels for _ in range(seeds)], "seed": seed.tolist()}


def _fixed(name, config, problem, shared, side) -> runner.Stage:
    settings = [space.start(config.dropouts[0], config.augment), space.usual(config.augment)]
    runs, table = _runs(settings, ["start", "usual"], config.seeds)
    build = stages.all_at_once(tasks.fixed_task(problem), runs, shared, problem.steps_per_visit)
    return stages.stage(name, table, config.visits, build)


def _searched(count: int, config: Config, side: int, search: int) -> tuple[dict, dict[str, list]]:
    """Trials whose settings are drawn for every seed anew."""
    drawn = [space.random(2 * seed + search, count, side, config.augment) for seed in range(config.seeds)]
    settings = [drawn[seed][trial] for trial in range(count) for seed in range(config.seeds)]
    seed = np.tile(np.arange(config.seeds, dtype=np.int32), count)
    values = {name: rows[:, None] for name, rows in space.stacked(settings).items()}
    trials = [trial for trial in range(count) for _ in range(config.seeds)]
    return {"seed": seed, "values": values}, {"setting": trials, "seed": seed.tolist()}


def _random(name, config, problem, shared, side) -> runner.Stage:
    runs, table = _searched(config.trials, config, side, 0)
    build = stages.all_at_once(tasks.fixed_task(problem), runs, shared, problem.steps_per_visit)
    return stages.stage(name, table, config.visits, build)


def _hyperband(name, config, problem, shared, side) -> runner.Stage:
    brackets = hyperband.brackets(config.brackets)
    runs, table = _searched(sum(bracket.trials for bracket in brackets), config, side, 1)
    plan = hyperband.turns(config.brackets, config.visits)
    build = stages.by_turns(
        tasks.fixed_task(problem), runs, shared, problem.steps_per_visit, brackets, plan, config.seeds
    )
    return stages.stage(name, table, len(plan), build)


def _tuned(name, config, problem, shared, side) -> runner.Stage:
    settings = [space.start(rate, config.augment) for rate in config.dropouts]
    runs, table = _runs(settings, [f"dropout {rate:g}" for rate in config.dropouts], config.seeds)
    options = tuning.Options(
        centred=name == "delta_self_tuning", scale=config.scale, outer_rate=config.outer_rate,
        entropy_weight=config.entropy_weight, side=side, augment=config.augment,
        warmup_steps=round(config.warmup * config.visits * config.steps_per_visit / tuning.CYCLE),
    )  # fmt: skip
    task = tuning.task(problem, options)
    build = stages.all_at_once(task, runs, shared, problem.steps_per_visit // tuning.CYCLE)
    return stages.stage(name, table, config.visits, build)


def report(folder: runner.RunFolder) -> Path:
    """Tables, results.csv, timings.csv, figures and report.html of a finished run."""
    return results.write(folder, runner.stored_config(folder.path, "self_tuning", Config))
