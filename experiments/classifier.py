"""What experiments share that train small classifiers of images side by side: fields, checks, data, steps."""

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import data, models, tables, train
from experiments.faults import UserError, check_counts


@dataclasses.dataclass(frozen=True)
class Config:
    """Momentum descent with clipped gradients and a half cosine."""

    dataset: str = "digits"
    """digits (bundled), or a TFDS image set, as mnist, fashion_mnist or cifar10."""
    data_dir: str | None = None
    """Folder of the data that is not bundled; by default TFDS_DATA_DIR from the environment."""
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
    test_rows: int = 0
    """Validation and test rows used, at most; 0 takes all."""
    learning_rates: tuple[float, ...] = (0.05,)
    """First learning rates to choose from on validation rows; they fall to 0 along a half cosine."""
    momentum: float = 0.9
    """Momentum of stochastic gradient descent, in [0, 1)."""
    clip: float = 1.0
    """Largest norm of the gradient, positive."""
    parallel: train.Parallel = "runs"
    """What the devices share out: whole runs, or the rows of every batch."""
    devices: int = 0
    """CPU devices to make; 0: one a core, at most 8. Without effect on accelerators."""
    checkpoint_seconds: float = 15.0
    """Least time between two checkpoints."""


class Problem(NamedTuple):
    """A data set, cut and laid out, with the model for it."""

    shared: tables.Tables
    model: models.Model
    largest: float  # of all feature values; images are divided by it
    schedule: train.Schedule
    fingerprint: int  # the data's

    def batch(self, shared: tables.Tables, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Images in [0, 1] and labels of some rows, inside the program."""
        return tables.images(shared, rows, self.largest), shared.labels[rows]


def check(config: Config, *more_counts: str) -> None:
    """Raises ``UserError`` for shared fields, and named other counts, that cannot be run."""
    check_counts(config, "seeds", "width", "epochs", "visits", "batch_size", *more_counts)
    if config.epochs % config.visits:
        raise UserError(f"visits must divide epochs; got {config.visits} and {config.epochs}.")
    if not config.learning_rates or min(config.learning_rates) <= 0 or config.clip <= 0:
        raise UserError(
            f"learning_rates and clip must be positive; got {config.learning_rates}, {config.clip}."
        )
    if not 0 <= config.momentum < 1 or min(config.train_rows, config.test_rows) < 0:
        raise UserError("momentum must lie in [0, 1), and train_rows and test_rows be at least 0.")


def load(config: Config) -> Problem:
    """Reads the data and makes the model; raises ``UserError`` where that is impossible."""
    source = data.load(config.dataset, config.data_dir)
    shared = tables.tables(source, config.seeds, config.train_rows, config.test_rows)
    try:
        model = models.make(config.model, source.features.shape[1:], config.width, source.classes)
    except ValueError as error:
        raise UserError(f"{error}.") from error
    schedule = train.Schedule(config.epochs, config.visits, shared.train.shape[1], config.batch_size)
    return Problem(shared, model, float(np.max(source.features)), schedule, source.fingerprint())


def grid(**values: Any) -> dict[str, list]:
    """All combinations of some values, a list of each name's; the last name varies fastest.

    >>> grid(rate=[0.1, 0.2], seed=range(2))
    {'rate': [0.1, 0.1, 0.2, 0.2], 'seed': [0, 1, 0, 1]}
    """
    axes = np.meshgrid(*values.values(), indexing="ij")
    return {name: axis.ravel().tolist() for name, axis in zip(values, axes, strict=True)}


def arrays(table: dict[str, list]) -> dict[str, np.ndarray]:
    """The table's columns as a sweep takes them, float32 and int32."""
    kinds = {name: np.asarray(column).dtype.kind for name, column in table.items()}
    return {
        name: np.array(column, np.int32 if kinds[name] == "i" else np.float32)
        for name, column in table.items()
    }


def descent(
    config: Config, learning_rate: jax.Array | float = 1.0, progress: jax.Array | float = 0.0
) -> optax.GradientTransformation:
    """Clipped gradients and momentum; the rate falls to 0 along a half cosine. One structure of state."""
    rate = jnp.asarray(learning_rate) * 0.5 * (1 + jnp.cos(jnp.pi * jnp.asarray(progress)))
    return optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.trace(config.momentum, nesterov=True),
        optax.scale_by_learning_rate(rate),
    )
