"""Checkpoints of a pytree of device arrays: whole or absent, and verified before they are read back.

orbax writes a checkpoint beside its place and renames it. A list of its files with their checksums is written
after that, since a file cut short later would otherwise be noticed late or not at all; without the list a
checkpoint does not count.
"""

import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec
from orbax.checkpoint import v1 as ocp

from experiments import processes
from experiments.faults import StorageError, UserError, cannot_write, reason

# The one before the newest is kept as a way out should the newest be damaged later.
KEPT = 2
# As what a full or read-only disk surfaces from the storage library.
FAULTS = (OSError, ValueError, RuntimeError)


class Checkpoints:
    """Numbered checkpoints in a folder, used as a context manager."""

    def __init__(self, path: Path):
        self.path = path
        policy = ocp.training.preservation_policies.LatestN(KEPT)
        try:
            self._orbax = ocp.training.Checkpointer(
                str(path.absolute()),
                preservation_policy=policy,  # pyright: ignore[reportArgumentType]
                cleanup_tmp_directories=True,
            )
        except OSError as error:
            raise cannot_write(path, error) from error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._orbax.close()
        except FAULTS as fault:
            if error is None:
                raise cannot_write(self.path, fault) from fault

    def _listing(self, step: int) -> Path:
        return self.path / f"{step}.json"

    def _whole(self) -> list[int]:
        """Numbers of the checkpoints that were finished, oldest first."""
        return sorted(found.step for found in self._orbax.checkpoints if self._listing(found.step).exists())

    def newest(self) -> int | None:
        """Number of the newest finished checkpoint; ``None`` if there is none."""
        return max(self._whole(), default=None)

    def save(self, step: int, state: Any) -> None:
        """Writes a checkpoint and returns when it is on the disk."""
        try:
            self._orbax.save(step, _leaves(state), force=True, overwrite=True)
            if processes.first():
                self._write_listing(step)
        except FAULTS as error:
            raise cannot_write(self.path / str(step), error) from error

    def _write_listing(self, step: int) -> None:
        scratch = self.path / f".{step}.json.writing"
        with open(scratch, "w") as file:
            json.dump(_checksums(self.path / str(step)), file)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(self._listing(step))
        for listing in self.path.glob("*.json"):
            if not listing.with_suffix("").exists():
                listing.unlink()

    def load(self, step: int, abstract: Any, regroup: Callable[[Any], Any] | None = None) -> Any:
        """Reads a checkpoint into the given shapes and shardings.

        Args:
          step: number of the checkpoint.
          abstract: shapes, dtypes and shardings of the state.
          regroup: brings whole arrays as another number of devices laid them out into the shapes of
            ``abstract``; ``None`` if they do not depend on it.

        Returns:
          The state.

        Raises:
          StorageError: if the checkpoint is damaged.
          UserError: if it holds another state than this one.
        """
        self._verify(step)
        wanted = _leaves(abstract)
        stored = self._orbax.metadata(step).metadata
        if stored.keys() != wanted.keys():
            raise UserError(f"{self.path} was made by another version of the experiment; start the run anew.")
        alike = all(tuple(stored[name].shape) == leaf.shape for name, leaf in wanted.items())
        if not alike and regroup:
            wanted = {name: _whole_array(stored[name].shape, leaf) for name, leaf in wanted.items()}
        leaves = self._orbax.load(step, wanted)
        state = jax.tree.unflatten(jax.tree.structure(abstract), [leaves[name] for name in wanted])
        return state if alike or not regroup else regroup(state)

    def _verify(self, step: int) -> None:
        """Compares a checkpoint's files with the list of them."""
        try:
            if _checksums(self.path / str(step)) == json.loads(self._listing(step).read_text()):
                return
            fault = "its files are not as they were written"
        except (OSError, ValueError) as error:
            fault = reason(error)
        older = [other for other in self._whole() if other < step]
        way_out = f"go on from checkpoint {max(older)}" if older else "train from the start"
        damaged = self.path / str(step)
        raise StorageError(
            f"checkpoint {damaged} is damaged ({fault}); delete it and resume again to {way_out}."
        )


def _leaves(tree: Any) -> dict[str, Any]:
    """Arrays by the number of their place, whatever the classes of the containers."""
    return {f"leaf{index:04d}": leaf for index, leaf in enumerate(jax.tree.leaves(tree))}


def _whole_array(shape: tuple[int, ...], leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """An array of another shape than ``leaf``, whole on every device that ``leaf`` is spread over."""
    everywhere = NamedSharding(leaf.sharding.mesh, PartitionSpec())
    return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=everywhere)


def _checksums(folder: Path) -> dict[str, int]:
    """CRC-32 of every file below a folder."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): zlib.crc32(path.read_bytes()) for path in paths}
