"""The command line: ``python -m experiments list``, ``... NAME [--field value]``, ``... report RUN...``."""

import sys

from experiments.cli import main, unraisable

if __name__ == "__main__":
    sys.unraisablehook = unraisable
    sys.exit(main(sys.argv[1:]))
