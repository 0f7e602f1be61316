"""When the adaptive temperature has a single stationary point, how many there are otherwise, and what the
alternation between weights and temperature misses then.
"""

import functools
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from jaxreg import losses
from jaxreg.theory import falsify, oracles
from jaxreg.theory.check import Check
from jaxreg.theory.ldr.stationary import (
    alternating_maximum,
    draw_hard_scores,
    heaviest_distribution,
    stationary_points,
    temperature_penalty,
    uniqueness_threshold,
)
from jaxreg.theory.ldr.value import PAPER
from jaxreg.theory.oracles import quick_jit

# Uniqueness


def threshold_by_free_search(rng: np.random.Generator) -> Check:
    """The threshold's maximum over all distributions is that over distributions with one heavy class."""

    def spread(free: jax.Array) -> jax.Array:
        logs = jax.nn.log_softmax(free)
        p = jnp.exp(logs)
        mean = p @ logs
        return -(p @ (logs - mean) ** 2 + mean + math.log(free.size)) / math.log(free.size)

    sizes, found = (2, 3, 10, 50), []
    for num_classes in sizes:
        compiled = quick_jit(jax.value_and_grad(spread))
        # From a distribution close to uniform the gradient leads back to it: start with some clearly
        # heavier classes.
        starts = [rng.normal(0, 1, num_classes) for _ in range(4)]
        for index, start in enumerate(starts):
            start[: 1 + index % 3] += rng.uniform(1, 2) * math.log(num_classes)
        found.append(
            -min(oracles.minimise(spread, start, bound=100, compiled=compiled)[1] for start in starts)
        )
    return Check(
        "uniqueness-threshold",
        "derived",
        "max over all p of Var_p(log p) + KL(p, u), by L-BFGS-B from many starts, has one heavy class; K "
        "= 2 ... 50",
        np.array([uniqueness_threshold(num_classes) for num_classes in sizes]),
        "==",
        np.array(found),
        tolerance=1e-8,  # L-BFGS-B at a flat maximum
        tolerance_float32=1e-4,
    )


def largest_safe_numbers_of_classes() -> Check:
    """The largest K with a unique stationary temperature for each of several alpha."""
    alpha = np.array([1.5, 2.0, 2.5, 3.0, 4.0])
    largest = (8, 128, 1309, 11556, 764765)
    at = np.array([uniqueness_threshold(k) for k in largest])
    after = np.array([uniqueness_threshold(k + 1) for k in largest])
    return Check(
        "largest-safe-numbers-of-classes",
        "derived",
        "alpha = 1.5, 2, 2.5, 3, 4 suffices up to K = 8, 128, 1309, 11556, 764765 classes, and not for "
        "one more",
        np.stack([at, alpha]),
        "<=",
        np.stack([alpha, after]),
        tolerance=0.0,
        tolerance_float32=0.0,
    )


def thresholds_of_uniqueness() -> Check:
    """The thresholds for twelve numbers of classes, as the theory page prints them."""
    printed = {
        2: 1.318, 3: 1.365, 5: 1.431, 10: 1.533, 26: 1.693, 49: 1.810,
        100: 1.949, 200: 2.091, 1000: 2.440, 10**4: 2.966, 10**5: 3.511, 10**6: 4.065,
    }  # fmt: skip
    return Check(
        "thresholds-of-uniqueness",
        "derived",
        "the threshold is 1.318 for K = 2, 1.533 for 10, 1.949 for 100, 2.440 for 1000, ... 4.065 for 10^6",
        np.array([uniqueness_threshold(num_classes) for num_classes in printed]),
        "==",
        np.array(list(printed.values())),
        tolerance=6e-4,  # as many digits as are claimed
        tolerance_float32=6e-4,
    )


def _at_the_heaviest(num_classes: int, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """The scores lam log p, at the p of the threshold and the temperature that is stationary there."""
    p, counts = heaviest_distribution(num_classes), np.array([1.0, num_classes - 1.0])
    divergence = math.log(num_classes) + (counts * p * np.log(p)).sum()
    return (1 - divergence / (alpha * math.log(num_classes))) * np.log(p), counts


def threshold_separates_one_from_three() -> Check:
    """The scores that attain the threshold have one stationary temperature above it, three below."""
    sizes, counted = (2, 3, 5, 10, 26, 49, 100, 1000), []
    for num_classes in sizes:
        threshold = uniqueness_threshold(num_classes)
        for alpha in (1.002 * threshold, 0.97 * threshold):
            gaps, counts = _at_the_heaviest(num_classes, alpha)
            counted.append(stationary_points(gaps, temperature=1.0, alpha=alpha, counts=counts).size)
    return Check(
        "threshold-separates-one-from-three",
        "derived",
        "K = 2 ... 1000: f = lam log p has 1 stationary temperature at 1.002, 3 at 0.97 times the threshold",
        np.array(counted, np.float64),
        "==",
        np.tile([1.0, 3.0], len(sizes)),
        tolerance=0.0,
        tolerance_float32=0.0,
    )


def _counts_of_stationary_points(num_classes: int, alpha: float, sizes: np.ndarray) -> np.ndarray:
    counts = np.array([1.0, num_classes - 1.0])
    return np.array(
        [
            stationary_points(np.array([size, 0.0]), temperature=1.0, alpha=alpha, counts=counts).size
            for size in sizes
        ]
    )


def single_stationary_point(rng: np.random.Generator) -> Check:
    """At K = 128 and alpha = 2 every score vector tried has one stationary temperature."""
    two_level = _counts_of_stationary_points(128, 2.0, np.linspace(0.05, 20, 400))
    random = [
        stationary_points(row, temperature=1.0, alpha=2.0, cells=1000).size
        for row in draw_hard_scores(rng, 128, 10)
    ]
    return Check(
        "single-stationary-point-at-128-classes",
        "derived",
        "K = 128, alpha = 2: one stationary temperature for 400 two-level and 40 other score vectors",
        np.append(two_level, random).astype(np.float64),
        "==",
        1.0,
        tolerance=0.0,
        tolerance_float32=0.0,
    )


def three_stationary_points() -> Check:
    """At K = 200 and alpha = 2 the score vector lam log p, at the p of the threshold, has three."""
    counted = []
    for num_classes in (200, 1000):
        gaps, counts = _at_the_heaviest(num_classes, 2.0)
        counted.append(stationary_points(gaps, temperature=1.0, alpha=2.0, counts=counts).size)
    return Check(
        "three-stationary-points-at-200-classes",
        "derived",
        "K = 200 and 1000, alpha = 2: f = lam log p at the p of the threshold has three stationary "
        "temperatures",
        np.array(counted, np.float64),
        "==",
        3.0,
        tolerance=0.0,
        tolerance_float32=0.0,
    )


def five_stationary_points() -> Check:
    """Close to alpha = 1 there can be five, and from alpha = 1.5 on no more than three were found."""
    counts = np.array([1.0, 2.0, 97.0])
    levels = [
        np.array([size, size * ratio, 0.0])
        for size in np.linspace(2.2, 2.6, 41)
        for ratio in (0.98, 0.985, 0.99)
    ]
    hyper = {"temperature": 1.0, "counts": counts, "cells": 400}
    most = [
        max(stationary_points(gaps, alpha=alpha, **hyper).size for gaps in levels) for alpha in (1.0001, 1.5)
    ]
    return Check(
        "five-stationary-points-near-alpha-one",
        "derived",
        "K = 100: some scores with three levels have 5 stationary temperatures at alpha = 1.0001, at "
        "most 1 at 1.5",
        np.array(most, np.float64),
        "==",
        np.array([5.0, 1.0]),
        tolerance=0.0,
        tolerance_float32=0.0,
    )


def penalty_is_convex(free: jax.Array, others: jax.Array) -> Check:
    """W is convex at the threshold."""
    alpha = uniqueness_threshold(free.size)
    first, second = jax.nn.softmax(free), jax.nn.softmax(others)
    penalty = functools.partial(temperature_penalty, alpha=alpha)
    return Check(
        "penalty-is-convex-at-the-threshold",
        "derived",
        "alpha = the uniqueness threshold: W half-way between two distributions is at most the mean",
        penalty((first + second) / 2),
        "<=",
        (penalty(first) + penalty(second)) / 2,
        tolerance_float32=1e-5,
    )


def penalty_is_not_convex_below(num_classes: int = 8) -> Check:
    """Below the threshold W lies above its chord at the distribution that attains the threshold."""
    heavy, light = heaviest_distribution(num_classes)
    p = jnp.full(num_classes, light).at[0].set(heavy)
    towards = jnp.full(num_classes, -1 / (num_classes - 1)).at[0].set(1.0)
    step = 0.05 * light
    alphas = jnp.array([0.97, 1.002]) * uniqueness_threshold(num_classes)

    def excess(alpha: jax.Array) -> jax.Array:
        middle, *ends = (temperature_penalty(p + move * towards, alpha=alpha) for move in (0, step, -step))
        return (middle - (ends[0] + ends[1]) / 2) / step**2

    return Check(
        "penalty-is-not-convex-below-the-threshold",
        "derived",
        "K = 8, at the p of the threshold: W lies above a chord at 0.97 times the threshold, below at 1.002",
        jnp.array([1.0, -1.0]) * jax.vmap(excess)(alphas),
        ">=",
        1e-3,
        tolerance=0.0,
        tolerance_float32=10.0,  # second differences
    )


# The alternation


def alternation_is_below(rng: np.random.Generator) -> Check:
    """The alternating updates never get above the maximum."""
    scores = draw_hard_scores(rng, 100, 10)
    labels = np.zeros(scores.shape[0], np.int32)
    exact = quick_jit(functools.partial(losses.aldr_kl, alpha=1.1))(jnp.asarray(scores), jnp.asarray(labels))
    reached = [alternating_maximum(oracles.gaps(row, 0), temperature=1.0, alpha=1.1) for row in scores]
    return Check(
        "alternation-is-below-the-maximum",
        PAPER,
        "alternating updates from lam_0 reach at most aldr_kl",
        np.array(reached),
        "<=",
        exact,
        scale=1 + np.ptp(scores, axis=-1),
        tolerance_float32=1e-5,
    )


def alternation_can_miss() -> Check:
    """On a two-level score vector the alternation stops at a local maximum far below."""
    num_classes, counts = 1000, np.array([1.0, 999.0])
    missed = []
    for alpha, largest in ((1.1, 6.0), (2.0, 7.5)):
        gaps = np.linspace(4, largest, 41)
        logits = jnp.asarray(np.concatenate([gaps[:, None], np.zeros((gaps.size, num_classes - 1))], axis=1))
        label = jnp.ones(gaps.size, jnp.int32)
        exact = np.asarray(quick_jit(functools.partial(losses.aldr_kl, alpha=alpha))(logits, label))
        hyper = {"temperature": 1.0, "alpha": alpha, "counts": counts}
        missed.append(max(exact - [alternating_maximum(np.array([gap, 0.0]), **hyper) for gap in gaps]))
    return Check(
        "alternation-can-miss-the-maximum",
        "derived",
        "K = 1000, two-level scores: the alternation can stay 0.9 lam_0 below aldr_kl at alpha = 1.1, and "
        "0.05 lam_0 at 2",
        np.array(missed),
        ">=",
        np.array([0.9, 0.05]),
        tolerance=0.0,
        tolerance_float32=0.0,
    )


def statements(seed: int) -> Iterator[Check]:
    """The statements of this module on random inputs."""
    rng = np.random.default_rng(seed + 36)
    yield threshold_by_free_search(rng)
    yield largest_safe_numbers_of_classes()
    yield thresholds_of_uniqueness()
    yield threshold_separates_one_from_three()
    yield single_stationary_point(rng)
    yield three_stationary_points()
    yield five_stationary_points()
    yield falsify.search(penalty_is_convex, (rng.normal(0, 1, (128, 8)), rng.normal(0, 1, (128, 8)))).check
    yield quick_jit(penalty_is_not_convex_below)()
    yield alternation_is_below(rng)
    yield alternation_can_miss()
