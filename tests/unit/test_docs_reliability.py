"""What docs/reliability.md names is there: faults of the catalogue, and tests."""

from __future__ import annotations

import re
from pathlib import Path

from tests.fault.catalogue import CATALOGUE

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "reliability.md").read_text()
PROMISED = (*range(1, 21), 23, 24, 26)


def test_every_promise_has_its_row() -> None:
    assert re.findall(r"^\| P(\d+) \|", TEXT, re.MULTILINE) == [str(number) for number in PROMISED]


def test_what_shows_a_promise_is_there() -> None:
    faults = {row.id for row in CATALOGUE if row.tests}
    assert set(re.findall(r"\bF\d\d\b", TEXT)) - faults == set()
    named = re.findall(r"tests/[\w/]+\.py|tests/\w+/(?!\w)", TEXT)
    assert [name for name in named if not (ROOT / name).exists()] == []
