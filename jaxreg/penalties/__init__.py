"""Penalties over domains: ``penalty(head, features, labels, *, ..., where=None, weights=None) -> scalar``.

The contract that every penalty keeps, and ``tests/test_penalty_conformance.py`` tries on each:

* ``head = {"kernel": [D, K], "bias": [K]}`` is a linear softmax head in flax's layout, the bias may be
  absent; ``features`` ``[E, B, D]`` are its floating inputs for E domains of B examples; ``labels`` are
  integers ``[E, B]`` or probabilities ``[E, B, K]``. K = 1 is the logistic head with one logit, labels 0, 1.
* ``where`` ``[E, B]`` keeps the examples that count, for domains of unequal size; ``weights`` ``[E, B]``
  weigh them against each other within their domain.
* A penalty is a function of means within domains, averaged over the domains that are not empty: duplicating
  every example changes nothing. It does not contain the mean loss itself. It is 0 for a single domain, if it
  compares domains.
* Computed in the widest dtype of head and features and at least float32, which is also that of the result;
  each gradient has the dtype of its argument. Values and gradients are finite wherever the definition is.
* A label that is none gives NaN, in value and gradient. A Python or NumPy hyper-parameter out of range raises
  ``ValueError``; a traced or device value gives NaN.

``head_moments`` has what the penalties are made of, and ``general`` their twins for any head, which take
``(loss_fn, params, batches, *, ...)``.
"""

from jaxreg.penalties import general, head_moments
from jaxreg.penalties.domain import (
    coral,
    fish,
    fishr,
    gradient_variances,
    group_dro_weights,
    iga,
    irm,
    spectral_decoupling,
    v_rex,
)
from jaxreg.penalties.hessian_alignment import (
    hessian_alignment,
    hessian_diagonal_alignment,
    hessian_gradient_alignment,
    hutchinson_alignment,
)

__all__ = [
    "coral",
    "fish",
    "fishr",
    "general",
    "gradient_variances",
    "group_dro_weights",
    "head_moments",
    "hessian_alignment",
    "hessian_diagonal_alignment",
    "hessian_gradient_alignment",
    "hutchinson_alignment",
    "iga",
    "irm",
    "spectral_decoupling",
    "v_rex",
]
