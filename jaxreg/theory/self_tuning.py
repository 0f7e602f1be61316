"""Self-tuning networks: exact best responses, hypergradients, what perturbed training converges to.

``spectrum``, ``gates`` and ``best_response`` give the exactly solvable case, ridge regression, claimed in
``self_tuning_ridge`` and ``self_tuning_two_layers``; ``perturbed_ridge`` is what perturbed training makes of
it, and ``jacobian`` what the centred form does. Layers and their maps stand in ``self_tuning_layers``, the
hypergradient in ``self_tuning_hypergradients``, the perturbed objectives in ``self_tuning_perturbed``, the
centred form in ``self_tuning_centred``, what is tuned in ``self_tuning_regularizers``, and the updates
themselves in ``self_tuning_steps``: together one family, ``self_tuning``, on the command line.

Throughout, ``lambda`` are hyper-parameters, ``w*(lambda)`` the minimiser of the training loss, ``sigma`` the
scale of the perturbation; for ridge regression ``kappa = c exp(lambda)`` is the penalty on ``X'X`` and
``g_i = d_i^2 / (d_i^2 + kappa)`` the gates of the singular values ``d_i``.

References:
  MacKay, Vicol, Lorraine, Duvenaud, Grosse (2019), "Self-Tuning Networks: Bilevel Optimization of
  Hyperparameters using Structured Best-Response Functions", ICLR, arXiv 1903.03088.
  Bae, Grosse (2020), "Delta-STN: Efficient Bilevel Optimization for Neural Networks using Structured Response
  Jacobians", NeurIPS, arXiv 2010.13514.
"""

from collections.abc import Iterator

from jaxreg.theory import (
    self_tuning_centred,
    self_tuning_hypergradients,
    self_tuning_layers,
    self_tuning_perturbed,
    self_tuning_regularizers,
    self_tuning_ridge,
    self_tuning_steps,
    self_tuning_two_layers,
)
from jaxreg.theory.check import Check
from jaxreg.theory.self_tuning_centred import jacobian, moments
from jaxreg.theory.self_tuning_perturbed import Response, exact_ridge, perturbed_ridge
from jaxreg.theory.self_tuning_ridge import OBJECTIVES, Spectrum, best_response, gates, spectrum

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
        self_tuning_ridge,
        self_tuning_two_layers,
        self_tuning_layers,
        self_tuning_hypergradients,
        self_tuning_perturbed,
        self_tuning_centred,
        self_tuning_regularizers,
        self_tuning_steps,
    ):
        yield from part.statements(seed)
