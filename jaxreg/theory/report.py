"""Rows of a theory report: what each Check measured, as a table, JSON or a page."""

import dataclasses
import html
import importlib
import json
import pkgutil
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType

import jax
import numpy as np

from jaxreg import theory
from jaxreg.theory.check import Check

COLUMNS = {"": 4, "statement": 54, "source": 22, "measured": 17, "allowed": 9}


@dataclasses.dataclass(frozen=True)
class Row:
    """One evaluated claim."""

    family: str
    name: str
    source: str
    statement: str
    relation: str
    cases: int  # numbers compared
    measured: float  # residual of an equality; least slack of an inequality, in units of the Check's scale
    typical: float  # their median
    allowed: float  # the tolerance
    holds: bool
    seconds: float

    @property
    def verdict(self) -> str:
        """``ok`` or ``FAIL``."""
        return "ok" if self.holds else "FAIL"

    @property
    def kind(self) -> str:
        """What ``measured`` is."""
        return "residual" if self.relation == "==" else "slack"


def families() -> dict[str, Callable[[int], Iterator[Check]]]:
    """The installed families and their suites, by name in alphabetical order."""
    modules = (_module(found.name) for found in pkgutil.iter_modules(theory.__path__) if found.name[0] != "_")
    return {
        module.__name__.rpartition(".")[2]: module.suite for module in modules if hasattr(module, "suite")
    }


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{theory.__name__}.{name}")


def evaluate(family: str, suite: Callable[[int], Iterator[Check]], seed: int) -> Iterator[Row]:
    """One row for each Check of a suite, as it comes."""
    started = time.perf_counter()
    for check in suite(seed):
        row = summarise(family, check)
        finished = time.perf_counter()
        yield dataclasses.replace(row, seconds=finished - started)
        started = finished


def summarise(family: str, check: Check) -> Row:
    """What a Check measured. A NaN anywhere makes ``measured`` NaN and the verdict a failure."""
    with np.errstate(invalid="ignore"):  # NaN is an answer here
        violation = np.asarray(jax.device_get(check).violation_by(np), np.float64)
    sign = 1 if check.relation == "==" else -1
    # Without a sign for zero: "-0" would read as a violation.
    worst = float(violation.max())
    return Row(
        family=family,
        name=check.name,
        source=check.source,
        statement=check.statement,
        relation=check.relation,
        cases=violation.size,
        measured=sign * worst + 0.0,
        typical=sign * float(np.median(violation)) + 0.0,
        allowed=check.accepted,
        holds=worst <= check.accepted,
        seconds=0.0,
    )


def header() -> str:
    """The heading of the table, two lines of at most 120 columns."""
    titles = "  ".join(title.ljust(width) for title, width in COLUMNS.items()).rstrip()
    return titles + "\n" + "  ".join("-" * width for width in COLUMNS.values())


def line(row: Row) -> str:
    """A row of the table: wrapped inside its columns, at most 120 columns wide."""
    measured = [f"{row.kind} {row.measured:.1e}", f"median {row.typical:.1e}", f"of {row.cases}"]
    cells = {
        "": [row.verdict],
        "statement": [f"{row.family}: {row.name}", *textwrap.wrap(row.statement, COLUMNS["statement"])],
        "source": textwrap.wrap(row.source, COLUMNS["source"]),
        "measured": measured if row.cases > 1 else measured[:1],
        "allowed": [f"{row.allowed:.0e}"],
    }
    height = max(len(cell) for cell in cells.values())
    padded = {title: cell + [""] * (height - len(cell)) for title, cell in cells.items()}
    lines = zip(
        *(([text.ljust(COLUMNS[title]) for text in cell]) for title, cell in padded.items()), strict=True
    )
    return "\n".join("  ".join(cells).rstrip() for cells in lines)


def total(rows: list[Row]) -> str:
    """The last line of the table."""
    failed = [f"{row.family}: {row.name}" for row in rows if not row.holds]
    seconds = sum(row.seconds for row in rows)
    outcome = f"{len(failed)} failed: {', '.join(failed)}" if failed else "all hold"
    return f"{len(rows)} statements in {seconds:.0f} s, {outcome}."


def as_json(rows: Iterable[Row], *, seed: int, precision: str) -> str:
    """The rows as JSON; numbers that JSON lacks (NaN, infinities) become null."""
    records = [
        {
            key: None if isinstance(value, float) and not np.isfinite(value) else value
            for key, value in fields.items()
        }
        for fields in (dataclasses.asdict(row) for row in rows)
    ]
    return json.dumps({"seed": seed, "precision": precision, "rows": records}, indent=1) + "\n"


STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem;
  color: #1c2430; background: #fbfbfa; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
p { margin: .2rem 0; color: #4a5565; }
table { border-collapse: collapse; width: 100%; background: white; box-shadow: 0 1px 3px #0002; }
th { text-align: left; font-weight: 600; color: #4a5565; background: #f1f3f5; }
th, td { padding: .5rem .7rem; border-bottom: 1px solid #e6e9ec; vertical-align: top; }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap; text-align: right; }
td b { font-weight: 600; } td small { color: #6b7686; } tr.fail td { background: #fff0ee; }
.mark { display: inline-block; border-radius: .7rem; padding: 0 .6rem; font-size: .85rem; font-weight: 600;
  color: #12633b; background: #dcf3e5; } .fail .mark { color: #8f1d12; background: #ffd9d3; }
"""


def as_html(rows: list[Row], *, seed: int, precision: str) -> str:
    """The rows as one self-contained page."""
    sections = []
    for family in dict.fromkeys(row.family for row in rows):
        body = "".join(_html_row(row) for row in rows if row.family == family)
        titles = "".join(f"<th>{title}</th>" for title in ("", "Statement", "Source", "Measured", "Allowed"))
        sections.append(f"<h2>{html.escape(family)}</h2><table><tr>{titles}</tr>{body}</table>")
    summary = f"{html.escape(total(rows))} Seed {seed}, {precision}."
    explanation = (
        "A residual is the largest difference of two sides that should be equal; a slack is the least "
        "distance by "
        "which an inequality held, as close to tight as random cases and a gradient search brought it. "
        "Both are in "
        "units of the size of what is compared."
    )
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>jaxreg: theorems</title>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<style>{STYLE}</style></head><body><h1>Theorems, measured</h1><p>{summary}</p><p>{explanation}</p>"
        f"{''.join(sections)}</body></html>\n"
    )


def _html_row(row: Row) -> str:
    detail = f"<br><small>median {row.typical:.1e} of {row.cases}</small>" if row.cases > 1 else ""
    return (
        f"<tr class='{'pass' if row.holds else 'fail'}'><td><span class='mark'>{row.verdict}</span></td>"
        f"<td><b>{html.escape(row.name)}</b><br>{html.escape(row.statement)}</td><td>{html.escape(row.source)}</td>"
        f"<td class='number'>{row.kind} {row.measured:.1e}{detail}</td><td "
        f"class='number'>{row.allowed:.0e}</td></tr>"
    )
