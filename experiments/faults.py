"""What can go wrong through no fault of the code, and the exit code that says so."""

import re
from pathlib import Path
from typing import Any


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
    system = re.search(r"OS error \d+: [A-Z]+ ([^\]]+)\]", str(error))
    if system:
        return system.group(1)
    lines = str(error).strip().splitlines()
    return lines[0][:120] if lines else type(error).__name__


def cannot_write(path: Path, error: BaseException) -> StorageError:
    """The sentence for a file that could not be written."""
    return StorageError(
        f"cannot write {path}: {reason(error)}; make the folder writable or free some space, "
        "or choose another folder with --runs-dir."
    )
