"""Many runs of one program, any of which can be trained on while the others rest.

Searches for hyper-parameters end some runs early and go on with others, so a program here trains a fixed
number of runs, whichever they are, and the host calls it until all chosen ones have had their turn. On a CPU
every core trains one run at a time; on an accelerator all of them train side by side.
"""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

Tree = Any


class Task(NamedTuple):
    """What one run does. ``run`` holds its own arrays, ``shared`` those that all runs read."""

    init: Callable[[Tree], Tree]
    """run -> state."""
    step: Callable[[Tree, Tree, Tree], Tree]
    """(state, run, shared) -> state, one step later; the state counts the steps itself."""
    evaluate: Callable[[Tree, Tree, Tree], dict[str, jax.Array]]
    """(state, run, shared) -> metrics."""


class Pool(NamedTuple):
    """Compiled programs for R runs."""

    start: Callable[[], Tree]  # -> state of all runs, leaves [R, ...]
    train: Callable[
        [Tree, Sequence[int]], tuple[Tree, dict[str, np.ndarray]]
    ]  # (state, runs) -> state, metrics [len(runs), ...] with the seconds that each run took
    abstract: Tree  # shapes and dtypes of the state, to restore a checkpoint into


def clock() -> float:
    """Seconds to compare programs by.

    On a CPU those that the processor worked, which other programs hardly change; else those that passed.
    """
    return time.process_time() if jax.default_backend() == "cpu" else time.perf_counter()


def abstract(start: Callable[[], Tree]) -> Tree:
    """Shapes, dtypes and place of a first state, to restore a checkpoint into."""
    place = SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), jax.eval_shape(start)
    )


def compile_pool(task: Task, runs: Tree, shared: Tree, steps: int) -> Pool:
    """Compiles the programs, before the clock of the stage starts.

    Args:
      task: what one run does.
      runs: dictionary of arrays with a leading axis of R runs.
      shared: arrays that all runs read; copied to every device.
      steps: steps between two visits of the host.

    Returns:
      The pool.
    """
    count = len(jax.tree.leaves(runs)[0])
    devices = jax.device_count()
    width = devices if jax.default_backend() == "cpu" else -(-count // devices) * devices
    mesh = jax.make_mesh((devices,), ("runs",), axis_types=(AxisType.Auto,))
    by_run, everywhere = NamedSharding(mesh, PartitionSpec("runs")), NamedSharding(mesh, PartitionSpec())
    shared = jax.tree.map(lambda leaf: jax.device_put(np.asarray(leaf), everywhere), shared)
    runs = jax.tree.map(np.asarray, runs)
    initialise, train, evaluate = _programs(task, mesh)
    first = jax.tree.map(np.asarray, initialise(runs))

    def slots(tree: Tree, rows: np.ndarray) -> Tree:
        return jax.tree.map(lambda leaf: jax.device_put(leaf[rows], by_run), tree)

    some = np.resize(np.arange(count), width)
    own = slots(runs, some)
    # Compiles, and takes no step.
    jax.block_until_ready(evaluate(train(slots(first, some), own, shared, np.int32(0)), own, shared))

    def train_runs(state: Tree, chosen: Sequence[int]) -> tuple[Tree, dict[str, np.ndarray]]:
        host = jax.tree.map(np.array, state)
        found = []
        for begin in range(0, len(chosen), width):
            rows = np.asarray(chosen[begin : begin + width])
            padded = np.resize(rows, width)
            before, own = slots(host, padded), slots(runs, padded)
            started = clock()
            after = jax.block_until_ready(train(before, own, shared, np.int32(steps)))
            seconds = (clock() - started) / width
            metrics = jax.tree.map(np.asarray, evaluate(after, own, shared))
            metrics["seconds"] = np.full(width, seconds)
            found.append({name: values[: len(rows)] for name, values in metrics.items()})
            for leaf, new in zip(jax.tree.leaves(host), jax.tree.leaves(after), strict=True):
                leaf[rows] = np.asarray(new)[: len(rows)]
        metrics = {name: np.concatenate([part[name] for part in found]) for name in found[0]}
        return jax.tree.map(jnp.asarray, host), metrics

    def start() -> Tree:
        return jax.tree.map(jnp.asarray, first)

    return Pool(start, train_runs, abstract(start))


@functools.lru_cache(maxsize=4)
def _programs(task: Task, mesh: Mesh) -> tuple[Callable[..., Tree], ...]:
    """Kept, so that stages of one task and the same shapes share what is compiled."""
    mapped = functools.partial(_each, together=jax.default_backend() != "cpu")
    runs, all_devices = PartitionSpec("runs"), PartitionSpec()

    def spread(function: Callable[..., Tree], *inputs: PartitionSpec) -> Callable[..., Tree]:
        return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=inputs, out_specs=runs, check_vma=False))

    def train(state: Tree, run: Tree, shared: Tree, steps: jax.Array) -> Tree:
        def one(state: Tree, run: Tree) -> Tree:
            return jax.lax.fori_loop(0, steps, lambda _, now: task.step(now, run, shared), state)

        return mapped(one, state, run)

    def evaluate(state: Tree, run: Tree, shared: Tree) -> dict[str, jax.Array]:
        return mapped(lambda state, run: task.evaluate(state, run, shared), state, run)

    return (
        jax.jit(lambda runs: jax.lax.map(task.init, runs)),
        spread(train, runs, runs, all_devices, all_devices),
        spread(evaluate, runs, runs, all_devices),
    )


def _each(function: Callable[..., Tree], *trees: Tree, together: bool) -> Tree:
    """A function of every run of a device, all at once or one after the other."""
    if together:
        return jax.vmap(function)(*trees)
    return jax.lax.map(lambda arguments: function(*arguments), trees)
