"""Losses, penalties and optax transformations for robust and regularised learning.

The families, each a folder whose docstring states the one signature that all its members share:

* ``jaxreg.losses``: ``loss(logits, labels, *, ...)``, one value per example.
* ``jaxreg.transforms``: ``factory(...)``, a transformation of gradients for optax.
* ``jaxreg.bilevel``: networks that respond to their hyper-parameters, which tune themselves while training.
* ``jaxreg.attacks``: the worst input in a ball around a given one, for any objective.
* ``jaxreg.theory``: the papers' statements as executable checks.
"""

from jaxreg import attacks, bilevel, losses, transforms

__all__ = ["attacks", "bilevel", "losses", "transforms"]
__version__ = "0.1.0"
