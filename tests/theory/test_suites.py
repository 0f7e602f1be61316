"""What the suite of every family must satisfy."""

import pytest

from jaxreg.theory import report
from tests import suites

# On the worker of the family's own tests, so that its suite is evaluated once.
FAMILIES = [
    pytest.param(name, marks=pytest.mark.xdist_group(f"theory_{name}")) for name in sorted(report.families())
]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_statement_holds(family):
    assert [row for row in suites.rows(family) if not row.holds] == []


@pytest.mark.parametrize("family", FAMILIES)
def test_every_statement_has_a_name_of_its_own(family):
    names = [row.name for row in suites.rows(family)]
    assert len(names) == len(set(names))
