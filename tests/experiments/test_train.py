"""Many runs as one program."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import data, models, train
from experiments.label_noise import sweep
from experiments.label_noise.contenders import CONTENDERS

ROOT = Path(__file__).resolve().parents[2]


def small_sweep(parallel="runs", seeds=1, epochs=2, model="mlp"):
    source = data.load("wine")
    shared = sweep.tables(source, [data.uniform_noise(3, 0.0), data.uniform_noise(3, 0.3)], seeds, folds=2)
    contender = CONTENDERS["ldr_kl"]._replace(grid={"temperature": (1.0, 10.0)})
    runs = sweep.runs_of(contender, 2, (0.1,), seeds, folds=2)
    network = models.make(model, source.features.shape[1:], 8, 3)
    optimiser = sweep.Optimiser(0.9, 1e-3)
    task = sweep.make_task(contender, network, optimiser, sweep.make_init(network, optimiser, 0), 3)
    schedule = train.Schedule(epochs, 1, shared.train.shape[-1], 32)
    return task, runs, shared, schedule, train.make_mesh(parallel)


def final(arguments):
    program = train.compile_sweep(*arguments)
    return program.advance(program.start(), 0)


def test_runs_side_by_side_equal_each_run_alone():
    task, runs, shared, schedule, mesh = small_sweep()
    together = final((task, runs, shared, schedule, mesh))[1]
    for index in (5,):
        alone = jax.tree.map(lambda leaf, index=index: leaf[index : index + 1], runs)
        metrics = final((task, alone, shared, schedule, mesh))[1]
        for name in metrics:
            np.testing.assert_allclose(metrics[name][0], together[name][index], atol=1e-6)


def test_one_run_equals_a_plain_training_loop():
    task, runs, shared, schedule, mesh = small_sweep(epochs=1)
    run = jax.tree.map(lambda leaf: leaf[5], runs)
    state = task.init(run["seed"])
    prepared = task.prepare(run, jax.tree.map(jnp.asarray, shared))
    positions, progress = train._batches(schedule, 0, np.int32(0))
    for batch, share in zip(positions, progress, strict=True):
        state = task.step(state, run, prepared, batch, share)
    trained = final((task, runs, shared, schedule, mesh))[0]
    expected = jax.tree.leaves(state)
    for one, all_runs in zip(expected, jax.tree.leaves(trained), strict=True):
        flat = np.asarray(all_runs).reshape(-1, *one.shape)
        np.testing.assert_allclose(flat[5], one, rtol=1e-4, atol=1e-5)


def test_devices_that_share_the_batches_agree_with_devices_that_share_the_runs():
    assert jax.device_count() == 8
    by_run, by_batch = (final(small_sweep(parallel)) for parallel in ("runs", "batch"))
    first, second = (jax.tree.leaves(result[0]) for result in (by_run, by_batch))
    for one, other in zip(first, second, strict=True):
        count = 8
        one, other = (np.asarray(leaf).reshape(-1, *leaf.shape[2:])[:count] for leaf in (one, other))
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_every_epoch_visits_each_training_row_at_most_once_and_epochs_differ():
    schedule = train.Schedule(4, 2, 100, 32)
    positions, progress = train._batches(schedule, 0, np.int32(2))
    first, second = np.asarray(positions).reshape(2, 96)
    assert len(set(first)) == 96
    assert (first != second).any()
    np.testing.assert_allclose(progress, np.arange(6, 12) / 12)


def test_a_batch_larger_than_the_data_takes_all_rows():
    positions, _ = train._batches(train.Schedule(1, 1, 10, 64), 0, np.int32(0))
    assert sorted(np.asarray(positions)[0]) == list(range(10))


def test_top_accuracies_count_ties_and_not_numbers_against_the_label():
    scores = jnp.array([[1.0, 1.0, 0.0], [0.0, 2.0, 1.0], [jnp.nan, jnp.nan, jnp.nan], [3.0, 2.0, 1.0]])
    where = jnp.array([True, True, True, False])
    found = train.top_accuracies(scores, jnp.array([0, 1, 0, 2]), where, 3)
    np.testing.assert_allclose(found, [1 / 3, 2 / 3, 1.0])


@pytest.mark.parametrize("rows", [5, 1024, 2500])
def test_scores_in_batches_are_the_scores(rows):
    def score(part):
        return jnp.stack([part, part**2], axis=-1)

    indices = jnp.arange(rows)
    np.testing.assert_array_equal(train.in_batches(score, indices), score(indices))


SCRIPT = """
import json, sys
sys.path[:0] = [{root!r}, {here!r}]
import jax
from test_train import final, small_sweep
if len(sys.argv) > 1:
    jax.distributed.initialize("localhost:" + sys.argv[1], 2, int(sys.argv[2]))
metrics = final(small_sweep({parallel!r}))[1]
print(json.dumps([jax.device_count(), {{name: values.tolist() for name, values in metrics.items()}}]))
"""


def start(parallel, devices, *arguments):
    script = SCRIPT.format(root=str(ROOT), here=str(Path(__file__).parent), parallel=parallel)
    environment = {
        **os.environ,
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def read(process):
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0
    return json.loads(output.splitlines()[-1])


def test_two_processes_and_one_device_agree_with_eight_devices():
    here = final(small_sweep("batch"))[1]
    port = str(20_000 + os.getpid() % 20_000)
    processes = [start("batch", 1, port, "0"), start("batch", 1, port, "1"), start("runs", 1)]
    results = [read(process) for process in processes]
    assert [count for count, _ in results] == [2, 2, 1]
    for _, metrics in results:
        for name, values in metrics.items():
            np.testing.assert_allclose(values, here[name], atol=1e-6)
