"""Runs that survive: a folder of configuration, metrics, checkpoints and results, resumable after any kill.

A run is a list of *stages*, each one compiled sweep that trains with a fixed number of host visits. After
every visit its metrics are appended to ``metrics.jsonl``; now and then the state is checkpointed. Resuming
loads the newest checkpoint, drops the metrics written after it, and trains on, so that the results equal
those of an undisturbed run. Every other file is written beside its place and renamed. Of several processes
that share a run the first one writes.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from experiments import processes
from experiments.checkpoints import Checkpoints
from experiments.faults import StorageError, UserError, cannot_write, reason
from experiments.progress import Progress
from experiments.tensorboard import EventWriter
from experiments.train import Sweep

Config = TypeVar("Config")
# Entries of environment.json that are read again.
ENVIRONMENT = {"data", "device", "devices", "machine", "python", "jax"}


class Stage(NamedTuple):
    """A sweep within a run."""

    name: str  # unique within the run
    runs: dict[str, list]  # what distinguishes its runs, a list each
    visits: int  # host visits
    epochs_per_visit: int
    build: Callable[[], Sweep]  # lays out the data and builds the program
    curves: Callable[
        [dict[str, np.ndarray]], dict[str, float]
    ]  # metrics of a visit -> curves for TensorBoard

    @property
    def cost(self) -> int:
        """Work of one visit, for the time left: runs times epochs."""
        return len(next(iter(self.runs.values()))) * self.epochs_per_visit


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The files of one run."""

    path: Path

    @staticmethod
    def create(experiment: str, config: Any, runs_dir: Path) -> "RunFolder":
        """Makes the folder and writes ``config.json``, the mark of a run that can be resumed."""
        content = {"experiment": experiment, "config": dataclasses.asdict(config)}
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
        stem = f"{experiment}-{time.strftime('%Y%m%d-%H%M%S')}-{digest}"
        path = runs_dir / stem
        try:
            if processes.first():
                path = _new_folder(runs_dir, stem)
        except OSError as error:
            processes.agreed_text("")
            raise cannot_write(path, error) from error
        told = processes.agreed_text(str(path))
        if not told:
            raise StorageError(f"the first process cannot write {path}.")
        folder = RunFolder(Path(told))
        folder.write("config.json", json.dumps(content, indent=2) + "\n")
        return folder

    @staticmethod
    def open(path: Path) -> "RunFolder":
        """Opens an existing run."""
        folder = RunFolder(path)
        folder.experiment_and_config()
        return folder

    def experiment_and_config(self) -> tuple[str, dict[str, Any]]:
        """The experiment's name and the stored fields of its configuration."""
        try:
            content = json.loads((self.path / "config.json").read_text())
            return str(content["experiment"]), dict(content["config"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{self.path} is not a run folder: its config.json cannot be read ({reason(error)})."
            ) from error

    def started_on(self) -> dict[str, Any]:
        """Where and on which data the run was started, as :func:`environment` has it."""
        path = self.path / "environment.json"
        try:
            stored = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise _damaged(path, reason(error)) from error
        if not isinstance(stored, dict) or ENVIRONMENT - set(stored):
            raise _damaged(path, "entries are missing")
        return stored

    def write(self, name: str, content: str | bytes) -> Path:
        """Writes a whole file or leaves the old one: never half of it."""
        path = self.path / name
        if not processes.first():
            return path
        scratch = path.with_name(f".{path.name}.writing")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(scratch, "wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            scratch.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                scratch.unlink(missing_ok=True)
            raise cannot_write(path, error) from error
        return path

    def append(self, row: dict[str, Any]) -> None:
        """Appends one line to ``metrics.jsonl``."""
        if not processes.first():
            return
        path = self.path / "metrics.jsonl"
        try:
            with open(path, "a") as file:
                file.write(json.dumps(row) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise cannot_write(path, error) from error

    def rows(self) -> list[dict[str, Any]]:
        """All whole lines of ``metrics.jsonl``; a last line cut short by a kill is left out."""
        path = self.path / "metrics.jsonl"
        try:
            lines = path.read_text().split("\n") if path.exists() else [""]
            rows = [json.loads(line) for line in lines[:-1]]
        except (OSError, ValueError) as error:
            raise _damaged(path, reason(error)) from error
        if not all(isinstance(row, dict) and isinstance(row.get("step"), int) for row in rows):
            raise _damaged(path, "a line is no visit")
        return rows

    def keep_rows(self, step: int) -> None:
        """Drops what was written after a checkpoint: later visits, and headers of stages begun since.

        Raises:
          StorageError: if visits before the checkpoint are missing, which no resumed run would make again.
        """
        if not processes.first():
            return
        kept = [
            row for row in self.rows() if row["step"] < step or (row["step"] == step and "metrics" in row)
        ]
        missing = set(range(1, step + 1)) - {row["step"] for row in kept if "metrics" in row}
        if missing:
            raise _damaged(self.path / "metrics.jsonl", f"visit {min(missing)} of {step} is missing")
        self.write("metrics.jsonl", "".join(json.dumps(row) + "\n" for row in kept))


def _damaged(path: Path, fault: str) -> StorageError:
    return StorageError(f"{path} is damaged ({fault}); start the run anew.")


def _new_folder(parent: Path, stem: str) -> Path:
    parent.mkdir(parents=True, exist_ok=True)
    path = parent / stem
    for attempt in range(1000):
        with contextlib.suppress(FileExistsError):
            path = parent / (f"{stem}-{attempt}" if attempt else stem)
            path.mkdir()
            break
    return path


def stored_config(path: Path, experiment: str, kind: type[Config]) -> Config:
    """The configuration of a run to resume, checked against the experiment that is asked for."""
    name, fields = RunFolder.open(path).experiment_and_config()
    if name != experiment:
        raise UserError(
            f"{path} is a run of {name!r}; resume it with `python -m experiments {name} --resume {path}`."
        )
    known = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if set(fields) != known:
        odd = ", ".join(sorted(set(fields) ^ known))
        raise UserError(
            f"{path} was made by another version of {name!r} (fields that differ: {odd}); start it anew."
        )
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()})


def check_unchanged(stored: Any, asked: Any, path: Path) -> None:
    """A run continues with the configuration that it was started with, or not at all."""
    changed = [
        f"{field.name} {getattr(stored, field.name)!r} -> {getattr(asked, field.name)!r}"
        for field in dataclasses.fields(stored)
        if getattr(stored, field.name) != getattr(asked, field.name)
    ]
    if changed:
        raise UserError(
            f"{path} was started with another configuration ({'; '.join(changed)}): resume it without these "
            f"options, "
            "or start a new run."
        )


def environment(fingerprint: int) -> dict[str, Any]:
    """Where and on which data a run takes place."""
    device = jax.devices()[0]
    return {
        "data": fingerprint,
        "device": device.device_kind,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores",
        "python": platform.python_version(),
        "jax": jax.__version__,
    }


def remember_environment(folder: RunFolder, fingerprint: int) -> str | None:
    """Writes ``environment.json``, or compares it with the stored one on resuming.

    Returns:
      A warning where the results may differ from an uninterrupted run's in the last digits, else ``None``.

    Raises:
      UserError: if the data is not what the run was started on.
    """
    path, now = folder.path / "environment.json", environment(fingerprint)
    if not path.exists():
        folder.write("environment.json", json.dumps(now, indent=2) + "\n")
        return None
    before = folder.started_on()
    if before["data"] != now["data"]:
        raise UserError(f"{folder.path} was started on other data than is read now; start a new run.")
    changed = [
        f"{key} {before[key]} -> {now[key]}"
        for key in ("device", "devices", "jax")
        if before[key] != now[key]
    ]
    return (
        f"note: resumed on other equipment ({'; '.join(changed)}); last digits may differ."
        if changed
        else None
    )


def train_stages(folder: RunFolder, stages: list[Stage], checkpoint_seconds: float) -> None:
    """Trains all stages from the newest checkpoint, or from the start.

    Args:
      folder: the run.
      stages: the same list on every resume.
      checkpoint_seconds: least time between two checkpoints; the end of a stage is always checkpointed.
    """
    total = sum(stage.cost * stage.visits for stage in stages)
    offsets = np.cumsum([0, *(stage.visits for stage in stages)])
    with (
        Checkpoints(folder.path / "checkpoints") as checkpoints,
        EventWriter(folder.path / "tensorboard") as events,
    ):
        done = processes.agreed(checkpoints.newest() or 0)
        folder.keep_rows(done)
        already = sum(
            stage.cost * min(max(done - first, 0), stage.visits) for stage, first in _from(stages, offsets)
        )
        with Progress(folder.path.name, total, already) as progress:
            for stage, first in _from(stages, offsets):
                if done < first + stage.visits:
                    _train_stage(
                        folder, stage, int(first), done, checkpoints, events, progress, checkpoint_seconds
                    )


def _from(stages: list[Stage], offsets: np.ndarray) -> Iterator[tuple[Stage, int]]:
    return zip(stages, (int(offset) for offset in offsets), strict=False)


def _train_stage(folder, stage, first, done, checkpoints, events, progress, checkpoint_seconds) -> None:
    progress.describe(f"{stage.name}: compiling")
    sweep = stage.build()
    if done > first:
        state = checkpoints.load(done, sweep.abstract, sweep.regroup)
    else:
        folder.append({"step": first, "stage": stage.name, "runs": stage.runs})
        state = sweep.start()
    saved = started = time.monotonic()
    for visit in range(max(done - first, 0), stage.visits):
        state, metrics = sweep.advance(state, visit)
        step, epoch = first + visit + 1, (visit + 1) * stage.epochs_per_visit
        record = {name: np.round(np.float64(values), 6).tolist() for name, values in metrics.items()}
        seconds = round(time.monotonic() - started, 3)
        folder.append(
            {"step": step, "stage": stage.name, "epoch": epoch, "seconds": seconds, "metrics": record}
        )
        events.scalars(epoch, {f"{stage.name}/{key}": value for key, value in stage.curves(metrics).items()})
        due = visit + 1 == stage.visits or time.monotonic() - saved >= checkpoint_seconds
        if processes.agreed(due):
            checkpoints.save(step, state)
            saved = time.monotonic()
        progress.advance(
            stage.cost, f"{stage.name}: epoch {epoch} of {stage.visits * stage.epochs_per_visit}"
        )
