"""How many operations the closed forms take: those of matrix products, counted in the traced programs."""

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxreg import penalties
from jaxreg.theory.check import Check
from jaxreg.theory.hessian_alignment_problems import plain_loss


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


def operation_counts(*, examples: int = 256, features: int = 512, classes: int = 10) -> Iterator[Check]:
    """HA-4, HA-5, HA-9, HA-17: of the value for one domain, without bias."""
    unit = examples * classes * features
    head = {"kernel": jax.ShapeDtypeStruct((features, classes), jnp.float32)}
    inputs = jax.ShapeDtypeStruct((1, examples, features), jnp.float32)
    labels = jax.ShapeDtypeStruct((1, examples), jnp.int32)
    moments = penalties.head_moments
    counted = {
        "gradient": (matrix_operations(moments.gradient, head, inputs, labels), 4 * unit),
        "H v": (matrix_operations(moments.hessian_vector_product, head, inputs, head), 6 * unit),
        "H g": (matrix_operations(moments.hessian_gradient_product, head, inputs, labels), 8 * unit),
        "diag H": (matrix_operations(moments.hessian_diagonal, head, inputs), 4 * unit),
    }
    found, expected = np.array(list(counted.values()), np.float64).T
    yield Check(
        "operations-of-the-closed-forms",
        "derived",
        f"HA-17: {', '.join(counted)} take 4, 6, 8, 4 BKD operations, logits (2 BKD) included",
        found,
        "==",
        expected,
        scale=float(unit),
        tolerance=0.0,
        tolerance_float32=0.0,
    )

    def back_propagated_twice(kernel: jax.Array, z: jax.Array, y: jax.Array) -> jax.Array:
        matrix = jnp.concatenate([kernel.T, jnp.zeros((classes, 1), z.dtype)], axis=1).ravel()
        weights = jnp.full(len(z), 1 / len(z), z.dtype)

        def half_square(matrix: jax.Array) -> jax.Array:
            return jnp.sum(jax.grad(plain_loss)(matrix, z, y, weights) ** 2) / 2

        return jax.grad(half_square)(matrix)

    targets = jax.ShapeDtypeStruct((examples, classes), jnp.float32)
    abstract = (head["kernel"], jax.ShapeDtypeStruct(inputs.shape[1:], jnp.float32), targets)
    yield Check(
        "closed-form-saves-no-operations",
        "derived",
        "HA-17: NEGATIVE: differentiating |g|^2 / 2 takes as many operations: 8 BKD, 1 % for the rest",
        matrix_operations(back_propagated_twice, *abstract) / (8.0 * unit),
        "==",
        1.0,
        tolerance=0.01,
        tolerance_float32=0.01,
    )
    arguments = (head, inputs, labels)

    def sampled(head: Any, features: jax.Array, labels: jax.Array) -> jax.Array:
        return penalties.hutchinson_alignment(head, features, labels, key=jax.random.key(0))

    ratio = matrix_operations(sampled, *arguments) / matrix_operations(
        penalties.hessian_diagonal_alignment, *arguments
    )
    materialised = examples * (features * classes) ** 2
    gram = matrix_operations(
        lambda *given: penalties.hessian_alignment(*given, method="gram", gradient_weight=0.0), *arguments
    )
    yield Check(
        "exact-forms-save-operations",
        "derived",
        "HA-17: exact diagonals save >= 50 times over 300 probes, the Gram form >= 40 over a dense Hessian",
        np.array([ratio / 50, materialised / gram / 40]),
        ">=",
        1.0,
        tolerance=0.0,
        tolerance_float32=0.0,
    )


def statements(seed: int) -> Iterator[Check]:
    """HA-17."""
    del seed
    yield from operation_counts()
