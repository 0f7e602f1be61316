"""Search for a counterexample, from many random starts: gradient ascent through a Check's own violation.

Where a claim has no gradient, as one about a number of steps, ``hill_climb`` does without.
"""

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

    Each case climbs ``steps`` Adam steps along the gradient of ``claim(*case).worst``, with steps that
    shrink to nothing; the largest value on the way counts. All cases climb in one compiled program.

    Args:
      claim: function of one case's arrays that returns a Check; traceable.
      cases: where to start, a tuple of arrays with one leading axis of cases. Floating arrays are moved
        freely, others stay: parametrise constraints inside ``claim`` (a distribution by its softmax).
      steps: ascent steps of each, at least 1.
      step_size: Adam's first step size, in the units of the arrays.

    Returns:
      A ``Finding``. The ascent passes over values that are NaN, but a NaN at a start is returned as the
      worst case: a claim that cannot be evaluated does not hold.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> def claim(x):
      ...     return Check("below-0.3", "derived", "x exp(-x) stays below 0.3", x * jnp.exp(-x), "<=", 0.3)
      >>> found = search(claim, (jnp.linspace(0.0, 0.5, 8),))
      >>> print(f"{found.arguments[0]:.2f} {found.violation:.2f} {found.started < found.violation}")
      1.00 0.07 True
    """
    starts = jax.tree.map(jnp.asarray, cases)
    climb = quick_jit(jax.vmap(lambda *start: _climb(claim, start, steps, step_size)))
    return _finding(*climb(*starts))


def hill_climb(
    claim: Callable[..., Check], cases: tuple, *, steps: int = 200, step_size: float = 0.5, seed: int = 0
) -> Finding:
    r"""Maximise the violation of a claim without its gradient, as for counts of steps, which have none.

    Each case proposes ``steps`` normal changes of its arrays, one after the other and ever smaller, and takes
    those that do not lower ``claim(*case).worst``.

    Args:
      claim: as for :func:`search`.
      cases: where to start, as for :func:`search`.
      steps: proposals of each, at least 1.
      step_size: deviation of the first proposals, in the units of the arrays; the last have a hundredth.
      seed: draws the proposals.

    Returns:
      A ``Finding``, as :func:`search`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> def claim(x):
      ...     return Check("few", "derived", "at most 2", jnp.floor(3.5 * jnp.exp(-(x**2))), "<=", 2)
      >>> found = hill_climb(claim, (jnp.linspace(1.0, 2.0, 8),))
      >>> print(f"{found.started:.0f} {found.violation:.0f}")
      -1 1
    """
    starts = jax.tree.map(jnp.asarray, cases)
    count = len(jax.tree.leaves(starts)[0])
    keys = jax.random.split(jax.random.key(seed), count)
    sizes = step_size * jnp.logspace(0, -2, steps)
    climb = quick_jit(jax.vmap(lambda key, *start: _hill_climb(claim, start, key, sizes)))
    return _finding(*climb(keys, *starts))


def evaluate(claim: Callable[..., Check], cases: tuple) -> Check:
    """The claim at all cases, arrays with one leading axis, without a search: a Check with that axis."""
    arrays = jax.tree.map(jnp.asarray, cases)
    return quick_jit(jax.vmap(lambda *case: claim(*case).broadcast()))(*arrays)


def _finding(best: tuple, first: Check, last: Check) -> Finding:
    check = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), first, last)
    violations = [one.violation.reshape(one.violation.shape[0], -1).max(-1) for one in (first, last)]
    # argmax treats NaN as the largest: a NaN is never hidden behind a finite number.
    worst = jnp.argmax(violations[1])
    arguments = jax.tree.map(lambda leaf: leaf[worst], best)
    return Finding(arguments, violations[1][worst], violations[0].max(), check)


def _climb(claim: Callable, start: tuple, steps: int, step_size: float) -> tuple[tuple, Check, Check]:
    """The best case on one ascent path, and the Check at the start and there."""
    fixed, treedef = jax.tree.flatten(start)
    floating = [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in fixed]

    def assemble(moved: list[jax.Array]) -> tuple:
        queue = iter(moved)
        leaves = [next(queue) if moves else leaf for moves, leaf in zip(floating, fixed, strict=True)]
        return jax.tree.unflatten(treedef, leaves)

    def violation(moved: list[jax.Array]) -> tuple[jax.Array, Check]:
        check = claim(*assemble(moved))
        return check.worst, check.broadcast()

    optimizer = optax.scale_by_adam()

    def step(carry: tuple, progress: tuple) -> tuple[tuple, None]:
        moved, state, first, highest, best = carry
        size, starts = progress
        (value, check), gradient = jax.value_and_grad(violation, has_aux=True)(moved)
        # A NaN at the start stays: nothing compares as better.
        better = starts | (value > highest)
        first = _choose(starts, check, first)
        highest, best = _choose(better, (value, (moved, check)), (highest, best))
        gradient = jax.tree.map(lambda leaf: jnp.where(jnp.isfinite(leaf), leaf, 0), gradient)
        updates, state = optimizer.update(gradient, state)
        moved = jax.tree.map(lambda leaf, update: leaf + size.astype(leaf.dtype) * update, moved, updates)
        return (moved, state, first, highest, best), None

    moved = [leaf for moves, leaf in zip(floating, fixed, strict=True) if moves]
    empty = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(violation, moved))
    initial = (moved, optimizer.init(moved), empty[1], empty[0], (moved, empty[1]))
    # Steps that shrink to nothing settle at the top instead of hopping over it.
    progress = step_size * jnp.linspace(1, 0, steps), jnp.arange(steps) == 0
    (_, _, first, _, (moved, last)), _ = jax.lax.scan(step, initial, progress)
    return assemble(moved), first, last


def _hill_climb(
    claim: Callable, start: tuple, key: jax.Array, sizes: jax.Array
) -> tuple[tuple, Check, Check]:
    """As :func:`_climb`, by random proposals."""
    leaves, treedef = jax.tree.flatten(start)
    floating = [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves]

    def step(carry: tuple, progress: tuple) -> tuple[tuple, None]:
        case, highest, best = carry
        key, size = progress
        keys = jax.random.split(key, len(leaves))
        proposal = [
            leaf + size.astype(leaf.dtype) * jax.random.normal(each, leaf.shape, leaf.dtype)
            if moves
            else leaf
            for leaf, each, moves in zip(case, keys, floating, strict=True)
        ]
        check = claim(*jax.tree.unflatten(treedef, proposal))
        # Equal is good enough: a count stays the same over wide areas.
        taken = check.worst >= highest
        return _choose(taken, (proposal, check.worst, check.broadcast()), (case, highest, best)), None

    first = claim(*start)
    initial = (leaves, first.worst, first.broadcast())
    (case, _, last), _ = jax.lax.scan(step, initial, (jax.random.split(key, len(sizes)), sizes))
    return jax.tree.unflatten(treedef, case), first.broadcast(), last


def _choose(condition: jax.Array, these: Any, those: Any) -> Any:
    return jax.tree.map(lambda this, that: jnp.where(condition, this, that), these, those)
