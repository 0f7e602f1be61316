"""A schedule found by tuning, then replayed by a plain model, then its last value held."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments import pool
from experiments.ptb_lstm import tasks
from experiments.self_tuning.stages import Build, finite
from experiments.train import Sweep

ACTS = ("tuned", "replayed", "held")

Tree = Any


def build(problem: tasks.Problem, tuned: pool.Task, runs: Tree, shared: tasks.Streams) -> Build:
    """A sweep of three acts of ``problem.visits`` visits each; the state carries the schedule along."""
    names, everyone = list(runs["values"]), range(len(runs["seed"]))

    def make() -> Sweep:
        first = pool.compile_pool(tuned, runs, shared, problem.steps_per_visit // tasks.CYCLE)
        plain = pool.compile_pool(tasks.fixed_task(problem), runs, shared, problem.steps_per_visit)

        def start() -> Tree:
            schedule = {name: jnp.asarray(rows) for name, rows in runs["values"].items()}
            return {"tuned": first.start(), "plain": plain.start(), "schedule": schedule}

        def advance(state: Tree, visit: int) -> tuple[Tree, dict[str, np.ndarray]]:
            act, at = divmod(visit, problem.visits)
            if act == 0:
                trained, metrics = first.train(state["tuned"], everyone)
                schedule = {
                    name: state["schedule"][name].at[:, at].set(metrics[f"value_{name}"]) for name in names
                }
                return state | {"tuned": trained, "schedule": schedule}, finite(metrics)
            before = state["plain"]
            if at == 0:
                schedule = state["schedule"]
                if act == 2:
                    schedule = {
                        name: jnp.tile(rows[:, -1:], rows.shape[1]) for name, rows in schedule.items()
                    }
                before = plain.start() | {"values": schedule}
            trained, metrics = plain.train(before, everyone)
            for name in names:
                metrics[f"value_{name}"] = np.asarray(trained["values"][name])[:, at]
            return state | {"plain": trained}, finite(metrics)

        return Sweep(start, advance, pool.abstract(start))

    return make
