"""TFDS image sets as arrays: read without TensorFlow, decoded once, memory-mapped afterwards."""

import contextlib
import hashlib
import logging
import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

from experiments.faults import UserError, reason

# One call a row takes several times the CPU of one call for thousands of rows.
ROWS_PER_READ = 4096


def cache_folder() -> Path:
    """Where decoded images are kept: ``JAXREG_CACHE_DIR``, or the user's cache folder."""
    import platformdirs

    chosen = os.environ.get("JAXREG_CACHE_DIR")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("jaxreg"))


def load(name: str, data_dir: Path) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Reads the train and test splits of a prepared image set.

    Args:
      name: TFDS name, such as ``mnist``.
      data_dir: folder that holds ``NAME/VERSION``.

    Returns:
      uint8 images ``[N, height, width, channels]`` (train rows, then test rows), int32 labels ``[N]``, the
      number of classes, and the number of test rows.

    Raises:
      UserError: if the set is unknown, not prepared under ``data_dir``, unreadable, or not an image
        classification set.
    """
    if not (data_dir / name).is_dir():
        raise UserError(
            f"data set {name!r} is neither bundled nor prepared under {data_dir}; check the name and "
            f"--data-dir, or prepare it with `tfds build {name} --file_format=array_record "
            f"--data_dir {data_dir}`."
        )
    builder = _builder(name, data_dir)
    classes, n_test = _layout(name, builder)
    folder = cache_folder() / f"{name}-{_stamp(Path(builder.data_path))}"
    cached = _open_cache(folder)
    if cached is None:
        images, labels = _decode(name, builder)
        cached = _store(folder, images, labels) or (images, labels)
    return cached[0], cached[1], classes, n_test


def _builder(name: str, data_dir: Path):
    logging.getLogger("absl").setLevel(
        logging.CRITICAL
    )  # remarks about the group size and faster image decoders
    import tensorflow_datasets as tfds

    try:
        versions = [path for path in (data_dir / name).iterdir() if (path / "dataset_info.json").is_file()]
        if not versions:
            raise FileNotFoundError("no version with a dataset_info.json")
        newest = max(versions, key=lambda path: [int(part) for part in path.name.split(".")])
        return tfds.builder_from_directory(newest)
    except Exception as error:  # TFDS raises many kinds for damaged metadata
        raise UserError(
            f"{data_dir / name} is not a data set prepared by TFDS ({reason(error)}); prepare it again."
        ) from error


def _layout(name: str, builder) -> tuple[int, int]:
    features, splits = builder.info.features, builder.info.splits
    if not {"image", "label"} <= set(features or {}) or not {"train", "test"} <= set(splits or {}):
        raise UserError(
            f"data set {name!r} is no image classification set with a train and a test split; choose "
            f"another one."
        )
    return features["label"].num_classes, splits["test"].num_examples


def _stamp(folder: Path) -> str:
    """Names the cache entry after the source files' sizes and times: changed files are read anew."""
    facts = [f"{folder.resolve()}"]
    for path in sorted(folder.iterdir()):
        status = path.stat()
        facts.append(f"{path.name} {status.st_size} {status.st_mtime_ns}")
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]


def _decode(name: str, builder) -> tuple[np.ndarray, np.ndarray]:
    images, labels = [], []
    try:
        for part in ("train", "test"):
            source = builder.as_data_source(split=part)
            for start in range(0, len(source), ROWS_PER_READ):
                rows = source.__getitems__(range(start, min(start + ROWS_PER_READ, len(source))))
                images.append(np.stack([row["image"] for row in rows]))
                labels.append(np.array([row["label"] for row in rows], np.int32))
    except Exception as error:  # array_record, protobuf and the image decoder each raise their own kinds
        raise UserError(
            f"the files of data set {name!r} in {builder.data_path} cannot be read ({reason(error)}); "
            "copy them again from their source."
        ) from error
    return np.concatenate(images), np.concatenate(labels)


def _open_cache(folder: Path) -> tuple[np.ndarray, np.ndarray] | None:
    try:
        images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        labels = np.load(folder / "labels.npy", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return (images, labels) if len(images) == len(labels) else None


def _store(folder: Path, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Writes both arrays beside their final place, then renames: a cut-off write is never read."""
    scratch = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".writing-", dir=folder.parent))
        np.save(scratch / "images.npy", images)
        np.save(scratch / "labels.npy", labels)
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(FileExistsError):  # another process was faster with the same arrays
            scratch.rename(folder)
    except OSError as error:
        print(
            f"note: {folder} cannot be written ({reason(error)}), so the images are not cached.",
            file=sys.stderr,
        )
        return None
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
    return _open_cache(folder)
