"""Losses of scores and a label: ``loss(logits, labels, *, hyper-parameters, axis=-1, where=None)``.

The contract that every loss keeps, and ``tests/test_conformance.py`` tries on each:

* ``logits`` are floating with K >= 1 classes on ``axis``; ``labels`` are integers of the same shape
  without that axis. The result is one value per example, never reduced.
* Computed in at least float32: half precision in, float32 out; float64 in, float64 out. The gradient
  has the dtype of ``logits``.
* Hyper-parameters are keyword-only, broadcast against the labels, are differentiable and may be traced.
  A Python or NumPy value out of range raises ``ValueError``; a traced or device value gives NaN. Limits
  of their ranges are exact, and so are the gradients there.
* ``where`` removes classes: K is the number of classes kept. A score of -inf is no removal but the limit
  of ever smaller scores: probability 0, and still counted in K.
* A label that is removed or outside 0..K-1 gives NaN, value and gradient; to ignore examples, give them
  any valid label and mask the result.
* Derivatives of any order, forwards and backwards, are those of the definition.
"""

from jaxreg.losses.adversarial import margin_adversarial_comp_sum, smooth_adversarial_comp_sum
from jaxreg.losses.aldr import aldr_kl, aldr_temperature
from jaxreg.losses.asymmetric import asymmetric_generalized_cross_entropy, asymmetric_unhinged
from jaxreg.losses.class_probabilities import brier, normalized_cross_entropy, robust_log_loss
from jaxreg.losses.comp_sum import comp_sum
from jaxreg.losses.expected import expected
from jaxreg.losses.jensen_shannon import jensen_shannon
from jaxreg.losses.ldr import ldr_kl, ldr_weights
from jaxreg.losses.ldr_quadratic import ldr_quadratic
from jaxreg.losses.ldr_top_k import ldr_top_k
from jaxreg.losses.margin import crammer_singer, weston_watkins
from jaxreg.losses.noise_robust import (
    generalized_cross_entropy,
    mean_absolute_error,
    reverse_cross_entropy,
    symmetric_cross_entropy,
    truncated_generalized_cross_entropy,
)
from jaxreg.losses.robust_training import mart, trades

__all__ = [
    "aldr_kl",
    "aldr_temperature",
    "asymmetric_generalized_cross_entropy",
    "asymmetric_unhinged",
    "brier",
    "comp_sum",
    "crammer_singer",
    "expected",
    "generalized_cross_entropy",
    "jensen_shannon",
    "ldr_kl",
    "ldr_quadratic",
    "ldr_top_k",
    "ldr_weights",
    "margin_adversarial_comp_sum",
    "mart",
    "mean_absolute_error",
    "normalized_cross_entropy",
    "reverse_cross_entropy",
    "robust_log_loss",
    "smooth_adversarial_comp_sum",
    "symmetric_cross_entropy",
    "trades",
    "truncated_generalized_cross_entropy",
    "weston_watkins",
]
