"""One alternation of a self-tuning network: steps of the parameters, then of the hyper-parameters."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from jaxreg import checks
from jaxreg.bilevel.centred import has_response, linearised, recentre
from jaxreg.bilevel.hyperparameters import (
    constrain,
    entropy,
    map_parts,
    perturb,
    scales,
    unconstrain,
    unperturbed,
    with_parts,
)

Loss = Callable[[Any, Any, Any, Any, jax.Array], Any]

MOST_UNROLLED = 8
"""Up to so many steps of a kind an alternation has no loop."""


class SelfTuningState(NamedTuple):
    """All that changes while training; a pytree to save, replicate or vectorise."""

    params: Any
    """Of the network, with :class:`jaxreg.bilevel.BestResponse` among them; in the centred form, of the
    deviation from the hyper-parameters below."""
    hyperparameters: Any
    """Tree of hyper-parameters, with their scales; ``jaxreg.bilevel.constrain`` gives the values."""
    inner_state: Any
    """State of ``inner``."""
    outer_state: Any
    """State of ``outer``."""
    scale_state: Any
    """State of ``scale``; empty if the scales are fixed."""
    steps: jax.Array
    """Training steps taken, int32."""


class History(NamedTuple):
    """What one alternation saw; stacked by ``jax.lax.scan`` over alternations."""

    train_loss: Any
    """Of each training step, ``[train_steps]``; with ``has_aux`` a pair of it and what else was returned."""
    valid_loss: Any
    """Of each tuning step, before it, without the entropy term, ``[valid_steps]``; likewise."""
    values: Any
    """Tree of values after each tuning step, ``[valid_steps, *shape]``."""
    unconstrained: jax.Array
    """Unconstrained numbers, likewise, ``[valid_steps, h]``."""
    scales: jax.Array
    """Standard deviations of their perturbation, likewise, ``[valid_steps, h]``."""


class Steps(NamedTuple):
    """The arguments of :func:`self_tuning`, checked, and the steps that they define.

    A step returns the fields of the state that it changes, and what to report.
    """

    objective: Callable[..., tuple]
    valid_loss: Callable[..., tuple]
    inner: optax.GradientTransformationExtraArgs
    outer: optax.GradientTransformationExtraArgs
    scale: optax.GradientTransformationExtraArgs
    train_steps: int
    valid_steps: int
    entropy_weight: jax.Array
    warmup_steps: ArrayLike
    centred: bool
    perturb_validation: bool
    batch_size: int | None

    def init(self, params: Any, hyperparameters: Any) -> SelfTuningState:
        """The state before the first step."""
        if self.centred and not has_response(params):
            raise ValueError("params must hold at least one BestResponse in the centred form, got none")
        numbers, raw = _parts(hyperparameters)
        return SelfTuningState(
            params,
            hyperparameters,
            inner_state=self.inner.init(params),
            outer_state=self.outer.init(numbers),
            scale_state=self.scale.init(raw),
            steps=jnp.zeros([], jnp.int32),
        )

    def trained(self, state: SelfTuningState, batch: Any, key: ArrayLike) -> tuple[dict[str, Any], Any]:
        """A step of the parameters at perturbed hyper-parameters."""
        noise, masks = jax.random.split(key)
        gradient, (value, report) = jax.grad(self.objective, has_aux=True)(
            state.params, state.hyperparameters, batch, _examples(batch, self.batch_size), noise, masks
        )
        params, inner_state = _moved(self.inner, gradient, state.inner_state, state.params, value)
        steps = optax.safe_increment(state.steps)
        return {"params": params, "inner_state": inner_state, "steps": steps}, report

    def tuned(self, state: SelfTuningState, batch: Any, key: ArrayLike) -> tuple[dict[str, Any], Any]:
        """A step of the hyper-parameters and their scales; none while warming up."""
        if checks.is_concrete(self.warmup_steps) and self.warmup_steps == 0:
            return self._tuned_now(state, batch, key)
        ready = state.steps >= self.warmup_steps
        return jax.lax.cond(ready, self._tuned_now, self._waiting, state, batch, key)

    def alternation(
        self, state: SelfTuningState, train_batches: Any, valid_batches: Any, key: ArrayLike
    ) -> tuple[SelfTuningState, History]:
        """All steps of both kinds."""
        _check_axis("train_batches", train_batches, self.train_steps)
        _check_axis("valid_batches", valid_batches, self.valid_steps)
        keys = jax.random.split(key, self.train_steps + self.valid_steps)

        # Loops carry what changes in them: all else would be copied in every turn.
        def train(changed, inputs):
            return self.trained(state._replace(**changed), *inputs)

        changed = {name: getattr(state, name) for name in ("params", "inner_state", "steps")}
        changed, losses = _scan(train, changed, (train_batches, keys[: self.train_steps]))
        state = state._replace(**changed)

        def tune(changed, inputs):
            changed, report = self.tuned(state._replace(**changed), *inputs)
            tree = changed["hyperparameters"]
            return changed, (report, constrain(tree), unconstrain(tree), scales(tree))

        changed = self._tunable(state)
        changed, (report, *after) = _scan(tune, changed, (valid_batches, keys[self.train_steps :]))
        return state._replace(**changed), History(losses, report, *after)

    def _tuned_now(self, state: SelfTuningState, batch: Any, key: ArrayLike) -> tuple[dict[str, Any], Any]:
        parts = _parts(state.hyperparameters)
        gradient, (value, report) = jax.grad(self._tuning_loss, has_aux=True)(parts, state, batch, key)
        numbers, outer_state = _moved(self.outer, gradient[0], state.outer_state, parts[0], value)
        raw, scale_state = _moved(self.scale, gradient[1], state.scale_state, parts[1], value)
        tree = with_parts(state.hyperparameters, numbers, raw)
        changed = {"hyperparameters": tree, "outer_state": outer_state, "scale_state": scale_state}
        if self.centred:
            shift = unconstrain(tree) - unconstrain(state.hyperparameters)
            changed["params"] = recentre(state.params, shift)
        return changed, report

    def _waiting(self, state: SelfTuningState, batch: Any, key: ArrayLike) -> tuple[dict[str, Any], Any]:
        _, (_, report) = self._tuning_loss(_parts(state.hyperparameters), state, batch, key)
        return self._tunable(state), report

    def _tunable(self, state: SelfTuningState) -> dict[str, Any]:
        names = ("hyperparameters", "outer_state", "scale_state", *(("params",) if self.centred else ()))
        return {name: getattr(state, name) for name in names}

    def _tuning_loss(
        self, parts: tuple[Any, Any], state: SelfTuningState, batch: Any, key: ArrayLike
    ) -> tuple[jax.Array, tuple[jax.Array, Any]]:
        noise, masks = jax.random.split(key)
        tree, size = with_parts(state.hyperparameters, *parts), _examples(batch, self.batch_size)
        drawn = perturb(tree, noise, size) if self.perturb_validation else unperturbed(tree, size)
        given = drawn.unconstrained
        if self.centred:
            given = given - unconstrain(state.hyperparameters)
        value, report = self.valid_loss(state.params, given, drawn.values, batch, masks)
        information = self.entropy_weight.astype(value.dtype) * entropy(tree).astype(value.dtype)
        return value - information, (value, report)


# -- Objectives: (params, tree, batch, size, noise key, mask key) -> (what to differentiate, (loss, report))


def objective(train_loss: Loss, has_aux: bool) -> Callable[..., tuple]:
    """The training loss at perturbed hyper-parameters."""

    def of_batch(params, tree, batch, size, noise, masks):
        drawn = perturb(tree, noise, size)
        value, report = evaluated("train_loss", train_loss, has_aux)(params, *drawn, batch, masks)
        return value, (value, report)

    return of_batch


def centred_objective(train_loss: Any, has_aux: bool) -> Callable[..., tuple]:
    """The elementary parts' loss where the hyper-parameters are, and the responses' linearised about it."""

    def of_batch(params, tree, batch, size, noise, masks):
        first, second = jax.random.split(masks)
        # None leaves the elementary parts: of them, and of all that is no BestResponse, this is the gradient.
        centre = unperturbed(tree, size)
        value, report = evaluated("train_loss", train_loss, has_aux)(
            params, None, centre.values, batch, first
        )
        # Of the responses it is this one's, in which all else is constant.
        drawn = perturb(tree, noise, size)
        outputs = linearised(
            lambda params, deviation: train_loss.network(params, deviation, drawn.values, batch, second),
            params,
            drawn.unconstrained - unconstrain(tree),
        )
        perturbed, _ = evaluated("train_loss", train_loss.loss, has_aux)(outputs, drawn.values, batch)
        return value + perturbed, (value, report)

    return of_batch


def evaluated(name: str, loss: Callable[..., Any], has_aux: bool) -> Callable[..., tuple[jax.Array, Any]]:
    """The loss as (scalar in at least float32, what the loss returned)."""

    def scalar(*arguments: Any) -> tuple[jax.Array, Any]:
        report = loss(*arguments)
        value = checks.floating(name, report[0] if has_aux else report)
        if value.shape:
            raise ValueError(f"{name} must return a scalar, got shape {value.shape}")
        return value, report

    return scalar


# -- Parts of a step


def _parts(hyperparameters: Any) -> tuple[Any, Any]:
    """Trees of the unconstrained numbers and of the raw scales."""
    numbers = map_parts(lambda node: node.unconstrained, hyperparameters)
    return numbers, map_parts(lambda node: node.raw_scale, hyperparameters)


def _scan(step: Callable[[Any, Any], tuple[Any, Any]], carry: Any, inputs: Any) -> tuple[Any, Any]:
    """Steps one after the other; a few without a loop, in which convolutions on a CPU are far slower."""
    steps = len(jax.tree.leaves(inputs)[-1])
    if steps == 1:
        # One step alone is a loop to jax.lax.scan even if unrolled.
        carry, report = step(carry, jax.tree.map(lambda leaf: leaf[0], inputs))
        return carry, jax.tree.map(lambda leaf: leaf[None], report)
    return jax.lax.scan(step, carry, inputs, unroll=steps <= MOST_UNROLLED)


def _moved(optimiser: Any, gradient: Any, state: Any, params: Any, value: jax.Array) -> tuple[Any, Any]:
    updates, state = optimiser.update(gradient, state, params, value=value)
    return optax.apply_updates(params, updates), state


def _examples(batch: Any, batch_size: int | None) -> int:
    if batch_size is not None:
        return batch_size
    leaves = jax.tree.leaves(batch)
    if not leaves or jnp.ndim(leaves[0]) == 0:
        raise ValueError("batch must have a first leaf with a leading axis of examples; else give batch_size")
    return jnp.shape(leaves[0])[0]


def _check_axis(name: str, batches: Any, steps: int) -> None:
    for leaf in jax.tree.leaves(batches):
        if jnp.shape(leaf)[:1] != (steps,):
            raise ValueError(
                f"{name} must have a leading axis of {steps} steps on every leaf, got shape {jnp.shape(leaf)}"
            )
