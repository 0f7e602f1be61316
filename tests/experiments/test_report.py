"""Intervals, tables and pages."""

import csv
import io
import re
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from experiments import cli, report

# One worker makes the finished run for all tests that need it.
pytestmark = pytest.mark.xdist_group("finished_run")
ROOT = Path(report.__file__).parent


def test_the_interval_is_that_of_the_t_test():
    values = np.random.default_rng(0).normal(size=7)
    low, high = scipy.stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    mean, half_width = report.interval(values)
    np.testing.assert_allclose([mean - half_width, mean + half_width], [low, high], rtol=1e-12)


def test_one_seed_has_a_mean_but_no_interval():
    mean, half_width = report.interval(np.array([0.5]))
    assert mean == 0.5
    assert np.isnan(half_width)
    assert report.Interval(mean, half_width).percent() == "50.0"


def test_comma_separated_text_reads_back():
    rows = [{"a": "x, y", "b": "1"}, {"a": 'say "no"', "b": ""}]
    assert list(csv.DictReader(io.StringIO(report.csv_text(rows)))) == rows


def test_a_page_escapes_its_text_and_fetches_nothing(finished):
    page = report.Page("<script>")
    page.paragraph("a < b & c")
    page.table(["<h>"], [["<td>"]])
    text = page.text()
    assert "<script>" not in text
    assert "a &lt; b &amp; c" in text
    whole = (finished / "report.html").read_text()
    assert whole.count("data:image/png;base64,") >= 2
    assert not re.findall(r'(?:src|href)="(?!data:)', whole)
    assert "http" not in re.sub(r"base64,[^\"]*", "", whole)


def test_a_page_says_on_what_it_was_made_in_a_sentence_and_ends_with_the_configuration():
    equipment = {"data": 7, "device": "TPU v9", "devices": 4, "processes": 1, "machine": "riscv, 8 CPU cores"}
    page = report.Page("title")
    page.origin(equipment | {"python": "3.99", "jax": "1.2"}, {"seeds": 3}, "one program")
    said = "4 x TPU v9, riscv, 8 CPU cores, Python 3.99, jax 1.2; one program."
    assert f"<h2>Where and how</h2>\n<p>{said}</p>\n<pre>" in page.text()
    assert "&quot;seeds&quot;: 3" in page.text()


@pytest.mark.parametrize("name", cli.EXPERIMENTS)
def test_no_report_words_its_origin_itself(name):
    sources = [path.read_text() for path in (ROOT / name).glob("*.py")]
    assert sum("page.origin(" in source for source in sources) == 1
    assert not any("Where and how" in source or "preformatted" in source for source in sources)
