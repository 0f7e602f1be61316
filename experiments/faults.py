"""What can go wrong through no fault of the code, and the exit code that says so."""

import re
from pathlib import Path


class UserError(Exception):
    """A request that cannot be met as it was given: exit code 2, one sentence."""

    exit_code = 2


class StorageError(Exception):
    """A disk that cannot be read or written: exit code 3, one sentence."""

    exit_code = 3


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
