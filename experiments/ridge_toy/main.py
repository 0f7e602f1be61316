"""Self-tuning ridge regression, whose best response is known (MacKay et al., ICLR 2019, arXiv 1903.03088).

``python -m experiments ridge_toy`` tunes the penalty of four problems from two starting points at two
scales of the perturbation, with a self-tuning network and with the centred form, and compares with theory:
half a minute on two cores. The numbers to expect are in the README beside this file.
"""

import dataclasses
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import runner
from experiments.faults import UserError, check_counts, check_not_negative, check_positive
from experiments.ridge_toy import results, toy
from experiments.train import Sweep
from jaxreg import bilevel


@dataclasses.dataclass(frozen=True)
class Config:
    """A learned best response against the true one."""

    rows: int = 15
    """Training rows of a problem."""
    features: int = 10
    """Its features."""
    valid_rows: int = 200
    """Rows to validate on."""
    noise: float = 1.0
    """Standard deviation of the noise of the targets."""
    seeds: int = 4
    """Problems."""
    starts: tuple[float, ...] = (0.0, 5.0)
    """Log-penalties that tuning starts from."""
    scales: tuple[float, ...] = (0.3, 1.0)
    """Standard deviations of the perturbation, in units of the log-penalty."""
    alternations: int = 4000
    """Alternations of two training steps and one tuning step."""
    visits: int = 20
    """Points on the curves; divides the alternations."""
    warmup: int = 500
    """Alternations before tuning begins. Without, the uncentred form may run off before it responds."""
    repeats: int = 4
    """How often a batch holds each training row, each time with a perturbation of its own."""
    learning_rate: float = 0.02
    """Of the weights, Adam with cosine decay."""
    tuning_rate: float = 0.02
    """Of the log-penalty and of its scale, likewise."""
    entropy_weight: float = 1e-2
    """Of the entropy, where the scale is tuned."""
    devices: int = 1
    """CPU devices to make; one is used."""
    checkpoint_seconds: float = 15.0
    """Least time between two checkpoints."""


PRESETS = {
    "default": Config(),
    "smoke": Config(seeds=2, starts=(0.0,), scales=(0.3,), alternations=400, visits=2, warmup=100),
}


def check(config: Config) -> None:
    """Raises ``UserError`` for a configuration that cannot be run."""
    check_counts(config, "rows", "features", "valid_rows", "seeds", "alternations", "visits", "repeats")
    if config.alternations % config.visits:
        raise UserError(f"visits must divide alternations, {config.alternations}; got {config.visits}.")
    check_positive(config, "learning_rate", "tuning_rate")
    check_not_negative(config, "noise", "entropy_weight")
    if not 0 <= config.warmup < config.alternations:
        raise UserError(f"warmup must lie in [0, {config.alternations}); got {config.warmup}.")
    if not config.scales or min(config.scales) <= 0:
        raise UserError(f"scales must be positive; got {config.scales}.")
    if not config.starts:
        raise UserError("give at least one log-penalty to start from, such as --starts 0.")


def prepare(config: Config) -> tuple[list[runner.Stage], int]:
    """One stage a method, and the data's fingerprint."""
    check(config)
    problems = [
        toy.draw(seed, config.rows, config.features, config.valid_rows, config.noise)
        for seed in range(config.seeds)
    ]
    fingerprint = 0
    for problem in problems:
        for part in problem:
            fingerprint = zlib.crc32(part.tobytes(), fingerprint)
    return [_stage(config, problems, method) for method in results.METHODS], fingerprint


def _stage(config: Config, problems: list[toy.Problem], method: str) -> runner.Stage:
    tuned = results.METHODS[method].tune_scale
    scales = config.scales[:1] if tuned else config.scales
    cells = [
        (seed, scale, start) for seed in range(config.seeds) for scale in scales for start in config.starts
    ]
    table = {name: [cell[place] for cell in cells] for place, name in enumerate(("seed", "scale", "start"))}

    def curves(metrics: dict[str, np.ndarray]) -> dict[str, float]:
        names = [f"log_penalty/seed{seed} scale{scale:g} start{start:g}" for seed, scale, start in cells]
        return dict(zip(names, map(float, metrics["log_penalty"]), strict=True))

    return runner.Stage(
        method, table, config.visits, config.alternations // config.visits,
        lambda: _sweep(config, problems, table, method), curves,
    )  # fmt: skip


def _sweep(config: Config, problems: list[toy.Problem], table: dict[str, list], method: str) -> Sweep:
    kind, steps = results.METHODS[method], config.alternations // config.visits
    tuner = toy.tuner(
        centred=kind.centred, tune_scale=kind.tune_scale,
        alternations=config.alternations, warmup=config.warmup,
        learning_rate=config.learning_rate, tuning_rate=config.tuning_rate,
        entropy_weight=config.entropy_weight,
    )  # fmt: skip
    data = [toy.batches(problems[seed], config.repeats) for seed in table["seed"]]
    train, valid = (
        jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *(pair[side] for pair in data))
        for side in (0, 1)
    )
    keys = jax.vmap(jax.random.key)(jnp.arange(len(data)))

    def init(key: Any, start: Any, scale: Any) -> Any:
        layer = bilevel.best_response_dense_init(key, config.features, 1, hyperparameters=1, use_bias=False)
        return tuner.init(layer, {"log_penalty": bilevel.Unbounded(start, scale=scale)})

    first = jax.vmap(init)(keys, *(jnp.asarray(table[name], jnp.float32) for name in ("start", "scale")))
    # A checkpoint holds arrays; their place in the state is known here.
    leaves, structure = jax.tree.flatten(first)

    @jax.jit
    def advance(leaves: list[Any], visit: Any) -> tuple[list[Any], dict[str, Any]]:
        def run(state: Any, train: Any, valid: Any, key: Any) -> tuple[Any, dict[str, Any]]:
            def alternate(state: Any, step: Any) -> tuple[Any, None]:
                return tuner.step(state, train, valid, jax.random.fold_in(key, step))[0], None

            state, _ = jax.lax.scan(alternate, state, visit * steps + jnp.arange(steps))
            number = bilevel.unconstrain(state.hyperparameters)[0]
            weights, theta = toy.response(state.params, number, centred=kind.centred)
            scale = bilevel.scales(state.hyperparameters)[0]
            return state, {"log_penalty": number, "weights": weights, "jacobian": theta, "sigma": scale}

        state, metrics = jax.vmap(run)(jax.tree.unflatten(structure, leaves), train, valid, keys)
        return jax.tree.leaves(state), metrics

    def visit(leaves: list[Any], number: int) -> tuple[list[Any], dict[str, np.ndarray]]:
        leaves, metrics = advance(leaves, number)
        return leaves, {name: np.asarray(values, np.float64) for name, values in metrics.items()}

    return Sweep(lambda: leaves, visit, leaves)


def report(folder: runner.RunFolder) -> Path:
    """Table, results.csv, figures and report.html of a finished run."""
    return results.write(folder, runner.stored_config(folder.path, "ridge_toy", Config))
