"""Logistic regression with large steps: counts of steps, risks, and the perceptron as the limit.

``separate`` runs a method to its first separating iterate and ``max_margin`` gives the best margin. The
constants, the master inequality and the bounds on steps are claimed in ``bounds``, those for minibatches and
many classes, with the searches for worse problems, in ``counts``; risks and adaptive steps in ``risk``; the
perceptron limit, losses against accuracy and the identities of the transformations in ``limits``. All of
them are one family, ``large_step``, on the command line.

Throughout, ``x_i = y_i a_i``, ``m_i = x_i.theta``, ``R = max |x_i|``, ``mu`` is the best margin, ``rho = R^2
/ mu^2``, and T the number of steps before the first separating iterate, from ``theta = 0``.

References:
  Tyurin (2025), "From Logistic Regression to the Perceptron Algorithm: Exploring Gradient Descent with Large
  Step Sizes", AAAI, arXiv 2412.08424.
  Zhang, Wu, Lin, Bartlett (2025), "Minimax Optimal Convergence of Gradient Descent in Logistic Regression via
  Large and Adaptive Stepsizes", arXiv 2504.04105.
"""

from collections.abc import Iterator

from jaxreg.theory.check import Check
from jaxreg.theory.large_step import bounds, counts, limits, risk
from jaxreg.theory.large_step.margin import (
    best_plane,
    hard_instance,
    hardness,
    max_margin,
    slack_constant,
    steps_bound,
)
from jaxreg.theory.large_step.methods import METHODS, Path, Separation, follow, separate

__all__ = [
    "METHODS",
    "Path",
    "Separation",
    "best_plane",
    "follow",
    "hard_instance",
    "hardness",
    "max_margin",
    "separate",
    "slack_constant",
    "steps_bound",
    "suite",
]


def suite(seed: int) -> Iterator[Check]:
    """Every statement about large steps, on random problems."""
    for part in (bounds, counts, limits, risk):
        yield from part.statements(seed)
