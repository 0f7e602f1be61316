"""Large steps for logistic regression on real separable problems (Tyurin, AAAI 2025, arXiv 2412.08424).

``python -m experiments large_step`` counts the steps to separation of five methods at ten step sizes on pairs
of digits, wine and breast cancer; see the README beside this file for the time it takes and the numbers to
expect.
"""

import dataclasses
import zlib
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments import runner
from experiments.faults import UserError, check_not_negative
from experiments.large_step import problems, results
from experiments.train import Sweep
from jaxreg.theory.large_step import separate


@dataclasses.dataclass(frozen=True)
class Config:
    """Steps to separation against step size."""

    problems: tuple[str, ...] = (
        "digits:0-1", "digits:1-7", "digits:3-5", "digits:3-8", "digits:4-9", "digits:7-9",
        "wine:0-1", "wine:0-2", "wine:1-2", "breast_cancer:0-1",
    )  # fmt: skip
    """Data set and two classes, as digits:3-8; cifar10:3-5:2000 asks for so many random features."""
    data_dir: str | None = None
    """Folder of the data that is not bundled; by default TFDS_DATA_DIR from the environment."""
    rows: int = 1000
    """Rows of a problem at most, drawn at random."""
    step_sizes: tuple[float, ...] = (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6)
    """Step sizes, times the square of the largest row."""
    max_steps: int = 10_000
    """Steps after which a method is given up."""
    curve_steps: int = 200
    """Steps of the curves of loss and accuracy."""
    seed: int = 0
    """Draws rows and random features."""
    devices: int = 1
    """CPU devices to make; one is used."""
    checkpoint_seconds: float = 15.0
    """Least time between two checkpoints."""


PRESETS = {
    "default": Config(),
    "smoke": Config(
        problems=("digits:0-1", "wine:0-2"), step_sizes=(0.1, 10.0, 1e4), max_steps=300, curve_steps=20
    ),
    "paper": Config(
        problems=("mnist:0-1", "mnist:3-8", "fashion_mnist:0-9", "fashion_mnist:5-7", "cifar10:0-1:2000",
                  "cifar10:3-5:2000"),
    ),
}  # fmt: skip


def check(config: Config) -> None:
    """Raises ``UserError`` for a configuration that cannot be run."""
    for name in ("rows", "max_steps", "curve_steps"):
        if getattr(config, name) < 2:
            raise UserError(f"{name} must be at least 2; got {getattr(config, name)}.")
    check_not_negative(config, "seed")
    if not config.step_sizes or min(config.step_sizes) <= 0:
        raise UserError(f"step_sizes must be positive; got {config.step_sizes}.")
    if not config.problems or len(set(config.problems)) < len(config.problems):
        raise UserError("give at least one problem, and each only once, such as --problems digits:3-8.")


def prepare(config: Config) -> tuple[list[runner.Stage], int]:
    """One stage a problem, and the data's fingerprint."""
    check(config)
    loaded = [problems.load(name, config.data_dir, config.rows, config.seed) for name in config.problems]
    fingerprint = 0
    for problem in loaded:
        fingerprint = zlib.crc32(problem.examples.tobytes(), fingerprint)
    return [_stage(config, problem) for problem in loaded], fingerprint


def _stage(config: Config, problem: problems.Problem) -> runner.Stage:
    count = len(config.step_sizes)
    table: dict[str, list] = {
        "step_size": list(config.step_sizes),
        "n": [problem.examples.shape[0]] * count,
        "d": [problem.examples.shape[1]] * count,
        "rho": [problem.rho if np.isfinite(problem.rho) else 0.0] * count,
    }

    def curves(metrics: dict[str, np.ndarray]) -> dict[str, float]:
        return {
            f"steps/{size:g}": float(n) for size, n in zip(config.step_sizes, metrics["count"], strict=True)
        }

    # One visit a method: what a killed run has to do again is one method on one problem.
    return runner.Stage(problem.name, table, len(results.METHODS), 1, lambda: _sweep(config, problem), curves)


def _sweep(config: Config, problem: problems.Problem) -> Sweep:
    sizes = jnp.asarray(config.step_sizes, jnp.float32)
    examples, ones = jnp.asarray(problem.examples), jnp.ones(len(problem.examples), jnp.int32)

    def run(method: Any, step_size: Any, max_steps: int, *, record: bool = False) -> Any:
        options = {"step_size": step_size, "max_steps": max_steps, "record": record}
        return separate(examples, ones, method=method, **options)

    def advance(state: Any, visit: int) -> tuple[Any, dict[str, np.ndarray]]:
        method = list(results.METHODS)[visit]
        found = run(method, sizes, config.max_steps)
        metrics = {"count": found.count, "separated": found.separated}
        if method == "logistic_gd":
            curve = run(method, sizes, config.curve_steps, record=True)
            metrics |= {"loss": curve.losses.T, "wrong": curve.misclassified.T}
            limit = run("batch_perceptron", 1.0, results.LIMIT_STEPS).iterate
            early = run(method, sizes, results.LIMIT_STEPS).iterate / sizes[:, None]
            metrics["distance"] = jnp.linalg.norm(early - limit, axis=-1) / jnp.linalg.norm(limit)
        # JSON has no NaN: what comes after the last step of a curve is left out as -1.
        numbers = {
            name: np.nan_to_num(np.asarray(values, np.float64), nan=-1.0) for name, values in metrics.items()
        }
        return state + 1, numbers

    return Sweep(lambda: jnp.zeros((), jnp.int32), advance, jnp.zeros((), jnp.int32))


def report(folder: runner.RunFolder) -> Path:
    """Table, results.csv, figures and report.html of a finished run."""
    return results.write(folder, dataclasses.asdict(runner.stored_config(folder.path, "large_step", Config)))
