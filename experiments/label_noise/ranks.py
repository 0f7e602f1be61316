"""Average ranks of the losses over settings, and how sure they are.

A setting is a data set under one noise. In every setting, and for every number of guesses k = 1, 2, ...
separately, the losses are ranked by their mean test accuracy over folds and seeds: 1 is the best, equals
share the mean of their ranks. The average over all settings and all k is the rank that Zhu, Ying and Yang
report.
"""

import math
from typing import NamedTuple

import numpy as np
import scipy.stats

from experiments.label_noise.selection import Choice

DRAWS = 2000
LEVEL = 0.05


class Standing(NamedTuple):
    """A loss among the others."""

    loss: str
    rank: float  # average rank over settings and numbers of guesses
    low: float  # 95 % bootstrap interval of it over folds and seeds
    high: float
    by_top: tuple[float, ...]  # average rank over settings for each number of guesses


class Ranking(NamedTuple):
    """All losses, best first."""

    standings: list[Standing]
    settings: int  # number of data sets times noises
    critical_difference: float  # average ranks further apart than this differ at the 5 % level (Nemenyi)
    p_value: (
        float  # Friedman test of the hypothesis that no loss differs; NaN below three losses or two settings
    )


def ranking(found: list[Choice], seed: int = 0) -> Ranking:
    """Ranks the losses.

    The bootstrap draws folds and seeds anew, the same ones for all losses and noises of a data set; it says
    how far the ranks hang on the rows and first weights, with hyper-parameters as chosen. The critical
    difference says how far they hang on which settings were taken; its blocks are the settings, since the
    accuracies among the first k guesses of one setting are not independent of each other.
    """
    losses = list(dict.fromkeys(choice.loss for choice in found))
    settings = list(dict.fromkeys((choice.dataset, choice.noise) for choice in found))
    of = {(choice.dataset, choice.noise, choice.loss): choice.test for choice in found}
    draws, generator = {}, np.random.default_rng(seed)
    for dataset in dict.fromkeys(name for name, _ in settings):
        count = len(next(choice.test for choice in found if choice.dataset == dataset))
        drawn = generator.multinomial(count, np.full(count, 1 / count), DRAWS) / count
        draws[dataset] = np.concatenate([np.full((1, count), 1 / count), drawn])
    ranks = []  # a setting's: [1 + DRAWS, losses, top]
    for dataset, noise in settings:
        tests = np.stack([of[dataset, noise, loss] for loss in losses])
        # Accuracies that are equal on the same rows must not differ by the rounding of their means.
        means = np.round(np.einsum("dr,lrk->dlk", draws[dataset], tests), 9)
        ranks.append(scipy.stats.rankdata(-means, axis=1))
    return Ranking(_standings(losses, ranks), len(settings), *_tests([own[0] for own in ranks]))


def _standings(losses: list[str], ranks: list[np.ndarray]) -> list[Standing]:
    overall = np.concatenate(ranks, axis=2).mean(axis=2)
    low, high = np.quantile(overall[1:], [LEVEL / 2, 1 - LEVEL / 2], axis=0)
    tops = [
        np.mean([own[0, :, at] for own in ranks if own.shape[2] > at], axis=0)
        for at in range(max(own.shape[2] for own in ranks))
    ]
    rows = [
        Standing(
            loss,
            float(overall[0, at]),
            float(low[at]),
            float(high[at]),
            tuple(float(top[at]) for top in tops),
        )
        for at, loss in enumerate(losses)
    ]
    return sorted(rows, key=lambda row: row.rank)


def _tests(ranks: list[np.ndarray]) -> tuple[float, float]:
    """Critical difference of Nemenyi's test and p-value of Friedman's, from ranks ``[losses, top]`` a
    setting.
    """
    blocks, count = np.array([own.mean(axis=1) for own in ranks]), len(ranks[0])
    quantile = (
        scipy.stats.studentized_range.ppf(1 - LEVEL, count, math.inf) / math.sqrt(2) if count > 1 else 0.0
    )
    difference = float(quantile * math.sqrt(count * (count + 1) / (6 * len(blocks))))
    if count < 3 or len(blocks) < 2:
        return difference, math.nan
    return difference, float(scipy.stats.friedmanchisquare(*blocks.T).pvalue)
