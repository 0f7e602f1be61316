"""The runs of one loss on one data set, and what one run does."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import data, models, train
from experiments.label_noise import temperatures
from experiments.label_noise.contenders import Contender

Run = dict[str, Any]
Array = Any  # NumPy's on the host, jax's inside the program


class Tables(NamedTuple):
    """Arrays that all runs read. F folds, S seeds, M noise settings, N rows."""

    features: Array  # [N, ...] as stored
    classes: Array  # true class, int32 [N]
    labels: Array  # recorded labels, int32 [M, S, N]
    train: Array  # rows, int32 [S, F, n_train]
    validation: Array  # rows, int32 [S, F, n_validation]; -1 is padding
    test: Array  # rows, int32 [S, F, n_test]
    centre: Array  # mean of every training feature, float32 [S, F, ...]
    scale: Array  # its standard deviation, for images that of all pixels, float32 [S, F] or [S, F, features]


def tables(source: data.Dataset, transitions: list[np.ndarray], seeds: int, folds: int) -> Tables:
    """Folds and corrupted labels of every seed; evaluation alone uses the true labels of the test rows."""
    parts = [data.folds(source, seed, folds) for seed in range(seeds)]
    labels = [[data.corrupt(source.labels, matrix, seed) for seed in range(seeds)] for matrix in transitions]
    train_rows, validation, test = (
        np.array([[part[which] for part in of_seed] for of_seed in parts]) for which in range(3)
    )
    moments = [[_moments(source, part.train) for part in of_seed] for of_seed in parts]
    centre, scale = (
        np.array([[pair[which] for pair in of_seed] for of_seed in moments]) for which in range(2)
    )
    return Tables(
        source.features, source.labels, np.array(labels), train_rows, validation, test, centre, scale
    )


def _moments(source: data.Dataset, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean of every feature over the training rows; standard deviation of all pixels, or by column."""
    features = np.asarray(source.features[np.sort(rows)], np.float32)
    deviation = features.std(axis=tuple(range(features.ndim)) if source.is_image else (0,))
    return features.mean(axis=0), np.where(deviation > 0, deviation, 1.0).astype(np.float32)


def runs_of(
    contender: Contender, noises: int, learning_rates: tuple[float, ...], seeds: int, folds: int
) -> Run:
    """All runs of one loss, folds varying fastest: every field has a leading axis of runs."""
    names, values = list(contender.grid), itertools.product(*contender.grid.values())
    rows = list(itertools.product(range(noises), values, learning_rates, range(seeds), range(folds)))
    return {
        "noise": np.array([row[0] for row in rows], np.int32),
        "hyper": {name: np.array([row[1][at] for row in rows], np.float32) for at, name in enumerate(names)},
        "learning_rate": np.array([row[2] for row in rows], np.float32),
        "seed": np.array([row[3] for row in rows], np.int32),
        "fold": np.array([row[4] for row in rows], np.int32),
    }


class Optimiser(NamedTuple):
    """Momentum SGD whose learning rate falls tenfold after half and after three quarters of the training."""

    momentum: float  # in [0, 1)
    weight_decay: float  # >= 0, added to the gradient

    def transformation(self, learning_rate: jax.Array, progress: jax.Array) -> optax.GradientTransformation:
        """The update at a point of the training; the state's structure is always the same."""
        decayed = learning_rate * jnp.where(progress < 0.5, 1.0, jnp.where(progress < 0.75, 0.1, 0.01))
        return optax.chain(
            optax.add_decayed_weights(self.weight_decay),
            optax.trace(self.momentum),
            optax.scale_by_learning_rate(decayed),
        )


class State(NamedTuple):
    """What training changes."""

    params: models.Params
    moments: train.Tree
    ratios: jax.Array | None  # a number stored for every training example, [n_train], if the loss stores one


def make_init(model: models.Model, optimiser: Optimiser, stored: int) -> Callable[[jax.Array], State]:
    """The state before training from a seed, whatever the loss; ``stored`` examples have a number of their
    own.
    """

    def init(seed: jax.Array) -> State:
        params = model.init(jax.random.key(seed))
        moments = optimiser.transformation(jnp.ones(()), jnp.zeros(())).init(params)
        return State(params, moments, jnp.ones(stored) if stored else None)

    return init


def make_task(
    contender: Contender,
    model: models.Model,
    optimiser: Optimiser,
    init: Callable[[jax.Array], State],
    top: int,
) -> train.Task:
    """One run with a loss: take a step on a batch, measure accuracies."""
    return train.Task(
        init, prepare, _make_step(contender, model, optimiser), _make_evaluate(contender, model, top)
    )


def _make_step(contender: Contender, model: models.Model, optimiser: Optimiser) -> Callable[..., State]:
    """A step on a batch."""

    def step(state: State, run: Run, part: Training, positions: jax.Array, progress: jax.Array) -> State:
        batch, labels, hyper = part.batch(positions), part.labels[positions], run["hyper"]

        logits, pull_back = jax.vjp(lambda params: model.apply(params, batch), state.params)
        extra, ratios = {}, state.ratios
        if contender.visit and ratios is not None:
            extra = {"ratio": contender.visit(logits, ratios[positions], **hyper)}
            ratios = ratios.at[positions].set(extra["ratio"])

        def objective(logits: jax.Array) -> jax.Array:
            values = contender.loss(logits, labels, **hyper, **extra)
            if contender.warm_up:
                values = jnp.where(progress < 0.5, contender.warm_up(logits, labels, **hyper), values)
            return jnp.mean(values)

        # Otherwise the compiler evaluates the derivative of some losses again for each of its uses.
        slopes = jax.lax.optimization_barrier(jax.grad(objective)(logits))
        (gradient,) = pull_back(slopes)
        update = optimiser.transformation(run["learning_rate"], progress).update
        updates, moments = update(gradient, state.moments, state.params)
        stepped: models.Params = optax.apply_updates(state.params, updates)  # pyright: ignore
        return State(stepped, moments, ratios)

    return step


def _make_evaluate(
    contender: Contender, model: models.Model, top: int
) -> Callable[..., dict[str, jax.Array]]:
    """Accuracies, and what the temperatures tell of the wrong labels."""

    def evaluate(state: State, run: Run, shared: Tables) -> dict[str, jax.Array]:
        recorded = shared.labels[run["noise"], run["seed"]]

        def score(rows: jax.Array) -> jax.Array:
            return train.in_batches(
                lambda part: model.apply(state.params, _features(shared, run, part)), rows
            )

        of_run = (run["seed"], run["fold"])
        validation, test = shared.validation[of_run], shared.test[of_run]
        training = shared.train[of_run][: train.ROWS_TO_EVALUATE]
        logits = score(training)
        fitted, wrong = jnp.argmax(logits, axis=-1), recorded[training] != shared.classes[training]
        found = {
            "train": jnp.mean(fitted == recorded[training]),
            "memorised": jnp.sum(wrong & (fitted == recorded[training])) / jnp.maximum(jnp.sum(wrong), 1),
            "validation": train.top_accuracies(score(validation), recorded[validation], validation >= 0, 1)[
                0
            ],
            "test": train.top_accuracies(score(test), shared.classes[test], test >= 0, top),
        }
        if contender.temperatures:
            own = contender.temperatures(logits, recorded[training], **run["hyper"])
            found |= temperatures.summary(own, wrong)
        if state.ratios is not None:
            own = run["hyper"]["temperature"] * state.ratios[: len(training)]
            found |= temperatures.summary(own, wrong)
        return found

    return evaluate


class Training(NamedTuple):
    """The training rows of one run."""

    labels: jax.Array  # recorded, int32 [n_train]
    features: jax.Array  # standardised, float32 [n_train, ...]; or of all rows, as stored, if they are many
    standardise: tuple[jax.Array, jax.Array, jax.Array] | None  # rows [n_train], centre, scale, in that case

    def batch(self, positions: jax.Array) -> jax.Array:
        """Standardised features at some positions."""
        if self.standardise is None:
            return self.features[positions]
        rows, centre, scale = self.standardise
        return (self.features[rows[positions]].astype(jnp.float32) - centre) / scale


# Copies of more numbers than this are not made for every run that trains at a time: then the
# batches are standardised one by one.
LARGE = 1 << 18


def prepare(run: Run, shared: Tables) -> Training:
    """Picks a run's rows out of what all runs share."""
    of_run = (run["seed"], run["fold"])
    rows = shared.train[of_run]
    labels = shared.labels[run["noise"], run["seed"], rows]
    if rows.shape[0] * np.prod(shared.features.shape[1:]) <= LARGE:
        return Training(labels, _features(shared, run, rows), None)
    return Training(labels, shared.features, (rows, shared.centre[of_run], shared.scale[of_run]))


def _features(shared: Tables, run: Run, rows: jax.Array) -> jax.Array:
    """Standardised features of some rows."""
    of_run = (run["seed"], run["fold"])
    return (shared.features[rows].astype(jnp.float32) - shared.centre[of_run]) / shared.scale[of_run]
