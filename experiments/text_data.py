"""Texts by name as streams of word numbers.

``ptb`` is read from ``<data_dir>/ptb/ptb.{train,valid,test}.txt``, one sentence a line, the words between
blanks. ``descriptions``, some thousand words, are what scikit-learn says about its data sets; they need no
download.
"""

import collections
import itertools
import re
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments import data
from experiments.faults import UserError, reason

UNKNOWN, END = "<unk>", "<eos>"
PARTS = ("train", "valid", "test")


class Text(NamedTuple):
    """Word numbers in the order of the text; 0 is the unknown word."""

    name: str
    words: tuple[str, ...]  # the vocabulary
    train: np.ndarray  # int32 [n]
    valid: np.ndarray  # int32 [n]
    test: np.ndarray  # int32 [n]

    def fingerprint(self) -> int:
        """Checksum, so that a resumed run notices other data."""
        found = 0
        for part in (self.train, self.valid, self.test):
            found = zlib.crc32(part.tobytes(), found)
        return found


def load(name: str, data_dir: str | None = None, vocabulary: int = 0, limit: int = 0) -> Text:
    """Reads a text.

    Args:
      name: ``ptb`` or ``descriptions``.
      data_dir: folder of the data; ``None`` takes ``TFDS_DATA_DIR`` from the environment.
      vocabulary: the most frequent words of the training part to keep, the unknown one included; 0 for all.
      limit: words of the training part to keep, from its beginning; 0 for all.

    Returns:
      The text.

    Raises:
      UserError: an unknown name, a file that is missing or cannot be read.
    """
    if name == "descriptions":
        streams = _descriptions()
    elif name == "ptb":
        streams = _ptb(data_dir)
    else:
        raise UserError(f"unknown text {name!r}; known: ptb, and descriptions, which needs no download.")
    train = streams[0][: limit or None]
    counts = collections.Counter(train)
    counts.pop(UNKNOWN, None)
    # Equally frequent words in the order of the alphabet, so that the vocabulary never varies.
    ordered = sorted(counts, key=lambda word: (-counts[word], word))
    words = (UNKNOWN, *ordered[: vocabulary - 1 if vocabulary else None])
    number = {word: index for index, word in enumerate(words)}
    parts = [np.array([number.get(word, 0) for word in part], np.int32) for part in (train, *streams[1:])]
    return Text(name, words, *parts)


def _ptb(data_dir: str | None) -> list[list[str]]:
    chosen = data.chosen_folder(data_dir)
    if not chosen:
        raise UserError(
            "the text 'ptb' needs its files: say where the folder lies that holds ptb/ptb.train.txt with "
            "--data-dir FOLDER or TFDS_DATA_DIR, or take --dataset descriptions."
        )
    streams = []
    for part in PARTS:
        path = Path(chosen).expanduser() / "ptb" / f"ptb.{part}.txt"
        try:
            content = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"the text 'ptb' needs the file {path}, which cannot be read ({reason(error)}); check "
                "--data-dir."
            ) from error
        streams.append(content.replace("\n", f" {END} ").split())
        if not streams[-1]:
            raise UserError(f"the file {path} has no words; copy it again from its source.")
    return streams


def _descriptions() -> list[list[str]]:
    from sklearn import datasets

    loaders = ("digits", "wine", "breast_cancer", "iris", "diabetes", "linnerud")
    text = "\n".join(getattr(datasets, f"load_{name}")().DESCR for name in loaders)
    sentences = [re.findall(r"[a-z]+|[0-9]+", line.lower()) for line in text.split("\n")]
    words = [word for sentence in sentences if sentence for word in [*sentence, END]]
    ends = [0, int(0.7 * len(words)), int(0.85 * len(words)), len(words)]
    return [words[begin:end] for begin, end in itertools.pairwise(ends)]


def streams(words: np.ndarray, rows: int) -> np.ndarray:
    """A text cut into parallel streams, ``[rows, length]``, what is left over dropped.

    >>> streams(np.arange(7), 2)
    array([[0, 1, 2],
           [3, 4, 5]])
    """
    length = len(words) // rows
    return words[: rows * length].reshape(rows, length)
