"""A fault that was not seen is not survived, whatever its tests say."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from tests.fault.catalogue import Row
from tests.proof.survived import outcomes, verdict

ROW = Row("F01", "a fault", ("tests/fault/test_a.py::test_one", "tests/fault/test_a.py::test_two"))
SEEN = '<properties><property name="fault" value="F01 it happened"/></properties>'
OTHER = '<properties><property name="fault" value="F02 another"/></properties>'


def report(one: str, two: str) -> ElementTree.Element:
    cases = "".join(
        f'<testcase classname="tests.fault.test_a" name="{name}">{inside}</testcase>'
        for name, inside in (("test_one[a-1]", one), ("test_one[b-2]", one), ("test_two", two))
    )
    return ElementTree.fromstring(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")  # noqa: S314  (our own)


@pytest.mark.parametrize(
    ("one", "two", "wanted"),
    [
        (SEEN, SEEN, "survived"),
        (SEEN, "", "inconclusive"),
        (SEEN, OTHER, "inconclusive"),
        (SEEN, f"{SEEN}<failure/>", "failed"),
        (SEEN, "<skipped/>", "failed"),
        (f"{SEEN}<error/>", SEEN, "failed"),
    ],
)
def test_a_row_is_survived_where_all_its_tests_pass_and_saw_it(one: str, two: str, wanted: str) -> None:
    assert verdict(ROW, outcomes(report(one, two)))[0] == wanted


def test_tests_that_did_not_run_prove_nothing() -> None:
    assert verdict(ROW, {}) == ("inconclusive", [])


def test_a_row_without_tests_is_not_made() -> None:
    assert verdict(Row("F99", "a fault", (), "it cannot happen here"), {}) == ("not made", ["it cannot happen here"])
