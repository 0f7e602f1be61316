"""Parses the command line, runs an experiment, turns faults into one sentence and an exit code."""

import contextlib
import dataclasses
import importlib
import io
import logging
import os
import re
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from experiments import interrupts
from experiments.faults import (
    MOST_CPU_DEVICES,
    StorageError,
    UserError,
    check_not_negative,
    check_representable,
    reason,
)

EXPERIMENTS = (
    "label_noise",
    "large_step",
    "comp_sum",
    "adversarial",
    "colored_mnist",
    "rotated_digits",
    "self_tuning",
    "ptb_lstm",
    "ridge_toy",
)
USAGE = """usage: python -m experiments list
       python -m experiments NAME [--preset smoke|default|paper|...] [--FIELD VALUE ...] [--resume RUN]
       python -m experiments report RUN [RUN ...]
`python -m experiments NAME --help` documents every field."""


def main(arguments: Sequence[str]) -> int:
    """Runs a command.

    Returns:
      Exit code: 0; 2 for a request that cannot be met; 3 for a disk that cannot be read or written; 130 if
      interrupted, or if nobody reads the output any longer.
    """
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    try:
        code = _command(list(arguments))
        sys.stdout.flush()
        return code
    except (UserError, StorageError) as error:
        print(f"experiments: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader of the output, such as `head`, has gone
        # What is still buffered would be written, and fail again, when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return interrupts.EXIT_CODE
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        print(f"experiments: reading or writing failed: {reason(error)}{place}.", file=sys.stderr)
        return StorageError.exit_code
    except KeyboardInterrupt as interrupt:
        print(": ".join(["experiments: interrupted", *map(str, interrupt.args)]) + ".", file=sys.stderr)
        return interrupts.EXIT_CODE


def unraisable(what: Any) -> None:
    """A ``sys.unraisablehook`` that repeats an interrupt and says nothing of callbacks of other threads.

    They are the storage library's: when a disk is full they still report to an event loop, which the error
    that :func:`main` puts into words has closed.
    """
    if issubclass(what.exc_type, KeyboardInterrupt):
        interrupts.repeat()
    elif what.object is not None or threading.current_thread() is threading.main_thread():
        sys.__unraisablehook__(what)


def _command(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if arguments else UserError.exit_code
    name, rest = arguments[0], arguments[1:]
    if name == "list":
        for experiment in EXPERIMENTS:
            print(f"{experiment:<14} {(_module(experiment).__doc__ or '').splitlines()[0]}")
        return 0
    if name == "report":
        return _report(rest)
    if name not in EXPERIMENTS:
        raise UserError(f"unknown experiment {name!r}; known: {', '.join(EXPERIMENTS)}.")
    return _run(name, rest)


def _module(name: str) -> Any:
    return importlib.import_module(f"experiments.{name}.main")


def _report(paths: list[str]) -> int:
    from experiments.runner import RunFolder

    interrupts.raise_from_here_on()
    if not paths:
        raise UserError("report needs at least one run folder.")
    for path in paths:
        folder = RunFolder.open(Path(path))
        experiment = folder.experiment_and_config()[0]
        if experiment not in EXPERIMENTS:
            raise UserError(f"{path} is a run of the unknown experiment {experiment!r}.")
        print(_module(experiment).report(folder))
    return 0


def _value_of(arguments: list[str], option: str) -> str | None:
    """The value of an option that decides which defaults the others have."""
    for index, argument in enumerate(arguments):
        if argument == option:
            return arguments[index + 1] if index + 1 < len(arguments) else None
        if argument.startswith(f"{option}="):
            return argument.split("=", 1)[1]
    return None


def _run(name: str, arguments: list[str]) -> int:
    from experiments import runner

    module = _module(name)
    preset, resume = _value_of(arguments, "--preset"), _value_of(arguments, "--resume")
    if preset is not None and preset not in module.PRESETS:
        raise UserError(f"unknown preset {preset!r}; known: {', '.join(module.PRESETS)}.")
    stored = runner.stored_config(Path(resume), name, module.Config) if resume is not None else None
    default = stored if stored and preset is None else module.PRESETS[preset or "default"]
    asked = _parse(name, module, arguments, default)
    # An experiment whose defaults depend on where it runs settles them here, to be stored with the run.
    resolve = getattr(module, "resolve", lambda config: config)
    if asked.coordinator or asked.processes is not None or asked.process is not None:
        _join(name, asked)
    config = resolve(asked.config)
    if stored is not None:
        runner.check_unchanged(stored, config, Path(resume or ""))
    path = execute(name, config, Path(asked.runs_dir), Path(resume) if resume is not None else None)
    if path:
        print(path)
    return 0


def _join(name: str, asked: Any) -> None:
    """Connects the processes that the options name."""
    from experiments import processes

    if not asked.coordinator:
        raise UserError("--processes and --process need --coordinator HOST:PORT of the first process.")
    if not hasattr(_module(name).Config, "parallel"):
        raise UserError(f"{name} runs in one process; leave --coordinator out.")
    processes.join(asked.coordinator, asked.processes, asked.process)


def execute(name: str, config: Any, runs_dir: Path, resume: Path | None) -> Path | None:
    """Runs or resumes an experiment and writes its report.

    Args:
      name: the experiment.
      config: its configuration.
      runs_dir: where a new run folder is made.
      resume: the run folder to continue, or ``None`` for a new one.

    Returns:
      The path of ``report.html``; ``None`` in all processes but the one that writes it.
    """
    from experiments import locks, processes, runner, train

    module = _module(name)
    interrupts.raise_from_here_on()
    _check_common(config)
    train.use_cpu_devices(config.devices)
    stages, fingerprint = module.prepare(config)
    folder = (
        runner.RunFolder.open(resume)
        if resume is not None
        else runner.RunFolder.create(name, config, runs_dir)
    )
    try:
        with locks.held(folder.path / "config.json"):
            warning = runner.remember_environment(folder, fingerprint)
            if processes.first():
                print(f"{warning}" if warning else f"run folder: {folder.path}", file=sys.stderr)
            runner.train_stages(folder, stages, config.checkpoint_seconds)
            return module.report(folder) if processes.first() else None
    except KeyboardInterrupt:
        again = f"python -m experiments {name} --resume {folder.path}"
        raise KeyboardInterrupt(f"go on with `{again}`") from None


def _check_common(config: Any) -> None:
    """Raises ``UserError`` for fields that all experiments have, and for numbers that none can use."""
    check_representable(config)
    check_not_negative(config, "devices", "checkpoint_seconds")
    if config.devices > MOST_CPU_DEVICES:
        raise UserError(f"devices must be at most {MOST_CPU_DEVICES}; got {config.devices}.")


def _parse(name: str, module: Any, arguments: list[str], default: Any) -> Any:
    presets: Any = Literal[tuple(module.PRESETS)]  # pyright: ignore[reportInvalidTypeForm]
    command = dataclasses.make_dataclass(
        "Command",
        [
            ("config", tyro.conf.OmitArgPrefixes[module.Config], dataclasses.field(default=default)),
            ("preset", Annotated[presets, tyro.conf.arg(help="Values of all fields that are not given.")],
             dataclasses.field(default="default")),
            ("resume", Annotated[str | None, tyro.conf.arg(help="Run folder to continue as it was started.")],
             dataclasses.field(default=None)),
            ("coordinator", Annotated[str | None, tyro.conf.arg(
                help="HOST:PORT of the first of several processes that share the run; auto on a cluster.")],
             dataclasses.field(default=None)),
            ("processes", Annotated[int | None, tyro.conf.arg(help="How many they are.")],
             dataclasses.field(default=None)),
            ("process", Annotated[int | None, tyro.conf.arg(help="Which of them this is, from 0.")],
             dataclasses.field(default=None)),
            ("runs_dir", Annotated[str, tyro.conf.arg(help="Folder in which the run's folder is made.")],
             dataclasses.field(default="runs")),
        ],
        frozen=True,
    )  # fmt: skip
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                command, prog=f"python -m experiments {name}", description=module.__doc__, args=arguments
            )
    except SystemExit as ending:
        if not ending.code:  # --help
            raise
        raise UserError(
            f"{_first_message(said.getvalue())}; see `python -m experiments {name} --help`."
        ) from None


def _first_message(box: str) -> str:
    """The message in tyro's framed text; its title stands in the frame or, in plain ASCII, above a line."""
    blocks: list[list[str]] = [[]]
    for line in (line.strip(" │|") for line in box.splitlines()):
        if re.match(r"[╭─╰+-]{3}|╭", line):
            blocks.append([])
        elif line:
            blocks[-1].append(line)
    filled = [" ".join(block).rstrip(".") for block in blocks if block]
    message = filled[: 1 if "╭" in box else 2]
    return message[-1] if message else "the options cannot be read"
