"""The tokens of a running server: changed files are seen at once, and one that cannot be used is no token."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from baa.http.keyring import TokenFiles
from baa.http.tokens import ensure_tokens, rotate_tokens


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "state" / "tokens"
    ensure_tokens(folder)
    return folder


async def test_new_tokens_are_taken_at_the_next_look_and_the_old_ones_are_gone(folder: Path) -> None:
    files = TokenFiles(folder)
    before, heard = dict(files.now()), files.changed
    made = rotate_tokens(folder)
    assert files.now() == {"read": made.read, "drive": made.drive}
    assert not set(before.values()) & set(files.now().values())
    assert heard.is_set()
    assert not files.changed.is_set()


async def test_one_token_is_changed_alone(folder: Path) -> None:
    files = TokenFiles(folder)
    before = dict(files.now())
    made = rotate_tokens(folder, ("read",))
    assert files.now() == {"read": made.read, "drive": before["drive"]}
    assert made.read != before["read"]


async def test_what_did_not_change_is_not_read_again(folder: Path) -> None:
    files = TokenFiles(folder)
    known, heard = files.now(), files.changed
    assert files.now() is known
    assert files.changed is heard


async def test_a_file_that_others_can_read_or_that_is_gone_refuses_everybody_until_it_is_mended(folder: Path) -> None:
    files = TokenFiles(folder)
    known = dict(files.now())
    (folder / "drive").chmod(0o644)
    assert files.now() == {}
    (folder / "drive").chmod(0o600)
    assert files.now() == known
    os.rename(folder / "read", folder / "elsewhere")
    assert files.now() == {}
    os.rename(folder / "elsewhere", folder / "read")
    assert files.now() == known


async def test_two_equal_tokens_are_none(folder: Path) -> None:
    files = TokenFiles(folder)
    (folder / "read").write_text((folder / "drive").read_text())
    assert files.now() == {}
