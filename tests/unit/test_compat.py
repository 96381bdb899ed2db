"""What is made of the tests on other releases of Codex: which failures are known gaps, and what the document says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from baa.codexd.appserver.versions import KNOWN, OLDEST, support, text
from tests.proof import compat
from tests.proof.compat import Found, Gap

ROOT = Path(__file__).resolve().parents[2]
REPORT = """\
<testsuites><testsuite>
<testcase classname="tests.contract.test_codexd_turns" name="test_a"/>
<testcase classname="tests.contract.test_codexd_turns" name="test_b[x]"><failure message="no b&#10;more"/></testcase>
<testcase classname="tests.contract.test_codexd_turns" name="test_c"><skipped message="not here"/></testcase>
<testcase classname="tests.contract.test_codexd_busy" name="test_d"><error message="no d"/></testcase>
</testsuite></testsuites>
"""


def test_a_report_is_read() -> None:
    failed = {"test_codexd_turns::test_b[x]": "no b", "test_codexd_busy::test_d": "no d"}
    assert compat.read(REPORT) == (1, failed)


@pytest.mark.parametrize(
    ("version", "holds"),
    [("0.9.0", True), ("0.10.0", False), ("0.19.9", False), ("0.20.0", True), ("0.21.0-alpha.1", True)],
)
def test_a_gap_holds_for_releases_before_and_from_one_on(version: str, *, holds: bool) -> None:
    assert Gap("it", "test_b", since=(0, 10, 0), until=(0, 20, 0)).holds_for(version) is holds


def test_a_failure_is_explained_by_a_gap_of_that_release_only() -> None:
    gaps = [Gap("b", r"turns::test_b\b", since=(0, 10, 0))]
    _, failed = compat.read(REPORT)
    explained, others = compat.explain("0.9.0", failed, gaps)
    assert (explained, list(others)) == ({"b": ["test_codexd_turns::test_b[x]"]}, ["test_codexd_busy::test_d"])
    assert compat.explain("0.10.0", failed, gaps) == ({}, failed)


def test_the_table_says_what_a_release_lacks_and_what_failed() -> None:
    found = [
        Found("0.10.0", "known", 4, {}, {}, []),
        Found("0.9.0", "older", 1, {"words": ["a::b", "a::c"]}, {"a::d": "no"}, ["turn/start params.x"]),
    ]
    assert compat.table(found).splitlines()[2:] == [
        "| 0.10.0 | `known` | 4 of 4 | nothing |",
        "| 0.9.0 | `older` | 1 of 4 | words (2 tests); failed: `a::d`; `turn/start params.x` |",
    ]


def test_no_contract_test_of_codexd_is_forgotten() -> None:
    files = {path.name for path in (ROOT / "tests" / "contract").glob("test_codexd_*.py")}
    assert compat.ELSEWHERE.keys() < files
    assert {Path(path).name for path in compat.suite()} == files - compat.ELSEWHERE.keys() | {
        Path(path).name for path in compat.MORE
    }
    assert all((ROOT / path).is_file() for path in compat.suite())


def test_every_gap_names_tests_that_there_are() -> None:
    names = "\n".join(
        f"{Path(path).stem}::{name}"
        for path in compat.suite()
        for name in re.findall(r"^async def (test_\w+)", (ROOT / path).read_text(), re.MULTILINE)
    )
    assert [gap.what for gap in compat.GAPS if not re.search(gap.tests, names)] == []


def test_the_document_names_the_releases_that_codexd_knows_and_the_oldest_one() -> None:
    rows = dict(re.findall(r"^\| (\d[\w.]*) \| `(\w+)` \|", compat.DOCUMENT.read_text(), re.MULTILINE))
    assert {version for version, word in rows.items() if word == "known"} == set(map(text, KNOWN))
    assert text(OLDEST) in rows
    assert {version: support(version).value for version in rows} == rows
