"""The theory's suites, each evaluated once however many test modules ask for its rows."""

import functools

from jaxreg.theory import report


@functools.cache
def rows(family: str) -> list:
    """Every statement of a family, evaluated."""
    return list(report.evaluate(family, report.families()[family], seed=1))
