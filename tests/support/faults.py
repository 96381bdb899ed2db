"""A fault counts as survived only where it was seen to happen: tests say so, and it goes with their report.

The rows are those of tests/fault/catalogue.py. A test that makes a fault calls `saw` where the fault is a fact; in its
report it stands among the user properties, from where `make proof` takes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

PROPERTY: Final = "fault"

_reports: list[list[tuple[str, object]]] = []


@contextmanager
def reporting_to(properties: list[tuple[str, object]]) -> Iterator[None]:
    """Inside it, what is seen goes into these user properties of a test."""
    _reports.append(properties)
    try:
        yield
    finally:
        _reports.remove(properties)


def saw(row: str, fact: object, what: str) -> None:
    """The fault of this row happened: `fact` proves it, `what` tells it. Raises AssertionError if it did not."""
    assert fact, f"{row} was not seen to happen: {what}"
    for properties in _reports:
        properties.append((PROPERTY, f"{row} {what}"))
