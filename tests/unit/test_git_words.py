"""What git says, and what is kept of long output, without running git."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baa.worker.capped import Capped
from baa.worker.git import Said, Trouble, failure


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("fatal: not a git repository (or any of the parent directories): .git", Trouble.NOT_A_REPOSITORY),
        ("fatal: this operation must be run in a work tree", Trouble.NOT_A_REPOSITORY),
        ("fatal: 'baa/tsk_1' is already checked out at '/work'", Trouble.BRANCH_IN_USE),
        ("fatal: 'baa/tsk_1' is already used by worktree at '/work'", Trouble.BRANCH_IN_USE),
        ("error: unable to write file a: No space left on device", Trouble.DISK_FULL),
        ("fatal: sha1 file 'x' write error: Disk quota exceeded", Trouble.DISK_FULL),
        ("fatal: detected dubious ownership in repository at '/work'", Trouble.GIT_FAILED),
        ("", Trouble.GIT_FAILED),
    ],
)
def test_gits_words_have_a_code_and_what_to_do(words: str, code: Trouble) -> None:
    failed = failure(Path("/work"), ("worktree", "add"), Said(128, Capped(10), words))
    assert failed.code is code
    assert "/work" in failed.message
    if code is Trouble.GIT_FAILED:
        assert (words or "it said nothing") in failed.message


@given(st.lists(st.binary(max_size=40), max_size=20), st.integers(min_value=2, max_value=60))
def test_the_beginning_and_the_end_are_kept(pieces: list[bytes], limit: int) -> None:
    whole, capped = b"".join(pieces), Capped(limit)
    for piece in pieces:
        capped.feed(piece)
    assert capped.left_out == max(0, len(whole) - limit)
    if len(whole) <= limit:
        assert capped.data == whole
    else:
        half = limit // 2
        assert capped.data == whole[:half] + whole[len(whole) - (limit - half) :]
        assert f"[... {capped.left_out} bytes are left out here ...]" in capped.text()
    assert "\0" not in capped.text()
