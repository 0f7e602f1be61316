"""Ctrl-C at any moment ends a command with one sentence and exit code 130.

An exception will do once a run has begun. Before that, while libraries are imported, it would come out as
whatever they make of it; and raised in a callback, such as those of the garbage collector, it is lost.
"""

import _thread
import os
import signal
import sys
import threading
from typing import Any, NoReturn

EXIT_CODE = 130
SECONDS_TO_REPEAT = 0.05


def end_at_once(*_: Any) -> None:
    """A handler for the time in which nothing is begun that would have to be left in order."""
    os.write(2, b"experiments: interrupted.\n")
    os._exit(EXIT_CODE)


def raise_from_here_on() -> None:
    """Puts the exception in the place of :func:`end_at_once`, if that is the handler."""
    if signal.getsignal(signal.SIGINT) is end_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def repeat() -> None:
    """Interrupts again, shortly after a callback in which the exception was lost has ended."""
    timer = threading.Timer(SECONDS_TO_REPEAT, _thread.interrupt_main)
    timer.daemon = True
    timer.start()


def leave(code: int) -> NoReturn:
    """Ends the process; at once after an interrupt, since compiled programs may still run and would crash."""
    if code == EXIT_CODE:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
