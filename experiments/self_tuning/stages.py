"""Stages of a run whose programs train a pool: all runs at every visit, or some of them by turns."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments import pool, runner
from experiments.self_tuning.hyperband import Bracket, Turn, survivors
from experiments.train import Sweep

Tree = Any
Build = Callable[[], Sweep]


def stage(name: str, table: dict[str, list], visits: int, build: Build) -> runner.Stage:
    """A stage of which one visit is one portion of training."""

    def curves(metrics: dict[str, np.ndarray]) -> dict[str, float]:
        values = metrics["validation_loss"]
        return {"validation_loss/best": float(np.min(values)), "validation_loss/mean": float(np.mean(values))}

    return runner.Stage(name, table, visits, 1, build, curves)


def all_at_once(task: pool.Task, runs: Tree, shared: Tree, steps: int) -> Build:
    """A sweep that trains every run at every visit."""
    everyone = range(len(runs["seed"]))

    def build() -> Sweep:
        made = pool.compile_pool(task, runs, shared, steps)

        def advance(state: Tree, visit: int) -> tuple[Tree, dict[str, np.ndarray]]:
            state, metrics = made.train(state, everyone)
            return state, finite(metrics)

        return Sweep(made.start, advance, made.abstract)

    return build


def by_turns(
    task: pool.Task,
    runs: Tree,
    shared: Tree,
    steps: int,
    brackets: list[Bracket],
    plan: list[Turn],
    seeds: int,
) -> Build:
    """A sweep that trains the trials that have not been ended; every seed has a search of its own.

    Runs are ordered by trial, then by seed. The metrics of a run that is not trained are 0, and so is its
    ``trained``.
    """
    count = len(runs["seed"])

    def build() -> Sweep:
        made = pool.compile_pool(task, runs, shared, steps)

        def start() -> Tree:
            return {
                "pool": made.start(), "loss": jnp.full(count, jnp.inf), "alive": jnp.ones(count, bool)
            }  # fmt: skip

        def advance(state: Tree, visit: int) -> tuple[Tree, dict[str, np.ndarray]]:
            turn = plan[visit]
            loss, alive = np.array(state["loss"]), np.array(state["alive"])
            bracket = brackets[turn.bracket]
            members = np.arange(bracket.first * seeds, (bracket.first + bracket.trials) * seeds)
            if turn.begins_rung:
                for seed in range(seeds):
                    own = members[seed::seeds]
                    alive[own] = survivors(loss[own], alive[own], turn.trials)
            chosen = members[alive[members]]
            trained, metrics = made.train(state["pool"], chosen.tolist())
            metrics = finite(metrics)
            loss[chosen] = metrics["validation_loss"]
            whole = {name: np.zeros(count) for name in [*metrics, "trained"]}
            whole["trained"][chosen] = 1
            for name, values in metrics.items():
                whole[name][chosen] = values
            return {"pool": trained, "loss": jnp.asarray(loss), "alive": jnp.asarray(alive)}, whole

        return Sweep(start, advance, pool.abstract(start))

    return build


def finite(metrics: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """JSON has no numbers beyond the finite ones: a run that diverged has a huge loss."""
    return {
        name: np.nan_to_num(np.asarray(values, np.float64), nan=1e9, posinf=1e9, neginf=-1e9)
        for name, values in metrics.items()
    }
