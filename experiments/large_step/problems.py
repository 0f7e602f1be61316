"""Two classes of a data set, scaled and with a bias, and how hard it is to separate them."""

import re
from typing import NamedTuple

import numpy as np

from experiments import data
from experiments.faults import UserError
from jaxreg.theory.large_step import hardness


class Problem(NamedTuple):
    """Features times labels."""

    name: str  # as the user gave it
    examples: np.ndarray  # float32, ``[n, d]``, the largest row of length 1
    rho: float  # R^2 / mu^2; inf if no plane separates the classes


def load(name: str, data_dir: str | None, rows: int, seed: int) -> Problem:
    """Reads a problem such as ``digits:3-8`` or ``cifar10:3-5:2000``.

    Args:
      name: data set, two classes, and optionally a number of random features.
      data_dir: folder of data that is not bundled.
      rows: how many rows to take at most.
      seed: draws them and the random features.

    Returns:
      The problem. Pixels are scaled together, other columns one by one; a constant feature is the bias.

    Raises:
      UserError: the name cannot be read, or its data.
    """
    parts = re.fullmatch(r"(\w+):(\d+)-(\d+)(?::(\d+))?", name)
    if not parts:
        raise UserError(f"problem {name!r} is not of the form digits:3-8 or cifar10:3-5:2000.")
    source = data.load(parts[1], data_dir)
    first, second = int(parts[2]), int(parts[3])
    if first == second or max(first, second) >= source.classes:
        raise UserError(f"problem {name!r} needs two different classes in 0..{source.classes - 1}.")
    generator = np.random.default_rng(seed)
    last = len(source.labels) - source.fixed_test
    chosen = np.flatnonzero((source.labels[:last] == first) | (source.labels[:last] == second))
    chosen = np.sort(generator.permutation(chosen)[:rows])
    features = np.asarray(source.features[chosen], np.float64).reshape(len(chosen), -1)
    features -= features.mean(0)
    deviation = features.std(axis=None if source.is_image else 0, keepdims=True)
    features /= np.where(deviation > 0, deviation, 1.0)
    if parts[4]:
        weights = generator.normal(size=(features.shape[1], int(parts[4]))) / features.shape[1] ** 0.5
        features = np.maximum(features @ weights, 0)
    features = np.concatenate([features, np.ones((len(features), 1))], axis=1)
    signs = np.where(source.labels[chosen] == second, 1.0, -1.0)
    examples = (features * signs[:, None] / np.linalg.norm(features, axis=1).max()).astype(np.float32)
    return Problem(name, examples, hardness(examples, np.ones(len(examples), int)))
