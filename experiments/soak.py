"""Kills a run at random moments, resumes it, and compares its results with an undisturbed run's.

``python -m experiments.soak --kills 50`` takes a few minutes on 2 CPU cores; exit code 1 if a result differs.
"""

import dataclasses
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import tyro

from experiments import cli, interrupts
from experiments.faults import StorageError, UserError, cannot_write

PRELOADED = ["experiments.runner", "experiments.label_noise.main", "sklearn.datasets"]


@dataclasses.dataclass(frozen=True)
class Options:
    """Kill and resume."""

    kills: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 50
    """Kills to survive."""
    seed: int = 0
    """Chooses the moments."""
    folder: str | None = None
    """Where the runs are made; by default a temporary folder, removed afterwards."""


def configuration():
    """A run short enough to be killed often: two losses, several visits, not all of them checkpointed."""
    from experiments.label_noise.main import PRESETS

    return dataclasses.replace(PRESETS["smoke"], epochs=40, visits=20, checkpoint_seconds=0.1, devices=2)


def attempt(runs_dir: Path, cache: Path, resume: Path | None) -> None:
    """One process of a run; what a user would start with or without ``--resume``."""
    import jax

    with open(runs_dir.with_suffix(".log"), "a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    # Compiling again after every kill would take most of the time and is not what is tested.
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    cli.execute("label_noise", configuration(), runs_dir, resume)


def resumable(runs_dir: Path) -> Path | None:
    """The run in a folder, once it has been begun."""
    found = [path.parent for path in runs_dir.glob("*/config.json")] if runs_dir.is_dir() else []
    return found[0] if found else None


def run_process(runs_dir: Path, cache: Path, seconds: float | None) -> bool:
    """Starts or resumes the run of a folder; kills it after some seconds.

    Returns:
      Whether it ended by itself, with exit code 0.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=attempt, args=(runs_dir, cache, resumable(runs_dir)))
    process.start()
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
        return False
    if process.exitcode != 0:
        log = runs_dir.with_suffix(".log").read_text()
        raise RuntimeError(f"a process of {runs_dir} ended with exit code {process.exitcode}: {log[-2000:]}")
    return True


def soak(folder: Path, kills: int, seed: int) -> tuple[int, int]:
    """Delivers kills to as many runs as it takes and completes each of them.

    Args:
      folder: an empty folder to work in.
      kills: how many SIGKILLs to deliver, at moments drawn uniformly from the length of an undisturbed run.
      seed: chooses the moments.

    Returns:
      The number of runs, and how many of them ended with another ``results.csv`` than the undisturbed one.
    """
    choose, cache = random.Random(seed), folder / "cache"
    run_process(folder / "warm", cache, None)
    started = time.monotonic()
    run_process(folder / "reference", cache, None)
    length = time.monotonic() - started
    expected = results(folder / "reference")
    delivered = runs = different = 0
    while delivered < kills:
        runs_dir, runs = folder / f"run{runs}", runs + 1
        while not run_process(runs_dir, cache, choose.uniform(0, length) if delivered < kills else None):
            delivered += 1
        different += results(runs_dir) != expected
        print(f"{delivered} kills, {runs} runs, {different} different", file=sys.stderr, flush=True)
    return runs, different


def results(runs_dir: Path) -> bytes:
    """The results of a folder's run."""
    run = resumable(runs_dir)
    assert run is not None
    return (run / "results.csv").read_bytes()


def main() -> int:
    """Runs the soak from the command line."""
    options = tyro.cli(Options, prog="python -m experiments.soak", description=__doc__)
    if options.kills < 1:
        print(f"soak: kills must be at least 1; got {options.kills}.", file=sys.stderr)
        return UserError.exit_code
    folder = Path(options.folder or tempfile.mkdtemp(prefix="jaxreg-soak-"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            print(f"soak: {folder} is not empty; name another folder with --folder.", file=sys.stderr)
            return UserError.exit_code
        runs, different = soak(folder, options.kills, options.seed)
    except OSError as error:
        print(f"soak: {cannot_write(folder, error, '--folder')}", file=sys.stderr)
        return StorageError.exit_code
    except KeyboardInterrupt:
        return interrupts.EXIT_CODE
    finally:
        if options.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    print(f"{options.kills} kills over {runs} runs: {different} ended with different results.")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
