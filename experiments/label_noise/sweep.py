"""The runs of one loss, and what one run does."""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import data, models, train
from jaxreg import losses

Run = dict[str, Any]
Array = Any  # NumPy's on the host, jax's inside the program


class Contender(NamedTuple):
    """A loss in the comparison, with the hyper-parameter values to choose from."""

    title: str  # for tables and legends
    loss: Callable[..., jax.Array]  # (logits, labels, **hyper-parameters) -> one value per example
    grid: dict[str, tuple[float, ...]] = {}  # noqa: RUF012  # hyper-parameter -> values; the product is tried


def _balanced(logits: jax.Array, labels: jax.Array, *, balance: jax.Array) -> jax.Array:
    """Symmetric cross-entropy with one parameter in [0, 1] for both of its weights."""
    return losses.symmetric_cross_entropy(logits, labels, ce_weight=1 - balance, rce_weight=balance)


def _active_and(passive: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Normalized cross-entropy plus a passive loss, weighted by w and 10 - w."""

    def total(logits: jax.Array, labels: jax.Array, *, weight: jax.Array) -> jax.Array:
        active = losses.normalized_cross_entropy(logits, labels)
        return weight * active + (10 - weight) * passive(logits, labels)

    return total


_REVERSE = functools.partial(losses.reverse_cross_entropy, log_zero=float(np.log(1e-4)))
_UNHINGED = functools.partial(losses.asymmetric_unhinged, a=6.0, q=1.5)
_ASYMMETRIC = functools.partial(losses.asymmetric_generalized_cross_entropy, a=3.0, q=1.5)

# One row adds a loss to the comparison. Margins and values follow the search grids of Zhu, Ying and Yang
# (2023), with the temperatures of LDR-KL extended towards infinity, the symmetric limit.
CONTENDERS = {
    "cross_entropy": Contender("cross-entropy", optax.losses.softmax_cross_entropy_with_integer_labels),
    "ldr_kl": Contender("LDR-KL", losses.ldr_kl, {"temperature": (0.1, 1.0, 10.0, 100.0), "margin": (0.1,)}),
    "aldr_kl": Contender("ALDR-KL", losses.aldr_kl, {"temperature": (0.1, 1.0, 10.0), "margin": (0.1,)}),
    "generalized_cross_entropy": Contender("GCE", losses.generalized_cross_entropy, {"q": (0.05, 0.7, 0.95)}),
    "truncated_generalized_cross_entropy": Contender(
        "truncated GCE", losses.truncated_generalized_cross_entropy, {"q": (0.05, 0.7, 0.95)}
    ),
    "symmetric_cross_entropy": Contender("SCE", _balanced, {"balance": (0.05, 0.5, 0.95)}),
    "weston_watkins": Contender("WW", losses.weston_watkins, {"margin": (0.1, 1.0, 10.0)}),
    "crammer_singer": Contender("CS", losses.crammer_singer, {"margin": (0.1, 1.0, 10.0)}),
    "jensen_shannon": Contender("JS", losses.jensen_shannon, {"label_weight": (0.1, 0.5, 0.9)}),
    "robust_log_loss": Contender("RLL", losses.robust_log_loss, {"a": (0.1, 1.0, 10.0)}),
    "nce_rce": Contender("NCE+RCE", _active_and(_REVERSE), {"weight": (0.1, 5.0, 9.9)}),
    "nce_aul": Contender("NCE+AUL", _active_and(_UNHINGED), {"weight": (0.1, 5.0, 9.9)}),
    "nce_agce": Contender("NCE+AGCE", _active_and(_ASYMMETRIC), {"weight": (0.1, 5.0, 9.9)}),
    "brier": Contender("MSE", losses.brier),
    "mean_absolute_error": Contender("MAE", losses.mean_absolute_error),
}


class Tables(NamedTuple):
    """Arrays that all runs read. S seeds, M noise settings, N rows."""

    features: Array  # [N, ...] as stored
    classes: Array  # true class, int32 [N]
    labels: Array  # recorded labels, int32 [M, S, N]
    train: Array  # rows, int32 [S, n_train]
    validation: Array  # rows, int32 [S, n_validation]
    test: Array  # rows, int32 [S, n_test]
    centre: Array  # mean of the training features, float32 [S, ...]
    scale: Array  # their standard deviation, float32 [S, ...]


def tables(source: data.Dataset, transitions: list[np.ndarray], seeds: int) -> Tables:
    """Splits and corrupted labels of every seed; the test labels are used by evaluation in their true form
    only.

    A seed makes the split, the noise, the first weights and, through the split, which rows share a batch.
    """
    splits = [data.split(source, seed) for seed in range(seeds)]
    labels = [[data.corrupt(source.labels, matrix, seed) for seed in range(seeds)] for matrix in transitions]
    moments = [_moments(source, part.train) for part in splits]
    train_rows, validation, test = (np.stack(rows) for rows in zip(*splits, strict=True))
    centre, scale = (np.stack(values) for values in zip(*moments, strict=True))
    return Tables(
        source.features, source.labels, np.array(labels), train_rows, validation, test, centre, scale
    )


def _moments(source: data.Dataset, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean of every feature over the training rows; standard deviation of all pixels, or by column."""
    features = np.asarray(source.features[np.sort(rows)], np.float32)
    deviation = features.std(axis=tuple(range(features.ndim)) if source.is_image else (0,))
    return features.mean(axis=0), np.where(deviation > 0, deviation, 1.0).astype(np.float32)


def runs_of(contender: Contender, noises: int, learning_rates: tuple[float, ...], seeds: int) -> Run:
    """All runs of one loss, seeds varying fastest: every field has a leading axis of runs."""
    names, values = list(contender.grid), itertools.product(*contender.grid.values())
    rows = list(itertools.product(range(noises), values, learning_rates, range(seeds)))
    return {
        "noise": np.array([row[0] for row in rows], np.int32),
        "hyper": {name: np.array([row[1][at] for row in rows], np.float32) for at, name in enumerate(names)},
        "learning_rate": np.array([row[2] for row in rows], np.float32),
        "seed": np.array([row[3] for row in rows], np.int32),
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


def make_init(model: models.Model, optimiser: Optimiser) -> Callable[[jax.Array], train.Tree]:
    """First parameters and moments of a seed, whatever the loss."""

    def init(seed: jax.Array) -> train.Tree:
        params = model.init(jax.random.key(seed))
        return params, optimiser.transformation(jnp.ones(()), jnp.zeros(())).init(params)

    return init


def make_task(
    contender: Contender,
    model: models.Model,
    optimiser: Optimiser,
    init: Callable[[jax.Array], train.Tree],
    top: int,
) -> train.Task:
    """One run with a loss: take a step on a batch, measure accuracies."""

    def features_of(shared: Tables, run: Run, rows: jax.Array) -> jax.Array:
        seed = run["seed"]
        return (shared.features[rows].astype(jnp.float32) - shared.centre[seed]) / shared.scale[seed]

    def step(
        state: train.Tree, run: Run, shared: Tables, positions: jax.Array, progress: jax.Array
    ) -> train.Tree:
        params, moments = state
        rows = shared.train[run["seed"]][positions]
        batch, labels = features_of(shared, run, rows), shared.labels[run["noise"], run["seed"], rows]

        def objective(params: models.Params) -> jax.Array:
            return jnp.mean(contender.loss(model.apply(params, batch), labels, **run["hyper"]))

        update = optimiser.transformation(run["learning_rate"], progress).update
        updates, moments = update(jax.grad(objective)(params), moments, params)
        return optax.apply_updates(params, updates), moments

    def evaluate(state: train.Tree, run: Run, shared: Tables) -> dict[str, jax.Array]:
        recorded = shared.labels[run["noise"], run["seed"]]

        def score(rows: jax.Array) -> jax.Array:
            return train.in_batches(lambda part: model.apply(state[0], features_of(shared, run, part)), rows)

        validation, test = shared.validation[run["seed"]], shared.test[run["seed"]]
        training = shared.train[run["seed"]][: train.ROWS_TO_EVALUATE]
        fitted = jnp.argmax(score(training), axis=-1)
        wrong = recorded[training] != shared.classes[training]
        return {
            "train": jnp.mean(fitted == recorded[training]),
            "memorised": jnp.sum(wrong & (fitted == recorded[training])) / jnp.maximum(jnp.sum(wrong), 1),
            "validation": train.top_accuracies(score(validation), recorded[validation], validation >= 0, 1)[
                0
            ],
            "test": train.top_accuracies(score(test), shared.classes[test], test >= 0, top),
        }

    return train.Task(init, step, evaluate)
