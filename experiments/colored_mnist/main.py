"""Alignment of Hessians across domains on coloured digits (ICCV 2023, arXiv 2308.11778).

``python -m experiments colored_mnist --data-dir FOLDER`` trains on a part of MNIST with colours that mislead,
three restarts of every method; see the README beside this file for the time it takes and the numbers to
expect.
"""

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np

from experiments import data, runner
from experiments.colored_mnist import domains, methods, results, training
from experiments.faults import UserError, check_chosen, check_counts


@dataclasses.dataclass(frozen=True)
class Config:
    """Coloured digits: two training domains, and a test domain with the colours reversed."""

    dataset: str = "mnist"
    """A TFDS set of grey images, or digits (bundled). The first half of its classes is label 1."""
    data_dir: str | None = None
    """Folder of the data that is not bundled; by default TFDS_DATA_DIR from the environment."""
    methods: tuple[str, ...] = (
        "erm", "irm", "v_rex", "fishr", "coral", "iga", "fish", "group_dro", "hgp", "hessian_diagonal",
        "hutchinson", "hessian", "erm_grey",
    )  # fmt: skip
    """Ways of training."""
    restarts: int = 3
    """Repetitions; each has its own domains and first weights."""
    restarts_at_once: int = 0
    """Restarts that one program trains side by side; 0: all of them."""
    train_rows: int = 25_000
    """Rows of a training domain, at most."""
    other_rows: int = 10_000
    """Rows of the test domain, and of all held-out training domains together, at most."""
    head: Literal["logistic", "softmax"] = "logistic"
    """One logit, or the softmax of two."""
    width: int = 390
    """Units of each of the two hidden layers."""
    steps: int = 501
    """Steps of Adam on full batches."""
    penalty_from: int = 190
    """Steps without a penalty, the same for all methods."""
    penalty_weight: float = 10_000.0
    """Weight of the penalties; the whole loss is divided by it. IRM's published search found 91257."""
    learning_rate: float = 0.0004898536566546834
    """Learning rate of Adam."""
    l2: float = 0.00110794568
    """Weight of the sum of squares of all parameters."""
    train_flips: tuple[float, ...] = (0.2, 0.1)
    """Probability, in each training domain, that the colour is not that of the label."""
    test_flip: float = 0.9
    """The same in the test domain."""
    label_noise: float = 0.25
    """Probability that the label is not that of the digit."""
    class_shares: tuple[float, ...] = (0.5, 0.5)
    """Share of label 1 in each training domain; other than 0.5 makes the classes imbalanced."""
    transfer_radii: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0)
    """Radii of the balls of heads for the transfer measure; none leaves it out."""
    seed: int = 0
    """Seed of the first restart; the others follow."""
    steps_per_visit: int = 10
    """Steps between two measurements."""
    devices: int = 1
    """CPU devices to make; one is used."""
    checkpoint_seconds: float = 60.0
    """Least time between two checkpoints."""


PRESETS = {
    # So few rows are memorised by a large network. These values are those with which the oracle is best on
    # held-out rows of the training domains.
    "default": Config(train_rows=5_000, other_rows=5_000, width=32, learning_rate=0.002, l2=0.006),
    "smoke": Config(
        dataset="digits",
        methods=("erm", "hgp", "hessian_diagonal", "erm_grey"),
        restarts=2,
        width=16,
        steps=12,
        penalty_from=6,
        steps_per_visit=3,
        learning_rate=0.01,
        transfer_radii=(0.1, 1.0),
        checkpoint_seconds=0.0,
    ),
    "paper": Config(restarts=10),
}


def check(config: Config) -> None:
    """Raises ``UserError`` for a configuration that cannot be run."""
    check_chosen(config, "methods", tuple(methods.methods(1)))
    check_counts(config, "restarts", "train_rows", "other_rows", "width", "steps", "steps_per_visit")
    if config.restarts_at_once < 0 or config.seed < 0:
        raise UserError("restarts_at_once and seed must be at least 0.")
    if not 0 <= config.penalty_from < config.steps:
        raise UserError(f"penalty_from must lie in 0..{config.steps - 1}; got {config.penalty_from}.")
    if min(config.penalty_weight, config.learning_rate) <= 0 or config.l2 < 0:
        raise UserError("penalty_weight and learning_rate must be positive, and l2 at least 0.")
    for name in ("train_flips", "test_flip", "label_noise"):
        if not all(0 <= value <= 1 for value in np.ravel(getattr(config, name))):
            raise UserError(f"{name} must lie in [0, 1]; got {getattr(config, name)}.")
    if len(config.train_flips) != 2 or len(config.class_shares) != 2:
        raise UserError("train_flips and class_shares need one value for each of two training domains.")
    if not all(0 < share < 1 for share in config.class_shares):
        raise UserError(f"class_shares must lie in (0, 1); got {config.class_shares}.")
    if any(radius <= 0 for radius in config.transfer_radii):
        raise UserError(f"transfer_radii must be positive; got {config.transfer_radii}.")


def setting(config: Config) -> training.Setting:
    """The part of the configuration that training needs."""
    return training.Setting(
        width=config.width,
        outputs=1 if config.head == "logistic" else 2,
        learning_rate=config.learning_rate,
        l2=config.l2,
        penalty_weight=config.penalty_weight,
        penalty_from=config.penalty_from,
        steps=config.steps,
        steps_per_visit=config.steps_per_visit,
        radii=config.transfer_radii,
    )


def prepare(config: Config) -> tuple[list[runner.Stage], int]:
    """One stage for each group of restarts that train side by side, and the data's fingerprint."""
    check(config)
    source = data.load(config.dataset, config.data_dir)
    grey = domains.pixels(source)
    recipe = domains.Recipe(
        config.train_flips, config.test_flip, config.label_noise, config.class_shares,
        config.train_rows, config.other_rows,
    )  # fmt: skip
    shared = setting(config)
    every = methods.methods(shared.outputs)
    visits = training.portions(shared, every, config.methods)
    seeds = [config.seed + restart for restart in range(config.restarts)]
    size = config.restarts_at_once or config.restarts

    def stage(group: list[int]) -> runner.Stage:
        def load() -> domains.Benchmark:
            made = [domains.make(grey, source.labels, source.fixed_test, recipe, seed) for seed in group]
            return domains.same_length(made)

        name = f"restart {group[0]}" if len(group) == 1 else f"restarts {group[0]} to {group[-1]}"
        return runner.Stage(
            name,
            {"seed": group},
            len(visits),
            config.steps_per_visit,
            lambda: training.sweep(shared, every, config.methods, group, load),
            results.means,
        )

    groups = [seeds[start : start + size] for start in range(0, len(seeds), size)]
    return [stage(group) for group in groups], source.fingerprint()


def report(folder: runner.RunFolder) -> Path:
    """Table, results.csv, figures and report.html of the methods and restarts that are finished."""
    config = runner.stored_config(folder.path, "colored_mnist", Config)
    shared = setting(config)
    every = methods.methods(shared.outputs)
    visits = training.portions(shared, every, config.methods)
    titles = {name: every[name].title for name in config.methods}
    return results.write(folder, dataclasses.asdict(config), titles, visits)
