"""A copy of the log: made, verified, damaged in every way we know, and put in the log's place."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import apsw
import msgspec
import pytest

from baa.api.errors import CannotStart
from baa.api.status import Manifest
from baa.codexd import copies, schema
from baa.sqlite import open_reader
from tests.support.judge import stored
from tests.support.world import World


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The log of a small world in which much happened."""

    async def live() -> Path:
        world = World(3, tmp_path_factory.mktemp("world"))
        await world.run(lives=3, steps=200)
        return world.path

    return asyncio.run(live())


@pytest.fixture
def log(lived: Path, tmp_path: Path) -> Path:
    path = tmp_path / copies.DATABASE
    with closing(open_reader(lived)) as log:
        log.execute("VACUUM INTO ?", (str(path),))
    return path


@pytest.fixture
def backup(log: Path, tmp_path: Path) -> Path:
    copies.make(log, tmp_path / "backup")
    return tmp_path / "backup"


def change(path: Path, *statements: str) -> None:
    with closing(apsw.Connection(str(path))) as connection:
        for statement in statements:
            connection.execute(statement)


def tables_of(path: Path) -> object:
    with closing(open_reader(path)) as connection:
        return stored(connection)


# --- making one


def test_a_backup_holds_the_whole_log_and_says_of_which_it_is(log: Path, backup: Path) -> None:
    assert sorted(path.name for path in backup.iterdir()) == ["codexd.sqlite3", "manifest.json"]
    assert backup.stat().st_mode & 0o777 == 0o700
    with closing(open_reader(log)) as source, closing(open_reader(backup / copies.DATABASE)) as copy:
        events = "SELECT seq, body FROM event ORDER BY seq"
        assert list(copy.execute(events)) == list(source.execute(events))
        ((epoch, head),) = source.execute("SELECT value, (SELECT max(seq) FROM event) FROM meta WHERE key = 'epoch'")
    assert tables_of(backup / copies.DATABASE) == tables_of(log)
    manifest = copies.verified(backup)
    assert (manifest.epoch, manifest.head, manifest.oldest, manifest.schema) == (epoch, head, 1, schema.VERSION)
    assert manifest.bytes == (backup / copies.DATABASE).stat().st_size


def test_a_log_that_was_cut_is_backed_up_and_verified_by_what_was_born_since(log: Path, tmp_path: Path) -> None:
    with closing(open_reader(log)) as source:
        ((cut,),) = source.execute("SELECT max(queued_seq) FROM turn")
    change(log, f"UPDATE meta SET value = {cut} WHERE key = 'oldest'", f"DELETE FROM event WHERE seq < {cut}")

    assert copies.make(log, tmp_path / "backup").oldest == cut
    change(log, f"UPDATE turn SET origin = 'nobody' WHERE queued_seq = {cut}")
    with pytest.raises(CannotStart, match="the tables miss or differ in 1 of turn") as caught:
        copies.make(log, tmp_path / "again")
    assert caught.value.exit_code == 65


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("UPDATE turn SET origin = 'nobody'", "the tables miss or differ in [0-9]+ of turn"),
        ("DELETE FROM item", "the tables miss or differ in [0-9]+ of item"),
        ("DELETE FROM event WHERE type = 'session.registered'", "the tables have no events for [0-9]+ of session"),
        (
            "INSERT INTO session (session_id, created_seq, settings, created_at, updated_at)"
            " VALUES ('ses_x', 99999, '{}', '', '')",
            "the tables have no events for 1 of session",
        ),
    ],
)
def test_a_log_whose_tables_are_not_what_its_events_say_is_not_kept_as_a_backup(
    log: Path, tmp_path: Path, statement: str, told: str
) -> None:
    change(log, statement)
    with pytest.raises(CannotStart, match=told) as caught:
        copies.make(log, tmp_path / "backup")

    assert caught.value.exit_code == 65
    assert sorted(path.name for path in tmp_path.iterdir() if "-" not in path.name[-4:]) == [copies.DATABASE]


def test_a_backup_overwrites_nothing(log: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("folder", "link", "missing/folder"):
        with pytest.raises(CannotStart, match="new folder") as caught:
            copies.make(log, tmp_path / name)
        assert caught.value.exit_code == 73
    assert list((tmp_path / "folder").iterdir()) == []


def test_what_a_killed_one_had_begun_is_removed_by_the_next(log: Path, tmp_path: Path) -> None:
    left, others = tmp_path / ".old.baa-partial", tmp_path / ".mine.partial"
    held = tmp_path / ".held.baa-partial"
    for folder in (left, others, held):
        folder.mkdir()
        (folder / copies.DATABASE).touch()
    lock = os.open(held, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    copies.make(log, tmp_path / "backup")
    assert held.exists()
    os.close(lock)

    assert not left.exists()
    assert others.exists()


# --- verifying one


def flip(backup: Path) -> None:
    with (backup / copies.DATABASE).open("r+b") as file:
        file.seek(5000)
        file.write(b"\xff" * 16)


def shorten(backup: Path) -> None:
    with (backup / copies.DATABASE).open("r+b") as file:
        file.truncate(file.seek(0, 2) - 4096)


def forge(backup: Path, **facts: object) -> None:
    """A manifest that fits its file as it is."""
    manifest = msgspec.json.decode((backup / copies.MANIFEST).read_bytes(), type=Manifest)
    file = backup / copies.DATABASE
    facts = {"bytes": file.stat().st_size, "sha256": copies._sha256(file), **facts}
    (backup / copies.MANIFEST).write_bytes(msgspec.json.encode(msgspec.structs.replace(manifest, **facts)))


def flip_and_forge(backup: Path) -> None:
    change(backup / copies.DATABASE, "UPDATE turn SET reason = 'stalled'")
    forge(backup)


DAMAGES: dict[str, tuple[Callable[[Path], object], int]] = {
    "bytes flipped": (flip, 65),
    "cut off": (shorten, 65),
    "tables wrong, and the manifest made to fit": (flip_and_forge, 65),
    "no log in it": (lambda backup: (backup / copies.DATABASE).unlink(), 66),
    "no manifest": (lambda backup: (backup / copies.MANIFEST).unlink(), 66),
    "another manifest": (lambda backup: (backup / copies.MANIFEST).write_text("{}"), 66),
    "not there": (shutil.rmtree, 66),
    "of a later release": (lambda backup: forge(backup, schema=schema.VERSION + 1), 78),
}


@pytest.mark.parametrize(("damage", "code"), DAMAGES.values(), ids=DAMAGES)
def test_what_is_no_backup_or_a_damaged_one_is_not_put_anywhere(
    log: Path, backup: Path, damage: Callable[[Path], object], code: int
) -> None:
    before = log.read_bytes()
    damage(backup)
    with pytest.raises(CannotStart) as caught:
        copies.install(backup, log.parent)

    assert caught.value.exit_code == code
    assert log.read_bytes() == before


# --- putting one in the log's place


def test_the_log_that_is_there_is_set_aside_with_all_that_it_held(log: Path, backup: Path) -> None:
    writer = apsw.Connection(str(log))
    writer.execute("PRAGMA journal_mode=WAL").fetchall()
    writer.execute("INSERT INTO meta (key, value) VALUES ('later', 'yes')")
    shutil.copy(f"{log}-wal", f"{log}.kept")
    writer.close()
    shutil.move(f"{log}.kept", f"{log}-wal")  # as a kill leaves it
    _, aside = copies.install(backup, log.parent)

    assert aside is not None
    assert not Path(f"{log}-wal").exists()
    with closing(open_reader(aside / copies.DATABASE)) as old:
        assert list(old.execute("SELECT value FROM meta WHERE key = 'later'")) == [("yes",)]
    with closing(open_reader(log)) as new:
        meta = dict(new.execute("SELECT key, value FROM meta"))
    assert "later" not in meta
    assert meta["went_back"].startswith("restored from a backup of ")
    assert tables_of(log) == tables_of(backup / copies.DATABASE)


def test_a_damaged_log_is_set_aside_as_it_is(log: Path, backup: Path) -> None:
    log.write_bytes(b"no database at all")
    log.with_suffix(".damaged").write_text("it is")
    _, aside = copies.install(backup, log.parent)

    assert aside is not None
    assert (aside / copies.DATABASE).read_bytes() == b"no database at all"
    assert (aside / "codexd.damaged").read_text() == "it is"
    assert not log.with_suffix(".damaged").exists()  # what is said of that log is not said of this one
    assert tables_of(log) == tables_of(backup / copies.DATABASE)


def test_where_there_is_no_log_nothing_is_set_aside(backup: Path, tmp_path: Path) -> None:
    (tmp_path / "fresh").mkdir()
    _, aside = copies.install(backup, tmp_path / "fresh")

    assert aside is None
    assert [path.name for path in (tmp_path / "fresh").iterdir()] == [copies.DATABASE]


def test_the_child_of_the_old_log_is_nobodys(log: Path, tmp_path: Path) -> None:
    change(
        log,
        "UPDATE generation SET ended_at = coalesce(ended_at, 'then')",
        "INSERT INTO generation (generation, keeper_id, folder, started_at, child_pid) VALUES (99, 'k', 'f', '', 1)",
        "INSERT INTO outbox (generation, number, line) VALUES (99, 1, x'00')",
    )
    copies.make(log, tmp_path / "backup")
    copies.install(tmp_path / "backup", log.parent)

    with closing(open_reader(log)) as new:
        assert list(new.execute("SELECT count(*) FROM generation WHERE ended_at IS NULL")) == [(0,)]
        assert list(new.execute("SELECT count(*) FROM outbox")) == [(0,)]
