"""The penalties of any head, linear or not, given as ``loss_fn(params, batch)``: twins of their namesakes.

``penalties.general.NAME(loss_fn, params, batches, *, ...)`` is ``penalties.NAME`` with the derivatives taken
by automatic differentiation, so ``params`` may be any tree: a head with hidden layers, or a whole network.

* ``loss_fn(params, batch)`` returns the mean loss of one domain, a scalar;
* ``params`` is a tree of floating arrays, the variables in which gradients and Hessians are taken;
* ``batches`` is a tree of arrays with a leading domain axis: one batch a domain. Where single examples are
  told apart (``irm`` with halves, ``fishr``), their axis is the second one of every leaf.

All domains count alike. Results are differentiable in ``params``, and in what ``loss_fn`` closes over.

DomainBed takes the gradients of IGA in all parameters of a network and those of Fishr in its last layer: pass
what you mean as ``params`` and close over the rest.

Three need no twin, for they take no derivative: ``coral`` compares features, which may come from any network
(its head is checked and otherwise unused); ``spectral_decoupling`` is ``jnp.mean(logits**2)`` averaged over
domains; ``group_dro_weights`` takes the domains' losses, whatever they are of. ``jaxreg.transforms.and_mask``
takes one gradient a domain of any tree.
"""

from jaxreg.penalties.general.alignment import (
    hessian_alignment,
    hessian_diagonal_alignment,
    hessian_gradient_alignment,
    hutchinson_alignment,
)
from jaxreg.penalties.general.domain import fish, fishr, gradient_variances, iga, irm, v_rex

__all__ = [
    "fish",
    "fishr",
    "gradient_variances",
    "hessian_alignment",
    "hessian_diagonal_alignment",
    "hessian_gradient_alignment",
    "hutchinson_alignment",
    "iga",
    "irm",
    "v_rex",
]
