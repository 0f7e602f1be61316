"""What can go wrong through no fault of the code, and the exit code that says so."""

import dataclasses
import math
import os
import re
from pathlib import Path
from typing import Any

LARGEST_INTEGER = 2**31 - 1
LARGEST_FLOAT = 3.4028235e38
# Without a clip, and with no checkpoint but at the ends of stages.
MAY_BE_INFINITE = ("clip", "checkpoint_seconds")
MOST_CPU_DEVICES = 1024


class UserError(Exception):
    """A request that cannot be met as it was given: exit code 2, one sentence."""

    exit_code = 2


class StorageError(Exception):
    """A disk that cannot be read or written: exit code 3, one sentence."""

    exit_code = 3


def check_counts(config: Any, *names: str) -> None:
    """Raises ``UserError`` for the first of these fields of a configuration that is below 1."""
    for name in names:
        if getattr(config, name) < 1:
            raise UserError(f"{name} must be at least 1; got {getattr(config, name)}.")


def check_positive(config: Any, *names: str) -> None:
    """Raises ``UserError`` for the first of these fields of a configuration that is not positive."""
    for name in names:
        if not getattr(config, name) > 0:
            raise UserError(f"{name} must be positive; got {getattr(config, name)}.")


def check_not_negative(config: Any, *names: str) -> None:
    """Raises ``UserError`` for the first of these fields of a configuration that is below 0."""
    for name in names:
        if not getattr(config, name) >= 0:
            raise UserError(f"{name} must be at least 0; got {getattr(config, name)}.")


def check_representable(config: Any) -> None:
    """Raises ``UserError`` for the first field of a configuration whose number no program can hold.

    Those are NaN, whole numbers beyond 32 bits, and others beyond single precision, where they are infinite.
    Infinite are only the fields in ``MAY_BE_INFINITE``.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int) and abs(number) > LARGEST_INTEGER:
                raise UserError(f"{field.name} must lie within {LARGEST_INTEGER}; got {number}.")
            if not isinstance(number, float) or (field.name in MAY_BE_INFINITE and number == math.inf):
                continue
            if not abs(number) <= LARGEST_FLOAT:
                raise UserError(f"{field.name} must be finite in single precision; got {number}.")


def check_chosen(config: Any, name: str, known: tuple[str, ...]) -> None:
    """Raises ``UserError`` unless a field names some of what is known, each once."""
    chosen = getattr(config, name)
    if not chosen or set(chosen) - set(known) or len(set(chosen)) < len(chosen):
        raise UserError(f"{name} must be some of {', '.join(known)}, each once; got {chosen}.")


def reason(error: BaseException) -> str:
    """The shortest useful cause of an error, on one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    # The storage library of the checkpoints quotes the system's error at the end of a long message.
    system = re.search(r"OS error (\d+): |os_error_code='(\d+)'", str(error))
    if system:
        return os.strerror(int(system[1] or system[2]))
    lines = str(error).strip().splitlines()
    return lines[0][:120] if lines else type(error).__name__


def cannot_write(path: Path, error: BaseException, option: str = "--runs-dir") -> StorageError:
    """The sentence for a file that could not be written; ``option`` chooses its folder."""
    return StorageError(
        f"cannot write {path}: {reason(error)}; make the folder writable or free some space, "
        f"or choose another folder with {option}."
    )
