"""README.md and README.zh-CN.md: what one says, the other says; what is typed and named is the same in both."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from tests.support.commands import commands

ROOT: Final = Path(__file__).resolve().parents[2]
ENGLISH, CHINESE = ((ROOT / name).read_text() for name in ("README.md", "README.zh-CN.md"))


def typed(text: str) -> list[str]:
    """What is typed or set, without comments and without what is said to Codex."""
    blocks = re.findall(r"^```(?:toml)?\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = [re.sub(r"\s+#.*", "", line) for block in blocks for line in block.splitlines() if line]
    return [re.sub(r'(run|add|"prompt":) "[^"]*"', r'\1 "…"', line) for line in lines]


def linked(text: str) -> set[str]:
    """Where it leads, but for the other language."""
    return set(re.findall(r"\]\(([^)]+)\)", text)) - {"README.md", "README.zh-CN.md"}


def rows(text: str) -> list[list[str]]:
    """Of each row of a table what is named in its first two cells, in code."""
    return [re.findall(r"`([^`]+)`", "|".join(line.split("|")[1:3])) for line in text.splitlines() if line[:1] == "|"]


def test_the_same_is_typed_and_set() -> None:
    assert typed(CHINESE) == typed(ENGLISH)


def test_both_lead_to_the_same_pages() -> None:
    assert linked(CHINESE) == linked(ENGLISH)


def test_both_name_the_same_programs_and_routes() -> None:
    programs = [cells for cells in rows(ENGLISH) if cells and cells[0][0].isdigit()]
    routes = [cells[0] for cells in rows(ENGLISH) if cells and "/" in cells[0]]
    assert (len(programs), len(routes)) == (3, 15)
    assert [cells for cells in rows(CHINESE) if cells and cells[0][0].isdigit()] == programs
    assert [cells[0] for cells in rows(CHINESE) if cells and "/" in cells[0]] == routes


def test_both_promise_as_much() -> None:
    promises = [
        next(part for part in text.split("## ") if part.startswith(heading)).count("\n- ")
        for text, heading in ((ENGLISH, "What holds"), (CHINESE, "保证"))
    ]
    assert promises[0] == promises[1] > 5


@pytest.mark.parametrize("text", [ENGLISH, CHINESE], ids=["en", "zh"])
def test_every_command_that_is_named_there_is_one(text: str) -> None:
    known = {command.words[0] for command in commands()}
    named = set(re.findall(r"(?:`|bin/)baa ([a-z]+)", text))
    assert named <= known
    assert len(named) > 10
