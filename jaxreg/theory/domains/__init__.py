"""Methods over domains besides alignment: group DRO, the AND-mask and spectral decoupling.

Statements are numbered DO-1 to DO-11. ``group_dro`` has the weights of group DRO (1-5), ``and_mask`` the
AND-mask (6-9) and ``decoupling`` spectral decoupling (10, 11). All are one family, ``domains``, on the
command line; the penalties on gradients and losses are in ``hessian_alignment``.

Throughout, ``L_e`` and ``g_e`` are loss and gradient of domain e, n is the number of domains.

References:
  Sagawa, Koh, Hashimoto, Liang (2020), "Distributionally Robust Neural Networks", ICLR, arXiv 1911.08731.
  Parascandolo, Neitz, Orvieto, Gresele, Schoelkopf (2021), "Learning explanations that are hard to vary",
  ICLR, arXiv 2009.00329.
  Pezeshki et al. (2021), "Gradient Starvation", NeurIPS, arXiv 2011.09468.
"""

from collections.abc import Iterator

from jaxreg.theory.check import Check
from jaxreg.theory.domains import and_mask, decoupling, group_dro

__all__ = ["suite"]


def suite(seed: int) -> Iterator[Check]:
    """Every statement about these methods, on random domains."""
    for part in (group_dro, and_mask, decoupling):
        yield from part.statements(seed)
