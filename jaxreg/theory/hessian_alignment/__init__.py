"""Alignment of a linear head's Hessians and gradients over domains: closed forms, bounds, blind spots.

Statements are numbered HA-1 to HA-18. ``moments`` has the closed forms of the head's derivatives (1-6, 9);
``objectives`` the penalties and their references (7, 8, 18); ``distances`` distances of Hessians (9, 11,
12); ``hutchinson`` sampling and its bias (10, 12); ``transfer_measure`` the transfer measure (13, 14) and
``cubic_remainder`` its third order (14); ``domains`` what is aligned, and the other penalties over domains
(15); ``blind`` blind spots (16); ``costs`` operations counted (17). All of them are one family,
``hessian_alignment``, on the command line.

Throughout, ``L_e, g_e, H_e`` are mean loss, gradient and Hessian of domain e in the head ``T = [W | b]``,
``z~ = (z, 1)`` its features, p the predictions, y the labels, w the examples' weights, and n the number of
domains.

References:
  Hemati, Zhang, Estiri, Chen (2023), "Understanding Hessian Alignment for Domain Generalization", ICCV, arXiv
  2308.11778, and the code released with it.
  Chen, Si, Zhang, Zhao (2025), UAI, arXiv 2506.07378 (closed-form moment alignment).
  Zhang et al. (2021), "Quantifying and Improving Transferability in Domain Generalization", NeurIPS.
"""

from collections.abc import Iterator

from jaxreg.theory.check import Check
from jaxreg.theory.hessian_alignment import blind, costs, domains, moments, objectives, transfer_measure
from jaxreg.theory.hessian_alignment.costs import matrix_operations
from jaxreg.theory.hessian_alignment.problems import Domains, derivatives, draw
from jaxreg.theory.hessian_alignment.transfer_measure import Pair, draw_pair, hessians, remainder, transfer

__all__ = [
    "Domains",
    "Pair",
    "derivatives",
    "draw",
    "draw_pair",
    "hessians",
    "matrix_operations",
    "remainder",
    "suite",
    "transfer",
]


def suite(seed: int) -> Iterator[Check]:
    """Every statement about Hessian alignment, on random domains."""
    for part in (moments, objectives, transfer_measure, domains, blind, costs):
        yield from part.statements(seed)
