"""Comp-sum losses: least risks, H-consistency bounds, minimizability gaps, adversarial forms.

For a theorist's own arrays: ``bayes_risk``, ``bayes_risk_predicting`` and ``bayes_risk_bounded`` of class
probabilities; ``transform`` and ``inverse_transform`` between zero-one and surrogate regrets, with
``simple_bound``, the additions ``sharper_transform`` and ``bounded_transform``; ``minimizability_gap`` and
``minimizability_gap_bound``; and ``phi``, the loss as a function of the sum of exponentials.

The claims stand in ``losses``, ``least_risks``, ``bounds``, ``sharper``, ``gaps`` and ``adversarial``. All
of them are one family, ``comp_sum``, on the command line. Statements that begin with NEGATIVE exhibit a
violation.

References:
  Mao, Mohri, Zhong (2023), "Cross-Entropy Loss Functions: Theoretical Analysis and Applications", ICML,
  arXiv 2304.07288.
"""

from collections.abc import Iterator

from jaxreg.theory.check import Check
from jaxreg.theory.comp_sum import adversarial, bounds, gaps, least_risks, losses, sharper
from jaxreg.theory.comp_sum.risks import bayes_risk, bayes_risk_bounded, bayes_risk_predicting, phi
from jaxreg.theory.comp_sum.transforms import (
    bounded_transform,
    inverse_transform,
    minimizability_gap,
    minimizability_gap_bound,
    sharper_transform,
    simple_bound,
    transform,
)

__all__ = [
    "bayes_risk",
    "bayes_risk_bounded",
    "bayes_risk_predicting",
    "bounded_transform",
    "inverse_transform",
    "minimizability_gap",
    "minimizability_gap_bound",
    "phi",
    "sharper_transform",
    "simple_bound",
    "suite",
    "transform",
]


def suite(seed: int) -> Iterator[Check]:
    """Every statement about the comp-sum losses, on random inputs."""
    parts = losses, least_risks, bounds, sharper, gaps
    for part in (*parts, adversarial):
        yield from part.statements(seed)
