"""Smooth adversarial comp-sum losses against adversarial training, TRADES and MART (arXiv 2304.07288).

``python -m experiments adversarial`` trains on scikit-learn's digits against l_inf perturbations, 5 seeds, in
a few minutes on 2 CPU cores; see the README beside this file for the numbers to expect.
"""

import dataclasses
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import data, models, runner, tables, train
from experiments.adversarial import methods, results
from experiments.faults import UserError
from jaxreg import attacks


@dataclasses.dataclass(frozen=True)
class Config:
    """Adversarial training against l_inf perturbations of images."""

    dataset: str = "digits"
    """digits (bundled), or a TFDS image set, as mnist or cifar10."""
    data_dir: str | None = None
    """Folder of the data that is not bundled; by default TFDS_DATA_DIR from the environment."""
    methods: tuple[str, ...] = ("standard", "plain", "trades", "mart", "smooth")
    """Ways of training: standard, plain, trades, mart, smooth (tau = 1), smooth_0.5, smooth_1.5."""
    epsilon: float = 0.15
    """Radius of the perturbations, as a share of the largest pixel value, in (0, 1]."""
    seeds: int = 5
    """Repetitions; each has its own split, first weights and batches."""
    model: Literal["mlp", "cnn"] = "cnn"
    """mlp: two-layer perceptron; cnn: two convolutions and two layers."""
    width: int = 64
    """Units of the hidden layer."""
    epochs: int = 30
    """Passes over the training rows."""
    visits: int = 1
    """Times the metrics are measured, evenly spaced; divides epochs."""
    batch_size: int = 64
    """Rows of one step."""
    train_rows: int = 0
    """Training rows used, drawn at random; 0 takes all."""
    test_rows: int = 200
    """Test rows attacked, at most; 0 takes all."""
    train_steps: int = 7
    """Steps of the search during training."""
    test_steps: int = 50
    """Steps of the search for the robust accuracy."""
    test_restarts: int = 10
    """Restarts of the search for the robust accuracy."""
    learning_rate: float = 0.05
    """First learning rate; it falls to 0 along a half cosine."""
    momentum: float = 0.9
    """Momentum of stochastic gradient descent, in [0, 1)."""
    clip: float = 1.0
    """Largest norm of the gradient, positive."""
    rho: float = 1.0
    """Margin of the smooth loss, in units of the scores."""
    nu: float = 0.5
    """Weight of the distance in the smooth loss; 1 / (2 rho) bounds the mistakes at tau = 1."""
    trades_weight: float = 6.0
    """Weight of the divergence in TRADES."""
    mart_weight: float = 5.0
    """Weight of the divergence in MART."""
    parallel: train.Parallel = "runs"
    """What the devices share out: whole runs, or the rows of every batch."""
    devices: int = 0
    """CPU devices to make; 0: one a core, at most 8. Without effect on accelerators."""
    checkpoint_seconds: float = 15.0
    """Least time between two checkpoints."""


PRESETS = {
    "default": Config(),
    "smoke": Config(
        methods=("plain", "smooth"),
        seeds=2,
        model="mlp",
        width=16,
        epochs=2,
        test_rows=32,
        train_steps=2,
        test_steps=4,
        test_restarts=2,
    ),
    "paper": Config(
        dataset="cifar10",
        epsilon=8 / 255,
        methods=methods.NAMES,
        width=256,
        epochs=60,
        batch_size=128,
        test_rows=1000,
        train_steps=10,
    ),
}


def check(config: Config) -> None:
    """Raises ``UserError`` for a configuration that cannot be run."""
    unknown = [name for name in config.methods if name not in methods.NAMES]
    if unknown or not config.methods:
        raise UserError(
            f"unknown method {', '.join(unknown) or '(none given)'}; known: {', '.join(methods.NAMES)}."
        )
    for name in (
        "seeds",
        "width",
        "epochs",
        "visits",
        "batch_size",
        "train_steps",
        "test_steps",
        "test_restarts",
    ):
        if getattr(config, name) < 1:
            raise UserError(f"{name} must be at least 1; got {getattr(config, name)}.")
    if config.epochs % config.visits:
        raise UserError(f"visits must divide epochs; got {config.visits} and {config.epochs}.")
    if not 0 < config.epsilon <= 1:
        raise UserError(f"epsilon must lie in (0, 1]; got {config.epsilon}.")
    if min(config.learning_rate, config.clip, config.rho) <= 0 or not 0 <= config.momentum < 1:
        raise UserError("learning_rate, clip and rho must be positive, and momentum in [0, 1).")
    if min(config.nu, config.trades_weight, config.mart_weight, config.train_rows, config.test_rows) < 0:
        raise UserError("nu, trades_weight, mart_weight, train_rows and test_rows must be at least 0.")


def prepare(config: Config) -> tuple[list[runner.Stage], int]:
    """One stage a method, and the data's fingerprint."""
    check(config)
    source = data.load(config.dataset, config.data_dir)
    shared = tables.tables(source, config.seeds, config.train_rows, config.test_rows)
    try:
        model = models.make(config.model, source.features.shape[1:], config.width, source.classes)
    except ValueError as error:
        raise UserError(f"{error}.") from error
    schedule = train.Schedule(config.epochs, config.visits, shared.train.shape[1], config.batch_size)
    every = methods.methods(config.rho, config.nu, config.trades_weight, config.mart_weight)
    seeds = list(range(config.seeds))

    def stage(name: str) -> runner.Stage:
        task = make_task(config, every[name], model, float(np.max(source.features)))

        def build() -> train.Sweep:
            runs = {"seed": np.array(seeds, np.int32)}
            return train.compile_sweep(task, runs, shared, schedule, train.make_mesh(config.parallel))

        return runner.Stage(
            name, {"seed": seeds}, schedule.visits, schedule.epochs_per_visit, build, results.means
        )

    return [stage(name) for name in config.methods], source.fingerprint()


def make_task(config: Config, method: methods.Method, model: models.Model, largest: float) -> train.Task:
    """One run: an inner search and a step on its result; accuracies under attacks."""

    def init(seed: jax.Array) -> train.Tree:
        params = model.init(jax.random.key(seed))
        moments = tables.momentum_descent(jnp.ones(()), jnp.zeros(()), config.momentum).init(params)
        return params, moments, jax.random.key_data(jax.random.key(seed + 1000))

    def perturb(params: models.Params, batch: jax.Array, labels: jax.Array, key: jax.Array) -> jax.Array:
        clean = model.apply(params, batch)
        return attacks.projected_gradient_ascent(
            lambda x: method.ascends(clean, model.apply(params, x), labels),
            batch,
            key,
            radius=config.epsilon,
            step_size=2 * config.epsilon / config.train_steps,
            steps=config.train_steps,
            lower=0.0,
            upper=1.0,
        )

    def step(state, run, shared, positions, progress):
        params, moments, words = state
        key, later = jax.random.split(jax.random.wrap_key_data(words))
        rows = shared.train[run["seed"]][positions]
        batch, labels = tables.images(shared, rows, largest), shared.labels[rows]
        perturbed = batch if method.title == "no adversary" else perturb(params, batch, labels, key)

        def objective(params: models.Params) -> jax.Array:
            clean, moved = model.apply(params, batch), model.apply(params, perturbed)
            return jnp.mean(method.descends(clean, moved, labels))

        gradient, _ = optax.clip_by_global_norm(config.clip).update(
            jax.grad(objective)(params), optax.EmptyState()
        )
        rate = jnp.asarray(config.learning_rate)
        updates, moments = tables.momentum_descent(rate, progress, config.momentum).update(
            gradient, moments, params
        )
        return optax.apply_updates(params, updates), moments, jax.random.key_data(later)

    def evaluate(state, run, shared):
        params, rows = state[0], shared.test[run["seed"]]
        images, labels = tables.images(shared, rows, largest), shared.labels[rows]
        return accuracies(config, lambda x: model.apply(params, x), images, labels)

    return train.Task(init, lambda run, shared: shared, step, evaluate)


def accuracies(config: Config, score, images: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
    """Clean and robust accuracy, and the two checks of the attack: a longer search, and a radius of 1."""

    def under(epsilon: float, steps: int, seed: int) -> jax.Array:
        found = attacks.projected_gradient_ascent(
            lambda x: attacks.score_margin(score(x), labels),
            images,
            jax.random.key(seed),
            radius=epsilon,
            step_size=2.5 * epsilon / steps,
            steps=steps,
            restarts=config.test_restarts,
            lower=0.0,
            upper=1.0,
            keep_best=True,
        )
        return jnp.mean(attacks.score_margin(score(found), labels) < 0)

    return {
        "clean": jnp.mean(attacks.score_margin(score(images), labels) < 0),
        "robust": under(config.epsilon, config.test_steps, 1),
        "longer": under(config.epsilon, 2 * config.test_steps, 2),
        "anything": under(1.0, config.test_steps, 3),
    }


def report(folder: runner.RunFolder) -> Path:
    """Table, results.csv, figures and report.html of a finished run."""
    config = runner.stored_config(folder.path, "adversarial", Config)
    every = methods.methods(config.rho, config.nu, config.trades_weight, config.mart_weight)
    return results.write(
        folder, dataclasses.asdict(config), {name: every[name].title for name in config.methods}
    )
