"""TensorBoard event files, written at once rather than by a background thread whose errors nobody sees."""

import time
from pathlib import Path
from types import TracebackType

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2
from tensorboardX.summary import scalar

from experiments import processes
from experiments.faults import cannot_write


class EventWriter:
    """Writes scalars as TensorBoard events in the first process, used as a context manager."""

    def __init__(self, folder: Path):
        self._folder, self._writer = folder, None
        if not processes.first():
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._writer = EventsWriter(str(folder / "events"))
        except OSError as error:
            raise cannot_write(folder, error) from error

    def __enter__(self) -> "EventWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._writer:
                self._writer.close()
        except OSError as fault:
            if error is None:
                raise cannot_write(self._folder, fault) from fault

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Adds one point to each named curve."""
        if not self._writer:
            return
        try:
            for name, value in values.items():
                summary = scalar(name, float(value))
                event = event_pb2.Event(step=step, summary=summary, wall_time=time.time())  # pyright: ignore
                self._writer.write_event(event)
            self._writer.flush()
        except OSError as error:
            raise cannot_write(self._folder, error) from error
