"""The command line: ``python -m experiments list``, ``... NAME [--field value]``, ``... report RUN...``."""

import signal
import sys

from experiments import interrupts

if __name__ == "__main__":
    signal.signal(signal.SIGINT, interrupts.end_at_once)
    from experiments.cli import main, unraisable  # takes a second or more

    sys.unraisablehook = unraisable
    interrupts.leave(main(sys.argv[1:]))
