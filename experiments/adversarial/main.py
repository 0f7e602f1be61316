"""Smooth adversarial comp-sum losses against adversarial training, TRADES and MART (arXiv 2304.07288).

``python -m experiments adversarial`` trains on scikit-learn's digits against l_inf perturbations, 5 seeds, in
a few minutes on 2 CPU cores; see the README beside this file for the numbers to expect.
"""

import dataclasses
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import optax

from experiments import classifier, models, runner, train
from experiments.adversarial import attack, methods, results
from experiments.faults import UserError, check_chosen
from jaxreg import attacks


@dataclasses.dataclass(frozen=True)
class Config(classifier.Config):
    """Adversarial training against l_inf perturbations of images."""

    methods: tuple[str, ...] = ("standard", "plain", "trades", "mart", "smooth")
    """Ways of training: standard, plain, trades, mart, smooth (tau = 1), smooth_0.5, smooth_1.5."""
    epsilon: float = 0.15
    """Radius of the perturbations, as a share of the largest pixel value, in (0, 1]."""
    ramp: float = 0.0
    """Share of the training during which the radius grows from 0 to epsilon, in [0, 1): a large one from the
    start on keeps training at constant scores."""
    test_rows: int = 200
    """Validation and test rows attacked, at most; 0 takes all."""
    train_steps: int = 7
    """Steps of the search during training."""
    search_steps: int = 20
    """Steps of the search, without restarts, for the robust accuracy on validation rows, by which learning
    rate and weight are chosen."""
    test_steps: int = 50
    """Steps of the search for the robust accuracy."""
    test_restarts: int = 10
    """Restarts of the search for the robust accuracy."""
    rho: float = 1.0
    """Margin of the smooth loss, in units of the scores."""
    nus: tuple[float, ...] = (0.5,)
    """Weights of the distance in the smooth loss to choose from; from 1 / (2 rho) on it bounds the mistakes
    at tau = 1."""
    trades_weights: tuple[float, ...] = (6.0,)
    """Weights of the divergence in TRADES to choose from."""
    mart_weights: tuple[float, ...] = (5.0,)
    """Weights of the divergence in MART to choose from."""


PRESETS = {
    "default": Config(),
    "smoke": Config(
        methods=("plain", "smooth"), seeds=2, model="mlp", width=16, epochs=2, test_rows=32, train_steps=2,
        test_steps=4, test_restarts=2, search_steps=2, nus=(0.1, 0.5),
    ),
    # Half a training run with a growing radius: few rows do not leave constant scores otherwise.
    "mnist": Config(
        dataset="mnist", epsilon=0.3, ramp=0.6, seeds=4, train_rows=3000, epochs=12, learning_rates=(0.2,),
        nus=(0.1,),
    ),
    "cifar10": Config(
        dataset="cifar10", epsilon=8 / 255, ramp=0.5, seeds=4, train_rows=3000, epochs=12,
        learning_rates=(0.1,), nus=(0.1,),
    ),
    "paper": Config(
        dataset="cifar10", epsilon=8 / 255, methods=methods.NAMES, width=256, epochs=60, batch_size=128,
        test_rows=1000, train_steps=10,
    ),
}  # fmt: skip


def check(config: Config) -> None:
    """Raises ``UserError`` for a configuration that cannot be run."""
    check_chosen(config, "methods", methods.NAMES)
    classifier.check(config, "train_steps", "search_steps", "test_steps", "test_restarts")
    if not 0 < config.epsilon <= 1:
        raise UserError(f"epsilon must lie in (0, 1]; got {config.epsilon}.")
    if config.rho <= 0 or not 0 <= config.ramp < 1:
        raise UserError(f"rho must be positive and ramp in [0, 1); got {config.rho}, {config.ramp}.")
    for name in ("nus", "trades_weights", "mart_weights"):
        if not getattr(config, name) or min(getattr(config, name)) < 0:
            raise UserError(f"{name} must be at least 0; got {getattr(config, name)}.")


def contenders(config: Config) -> dict[str, methods.Method]:
    """The methods to compare, by name."""
    every = methods.methods(config.rho, config.nus, config.trades_weights, config.mart_weights)
    return {name: every[name] for name in config.methods}


def prepare(config: Config) -> tuple[list[runner.Stage], int]:
    """One stage a method, and the data's fingerprint."""
    check(config)
    problem = classifier.load(config)
    schedule = problem.schedule

    def stage(name: str, method: methods.Method) -> runner.Stage:
        rates = config.learning_rates
        table = classifier.grid(weight=method.weights, learning_rate=rates, seed=range(config.seeds))
        task = make_task(config, method, problem)

        def build() -> train.Sweep:
            mesh = train.make_mesh(config.parallel)
            return train.compile_sweep(task, classifier.arrays(table), problem.shared, schedule, mesh)

        return runner.Stage(name, table, schedule.visits, schedule.epochs_per_visit, build, results.means)

    return [stage(*contender) for contender in contenders(config).items()], problem.fingerprint


def make_task(config: Config, method: methods.Method, problem: classifier.Problem) -> train.Task:
    """One run: an inner search and a step on its result; accuracies under attacks."""
    model = problem.model

    def init(seed: jax.Array) -> train.Tree:
        params = model.init(jax.random.key(seed))
        words = jax.random.key_data(jax.random.key(seed + 1000))
        return params, classifier.descent(config).init(params), words

    def perturb(params: models.Params, batch, labels, key, progress: jax.Array) -> jax.Array:
        clean = model.apply(params, batch)
        radius = config.epsilon * (jnp.minimum(progress / config.ramp, 1) if config.ramp else 1)
        return attacks.projected_gradient_ascent(
            lambda x: method.ascends(clean, model.apply(params, x), labels), batch, key,
            radius=radius, step_size=2 * radius / config.train_steps, steps=config.train_steps, lower=0.0,
            upper=1.0,
        )  # fmt: skip

    def step(state, run, shared, positions, progress):
        params, moments, words = state
        key, later = jax.random.split(jax.random.wrap_key_data(words))
        batch, labels = problem.batch(shared, shared.train[run["seed"]][positions])
        perturbed = batch if method.title == "no adversary" else perturb(params, batch, labels, key, progress)

        def objective(params: models.Params) -> jax.Array:
            clean, moved = model.apply(params, batch), model.apply(params, perturbed)
            return jnp.mean(method.descends(clean, moved, labels, run["weight"]))

        descent = classifier.descent(config, run["learning_rate"], progress)
        updates, moments = descent.update(jax.grad(objective)(params), moments, params)
        return optax.apply_updates(params, updates), moments, jax.random.key_data(later)

    def evaluate(state, run, shared):
        def score(x: jax.Array) -> jax.Array:
            return model.apply(state[0], x)

        def right(rows: jax.Array) -> jax.Array:
            def of_portion(part: jax.Array) -> jax.Array:
                images, labels = problem.batch(shared, part)
                return (attacks.score_margin(score(images), labels) < 0)[:, None]

            return train.in_batches(of_portion, rows)[:, 0]

        def attacked(rows: jax.Array, alive: jax.Array, seed: int, **strength) -> jax.Array:
            key = jax.random.key(seed)
            return attack.survivors(score, partial(problem.batch, shared), rows, alive, key, **strength)

        validation, test = shared.validation[run["seed"]], shared.test[run["seed"]]
        validated, clean = right(validation), right(test)
        ball, steps, restarts = config.epsilon, config.test_steps, config.test_restarts
        robust = attacked(test, clean, 1, epsilon=ball, steps=steps, restarts=restarts)
        found = {
            "validation": attacked(
                validation, validated, 0, epsilon=ball, steps=config.search_steps, restarts=1
            ),
            "clean": clean,
            "robust": robust,
            # Beyond all the restarts before.
            "longer": attacked(test, robust, 2, epsilon=ball, steps=2 * steps, restarts=restarts),
            "anything": attacked(test, clean, 3, epsilon=1.0, steps=steps, restarts=restarts),
        }
        return {name: jnp.mean(each, dtype=jnp.float32) for name, each in found.items()}

    return train.Task(init, lambda run, shared: shared, step, evaluate)


def report(folder: runner.RunFolder) -> Path:
    """Table, results.csv, figures and report.html of a finished run."""
    config = runner.stored_config(folder.path, "adversarial", Config)
    titles = {name: method.title for name, method in contenders(config).items()}
    return results.write(folder, dataclasses.asdict(config), titles)
