"""Time one loss's runs as one compiled program against the same runs one after the other.

``python -m benchmarks.sweeps --data-dir FOLDER`` takes the runs of the ``paper`` preset on vowel: noises
times hyper-parameters times learning rates times folds. Run by run, the same training function is compiled
once for a single run, on one CPU device with all cores, and called for each run in a Python loop. Compilation
and the placement of the data count for neither side. Each side has a process of its own.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
import time

import jax
import numpy as np

from benchmarks import harness
from experiments import train
from experiments.faults import UserError
from experiments.label_noise import main as label_noise


def stage_of(options: argparse.Namespace) -> tuple[train.Sweep, list[train.Sweep], int]:
    """The compiled sweep, or some of its runs alone, and the number of all runs."""
    config = dataclasses.replace(
        label_noise.PRESETS["paper"],
        dataset=(options.dataset,),
        data_dir=options.data_dir,
        losses=(options.loss,),
    )
    (setting,) = label_noise.settings(config, options.dataset)
    count = len(setting.runs["seed"])
    if options.side == "together":
        return setting.build(setting.runs), [], count
    chosen = np.linspace(0, count - 1, min(options.sample, count)).astype(int)
    runs = [jax.tree.map(lambda leaf, at=at: leaf[at : at + 1], setting.runs) for at in chosen]
    return setting.build(runs[0]), [setting.build(run) for run in runs], count


def trained(sweep: train.Sweep, visits: int) -> float:
    """Seconds to train a sweep from its start to its end."""
    started = time.perf_counter()
    state = sweep.start()
    for visit in range(visits):
        state, _ = sweep.advance(state, visit)
    return time.perf_counter() - started


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Seconds for all runs of this process's side; those run by run are measured on a sample."""
    train.use_cpu_devices(0 if options.side == "together" else 1)
    sweep, alone, count = stage_of(options)
    visits = label_noise.PRESETS["paper"].visits
    trained(sweep, visits)  # compiles
    if options.side == "together":
        return {"runs": count, "seconds": sum(trained(sweep, visits) for _ in range(3)) / 3}
    each = [trained(own, visits) for own in alone]
    return {"runs": count, "sample": len(each), "seconds": count * sum(each) / len(each)}


def main() -> None:
    """Measures both sides and prints the ratio."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sweeps",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dataset", default="vowel")
    parser.add_argument("--data-dir", default=None, help="folder of the data; default: TFDS_DATA_DIR")
    parser.add_argument("--loss", default="ldr_kl", help="a loss of the experiment label_noise")
    parser.add_argument(
        "--sample", type=harness.at_least(1), default=40, help="how many runs to time one after the other"
    )
    parser.add_argument("--side", choices=("together", "alone"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        try:
            print(json.dumps(measure(options)))
        except UserError as error:
            parser.error(str(error))
        return
    found = {}
    for side in ("together", "alone"):
        command = [sys.executable, "-m", "benchmarks.sweeps", *sys.argv[1:], "--side", side]
        ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if ended.returncode:
            sys.exit(ended.returncode)
        found[side] = json.loads(ended.stdout.splitlines()[-1])
    together, alone = found["together"], found["alone"]
    print(
        f"{options.loss} on {options.dataset}: {together['runs']} runs as one program "
        f"{together['seconds']:.2f} s; one "
        f"after the other {alone['seconds']:.1f} s (from {alone['sample']} of them); "
        f"ratio {alone['seconds'] / together['seconds']:.1f}"
    )


if __name__ == "__main__":
    harness.quietly(main)
