"""Evaluate the papers' statements: ``python -m jaxreg.theory [family ...] [--seed N] [--json FILE] [--html
FILE]``.
"""

import argparse
import pathlib
import sys

import jax
import jax.numpy as jnp

FAILED, MISUSED, UNWRITABLE = 1, 2, 3


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line as typed."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxreg.theory",
        description="Evaluate the papers' statements with independent oracles and print one row each.",
        epilog=(
            "Exit status: 0 all hold, 1 a statement fails, 2 a mistake in the arguments, "
            "3 a file cannot be written."
        ),
    )
    parser.add_argument("families", nargs="*", metavar="family", help="method families (default: all)")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the random cases, at least 0 (default: 0)"
    )
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="also write the rows as JSON")
    parser.add_argument("--html", type=pathlib.Path, metavar="FILE", help="also write the rows as a page")
    parser.add_argument(
        "--device",
        choices=("cpu", "default"),
        default="cpu",
        help=(
            "cpu: float64 on the CPU (default); "
            "default: float32 on jax's default device, with tolerances of its own"
        ),
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit status."""
    options = parse(arguments)
    if options.seed < 0:
        return complain(f"--seed must be at least 0, got {options.seed}.", MISUSED)
    # Before any array exists: precision and platform are settled when jax makes its first one.
    if options.device == "cpu":
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_enable_x64", True)
    from jaxreg.theory import report  # after the precision is set, since families may hold constants

    installed = report.families()
    unknown = [name for name in options.families if name not in installed]
    if unknown:
        return complain(f"unknown family {unknown[0]!r}; the families are {', '.join(installed)}.", MISUSED)
    for path in (options.json, options.html):
        problem = unwritable(path)
        if problem:
            return complain(problem, UNWRITABLE)
    rows = []
    print(report.header(), flush=True)
    for family in dict.fromkeys(options.families or installed):
        for row in report.evaluate(family, installed[family], options.seed):
            rows.append(row)
            print(report.line(row), flush=True)
    print(report.total(rows))
    precision = jnp.result_type(float).name
    for path, render in ((options.json, report.as_json), (options.html, report.as_html)):
        if path is not None:
            try:
                path.write_text(render(rows, seed=options.seed, precision=precision), encoding="utf-8")
            except OSError as error:
                return complain(f"cannot write {path}: {error.strerror}.", UNWRITABLE)
    return 0 if all(row.holds for row in rows) else FAILED


def unwritable(path: pathlib.Path | None) -> str | None:
    """Why a report cannot be written to ``path``, found before the work rather than after it."""
    if path is None:
        return None
    try:
        existed = path.exists()
        with path.open("a", encoding="utf-8"):
            pass
        if not existed:
            path.unlink()
    except OSError as error:
        return f"cannot write {path}: {error.strerror}."
    return None


def complain(sentence: str, status: int) -> int:
    """One sentence on the error stream; the exit status."""
    print(f"jaxreg.theory: {sentence}", file=sys.stderr)
    return status


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (BrokenPipeError, KeyboardInterrupt):
        sys.exit(130)
