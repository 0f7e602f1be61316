"""Coloured digits: two training domains, a test domain with the colours reversed, and held-out rows.

The rows of a domain are sorted by colour, since one of the two colour channels of an image is empty: the
first layer of the network then multiplies the other one alone. Each colour of each domain is padded to one
length with rows that do not count.
"""

from typing import Any, NamedTuple

import numpy as np

from experiments.data import Dataset
from experiments.faults import UserError

Array = Any  # NumPy's on the host, jax's inside the program
COLOURS = 2


class Domains(NamedTuple):
    """E domains of rows in two colours, each colour padded to P rows."""

    images: Array  # float32 [2, E, P, pixels] in [0, 1]: the channel that is not empty
    labels: Array  # int32 [E, 2 P], in 0..1; all rows of the first colour before those of the second
    where: Array  # bool [E, 2 P], rows that count


class Benchmark(NamedTuple):
    """What one restart trains and is measured on."""

    train: Domains
    held_out: Domains  # rows of the training domains that are not trained on
    test: Domains  # E = 1


class Recipe(NamedTuple):
    """How the domains are made."""

    train_flips: tuple[float, ...]  # probability that the colour is not that of the label, one a domain
    test_flip: float
    label_noise: float  # probability that the label is not that of the digit
    class_shares: tuple[float, ...]  # share of label 1 in each training domain; 0.5 leaves the draw as it is
    train_rows: int  # rows of a training domain at most
    other_rows: int  # rows of the test domain, and of all held-out domains together, at most


def pixels(source: Dataset) -> np.ndarray:
    """Every second pixel of each row and column, scaled to [0, 1]: float32 ``[N, pixels]``."""
    if not source.is_image or source.features.shape[-1] != 1:
        raise UserError(f"data set {source.name!r} is not one of grey images, which colours need.")
    step = 2 if source.features.shape[1] >= 20 else 1
    kept = np.asarray(source.features[:, ::step, ::step, 0])
    return kept.reshape(len(kept), -1)


def make(grey: np.ndarray, digits: np.ndarray, fixed_test: int, recipe: Recipe, seed: int) -> Benchmark:
    """Draws the domains of one restart.

    Args:
      grey: images ``[N, pixels]`` as stored.
      digits: classes ``[N]``; the first half of the classes is label 1.
      fixed_test: last rows that the source sets aside; held-out training domains are made of them, or of a
        sixth of the rows where there are none.
      recipe: sizes and probabilities.
      seed: makes all draws.

    Returns:
      The three groups of domains, with no row in common.
    """
    draw = np.random.default_rng((seed, 3))
    rows = len(digits)
    order = draw.permutation(rows - fixed_test) if fixed_test else draw.permutation(rows)
    spare = np.arange(rows - fixed_test, rows) if fixed_test else order[: rows // 6]
    order = order if fixed_test else order[rows // 6 :]
    # A sixth of the rows for the test domain: 10 000 of MNIST's 60 000.
    test, train = np.split(order, [len(order) // 6])
    count = len(recipe.train_flips)
    largest = np.float32(grey.max())

    def colour(parts: list[np.ndarray], flips: tuple[float, ...], shares: tuple[float, ...]) -> Domains:
        drawn = [
            _colour(draw, digits[part] < (digits.max() + 1) // 2, flip, recipe.label_noise, share)
            for part, flip, share in zip(parts, flips, shares, strict=True)
        ]
        return _sorted(grey, largest, parts, drawn)

    pieces = [train[index::count][: recipe.train_rows] for index in range(count)]
    halves = [spare[index::count][: recipe.other_rows // count] for index in range(count)]
    return Benchmark(
        colour(pieces, recipe.train_flips, recipe.class_shares),
        colour(halves, recipe.train_flips, recipe.class_shares),
        colour([test[: recipe.other_rows]], (recipe.test_flip,), (0.5,)),
    )


def _colour(
    draw: np.random.Generator, small: np.ndarray, flip: float, noise: float, share: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, colours and which rows stay; rows of the class that is too frequent are dropped at random."""
    labels = small ^ (draw.random(len(small)) < noise)
    colours = labels ^ (draw.random(len(small)) < flip)
    luck = draw.random(len(small))
    if share == 0.5:
        return labels, colours, np.ones(len(small), bool)
    ones, zeros = labels.mean(), 1 - labels.mean()
    wanted = share / (1 - share)
    keep_ones, keep_zeros = min(1.0, wanted * zeros / ones), min(1.0, ones / zeros / wanted)
    return labels, colours, luck < np.where(labels, keep_ones, keep_zeros)


def _sorted(grey: np.ndarray, largest: np.float32, parts: list[np.ndarray], drawn: list) -> Domains:
    groups = [
        [np.flatnonzero(keep & (colours == colour)) for labels, colours, keep in drawn]
        for colour in range(COLOURS)
    ]
    # A little room, so that the restarts mostly share one length and with it one compiled program.
    longest = max(len(rows) for group in groups for rows in group)
    length = -(-(longest + int(np.sqrt(longest))) // 128) * 128
    images = np.zeros((COLOURS, len(parts), length, grey.shape[1]), np.float32)
    labels = np.zeros((COLOURS, len(parts), length), np.int32)
    where = np.zeros((COLOURS, len(parts), length), bool)
    for colour, group in enumerate(groups):
        for domain, rows in enumerate(group):
            images[colour, domain, : len(rows)] = grey[parts[domain][rows]] / largest
            labels[colour, domain, : len(rows)] = drawn[domain][0][rows]
            where[colour, domain, : len(rows)] = True
    count = len(parts)
    return Domains(
        images,
        labels.swapaxes(0, 1).reshape(count, -1),
        where.swapaxes(0, 1).reshape(count, -1),
    )


def same_length(benchmarks: list[Benchmark]) -> Benchmark:
    """Stacks the restarts, padded to the longest: every array gets a leading axis of restarts."""

    def stack(domains: list[Domains]) -> Domains:
        length = max(one.images.shape[2] for one in domains)
        count = domains[0].images.shape[1]
        parts = []
        for one in domains:
            more = length - one.images.shape[2]
            halves = (count, COLOURS, -1)
            pad = ((0, 0), (0, 0), (0, more))
            parts.append(
                Domains(
                    np.pad(one.images, (*pad, (0, 0))),
                    np.pad(one.labels.reshape(halves), pad).reshape(count, -1),
                    np.pad(one.where.reshape(halves), pad).reshape(count, -1),
                )
            )
        return Domains(*(np.stack(leaves) for leaves in zip(*parts, strict=True)))

    return Benchmark(*(stack(list(groups)) for groups in zip(*benchmarks, strict=True)))
