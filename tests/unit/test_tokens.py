"""The token files: made once and for this user only; a file that others might know is refused with its cure."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from baa.api.errors import EX_CONFIG, CannotStart
from baa.http.tokens import Tokens, ensure_tokens, load_token, load_tokens
from tests.support.faults import saw


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state" / "tokens"


def test_tokens_are_made_once_for_this_user_only(folder: Path) -> None:
    made = ensure_tokens(folder)

    assert ensure_tokens(folder) == load_tokens(folder) == made
    assert made.read != made.drive
    assert load_token(folder / "drive") == made.drive
    assert len(made.read) >= 43
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {
        ".lock": 0o600,
        "read": 0o600,
        "drive": 0o600,
    }


def test_tokens_do_not_show_in_a_repr() -> None:
    assert repr(Tokens(read="r" * 43, drive="d" * 43)) == "Tokens()"


def test_programs_that_start_together_agree(folder: Path) -> None:
    with ThreadPoolExecutor(8, initializer=None) as threads:
        seen = set(threads.map(ensure_tokens, [folder] * 8))

    assert len(seen) == 1


def test_processes_that_start_together_agree(folder: Path) -> None:
    with get_context("spawn").Pool(4) as pool:
        seen = set(pool.map(ensure_tokens, [folder] * 8, chunksize=1))

    assert len(seen) == 1


def test_a_draft_left_by_a_crash_is_no_token_and_no_hindrance(folder: Path) -> None:
    folder.mkdir(parents=True, mode=0o700)
    (folder / ".drive.new").write_text("half")

    assert len(ensure_tokens(folder).drive) >= 43


def test_a_missing_token_is_made_beside_the_one_that_is_there(folder: Path) -> None:
    before = ensure_tokens(folder)
    (folder / "read").unlink()

    after = ensure_tokens(folder)

    assert after.drive == before.drive
    assert after.read != before.read


def make_open_to_group(path: Path) -> None:
    path.chmod(0o640)


def make_symlink(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def make_dangling_symlink(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def make_hard_link(path: Path) -> None:
    os.link(path, path.with_name("elsewhere"))


def make_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir(mode=0o700)


def make_short(path: Path) -> None:
    path.write_text("x" * 42)


def make_empty(path: Path) -> None:
    path.write_text("")


def make_binary(path: Path) -> None:
    path.write_bytes(b"\xff" * 50)


def make_two_lines(path: Path) -> None:
    path.write_text("x" * 43 + "\n" + "y" * 43)


@pytest.mark.parametrize(
    "spoil",
    [
        make_open_to_group,
        make_symlink,
        make_dangling_symlink,
        make_hard_link,
        make_fifo,
        make_folder,
        make_short,
        make_empty,
        make_binary,
        make_two_lines,
    ],
)
def test_a_token_file_that_cannot_be_trusted_is_refused_by_name_and_cure(folder: Path, spoil) -> None:  # type: ignore[no-untyped-def]
    ensure_tokens(folder)
    spoil(folder / "drive")

    with pytest.raises(CannotStart) as caught:
        ensure_tokens(folder)

    assert caught.value.exit_code == EX_CONFIG
    assert str(folder / "drive") in caught.value.message
    assert "Delete it" in caught.value.message
    saw("F90", caught.value.exit_code == EX_CONFIG, "a token file could not be trusted")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_token_file_of_another_user_is_refused(folder: Path) -> None:
    ensure_tokens(folder)
    os.chown(folder / "read", 12345, -1)

    with pytest.raises(CannotStart, match="belongs to user id 12345"):
        load_tokens(folder)


def test_a_folder_open_to_others_is_refused(folder: Path) -> None:
    ensure_tokens(folder)
    folder.chmod(0o755)

    with pytest.raises(CannotStart, match="chmod 700"):
        ensure_tokens(folder)


def test_a_folder_that_is_a_link_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.parent.mkdir()
    folder.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(CannotStart, match="not a folder of this user"):
        ensure_tokens(folder)


def test_two_equal_tokens_are_refused_for_the_read_token_would_drive(folder: Path) -> None:
    ensure_tokens(folder)
    (folder / "read").write_text((folder / "drive").read_text())

    with pytest.raises(CannotStart, match="same token"):
        load_tokens(folder)


def test_no_tokens_yet_says_who_makes_them(folder: Path) -> None:
    with pytest.raises(CannotStart, match="Start codexd once"):
        load_token(folder / "drive")
