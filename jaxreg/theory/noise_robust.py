"""Losses that resist wrong labels: definitions, symmetry, the noise identity, and what they are "
"consistent for.

Definitions are claimed in ``noise_robust_definitions``; limits, ranges and gradients in
``noise_robust_limits``; sums over labels and risks under label noise in ``noise_robust_symmetry``; minimisers
of the conditional risk in ``noise_robust_minimisers``. All of them are one family, ``noise_robust``, on the
command line.

Throughout, ``s = softmax(f)`` and ``L = -log s_y``.
"""

from collections.abc import Iterator

from jaxreg.theory import (
    noise_robust_definitions,
    noise_robust_limits,
    noise_robust_minimisers,
    noise_robust_symmetry,
)
from jaxreg.theory.check import Check


def suite(seed: int) -> Iterator[Check]:
    """Every statement about the noise-robust losses, on random inputs."""
    parts = (noise_robust_definitions, noise_robust_limits, noise_robust_symmetry, noise_robust_minimisers)
    for part in parts:
        yield from part.statements(seed)
