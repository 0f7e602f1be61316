"""Losses, penalties and optax transformations for robust and regularised learning.

The families, each a folder whose docstring states the one signature that all its members share:

* ``jaxreg.losses``: ``loss(logits, labels, *, ...)``, one value per example.
* ``jaxreg.theory``: the papers' statements as executable checks.
"""

from jaxreg import losses

__all__ = ["losses"]
__version__ = "0.1.0"
