"""Modules of flax.nnx over the functional layers of :mod:`jaxreg.bilevel`; needs ``jaxreg[flax]``.

Nothing else in the library imports flax, and ``import jaxreg`` does not import this. A module holds the
parameters of its layer as one ``nnx.Param``, ``module.params``; its call adds hyper-parameters to that of the
flax module of the same kind:

* ``module(x, hyperparameters=None)``: unconstrained hyper-parameters ``[B, h]`` or ``[h]``; None for the
  elementary part.

The state of ``nnx.split`` is a tree that :func:`jaxreg.bilevel.self_tuning` takes as parameters.
"""

try:
    from jaxreg.layers.best_response import BestResponseConv, BestResponseLinear, BestResponseLSTMCell
except ModuleNotFoundError as error:
    if error.name is None or error.name.split(".")[0] != "flax":
        raise
    raise ModuleNotFoundError(
        "jaxreg.layers needs flax: pip install 'jaxreg[flax]'", name=error.name
    ) from error

__all__ = ["BestResponseConv", "BestResponseLSTMCell", "BestResponseLinear"]
