"""How far a run is and how long it takes yet: a bar in a terminal, else a line now and then."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from experiments import processes

SECONDS_BETWEEN_LINES = 5.0


class Progress:
    """Counts units of work and shows them in the first process, used as a context manager."""

    def __init__(self, title: str, total: int, already: int):
        self._total, self._already, self._done = total, already, already
        self._started, self._said = time.monotonic(), 0.0
        console = Console(stderr=True)
        self._bar = None
        if console.is_terminal and processes.first():
            columns = [TextColumn("{task.description}"), BarColumn(), TaskProgressColumn()]
            columns += [
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(elapsed_when_finished=False),
            ]
            self._bar = Bar(*columns, console=console, speed_estimate_period=600)
            self._task = self._bar.add_task(title, total=total, completed=already)

    def __enter__(self) -> "Progress":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def describe(self, what: str) -> None:
        """Says what is being done."""
        if self._bar:
            self._bar.update(self._task, description=what)
        else:
            self._line(what)

    def advance(self, work: int, what: str) -> None:
        """Adds finished work."""
        self._done += work
        if self._bar:
            self._bar.update(self._task, advance=work, description=what)
        elif self._done >= self._total or time.monotonic() - self._said >= SECONDS_BETWEEN_LINES:
            self._line(what)

    def seconds_left(self) -> float | None:
        """Estimate from this session's pace; ``None`` before anything is finished."""
        finished = self._done - self._already
        return (
            (time.monotonic() - self._started) * (self._total - self._done) / finished if finished else None
        )

    def _line(self, what: str) -> None:
        if not processes.first():
            return
        self._said, left = time.monotonic(), self.seconds_left()
        rest = "" if left is None else f", about {left:.0f} s left"
        print(f"[{100 * self._done / self._total:3.0f} %] {what}{rest}", file=sys.stderr, flush=True)
