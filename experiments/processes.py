"""One run by several processes, on one host or many: each runs the same command, the first writes the files.

All of them read the data, and the run's folder on ``--resume``, so these lie where every host sees them.
"""

import jax
import numpy as np
from jax.experimental import multihost_utils

from experiments.faults import UserError, reason

# Room for the text that the first process tells the others.
TEXT_BYTES = 4096


def join(coordinator: str, count: int | None, index: int | None) -> None:
    """Connects this process with the others; comes before anything is computed.

    Args:
      coordinator: ``HOST:PORT`` of the first process; ``auto`` on Cloud TPU, Slurm, Open MPI and Kubernetes,
        which name it.
      count: number of processes, and
      index: which of them this is, from 0; ``None`` where the cluster says so.

    Raises:
      UserError: if the others are not named or cannot be reached.
    """
    try:
        jax.distributed.initialize(None if coordinator == "auto" else coordinator, count, index)
    except (ValueError, TypeError, RuntimeError, IndexError) as error:
        raise UserError(
            f"no processes joined ({reason(error).rstrip('.')}); give --coordinator HOST:PORT, --processes "
            "and --process, the same but for the last in every process."
        ) from error


def first() -> bool:
    """Whether this process writes; starts no device."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def agreed(value: int) -> int:
    """The first process's value, in every process."""
    if not jax.distributed.is_initialized():
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def agreed_text(text: str) -> str:
    """The first process's text, in every process."""
    if not jax.distributed.is_initialized():
        return text
    told = np.frombuffer(text.encode().ljust(TEXT_BYTES, b"\0"), np.uint8)
    return bytes(multihost_utils.broadcast_one_to_all(told)).rstrip(b"\0").decode()
