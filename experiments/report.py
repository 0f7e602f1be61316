"""From numbers to something to read: intervals, tables, pictures and a self-contained HTML page."""

import base64
import csv
import html
import io
import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import scipy.stats
from rich.console import Console
from rich.table import Table

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

# Distinguishable with any colour vision (Okabe and Ito).
COLOURS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


class Interval(NamedTuple):
    """A mean with the half-width of its two-sided 95 % t-interval; the half-width of one value is NaN."""

    mean: float
    half_width: float

    def percent(self) -> str:
        """For tables.

        >>> Interval(0.912, 0.0134).percent(), Interval(0.912, float("nan")).percent()
        ('91.2 ± 1.3', '91.2')
        """
        width = "" if math.isnan(self.half_width) else f" ± {100 * self.half_width:.1f}"
        return f"{100 * self.mean:.1f}{width}"


def interval(values: np.ndarray) -> Interval:
    """Mean and half-width of the two-sided 95 % t-interval.

    Args:
      values: one a seed, float ``[S]``.

    Returns:
      The interval; it takes the values as independent draws from one normal distribution.

    >>> interval(np.array([0.0, 1.0])).half_width / np.sqrt(0.25)  # the t quantile with one degree of freedom
    np.float64(12.7062...)
    """
    values = np.asarray(values, np.float64)
    if len(values) < 2:
        return Interval(float(values.mean()), math.nan)
    quantile = scipy.stats.t.ppf(0.975, len(values) - 1)
    return Interval(float(values.mean()), float(quantile * values.std(ddof=1) / math.sqrt(len(values))))


def csv_text(rows: Sequence[dict[str, object]]) -> str:
    """Rows with the same keys as comma-separated text."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table on standard output."""
    table = Table(title=title, title_justify="left")
    for index, name in enumerate(header):
        table.add_column(name, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*row)
    console = Console()
    # Piped output has no width of its own: 80 columns would fold the cells.
    (console if console.is_terminal else Console(width=120)).print(table)


def figure(
    columns: int, rows: int = 1, *, width: float = 4.2, height: float = 3.4
) -> tuple[Figure, np.ndarray]:
    """A grid of axes in the house style; the axes are always an array ``[rows, columns]``."""
    plt.rcParams.update(
        {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True}
    )
    plt.rcParams.update({"grid.alpha": 0.3, "legend.frameon": False, "axes.titlesize": 11})
    drawn, axes = plt.subplots(rows, columns, figsize=(width * columns, height * rows), squeeze=False)
    return drawn, axes


def png(drawn: Figure) -> bytes:
    """The picture as a file, after which the figure is closed."""
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png", dpi=130, bbox_inches="tight")
    plt.close(drawn)
    return buffer.getvalue()


class Picture(NamedTuple):
    """A figure for the page."""

    name: str  # file name without suffix
    caption: str  # what it shows and what to see in it
    content: bytes  # PNG


STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color:
#1a1a1a; } h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
table { border-collapse: collapse; margin: 1rem 0; } th, td { padding: .3rem .8rem; border-bottom: 1px solid
#ddd; } th { text-align: left; border-bottom: 2px solid #888; } td { font-variant-numeric: tabular-nums; }
td:not(:first-child), th:not(:first-child) { text-align: right; }
figure { margin: 1.5rem 0; } img { max-width: 100%; } figcaption { color: #555; font-size: .92rem; }
pre { background: #f6f6f6; padding: .8rem; overflow-x: auto; font-size: .85rem; }
"""


class Page:
    """Collects a page piece by piece; pictures are embedded, so that the file can be sent on its own."""

    def __init__(self, title: str):
        self._title = title
        self._parts: list[str] = [f"<h1>{html.escape(title)}</h1>"]

    def heading(self, text: str) -> None:
        """Adds a heading."""
        self._parts.append(f"<h2>{html.escape(text)}</h2>")

    def paragraph(self, text: str) -> None:
        """Adds a paragraph."""
        self._parts.append(f"<p>{html.escape(text)}</p>")

    def listing(self, items: Sequence[str]) -> None:
        """Adds a list."""
        self._parts.append("<ul>" + "".join(f"<li>{html.escape(item)}</li>" for item in items) + "</ul>")

    def preformatted(self, text: str) -> None:
        """Adds text as it is."""
        self._parts.append(f"<pre>{html.escape(text)}</pre>")

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Adds a table."""
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
        )
        self._parts.append(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")

    def picture(self, picture: Picture) -> None:
        """Adds a picture with its caption."""
        source = base64.b64encode(picture.content).decode()
        caption = html.escape(picture.caption)
        self._parts.append(
            f'<figure><img alt="{caption}" src="data:image/png;base64,{source}">'
            f"<figcaption>{caption}</figcaption></figure>"
        )

    def origin(self, environment: dict[str, Any], config: dict[str, Any], note: str = "") -> None:
        """Adds on what a run was made (``RunFolder.started_on``), a note on how, and its configuration."""
        equipment = (
            f"{environment['devices']} x {environment['device']}, {environment['machine']}, "
            f"Python {environment['python']}, jax {environment['jax']}"
        )
        self.heading("Where and how")
        self.paragraph(f"{equipment}; {note}." if note else f"{equipment}.")
        self.preformatted(json.dumps(config, indent=2))

    def text(self) -> str:
        """The whole page."""
        head = f'<meta charset="utf-8"><title>{html.escape(self._title)}</title><style>{STYLE}</style>'
        return (
            f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n'
            + "\n".join(self._parts)
            + "\n</body></html>\n"
        )
