"""Losses that resist wrong labels: definitions, symmetry, the noise identity, and minimisers of the risk.

Definitions are claimed in ``definitions``; limits, ranges and gradients in ``limits``; sums over labels and
risks under label noise in ``symmetry``; minimisers of the conditional risk in ``minimisers``. All of them
are one family, ``noise_robust``, on the command line.

Throughout, ``s = softmax(f)`` and ``L = -log s_y``.
"""

from collections.abc import Iterator

from jaxreg.theory.check import Check
from jaxreg.theory.noise_robust import definitions, limits, minimisers, symmetry


def suite(seed: int) -> Iterator[Check]:
    """Every statement about the noise-robust losses, on random inputs."""
    parts = (definitions, limits, symmetry, minimisers)
    for part in parts:
        yield from part.statements(seed)
