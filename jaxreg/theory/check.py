"""A statement of a paper as data: two sides, a relation, and how far the sides are apart."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

RELATIONS = ("==", "<=", ">=")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Check:
    r"""One numbered claim, evaluated: ``lhs relation rhs``, elementwise.

    A Check is a pytree whose leaves are ``lhs``, ``rhs`` and ``scale``: a function of arrays that
    returns one can be compiled, vectorised over random inputs, and differentiated through its slack.

    Args:
      name: a short name, unique in its module, lower case with hyphens.
      source: paper and number of the statement, e.g. ``"Zhu et al. (2023), eq. (3)"``; or ``"derived"``.
      statement: the claim in one line, in words or plain mathematics.
      lhs: left side, any shape.
      relation: ``"=="``, ``"<="`` or ``">="``.
      rhs: right side, broadcasts against ``lhs``.
      scale: the size that errors are measured in, positive, broadcasts against the sides.
      tolerance: largest violation, in units of ``scale``, that counts as rounding in float64. A claim
        about a limit or found by a solver states the accuracy that the limit or the solver has.
      tolerance_float32: the same in float32.
    """

    name: str = dataclasses.field(metadata={"static": True})
    source: str = dataclasses.field(metadata={"static": True})
    statement: str = dataclasses.field(metadata={"static": True})
    lhs: ArrayLike
    relation: str = dataclasses.field(metadata={"static": True})
    rhs: ArrayLike
    scale: ArrayLike = 1.0
    tolerance: float = dataclasses.field(default=1e-12, metadata={"static": True})
    tolerance_float32: float = dataclasses.field(default=1e-4, metadata={"static": True})

    def __post_init__(self) -> None:
        if self.relation not in RELATIONS:
            raise ValueError(f"relation must be one of {RELATIONS}, got {self.relation!r}")

    @property
    def violation(self) -> jax.Array:
        """How far each element is on the wrong side, in units of ``scale``; at most 0 where it holds.

        For ``"=="`` this is the absolute residual; for an inequality the negative of the slack.
        """
        return self.violation_by(jnp)

    @property
    def worst(self) -> jax.Array:
        """The largest violation over all elements: a scalar; NaN if any side is NaN."""
        return jnp.max(self.violation)

    @property
    def accepted(self) -> float:
        """The tolerance for the precision that the sides came in: float64, or anything coarser."""
        return self.tolerance if self._dtype() == np.float64 else self.tolerance_float32

    def holds(self, tolerance: float | None = None) -> bool:
        """Whether every element is within ``tolerance`` (default: ``accepted``); NaN does not hold."""
        return bool(self.worst <= (self.accepted if tolerance is None else tolerance))

    def violation_by(self, numpy: Any) -> Any:
        """The violation by the functions of ``jax.numpy``, or of NumPy where compiling does not pay."""
        dtype = self._dtype()
        lhs, rhs, scale = (numpy.asarray(leaf).astype(dtype) for leaf in (self.lhs, self.rhs, self.scale))
        # Equal infinities agree; their difference would be NaN.
        agree = numpy.isinf(lhs) & (lhs == rhs)
        difference = numpy.where(agree, 0, lhs) - numpy.where(agree, 0, rhs)
        signed = {"==": numpy.abs(difference), "<=": difference, ">=": -difference}[self.relation]
        return signed / scale

    def broadcast(self) -> "Check":
        """The Check with its leaves in one shape, so that ``jax.vmap`` may add an axis to all of them."""
        leaves = jnp.broadcast_arrays(*(jnp.asarray(leaf) for leaf in (self.lhs, self.rhs, self.scale)))
        return dataclasses.replace(self, **dict(zip(("lhs", "rhs", "scale"), leaves, strict=True)))

    def _dtype(self) -> np.dtype:
        """The widest dtype of the sides that are not Python numbers, which have none of their own."""
        sides = [leaf for leaf in (self.lhs, self.rhs) if not isinstance(leaf, (int, float))]
        dtypes = [jnp.result_type(leaf) for leaf in sides]
        # NumPy's promotion, since jax's refuses mixed precisions when it is told to be strict.
        widest = functools.reduce(np.promote_types, dtypes, np.dtype(np.float32)) if dtypes else np.float64
        return jax.dtypes.canonicalize_dtype(widest)
