"""Penalties over domains on rotated digits, each rotation left out once; nothing to download, a minute.

``python -m experiments rotated_digits`` trains on all angles but one and tests on that one; see the README
beside this file for the numbers to expect.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.ndimage

from experiments import data, runner, train
from experiments.faults import UserError, check_chosen, check_counts
from experiments.rotated_digits import results
from jaxreg import penalties


@dataclasses.dataclass(frozen=True)
class Config:
    """Leave one rotation out."""

    dataset: str = "digits"
    """digits (bundled), or a TFDS set of grey images."""
    data_dir: str | None = None
    """Folder of the data that is not bundled; by default TFDS_DATA_DIR from the environment."""
    angles: tuple[float, ...] = (0.0, 15.0, 30.0, 45.0, 60.0, 75.0)
    """Rotations in degrees, one a domain; every image is in one of them."""
    methods: tuple[str, ...] = ("erm", "irm", "v_rex", "fishr", "coral", "hgp", "hessian_diagonal")
    """Ways of training; also iga, and hessian, which takes much longer."""
    weights: tuple[float, ...] = (0.1, 1.0, 10.0)
    """Weights of the penalties to choose from, by accuracy on held-out rows of the training domains."""
    rows: int = 2000
    """Images of all domains together, at most."""
    seeds: int = 5
    """Repetitions; each has its own domains and first weights."""
    width: int = 64
    """Units of the hidden layer."""
    steps: int = 150
    """Steps of Adam on full batches."""
    learning_rate: float = 0.01
    """Learning rate of Adam."""
    visits: int = 3
    """Times the metrics are measured, evenly spaced; divides steps."""
    parallel: train.Parallel = "runs"
    """What the devices share out: whole runs, or the rows of every batch."""
    devices: int = 0
    """CPU devices to make; 0: one a core, at most 8. Without effect on accelerators."""
    checkpoint_seconds: float = 15.0
    """Least time between two checkpoints."""


PRESETS = {
    "default": Config(),
    "smoke": Config(
        angles=(0.0, 45.0, 90.0), methods=("erm", "hgp"), weights=(1.0,), rows=300, seeds=2, width=16,
        steps=20, visits=1,
    ),
    "paper": Config(dataset="mnist", rows=12_000, width=256, steps=300, weights=(0.01, 0.1, 1.0, 10.0)),
}  # fmt: skip

PENALTIES: dict[str, Any] = {
    "erm": None,
    "irm": penalties.irm,
    "v_rex": penalties.v_rex,
    "fishr": penalties.fishr,
    "coral": penalties.coral,
    "iga": penalties.iga,
    "hgp": penalties.hessian_gradient_alignment,
    "hessian_diagonal": penalties.hessian_diagonal_alignment,
    "hessian": penalties.hessian_alignment,
}


def check(config: Config) -> None:
    """Raises ``UserError`` for a configuration that cannot be run."""
    check_chosen(config, "methods", tuple(PENALTIES))
    if len(config.angles) < 2 or len(set(config.angles)) < len(config.angles):
        raise UserError(f"angles must be at least two different ones; got {config.angles}.")
    if not config.weights or min(config.weights) <= 0 or config.learning_rate <= 0:
        raise UserError("weights and learning_rate must be positive.")
    check_counts(config, "seeds", "width", "steps", "visits")
    if config.steps % config.visits:
        raise UserError(f"visits must divide steps; got {config.visits} and {config.steps}.")
    if config.rows < 10 * len(config.angles):
        raise UserError(f"rows must be at least 10 for each angle; got {config.rows}.")


def prepare(config: Config) -> tuple[list[runner.Stage], int]:
    """One stage a method, and the data's fingerprint."""
    check(config)
    source = data.load(config.dataset, config.data_dir)
    if not source.is_image or source.features.shape[-1] != 1:
        raise UserError(f"data set {config.dataset!r} is not one of grey images, which can be rotated.")
    shared = rotated(source, config)
    angles = range(len(config.angles))

    def stage(name: str) -> runner.Stage:
        weights = config.weights if PENALTIES[name] else (0.0,)
        grid = [(w, a, s) for w in weights for a in angles for s in range(config.seeds)]
        weight, left_out, seed = (list(column) for column in zip(*grid, strict=True))
        runs = {
            "weight": np.array(weight, np.float32),
            "left_out": np.array(left_out, np.int32),
            "seed": np.array(seed, np.int32),
        }
        schedule = train.Schedule(config.steps, config.visits, 1, 1)  # a step is a pass over all rows

        def build() -> train.Sweep:
            task = make_task(config, PENALTIES[name], shared["images"].shape[-1], source.classes)
            return train.compile_sweep(task, runs, shared, schedule, train.make_mesh(config.parallel))

        table = {"weight": weight, "left_out": left_out, "seed": seed}
        return runner.Stage(name, table, config.visits, schedule.epochs_per_visit, build, results.means)

    return [stage(name) for name in config.methods], source.fingerprint()


def rotated(source: data.Dataset, config: Config) -> dict[str, np.ndarray]:
    """Images ``[S, A, n, pixels]``, labels ``[S, A, n]``: S seeds, A angles, n rows each, all different."""
    count = min(config.rows, len(source.labels)) // len(config.angles)
    order = [np.random.default_rng((seed, 4)).permutation(len(source.labels)) for seed in range(config.seeds)]
    rows = np.stack([one[: count * len(config.angles)].reshape(-1, count) for one in order])
    scale = 1 / np.float32(source.features.max())
    images = np.stack([
        scipy.ndimage.rotate(
            source.features[rows[:, index], ..., 0].astype(np.float32) * scale, angle, axes=(-1, -2),
            reshape=False, order=1,
        )
        for index, angle in enumerate(config.angles)
    ], 1)  # fmt: skip
    return {"images": images.reshape(*rows.shape, -1), "labels": source.labels[rows].astype(np.int32)}


def make_task(config: Config, penalty: Any, pixels: int, classes: int) -> train.Task:
    """One run: Adam on the mean loss of the training domains and a penalty; accuracies."""
    count = len(config.angles)
    optimizer = optax.adam(config.learning_rate)

    def init(seed: jax.Array) -> train.Tree:
        first, second = jax.random.split(jax.random.key(seed))
        he = jax.nn.initializers.he_normal()
        params = {
            "hidden": {"kernel": he(first, (pixels, config.width)), "bias": jnp.zeros(config.width)},
            "head": {"kernel": he(second, (config.width, classes)), "bias": jnp.zeros(classes)},
        }
        return params, optimizer.init(params)

    def features(params: train.Tree, images: jax.Array) -> jax.Array:
        return jax.nn.relu(images @ params["hidden"]["kernel"] + params["hidden"]["bias"])

    def prepare(run: train.Tree, shared: train.Tree) -> train.Tree:
        """The domains that are not left out; a fifth of their rows is held out."""
        kept = (run["left_out"] + 1 + jnp.arange(count - 1)) % count
        images, labels = (shared[name][run["seed"], kept] for name in ("images", "labels"))
        held_out = labels.shape[1] // 5
        return {
            "train": (images[:, held_out:], labels[:, held_out:]),
            "held_out": (images[:, :held_out], labels[:, :held_out]),
        }

    def step(state, run, prepared, positions, progress):
        params, moments = state
        images, labels = prepared["train"]

        def objective(params: train.Tree) -> jax.Array:
            inner = features(params, images)
            scores = inner @ params["head"]["kernel"] + params["head"]["bias"]
            value = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(scores, labels))
            return (
                value if penalty is None else value + run["weight"] * penalty(params["head"], inner, labels)
            )

        updates, moments = optimizer.update(jax.grad(objective)(params), moments, params)
        return optax.apply_updates(params, updates), moments

    def evaluate(state, run, shared):
        params, prepared = state[0], prepare(run, shared)
        accuracy = partial(_accuracy, params, features)
        left_out = tuple(shared[name][run["seed"], run["left_out"]] for name in ("images", "labels"))
        return {
            "train": accuracy(*prepared["train"]),
            "held_out": accuracy(*prepared["held_out"]),
            "test": accuracy(*left_out),
        }

    return train.Task(init, prepare, step, evaluate)


def _accuracy(params: train.Tree, features: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
    scores = features(params, images) @ params["head"]["kernel"] + params["head"]["bias"]
    flat, own = scores.reshape(-1, scores.shape[-1]), labels.reshape(-1)
    return train.top_accuracies(flat, own, jnp.ones(own.shape, bool), 1)[0]


def report(folder: runner.RunFolder) -> Path:
    """Table, results.csv, figure and report.html of a finished run."""
    config = runner.stored_config(folder.path, "rotated_digits", Config)
    return results.write(folder, dataclasses.asdict(config))
