"""Self-tuning networks: exact best responses, hypergradients, what perturbed training converges to.

``spectrum``, ``gates`` and ``best_response`` give the exactly solvable case, ridge regression, claimed in
``ridge`` and ``two_layers``; ``perturbed_ridge`` is what perturbed training makes of it, and ``jacobian``
what the centred form does. Layers and their maps stand in ``layers``, the hypergradient in
``hypergradients``, the perturbed objectives in ``perturbed``, the centred form in ``centred``, what is tuned
in ``regularizers``, and the updates themselves in ``steps``: together one family, ``self_tuning``, on the
command line.

Throughout, ``lambda`` are hyper-parameters, ``w*(lambda)`` the minimiser of the training loss, ``sigma`` the
scale of the perturbation; for ridge regression ``kappa = c exp(lambda)`` is the penalty on ``X'X`` and ``g_i
= d_i^2 / (d_i^2 + kappa)`` the gates of the singular values ``d_i``.

References:
  MacKay, Vicol, Lorraine, Duvenaud, Grosse (2019), "Self-Tuning Networks: Bilevel Optimization of
  Hyperparameters using Structured Best-Response Functions", ICLR, arXiv 1903.03088.
  Bae, Grosse (2020), "Delta-STN: Efficient Bilevel Optimization for Neural Networks using Structured Response
  Jacobians", NeurIPS, arXiv 2010.13514.
"""

from collections.abc import Iterator

from jaxreg.theory.check import Check
from jaxreg.theory.self_tuning import (
    centred,
    hypergradients,
    layers,
    perturbed,
    regularizers,
    ridge,
    steps,
    two_layers,
)
from jaxreg.theory.self_tuning.centred import jacobian, moments
from jaxreg.theory.self_tuning.perturbed import Response, exact_ridge, perturbed_ridge
from jaxreg.theory.self_tuning.ridge import OBJECTIVES, Spectrum, best_response, gates, spectrum

__all__ = [
    "OBJECTIVES",
    "Response",
    "Spectrum",
    "best_response",
    "exact_ridge",
    "gates",
    "jacobian",
    "moments",
    "perturbed_ridge",
    "spectrum",
    "suite",
]


def suite(seed: int) -> Iterator[Check]:
    """Every statement about self-tuning networks, on random problems."""
    for part in (
        ridge,
        two_layers,
        layers,
        hypergradients,
        perturbed,
        centred,
        regularizers,
        steps,
    ):
        yield from part.statements(seed)
