"""Hyperband: brackets of successive halving that weigh many short trials against few long ones.

Li, Jamieson, DeSalvo, Rostamizadeh, Talwalkar (2018), "Hyperband", JMLR 18 (arXiv 1603.06560), algorithm 1
with a third kept.
"""

import math
from typing import NamedTuple

import numpy as np

KEPT = 3  # one trial of so many goes on


class Turn(NamedTuple):
    """One visit of the host."""

    bracket: int
    begins_rung: bool  # whether trials are ended before it
    trials: int  # still trained


class Bracket(NamedTuple):
    """Trials that are halved together."""

    first: int  # number of its first trial
    trials: int


def brackets(count: int) -> list[Bracket]:
    """The brackets, from the one with most trials to the one that ends none."""
    found, first = [], 0
    for power in reversed(range(count)):
        trials = math.ceil(count / (power + 1) * KEPT**power)
        found.append(Bracket(first, trials))
        first += trials
    return found


def turns(count: int, visits: int) -> list[Turn]:
    """What is trained at every visit; a trial that is never ended gets ``visits``.

    >>> [(turn.bracket, turn.trials) for turn in turns(2, 3)]
    [(0, 3), (0, 1), (0, 1), (1, 2), (1, 2), (1, 2)]
    """
    plan = []
    for number, bracket in enumerate(brackets(count)):
        power, trials, done = count - 1 - number, bracket.trials, 0
        for rung in range(power + 1):
            until = visits // KEPT ** (power - rung)
            plan += [Turn(number, unit == 0 and rung > 0, trials) for unit in range(until - done)]
            trials, done = trials // KEPT, until
    return plan


def survivors(scores: np.ndarray, alive: np.ndarray, kept: int) -> np.ndarray:
    """Which of the trials go on: the ``kept`` ones alive with the least validation loss, NaN the worst.

    >>> survivors(np.array([3.0, 1.0, np.nan, 0.0]), np.array([True, True, True, False]), 1)
    array([False,  True, False, False])
    """
    order = np.argsort(np.where(alive & ~np.isnan(scores), scores, np.inf), kind="stable")
    found = np.zeros(len(scores), bool)
    found[order[:kept]] = True
    return found & alive
