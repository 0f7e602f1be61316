"""Label-distributionally-robust losses: the closed form, its limits, and what it is consistent for.

The claims about the loss with a Kullback-Leibler penalty stand in ``ldr_value`` and ``ldr_temperature``;
those about the capped, quadratic and box domains in ``ldr_domains``, the minimisers in ``ldr_consistency``
and ``ldr_symmetry``, and the adaptive temperature in ``ldr_stationary``, ``ldr_uniqueness``, ``ldr_adaptive``
and ``ldr_adaptive_minimisers``. All of them are one family, ``ldr``, on the command line.

Throughout, ``v = f + c (1 - e_y)`` are the scores with the margin and ``z = v - f_y`` the gaps.

References:
  Zhu, Ying, Yang (2023), "Label Distributionally Robust Losses for Multi-class Classification: Consistency,
  Robustness and Adaptivity", ICML, arXiv 2112.14869.
"""

from collections.abc import Iterator

from jaxreg.theory import (
    ldr_adaptive,
    ldr_adaptive_minimisers,
    ldr_consistency,
    ldr_domains,
    ldr_stationary,
    ldr_symmetry,
    ldr_temperature,
    ldr_uniqueness,
    ldr_value,
)
from jaxreg.theory.check import Check


def suite(seed: int) -> Iterator[Check]:
    """Every statement about the losses with a fixed and with an adaptive temperature, on random inputs."""
    fixed = (ldr_value, ldr_temperature, ldr_domains, ldr_consistency, ldr_symmetry)
    adaptive = (ldr_stationary, ldr_uniqueness, ldr_adaptive, ldr_adaptive_minimisers)
    for part in (*fixed, *adaptive):
        yield from part.statements(seed)
