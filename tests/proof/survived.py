"""Runs the catalogue of faults and counts: a row is survived if its tests pass and its fault was seen to happen.

    python -m tests.proof.survived --rows F01,F20 --json

A row whose tests pass and say nothing, or do not run here, is inconclusive. Exit code 1 unless all rows that somebody
makes are survived.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

from tests.fault.catalogue import CATALOGUE, Row
from tests.proof.figures import Figure, told
from tests.support.faults import PROPERTY

ROOT: Final = Path(__file__).parents[2]


@dataclass
class Outcome:
    """What became of one test: its cases that passed, those that did not, and what they saw."""

    passed: int = 0
    failed: int = 0
    saw: set[str] = field(default_factory=set)


def outcomes(report: ElementTree.Element) -> dict[str, Outcome]:
    """The outcomes of a JUnit report by node id, the cases of a parametrized test together."""
    found: dict[str, Outcome] = {}
    for case in report.iter("testcase"):
        path = case.attrib["classname"].replace(".", "/") + ".py"
        outcome = found.setdefault(f"{path}::{case.attrib['name'].partition('[')[0]}", Outcome())
        if case.find("failure") is not None or case.find("error") is not None or case.find("skipped") is not None:
            outcome.failed += 1
        else:
            outcome.passed += 1
        for each in case.iter("property"):
            if each.attrib["name"] == PROPERTY:
                outcome.saw.add(each.attrib["value"])
    return found


def verdict(row: Row, found: dict[str, Outcome]) -> tuple[str, list[str]]:
    """`survived`, `failed`, `inconclusive` or `not made`, and what was seen."""
    if not row.tests:
        return "not made", [row.why]
    results = [found.get(node_id, Outcome()) for node_id in row.tests]
    seen = sorted(what for result in results for what in result.saw if what.startswith(f"{row.id} "))
    if any(result.failed for result in results):
        return "failed", seen
    silent = [r for r in results if not r.passed or not any(what.startswith(f"{row.id} ") for what in r.saw)]
    return ("inconclusive" if silent else "survived"), seen


def run(rows: Iterable[Row], workers: int) -> dict[str, Outcome]:
    """Run their tests, in view; what became of each."""
    tests = sorted({node_id for row in rows for node_id in row.tests})
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-n",
            str(workers),
            "--dist",
            "loadfile",
            "-p",
            "no:cacheprovider",
        ]
        subprocess.run([*command, f"--junitxml={report}", *tests], cwd=ROOT, stdout=sys.stderr, check=False)
        return outcomes(ElementTree.parse(report).getroot()) if report.exists() else {}  # noqa: S314  (our own)


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="", help="only these, separated by commas")
    parser.add_argument("--workers", type=int, default=int(os.environ.get("WORKERS", "2")), help="test processes (2)")
    parser.add_argument("--json", action="store_true", help="the figure as JSON")
    given = parser.parse_args()
    wanted = set(filter(None, given.rows.split(",")))
    rows = [row for row in CATALOGUE if not wanted or row.id in wanted]
    found = run(rows, given.workers)
    verdicts = {row: verdict(row, found) for row in rows}
    for row, (what, seen) in verdicts.items():
        print(f"{row.id}  {what:12}  {row.fault}", *(f"      {each}" for each in seen), sep="\n", file=sys.stderr)
    made = [what for what, _ in verdicts.values() if what != "not made"]
    survived = Figure("faults_survived", made.count("survived"), "faults", len(made), must=len(made))
    print(told([survived], as_json=given.json))
    return 0 if survived.holds else 1


if __name__ == "__main__":
    sys.exit(main())
