"""Time several compiled functions interleaved in one process, and print the ratio of each to the first.

On a CPU the time of a function with a large output depends on how the C library gives out memory: by
default every large array is mapped afresh and pays for its page faults. Each benchmark therefore runs
twice, in processes of its own: with the default allocator, and with one told to keep its memory.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

ALLOCATORS = {
    "default": {},
    "kept": {
        "MALLOC_MMAP_THRESHOLD_": "4294967296",
        "MALLOC_TRIM_THRESHOLD_": "4294967296",
        "MALLOC_TOP_PAD_": "268435456",
    },
}

WARMING = 30.0
"""Milliseconds of untimed calls, by which OpenMP's threads of the call before have gone to sleep."""


def compare(
    functions: Mapping[str, Callable[..., Any]],
    arguments: Sequence[Any],
    *,
    rounds: int = 30,
    burst: int = 1,
) -> dict[str, tuple[float, float, float, float]]:
    """Time each function on the same arguments, one call after the other, in rounds.

    Args:
      functions: name to compiled function; the first is what the others are compared with.
      arguments: what each is called with.
      rounds: number of interleaved rounds; more make the ratio surer.
      burst: calls of each function in a row, after some untimed ones, of which the round takes the median.
        Above 1 where functions are of two libraries: threads of the one go on spinning for milliseconds
        after a call, and would take a core from the other.

    Returns:
      For each name the median time in milliseconds, and the median, lower and upper quartile of the
      ratios, each taken within one round.
    """
    for function in functions.values():
        for _ in range(2):
            _timed(function, arguments)
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            if burst > 1:
                warmed = 0.0
                while warmed < WARMING:
                    warmed += _timed(function, arguments)
            times[name].append(statistics.median(_timed(function, arguments) for _ in range(burst)))
    base = next(iter(times.values()))
    result = {}
    for name, own in times.items():
        low, middle, high = statistics.quantiles((a / b for a, b in zip(own, base, strict=True)), n=4)
        result[name] = (statistics.median(own), middle, low, high)
    return result


def _timed(function: Callable[..., Any], arguments: Sequence[Any]) -> float:
    """Milliseconds of one call."""
    start = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    return 1e3 * (time.perf_counter() - start)


def show(title: str, rows: Mapping[str, tuple[float, float, float, float]]) -> None:
    """Print one table of :func:`compare`'s result."""
    print(f"\n{title}")
    print(f"  {'':44s} {'ms':>9s} {'ratio':>7s}   quartiles")
    for name, (milliseconds, ratio, low, high) in rows.items():
        print(f"  {name:44s} {milliseconds:9.3f} {ratio:7.2f}   {low:.2f} to {high:.2f}", flush=True)


def main(module: str, run: Callable[[], None]) -> None:
    """Run a benchmark once under each allocator, in processes of their own.

    Args:
      module: the benchmark's module name, for ``python -m``.
      run: what to run in each.
    """
    if "BENCHMARK_ALLOCATOR" in os.environ:
        run()
        return
    for name, settings in ALLOCATORS.items():
        if settings and sys.platform != "linux":
            continue
        print(
            f"\n=== allocator: {name} ({jax.devices()[0].device_kind}, {os.cpu_count()} cores, "
            f"jax {jax.__version__})"
        )
        environment = {**os.environ, **settings, "BENCHMARK_ALLOCATOR": name}
        ended = subprocess.run([sys.executable, "-m", module, *sys.argv[1:]], env=environment, check=False)
        if ended.returncode:
            sys.exit(ended.returncode)


def at_least(minimum: int) -> Callable[[str], int]:
    """A type for argparse: whole numbers that are not below ``minimum``."""

    def number(text: str) -> int:
        value = int(text)
        if value < minimum:
            raise argparse.ArgumentTypeError(f"must be at least {minimum}, got {value}")
        return value

    number.__name__ = "int"  # as argparse names it where the text is no number
    return number


def quietly(command: Callable[[], None]) -> None:
    """Run a command; interrupted, or with nobody to read on, it ends with exit code 130 and no traceback."""
    try:
        command()
        sys.stdout.flush()
    except (KeyboardInterrupt, BrokenPipeError):
        # What is still buffered would be written, and fail again, when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(130)
