"""Inner maximisation over a norm ball: the worst input near a given one.

* ``projected_gradient_ascent(objective, x, key, *, radius, step_size, steps, norm, ...)`` maximises any
  per-example function of the inputs over a ball around each of them.
* ``fast_gradient_sign`` is one step of it from the centre.
* Objectives of scores and labels: ``score_margin`` for a mistake by any class, ``targeted_margin`` for one
  by a chosen class; every loss of ``jaxreg.losses`` is one too.

What comes back is constant in everything: no derivative goes through the search.
"""

from jaxreg.attacks.objectives import score_margin, targeted_margin
from jaxreg.attacks.projected_gradient_ascent import fast_gradient_sign, projected_gradient_ascent

__all__ = ["fast_gradient_sign", "projected_gradient_ascent", "score_margin", "targeted_margin"]
