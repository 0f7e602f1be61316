"""Search for a counterexample: gradient ascent through a Check's own violation, from many random starts."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxreg.theory.check import Check
from jaxreg.theory.oracles import quick_jit


class Finding(NamedTuple):
    """What a search came back with."""

    arguments: Any  # the worst case found, a tuple like `cases` without the leading axis
    violation: jax.Array  # its violation in units of the Check's scale, scalar; positive: a counterexample
    started: jax.Array  # the largest violation among the starts, before any ascent, scalar
    check: (
        Check  # the claim at all starts and at the best case of each, leaves with leading axis [2 * restarts]
    )


def search(
    claim: Callable[..., Check], cases: tuple, *, steps: int = 200, step_size: float = 0.05
) -> Finding:
    r"""Maximise the violation of a claim over its arrays.

    Each case climbs ``steps`` Adam steps along the gradient of ``claim(*case).worst``, with steps that shrink to
    nothing; the largest value on the way counts. All cases climb in one compiled program.

    Args:
      claim: function of one case's arrays that returns a Check; traceable.
      cases: where to start, a tuple of arrays with one leading axis of cases. Floating arrays are moved freely,
        others stay: parametrise constraints inside ``claim`` (a distribution by its softmax).
      steps: ascent steps of each, at least 1.
      step_size: Adam's first step size, in the units of the arrays.

    Returns:
      A ``Finding``. The ascent passes over values that are NaN, but a NaN at a start is returned as the worst case:
      a claim that cannot be evaluated does not hold.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> def claim(x):
      ...     return Check("below-0.3", "derived", "x exp(-x) stays below 0.3", x * jnp.exp(-x), "<=", 0.3)
      >>> found = search(claim, (jnp.linspace(0.0, 0.5, 8),))
      >>> print(f"{found.arguments[0]:.2f} {found.violation:.2f} {found.started < found.violation}")
      1.00 0.07 True
    """
    starts = jax.tree.map(jnp.asarray, cases)
    best = quick_jit(jax.vmap(lambda *start: _climb(claim, start, steps, step_size)))(*starts)
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), starts, best)
    check = quick_jit(jax.vmap(lambda *case: _in_full(claim(*case))))(*both)
    violations = check.violation.reshape(check.violation.shape[0], -1).max(-1)
    # argmax treats NaN as the largest: a NaN is never hidden behind a finite number.
    worst = jnp.argmax(violations)
    arguments = jax.tree.map(lambda leaf: leaf[worst], both)
    return Finding(arguments, violations[worst], violations[: violations.size // 2].max(), check)


def _in_full(check: Check) -> Check:
    """The Check with its leaves broadcast against each other, so that a further leading axis fits all of them."""
    shape = check.violation.shape
    lhs, rhs, scale = (jnp.broadcast_to(leaf, shape) for leaf in (check.lhs, check.rhs, check.scale))
    return dataclasses.replace(check, lhs=lhs, rhs=rhs, scale=scale)


def _climb(claim: Callable, start: tuple, steps: int, step_size: float) -> tuple:
    """The best case on one ascent path."""
    fixed, treedef = jax.tree.flatten(start)
    floating = [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in fixed]

    def assemble(moved: list[jax.Array]) -> tuple:
        queue = iter(moved)
        leaves = [next(queue) if moves else leaf for moves, leaf in zip(floating, fixed, strict=True)]
        return jax.tree.unflatten(treedef, leaves)

    optimizer = optax.scale_by_adam()

    def step(carry: tuple, size: jax.Array) -> tuple[tuple, None]:
        moved, state, best, highest = carry
        value, gradient = jax.value_and_grad(lambda leaves: claim(*assemble(leaves)).worst)(moved)
        better = value > highest
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), moved, best)
        gradient = jax.tree.map(lambda leaf: jnp.where(jnp.isfinite(leaf), leaf, 0), gradient)
        updates, state = optimizer.update(gradient, state)
        moved = jax.tree.map(lambda leaf, update: leaf + size.astype(leaf.dtype) * update, moved, updates)
        return (moved, state, best, jnp.where(better, value, highest)), None

    moved = [leaf for moves, leaf in zip(floating, fixed, strict=True) if moves]
    dtype = jax.eval_shape(lambda leaves: claim(*assemble(leaves)).worst, moved).dtype
    initial = (moved, optimizer.init(moved), moved, jnp.asarray(-jnp.inf, dtype))
    # Steps that shrink to nothing settle at the top instead of hopping over it.
    (_, _, best, _), _ = jax.lax.scan(step, initial, step_size * jnp.linspace(1, 0, steps))
    return assemble(best)
