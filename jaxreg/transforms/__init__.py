"""Transformations of gradients: ``factory(...) -> optax.GradientTransformationExtraArgs``.

The contract that every transformation keeps, and ``tests/test_transform_conformance.py`` tries on each:

* ``init(params)`` returns the state and ``update(updates, state, params=None, *, ...)`` the new updates and
  the state, whose dtypes and shapes never change. Both are pure; they compile, vectorise and scan.
* What a transformation needs beyond the gradient is a keyword-only extra argument of ``update``, a scalar.
  Others that it does not know are ignored, so that members of one ``optax.chain`` can each take their own.
* Updates are a tree of floating arrays. They are computed in at least float32 and come back in the dtype and
  with the sharding that they came in.
* A Python or NumPy value out of range raises ``ValueError``; a traced or device value gives updates of NaN. A
  gradient that is not finite is never hidden.
* ``and_mask`` alone changes shapes: it takes one gradient a domain, on a leading axis, and returns one.
* Nothing is communicated between devices: on several, average the gradient and every extra argument over them
  first, each by itself.
"""

from jaxreg.transforms.accumulation import multi_steps
from jaxreg.transforms.and_mask import and_mask
from jaxreg.transforms.large_step import (
    batch_perceptron,
    logistic_slopes,
    normalize_by_mean_slope,
    normalized_logistic_gd,
    scale_by_risk,
)

__all__ = [
    "and_mask",
    "batch_perceptron",
    "logistic_slopes",
    "multi_steps",
    "normalize_by_mean_slope",
    "normalized_logistic_gd",
    "scale_by_risk",
]
