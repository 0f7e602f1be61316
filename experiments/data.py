"""Data sets by name as arrays, splits of their rows, and label noise with a known transition matrix.

``digits`` (the default), ``wine`` and ``breast_cancer`` come with scikit-learn. ``letter`` and ``vowel`` are
read from ``<data_dir>/tabular/NAME.npz``. Every other name is an image set that TensorFlow Datasets has
prepared as array_record under ``data_dir``; it is read without TensorFlow, decoded once, and then
memory-mapped from the user's cache folder (``JAXREG_CACHE_DIR`` overrides its place).
"""

import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments import image_data
from experiments.faults import UserError, reason

BUNDLED = ("digits", "wine", "breast_cancer")
TABULAR = ("letter", "vowel")


class Dataset(NamedTuple):
    """Rows with integer labels; a test split that the source fixes stands at the end."""

    name: str  # as the user gave it
    features: np.ndarray  # float32 or uint8, [N, ...]; images keep their shape [N, height, width, channels]
    labels: np.ndarray  # int32, [N], in 0..classes-1
    classes: int  # number of classes
    fixed_test: int  # number of last rows that the source sets aside as its test split; 0 if it sets none

    @property
    def is_image(self) -> bool:
        """Whether a row is an image rather than a vector of unlike quantities."""
        return self.features.ndim == 4

    def fingerprint(self) -> int:
        """Checksum of all rows and labels, so that a resumed run notices other data."""
        return zlib.crc32(self.labels.tobytes(), zlib.crc32(np.ascontiguousarray(self.features).data))


class Split(NamedTuple):
    """Rows of one split; validation may be padded with -1 so that folds of unequal size stack."""

    train: np.ndarray  # int32, [n_train]
    validation: np.ndarray  # int32, [n_validation]
    test: np.ndarray  # int32, [n_test]


def load(name: str, data_dir: str | None = None) -> Dataset:
    """Reads a data set by name.

    Args:
      name: ``digits``, ``wine``, ``breast_cancer``, ``letter``, ``vowel``, or a TFDS image classification
        set.
      data_dir: folder of the prepared data; ``None`` takes ``TFDS_DATA_DIR`` from the environment.

    Returns:
      The whole data set.

    Raises:
      UserError: if the name is unknown or its data is missing, unreadable or unfit for classification.
    """
    if name in BUNDLED:
        return checked(_bundled(name))
    chosen = chosen_folder(data_dir)
    if chosen is None:
        known = ", ".join(BUNDLED)
        raise UserError(
            f"data set {name!r} is not one of those that need no download ({known}): say where its files "
            f"lie with "
            "--data-dir FOLDER or TFDS_DATA_DIR."
        )
    folder = Path(chosen).expanduser()
    if not folder.is_dir():
        raise UserError(f"the data folder {folder} does not exist; give another one with --data-dir FOLDER.")
    if name in TABULAR:
        return checked(_tabular(name, folder / "tabular" / f"{name}.npz"))
    features, labels, classes, fixed_test = image_data.load(name, folder)
    return checked(Dataset(name, features, labels, classes, fixed_test))


def chosen_folder(data_dir: str | None) -> str | None:
    """The folder of the data: as given, or else ``TFDS_DATA_DIR``; an empty name is none."""
    return data_dir or os.environ.get("TFDS_DATA_DIR") or None


def _bundled(name: str) -> Dataset:
    from sklearn import datasets

    loaders: dict[str, Callable] = {
        "digits": datasets.load_digits,
        "wine": datasets.load_wine,
        "breast_cancer": datasets.load_breast_cancer,
    }
    source = loaders[name]()
    features = source.images[..., None] if name == "digits" else source.data
    return Dataset(
        name,
        np.asarray(features, np.float32),
        np.asarray(source.target, np.int32),
        len(source.target_names),
        0,
    )


def _tabular(name: str, path: Path) -> Dataset:
    if not path.is_file():
        raise UserError(f"data set {name!r} needs the file {path}, which does not exist; check --data-dir.")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            parts = [arrays[key] for key in ("x_train", "x_test", "y_train", "y_test")]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            f"{path} is not a readable npz file with x_train, y_train, x_test and y_test ({reason(error)}); "
            "copy it again from its source."
        ) from error
    features, labels = np.concatenate(parts[:2]), np.concatenate(parts[2:])
    classes = int(labels.max(initial=-1)) + 1
    return Dataset(name, np.asarray(features, np.float32), labels.astype(np.int32), classes, len(parts[3]))


def checked(data: Dataset) -> Dataset:
    """Returns the data set if a classifier can be trained on it; raises ``UserError`` otherwise."""
    rows = len(data.labels)
    if len(data.features) != rows or rows == 0:
        raise UserError(f"data set {data.name!r} has {len(data.features)} rows but {rows} labels.")
    if data.classes < 2:
        raise UserError(
            f"data set {data.name!r} has {data.classes} class: nothing to classify; use one with at least 2 "
            f"classes."
        )
    if data.labels.min() < 0 or data.labels.max() >= data.classes:
        raise UserError(f"data set {data.name!r} has labels outside 0..{data.classes - 1}.")
    if data.features.dtype != np.uint8 and not np.isfinite(data.features).all():
        raise UserError(f"data set {data.name!r} has features that are not finite.")
    return data


def split(data: Dataset, seed: int, *, validation: float = 0.2, test: float = 0.2) -> Split:
    """Random rows for training, validation and testing; a test split fixed by the source is kept.

    Args:
      data: the data set.
      seed: makes the split; the same seed gives the same rows.
      validation: share of the rows not in a fixed test split, in (0, 1).
      test: share of the rows, used only where the source fixes no test split.

    Returns:
      Three disjoint sets of rows; their sizes depend on the shares alone.
    """
    rows = len(data.labels) - data.fixed_test
    order = np.random.default_rng((seed, 0)).permutation(rows).astype(np.int32)
    n_test = 0 if data.fixed_test else max(1, round(test * rows))
    n_validation = max(1, round(validation * rows))
    held_out = np.arange(rows, len(data.labels), dtype=np.int32) if data.fixed_test else order[:n_test]
    return Split(order[n_test + n_validation :], order[n_test : n_test + n_validation], held_out)


def folds(data: Dataset, seed: int, count: int, *, test: float = 0.2) -> list[Split]:
    """Splits for cross-validation, made stackable.

    Every row that is not for testing is validated exactly once. All training sets have the same size (at
    most one row is left out of some of them) and validation sets are padded with -1, so that the folds
    stack into one array.

    Args:
      data: the data set.
      seed: makes the split; the same seed gives the same rows.
      count: number of folds, at least 2.
      test: share of the rows for testing, the same in all folds; used only where the source fixes no test
      split.

    Returns:
      ``count`` splits into three disjoint sets of rows; their sizes depend on the data set and the shares
      alone.
    """
    rows = len(data.labels) - data.fixed_test
    order = np.random.default_rng((seed, 0)).permutation(rows).astype(np.int32)
    n_test = 0 if data.fixed_test else max(1, round(test * rows))
    held_out = np.arange(rows, len(data.labels), dtype=np.int32) if data.fixed_test else order[:n_test]
    rest = order[n_test:]
    if not 2 <= count <= len(rest):
        raise UserError(f"folds must lie in 2..{len(rest)} for data set {data.name!r}; got {count}.")
    pieces = np.array_split(rest, count)
    longest = len(pieces[0])
    result = []
    for index, piece in enumerate(pieces):
        train = np.concatenate(pieces[:index] + pieces[index + 1 :])[: len(rest) - longest]
        result.append(Split(train, np.pad(piece, (0, longest - len(piece)), constant_values=-1), held_out))
    return result


def uniform_noise(classes: int, rate: float) -> np.ndarray:
    """Transition matrix of uniform noise: with probability ``rate`` to another class, each equally likely.

    Args:
      classes: number of classes, at least 2.
      rate: probability that a label changes, in [0, 1].

    Returns:
      float64 ``[classes, classes]``; entry ``[i, j]`` is the probability that class i is recorded as j.
    """
    _check_noise(classes, rate)
    matrix = np.full((classes, classes), rate / (classes - 1))
    np.fill_diagonal(matrix, 1.0 - rate)
    return matrix


def class_dependent_noise(classes: int, rate: float) -> np.ndarray:
    """Transition matrix of class-dependent noise: with probability ``rate`` to the next class, the last to
    the first.

    Args:
      classes: number of classes, at least 2.
      rate: probability that a label changes, in [0, 1].

    Returns:
      float64 ``[classes, classes]``; entry ``[i, j]`` is the probability that class i is recorded as j.
    """
    _check_noise(classes, rate)
    identity = np.eye(classes)
    return (1.0 - rate) * identity + rate * np.roll(identity, 1, axis=1)


def _check_noise(classes: int, rate: float) -> None:
    if classes < 2:
        raise UserError(f"label noise needs at least 2 classes; got {classes}.")
    if not 0.0 <= rate <= 1.0:
        raise UserError(f"a noise rate is a probability in [0, 1]; got {rate}.")


def corrupt(labels: np.ndarray, transition: np.ndarray, seed: int) -> np.ndarray:
    """Draws every label anew from its class's row of a transition matrix.

    Args:
      labels: true classes, integer ``[N]``.
      transition: row-stochastic ``[K, K]``.
      seed: makes the draw. The same seed draws the same uniform numbers whatever the matrix.

    Returns:
      int32 ``[N]``.
    """
    draws = np.random.default_rng((seed, 1)).random(len(labels))
    # Each row's cumulative sums start with the true class, so that labels which a lower rate flips stay
    # flipped.
    classes = len(transition)
    order = (np.arange(classes)[:, None] + np.arange(classes)[None, :]) % classes
    thresholds = np.cumsum(np.take_along_axis(transition, order, axis=1), axis=1)[:, :-1]
    position = (draws[:, None] >= thresholds[labels]).sum(axis=1)
    return order[labels, position].astype(np.int32)
