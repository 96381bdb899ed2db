"""`baa token`: shown for programs that speak HTTP by themselves, and made anew."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from baa.http.tokens import load_tokens
from tests.unit.test_cli_service import baa


def test_a_token_is_shown_and_made_first_if_there_is_none(tmp_path: Path) -> None:
    done = baa(tmp_path, "token", "show", "drive")
    made = load_tokens(tmp_path / "baa" / "state" / "tokens")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{made.drive}\n", "")
    assert baa(tmp_path, "token", "show").stdout == f"{made.read}\n", "the one that may only look"
    told = json.loads(baa(tmp_path, "token", "show", "read", "--json").stdout)
    assert told["token"] == made.read
    assert Path(told["file"]).read_text().strip() == made.read


def test_new_tokens_take_the_place_of_the_old_ones(tmp_path: Path) -> None:
    folder = tmp_path / "baa" / "state" / "tokens"
    baa(tmp_path, "token", "show")
    before = load_tokens(folder)
    done = baa(tmp_path, "token", "rotate", "drive")
    after = load_tokens(folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"New: {folder / 'drive'}\n"
    assert after.drive not in done.stdout
    assert (after.read, after.drive != before.drive) == (before.read, True)
    assert json.loads(baa(tmp_path, "token", "rotate", "--json").stdout)["changed"] == ["read", "drive"]
    assert load_tokens(folder).read != before.read


@pytest.mark.parametrize("command", ["show", "rotate"])
def test_help_has_an_example_and_a_wrong_name_is_refused(tmp_path: Path, command: str) -> None:
    assert "Example: " in baa(tmp_path, "token", command, "--help").stdout
    done = baa(tmp_path, "token", command, "write")
    assert (done.returncode, done.stdout) == (64, "")
    assert "read" in done.stderr
    assert not (tmp_path / "baa").exists()
