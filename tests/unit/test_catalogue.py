"""The catalogue of faults is whole, and what it names is there and says what it saw."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

from tests.fault.catalogue import CATALOGUE, Row

ROOT = Path(__file__).resolve().parents[2]
NUMBERS = (*range(1, 19), *range(20, 31), *range(40, 52), *range(55, 64), *range(70, 91))


@cache
def functions(path: str) -> dict[str, str]:
    """The source of each test of a file."""
    text = (ROOT / path).read_text()
    nodes = (node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return {node.name: ast.get_source_segment(text, node) or "" for node in nodes}


def test_no_row_is_missing_and_none_is_there_twice() -> None:
    assert [row.id for row in CATALOGUE] == [f"F{number:02}" for number in NUMBERS]


@pytest.mark.parametrize("row", CATALOGUE, ids=[row.id for row in CATALOGUE])
def test_a_row_names_tests_that_say_when_they_saw_it(row: Row) -> None:
    assert row.tests or row.why
    for node_id in row.tests:
        path, _, name = node_id.partition("::")
        assert name in functions(path), f"{node_id} is not there"
        assert f'saw("{row.id}"' in functions(path)[name], f"{node_id} does not say that it saw {row.id}"
