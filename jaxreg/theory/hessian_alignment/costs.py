"""How many operations the closed forms take: those of matrix products, counted in the traced programs.

Counts depend on shapes alone, so there is nothing to search for over arrays: the equalities are counted at
several shapes, and the two inequalities are statements about the one shape that they name.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxreg import penalties
from jaxreg.theory.check import Check
from jaxreg.theory.hessian_alignment.problems import plain_loss


def matrix_operations(function: Any, *arguments: Any) -> int:
    """Multiplications and additions in the matrix products of a function, for abstract arguments.

    Args:
      function: traceable.
      arguments: trees of arrays or ``jax.ShapeDtypeStruct``.

    Returns:
      Twice the number of products of two numbers; loops count with their length, the largest branch of a
      conditional with its own, ``while`` loops not at all.

    >>> matrix_operations(lambda x, y: x @ y, jnp.ones((2, 3)), jnp.ones((3, 5)))
    60
    """
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def _count(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            contracted = equation.params["dimension_numbers"][0][0]
            sizes = equation.invars[0].aval.shape
            total += (
                2 * math.prod(equation.outvars[0].aval.shape) * math.prod(sizes[axis] for axis in contracted)
            )
        branches = [_count(branch.jaxpr) for branch in equation.params.get("branches", ())]
        repeats = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        inner = [
            value for name, value in equation.params.items() if name in ("jaxpr", "call_jaxpr", "fun_jaxpr")
        ]
        total += max(branches, default=0) + repeats * sum(_count(getattr(one, "jaxpr", one)) for one in inner)
    return total


class Sizes(NamedTuple):
    """Of one domain under a head without bias."""

    examples: int = 256
    features: int = 512
    classes: int = 10

    @property
    def product(self) -> int:
        """Multiplications and additions of half a product of features and head: ``B K D``."""
        return self.examples * self.classes * self.features

    @property
    def arguments(self) -> tuple[Any, jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
        """Head, features and labels, of which only shapes and dtypes are known."""
        return (
            {"kernel": jax.ShapeDtypeStruct((self.features, self.classes), jnp.float32)},
            jax.ShapeDtypeStruct((1, self.examples, self.features), jnp.float32),
            jax.ShapeDtypeStruct((1, self.examples), jnp.int32),
        )


def closed_forms_count(shapes: tuple[Sizes, ...]) -> Check:
    """HA-4, HA-5, HA-9, HA-17: operations of the values for one domain."""
    moments = penalties.head_moments

    def counted(sizes: Sizes) -> np.ndarray:
        head, inputs, labels = sizes.arguments
        counts = (
            matrix_operations(moments.gradient, head, inputs, labels),
            matrix_operations(moments.hessian_vector_product, head, inputs, head),
            matrix_operations(moments.hessian_gradient_product, head, inputs, labels),
            matrix_operations(moments.hessian_diagonal, head, inputs),
        )
        return np.array(counts, np.float64) / sizes.product

    return Check(
        "operations-of-the-closed-forms",
        "derived",
        "HA-17: gradient, H v, H g, diag H take 4, 6, 8, 4 BKD operations, logits (2 BKD) included",
        np.stack([counted(sizes) for sizes in shapes]),
        "==",
        np.array([4.0, 6.0, 8.0, 4.0]),
        tolerance=0.0,
        tolerance_float32=0.0,
    )


def closed_form_saves_no_operations(sizes: Sizes) -> Check:
    """HA-17: differentiating half the squared gradient gives H g for the same."""
    head, inputs, _ = sizes.arguments

    def back_propagated_twice(kernel: jax.Array, z: jax.Array, y: jax.Array) -> jax.Array:
        matrix = jnp.concatenate([kernel.T, jnp.zeros((sizes.classes, 1), z.dtype)], axis=1).ravel()
        weights = jnp.full(len(z), 1 / len(z), z.dtype)

        def half_square(matrix: jax.Array) -> jax.Array:
            return jnp.sum(jax.grad(plain_loss)(matrix, z, y, weights) ** 2) / 2

        return jax.grad(half_square)(matrix)

    targets = jax.ShapeDtypeStruct((sizes.examples, sizes.classes), jnp.float32)
    features = jax.ShapeDtypeStruct(inputs.shape[1:], jnp.float32)
    return Check(
        "closed-form-saves-no-operations",
        "derived",
        "HA-17: NEGATIVE: differentiating |g|^2 / 2 takes as many operations: 8 BKD, 1 % for the rest",
        matrix_operations(back_propagated_twice, head["kernel"], features, targets) / (8.0 * sizes.product),
        "==",
        1.0,
        tolerance=0.01,
        tolerance_float32=0.01,
    )


def exact_forms_save_operations(sizes: Sizes) -> Check:
    """HA-17: over 300 random probes, and over a Hessian that is formed."""
    arguments = sizes.arguments

    def sampled(head: Any, features: jax.Array, labels: jax.Array) -> jax.Array:
        return penalties.hutchinson_alignment(head, features, labels, key=jax.random.key(0))

    def gram(head: Any, features: jax.Array, labels: jax.Array) -> jax.Array:
        return penalties.hessian_alignment(head, features, labels, method="gram", gradient_weight=0.0)

    probes = matrix_operations(sampled, *arguments)
    probes /= matrix_operations(penalties.hessian_diagonal_alignment, *arguments)
    formed = sizes.examples * (sizes.features * sizes.classes) ** 2 / matrix_operations(gram, *arguments)
    return Check(
        "exact-forms-save-operations",
        "derived",
        f"HA-17: exact diagonals save >= 50 times over 300 probes, the Gram form >= 40 over a dense Hessian, "
        f"B = {sizes.examples}, D = {sizes.features}, K = {sizes.classes}",
        np.array([probes / 50, formed / 40]),
        ">=",
        1.0,
        tolerance=0.0,
        tolerance_float32=0.0,
    )


def statements(seed: int) -> Iterator[Check]:
    """HA-17."""
    del seed
    sizes = Sizes()
    yield closed_forms_count((sizes, Sizes(7, 3, 2), Sizes(5, 40, 100)))
    yield closed_form_saves_no_operations(sizes)
    yield exact_forms_save_operations(sizes)
