"""A run has one writer: a lock that goes when its holder does, whether that ends or is killed."""

import contextlib
import errno
import fcntl
from collections.abc import Iterator
from pathlib import Path

from experiments import processes
from experiments.faults import UserError, cannot_write

# Some file systems that several hosts share have no locks.
MISSING = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Keeps others from writing a run meanwhile.

    Args:
      path: a file of the run that is never replaced; the first of several processes locks it for all.

    Raises:
      UserError: if others write the run.
      StorageError: if the file cannot be written.
    """
    with contextlib.ExitStack() as stack:
        busy = ""
        if processes.first():
            try:
                fcntl.flock(stack.enter_context(open(path, "r+")), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                busy = f"{path.parent} is being written by another process; wait until that has ended."
            except OSError as error:
                if error.errno not in MISSING:
                    fault = cannot_write(path, error)
                    processes.agreed_text(str(fault))
                    raise fault from error
        if busy := processes.agreed_text(busy):
            raise UserError(busy)
        yield
