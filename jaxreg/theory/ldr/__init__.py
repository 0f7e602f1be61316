"""Label-distributionally-robust losses: the closed form, its limits, and what it is consistent for.

The claims about the loss with a Kullback-Leibler penalty stand in ``value`` and ``temperature``; those about
the capped, quadratic and box domains in ``domains``, the minimisers in ``consistency`` and ``symmetry``, and
the adaptive temperature in ``stationary``, ``uniqueness``, ``adaptive`` and ``adaptive_minimisers``. All of
them are one family, ``ldr``, on the command line.

Throughout, ``v = f + c (1 - e_y)`` are the scores with the margin and ``z = v - f_y`` the gaps.

References:
  Zhu, Ying, Yang (2023), "Label Distributionally Robust Losses for Multi-class Classification: Consistency,
  Robustness and Adaptivity", ICML, arXiv 2112.14869.
"""

from collections.abc import Iterator

from jaxreg.theory.check import Check
from jaxreg.theory.ldr import (
    adaptive,
    adaptive_minimisers,
    consistency,
    domains,
    stationary,
    symmetry,
    temperature,
    uniqueness,
    value,
)


def suite(seed: int) -> Iterator[Check]:
    """Every statement about the losses with a fixed and with an adaptive temperature, on random inputs."""
    fixed = value, temperature, domains, consistency, symmetry
    for part in (*fixed, stationary, uniqueness, adaptive, adaptive_minimisers):
        yield from part.statements(seed)
