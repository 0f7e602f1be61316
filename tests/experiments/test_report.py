"""Intervals, tables and pages."""

import csv
import io
import re

import numpy as np
import pytest
import scipy.stats

from experiments import report

# One worker makes the finished run for all tests that need it.
pytestmark = pytest.mark.xdist_group("finished_run")


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
