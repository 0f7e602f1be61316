"""Rows, splits and scaling of a data set as arrays that all runs of a sweep read."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import data

Array = Any  # NumPy's on the host, jax's inside the program


class Tables(NamedTuple):
    """Arrays shared by the runs. S seeds, N rows."""

    features: Array  # [N, ...] as stored
    labels: Array  # int32 [N]
    train: Array  # rows, int32 [S, n_train]
    validation: Array  # rows, int32 [S, n_validation]
    test: Array  # rows, int32 [S, n_test]


def tables(source: data.Dataset, seeds: int, train_rows: int, test_rows: int) -> Tables:
    """The splits of every seed, cut to at most ``train_rows`` and ``test_rows`` (0: all) random rows."""
    splits = [data.split(source, seed, validation=0.1) for seed in range(seeds)]

    def cut(rows: np.ndarray, count: int, seed: int) -> np.ndarray:
        # A fixed test split is in the source's order, which may be by class.
        return np.random.default_rng((seed, 2)).permutation(rows)[: count or None]

    train = np.stack([cut(part.train, train_rows, seed) for seed, part in enumerate(splits)])
    validation = np.stack([cut(part.validation, test_rows, seed) for seed, part in enumerate(splits)])
    test = np.stack([cut(part.test, test_rows, seed) for seed, part in enumerate(splits)])
    used = np.unique(np.concatenate([train.ravel(), validation.ravel(), test.ravel()]))
    position = np.full(len(source.labels), -1, np.int32)
    position[used] = np.arange(len(used), dtype=np.int32)
    return Tables(
        np.asarray(source.features[used]),
        source.labels[used],
        position[train],
        position[validation],
        position[test],
    )


def images(shared: Tables, rows: jax.Array, largest: float) -> jax.Array:
    """Features of some rows, divided by the largest value, float32."""
    return shared.features[rows].astype(jnp.float32) / largest
