"""Many training runs as one compiled program.

A *sweep* is a list of runs that differ in arrays only: seeds, label sets, learning rates, hyper-parameters.
Their arrays carry a leading axis of runs. The program maps over groups of runs, vectorises the runs of a
group, and scans over the training steps between two visits of the host; data sets stay on the devices. Runs
or the examples of a batch are spread over all devices through one mesh.
"""

import functools
import math
import os
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

Tree = Any
Parallel = Literal["runs", "batch"]

# Runs that one CPU core trains side by side: their parameters and momenta should fit in its cache.
RUNS_PER_CORE = 8


class Task(NamedTuple):
    """What one run does. ``run`` holds its own arrays, ``shared`` those that all runs read."""

    init: Callable[[jax.Array], Tree]
    """seed -> state. Sweeps that share this function share its compiled program."""
    prepare: Callable[[Tree, Tree], Tree]
    """(run, shared) -> what the steps of a run need again and again, computed once a visit."""
    step: Callable[[Tree, Tree, Tree, jax.Array, jax.Array], Tree]
    """(state, run, prepared, positions, progress) -> state."""
    evaluate: Callable[[Tree, Tree, Tree], dict[str, jax.Array]]
    """(state, run, shared) -> metrics."""


class Schedule(NamedTuple):
    """How long to train, and in which portions."""

    epochs: int  # passes over the training rows
    visits: int  # host visits, evenly spaced; divides epochs
    examples: int  # training rows of every run
    batch_size: int  # rows of one step; the rest of an epoch is dropped

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one epoch; at least one."""
        return max(1, self.examples // self.batch_size)

    @property
    def epochs_per_visit(self) -> int:
        """Epochs between two visits of the host."""
        return self.epochs // self.visits


class Sweep(NamedTuple):
    """A compiled sweep: its first state and the function that trains it up to the next visit."""

    start: Callable[[], Tree]  # -> state of all runs, before training
    advance: Callable[
        [Tree, int], tuple[Tree, dict[str, np.ndarray]]
    ]  # (state, visit) -> state, metrics [R, ...]
    abstract: Tree  # shapes, dtypes and shardings of the state, to restore a checkpoint into
    regroup: Callable[[Tree], Tree] | None = None  # a state that other devices laid out -> laid out for these


def use_cpu_devices(count: int) -> None:
    """Splits the CPU into ``count`` devices (0: one a core this process may use, at most 8) if it is still
    possible.

    Independent runs then train on all cores at once; many small matrix products do not use a second core
    otherwise.
    """
    if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        jax.config.update("jax_num_cpu_devices", count or min(cores, 8))
    except RuntimeError:  # a backend already runs, as in a notebook: take its devices as they are
        return


def make_mesh(parallel: Parallel) -> Mesh:
    """One mesh over all devices: they share out the runs, or the examples of every batch."""
    count = jax.device_count()
    shape = (count, 1) if parallel == "runs" else (1, count)
    return jax.make_mesh(shape, ("runs", "batch"), axis_types=(AxisType.Auto, AxisType.Auto))


def compile_sweep(
    task: Task, runs: Tree, shared: Tree, schedule: Schedule, mesh: Mesh, seed: int = 0
) -> Sweep:
    """Lays runs and data out on the devices and builds the program.

    Args:
      task: what one run does.
      runs: dictionary of arrays with a leading axis of R runs; ``seed``, integer, makes the first state.
      shared: arrays that all runs read; copied to every device.
      schedule: epochs, visits and batch size; all runs take the same positions of their own training rows at
        a step.
      mesh: from :func:`make_mesh`.
      seed: orders the batches.

    Returns:
      The sweep. Its program is compiled on the first ``advance`` and used for every visit.
    """
    count = len(runs["seed"])
    devices = mesh.shape["runs"]
    side_by_side = devices * (RUNS_PER_CORE if jax.default_backend() == "cpu" else math.ceil(count / devices))
    by_run = NamedSharding(mesh, PartitionSpec(None, "runs"))
    replicated = NamedSharding(mesh, PartitionSpec())
    runs = jax.tree.map(lambda leaf: _grouped(leaf, side_by_side, devices), runs)
    seeds, origin = np.unique(runs["seed"], return_inverse=True)
    origin = origin.reshape(runs["seed"].shape)
    runs = jax.tree.map(lambda leaf: _put(leaf, by_run), runs)
    shared = jax.tree.map(lambda leaf: _put(np.asarray(leaf), replicated), shared)
    advance = _program(task, by_run, replicated)
    by_batch = NamedSharding(mesh, PartitionSpec(None, "batch"))

    def start() -> Tree:
        first = jax.tree.map(np.asarray, _initialise(task.init)(seeds))
        return jax.tree.map(lambda leaf: _put(leaf[origin], by_run), first)

    def advance_and_fetch(state: Tree, visit: int) -> tuple[Tree, dict[str, np.ndarray]]:
        positions, progress = _batches(schedule, seed, np.int32(visit * schedule.epochs_per_visit))
        batches = _put(np.asarray(positions), by_batch), _put(np.asarray(progress), replicated)
        state, metrics = advance(state, runs, shared, *batches)
        return state, jax.tree.map(
            lambda leaf: np.asarray(leaf).reshape(-1, *leaf.shape[2:])[:count], metrics
        )

    def shape(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((*origin.shape, *leaf.shape), leaf.dtype, sharding=by_run)

    def regroup(state: Tree) -> Tree:
        def one(leaf: jax.Array) -> jax.Array:
            every = np.asarray(leaf).reshape(-1, *leaf.shape[2:])[:count]
            return _put(_grouped(every, side_by_side, devices), by_run)

        return jax.tree.map(one, state)

    abstract = jax.tree.map(shape, jax.eval_shape(task.init, seeds[0]))
    return Sweep(start, advance_and_fetch, abstract, regroup)


@functools.lru_cache(maxsize=1)
def _program(task: Task, by_run: NamedSharding, replicated: NamedSharding) -> Callable[..., Any]:
    """Kept, so that a second sweep of the same task and shapes is not compiled again."""
    return jax.jit(partial(_advance, task), donate_argnums=0, out_shardings=(by_run, replicated))


@functools.cache
def _initialise(init: Callable[[jax.Array], Tree]) -> Callable[[np.ndarray], Tree]:
    return jax.jit(jax.vmap(init))


def _put(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """Places an array that every process holds in full."""
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def _grouped(leaf: np.ndarray, side_by_side: int, devices: int) -> np.ndarray:
    """Reshapes ``[R, ...]`` to ``[groups, width, ...]``; repeats early runs to fill the last group."""
    leaf = np.asarray(leaf)
    width = min(side_by_side, devices * math.ceil(len(leaf) / devices))
    groups = math.ceil(len(leaf) / width)
    return np.resize(leaf, (groups * width, *leaf.shape[1:])).reshape(groups, width, *leaf.shape[1:])


def _advance(
    task: Task, state: Tree, runs: Tree, shared: Tree, positions: jax.Array, progress: jax.Array
) -> Tree:
    """Trains every run on the given batches, a group of runs at a time, and evaluates it."""

    def train(state: Tree, run: Tree) -> tuple[Tree, dict[str, jax.Array]]:
        prepared = task.prepare(run, shared)

        def step(state: Tree, batch: tuple[jax.Array, jax.Array]) -> tuple[Tree, None]:
            return task.step(state, run, prepared, *batch), None

        state, _ = jax.lax.scan(step, state, (positions, progress))
        return state, task.evaluate(state, run, shared)

    return jax.lax.map(lambda group: jax.vmap(train)(*group), (state, runs))


@partial(jax.jit, static_argnums=(0, 1))
def _batches(schedule: Schedule, seed: int, epoch: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Positions ``[steps, batch]`` among the training rows; share of the training done before each step."""
    steps, size = schedule.steps_per_epoch, min(schedule.batch_size, schedule.examples)
    epochs = epoch + jnp.arange(schedule.epochs_per_visit)

    def one_epoch(epoch: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.key(seed), epoch)
        return jax.random.permutation(key, schedule.examples)[: steps * size].reshape(steps, size)

    positions = jax.vmap(one_epoch)(epochs).reshape(-1, size)
    done = epochs[:, None] * steps + jnp.arange(steps)
    return positions, done.reshape(-1) / (schedule.epochs * steps)


# Training accuracy is measured on this many rows, in portions that keep the memory small.
ROWS_TO_EVALUATE = 4096
ROWS_AT_ONCE = 1024


def in_batches(
    score: Callable[[jax.Array], jax.Array], rows: jax.Array, at_once: int = ROWS_AT_ONCE
) -> jax.Array:
    """Scores of many rows, computed a portion at a time.

    Args:
      score: rows ``[b]`` -> scores ``[b, K]``.
      rows: ``[N]``; -1 marks padding, whose scores mean nothing.
      at_once: rows of a portion.

    Returns:
      Scores ``[N, K]``.
    """
    if rows.shape[0] <= at_once:
        return score(rows)
    padded = jnp.pad(rows, (0, -rows.shape[0] % at_once))
    scores = jax.lax.map(score, padded.reshape(-1, at_once))
    return scores.reshape(padded.shape[0], -1)[: rows.shape[0]]


def top_accuracies(scores: jax.Array, labels: jax.Array, where: jax.Array, top: int) -> jax.Array:
    """Shares of rows whose label is among the 1, 2, ..., ``top`` largest scores.

    A tie counts against the label, and so does a score that is not a number.

    Args:
      scores: ``[N, K]``.
      labels: classes, ``[N]``.
      where: rows that count, ``[N]``.
      top: largest number of guesses, at most K.

    Returns:
      ``[top]``.

    >>> scores = jnp.array([[3.0, 2.0, 1.0], [1.0, 1.0, 0.0]])
    >>> top_accuracies(scores, jnp.array([1, 0]), jnp.array([True, True]), 2)
    Array([0., 1.], dtype=float32)
    """
    own = jnp.take_along_axis(scores, labels[:, None], axis=-1)
    rank = jnp.sum(~(own > scores), axis=-1) - 1
    hits = (rank[:, None] < jnp.arange(1, top + 1)) & where[:, None]
    return jnp.sum(hits, axis=0) / jnp.maximum(jnp.sum(where), 1)
