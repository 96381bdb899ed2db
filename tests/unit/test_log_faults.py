"""A log whose files were damaged while nobody looked: what is left of it is right, or it is said that it is not."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from baa.clock import SystemClock
from baa.codexd import opening
from baa.codexd.eventlog import EventLog, Transaction
from baa.codexd.highwater import HighWater, Mark, digest_of, packed, read
from baa.sqlite import open_reader, open_writer
from tests.support.faults import saw
from tests.unit.test_eventlog import committed, opened, registered, stored, turn_with_item, warning

EVENTS = 120


async def fill(path: Path) -> list[tuple[int, str | None, str, bytes]]:
    """A log whose events are still in the write-ahead file, and its mark with them; what it holds."""
    async with opened(path) as log:
        await committed(log, Transaction([registered(), *turn_with_item()]))
        for number in range(EVENTS):
            await committed(log, Transaction([warning(f"{number} " + "x" * (number * 37 % 900))]))
        keeps_the_wal = open_reader(path)
        keeps_the_wal.execute("SELECT count(*) FROM event").fetchall()
    rows = stored(path)
    for part in (path, Path(f"{path}-wal"), Path(f"{path}-shm"), opening.mark_of(path)):
        shutil.copyfile(part, f"{part}.kept")
    keeps_the_wal.close()
    return rows


def put_back(path: Path, to: Path) -> None:
    for part in (path, Path(f"{path}-wal"), Path(f"{path}-shm"), opening.mark_of(path)):
        shutil.copyfile(f"{part}.kept", to / part.name)


def flip(file: Path, at: int, count: int = 16) -> None:
    content = bytearray(file.read_bytes())
    for offset in range(at, min(at + count, len(content))):
        content[offset] ^= 0x5A
    file.write_bytes(content)


def scribble(file: Path, content: bytes) -> None:
    file.write_bytes(content)


async def test_whatever_happens_to_the_write_ahead_file_the_rows_are_right_or_the_loss_is_said(tmp_path: Path) -> None:
    seed = int(os.environ.get("BAA_TEST_SEED") or random.randrange(2**32))
    print(f"BAA_TEST_SEED={seed}")
    rng = random.Random(seed)
    path = tmp_path / "log.sqlite3"
    rows = await fill(path)
    size = Path(f"{path}-wal").with_name("log.sqlite3-wal.kept").stat().st_size
    assert size > 100_000
    damage: list[Callable[[Path], None]] = [
        *((lambda wal, at=at: flip(wal, at)) for at in rng.sample(range(size), 40)),
        *((lambda wal, at=at: os.truncate(wal, at)) for at in rng.sample(range(size), 20)),
        lambda wal: wal.unlink(),
        lambda wal: scribble(wal.with_name("log.sqlite3-shm"), rng.randbytes(32768)),
    ]
    lost = 0
    for number, strike in enumerate(damage):
        folder = tmp_path / str(number)
        folder.mkdir()
        put_back(path, folder)
        strike(folder / "log.sqlite3-wal")
        log = EventLog(folder / path.name, clock=SystemClock())
        try:
            found = [row for row in stored(log.path) if row[0] <= rows[-1][0]]
            assert found == rows[: len(found)]
            if len(found) < len(rows):
                lost += 1
                assert (log.went_back is not None) or (log.replaced is not None)
            else:
                assert (log.went_back, log.replaced, log.problem) == (None, None, None)
        finally:
            await asyncio.to_thread(log.close)
        shutil.rmtree(folder)
    saw("F44", lost > 20, f"{lost} of {len(damage)} kinds of damage cost rows (seed {seed})")


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: flip(path, 0, 100),
        lambda path: path.write_bytes(b"\0" * 4096 + path.read_bytes()[4096:]),
        lambda path: os.truncate(path, path.stat().st_size // 2),
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: (path.rename(path.with_suffix(".elsewhere")), path.symlink_to(path.with_suffix(".elsewhere"))),
        lambda path: opening.put_down_damage(path, "somebody said so"),
    ],
    ids=["header flipped", "first page zeroed", "cut in half", "a folder", "a symbolic link", "said to be damaged"],
)
async def test_a_damaged_log_is_set_aside_whole_and_another_begins(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    path = tmp_path / "log.sqlite3"
    async with opened(path) as log:
        await committed(log, Transaction([registered(), *turn_with_item()]), Transaction([warning("x")] * 500))
        epoch = log.epoch
    damage(path)
    async with opened(path) as log:
        assert log.epoch != epoch
        assert log.head == 0
        assert log.problem is not None
        assert "damaged" in log.problem
        await committed(log, Transaction([warning("y")]))
    (aside,) = tmp_path.glob("quarantine-*")
    saw("F45", (aside / path.name).exists(), log.problem)
    assert (aside / "log.mark").exists()
    assert str(aside) in log.problem
    async with opened(path) as log:
        assert (log.head, log.problem, log.went_back) == (1, None, None)


async def test_an_emptied_or_removed_log_is_noticed(tmp_path: Path) -> None:
    for number in range(2):
        path = tmp_path / str(number) / "log.sqlite3"
        path.parent.mkdir()
        async with opened(path) as log:
            await committed(log, Transaction([warning("x")] * 3))
        path.unlink()
        if number:
            path.touch()
        async with opened(path) as log:
            assert log.went_back == "it ends at seq 0, and had come to 3"


async def test_damage_among_the_events_is_found_by_the_look_at_all_of_it(tmp_path: Path) -> None:
    path = tmp_path / "log.sqlite3"
    async with opened(path) as log:
        await committed(log, *(Transaction([warning("x" * 2000)] * 50) for _ in range(20)))
    assert await opening.check(path) is None
    with closing(open_reader(path)) as connection:
        ((root,),) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'event'")
        ((page,),) = connection.execute("PRAGMA page_size")
    flip(path, (root - 1) * page, 64)
    try:
        flaw = await opening.check(path)
    except apsw.CorruptError as corrupt:
        flaw = str(corrupt)
    assert flaw is not None


async def test_a_log_that_lost_its_end_stays_distrusted_until_its_new_epoch_is_committed(tmp_path: Path) -> None:
    path = tmp_path / "log.sqlite3"
    async with opened(path) as log:
        await committed(log, Transaction([warning("x")] * 9))
    with closing(open_writer(path)) as connection:
        connection.execute("DELETE FROM event WHERE seq > 5")
    for _ in range(2):
        async with opened(path) as log:
            assert log.went_back is not None
            await committed(log, Transaction([warning("started")]))
    async with opened(path) as log:
        assert log.went_back == "it ends at seq 7, and had come to 9"
        transaction = Transaction()
        log.change_epoch(transaction)
        await committed(log, transaction, Transaction([warning("anew")]))
    assert read(opening.mark_of(path)) == Mark(2, 8, digest_of(stored(path)[-1][3]))
    flip(opening.mark_of(path), 0)
    flip_slot_back = HighWater(opening.mark_of(path))
    assert flip_slot_back.mark is not None
    assert flip_slot_back.mark.seq == 8
    async with opened(path) as log:
        assert (log.went_back, log.problem) == (None, None)


async def test_another_event_under_the_same_seq_is_another_log_and_one_let_go_of_is_not(tmp_path: Path) -> None:
    path = tmp_path / "log.sqlite3"
    async with opened(path) as log:
        await committed(log, Transaction([warning("x")] * 9))
    with closing(open_writer(path)) as connection:
        connection.execute("UPDATE event SET body = CAST('other' AS BLOB) WHERE seq = 9")
        assert HighWater(opening.mark_of(path)).contradicts(connection) == "its event 9 is not the one that was there"
        connection.execute("DELETE FROM event WHERE seq = 9")
        connection.execute("INSERT INTO event (seq, type, body) VALUES (10, 'x', x'00')")
        assert HighWater(opening.mark_of(path)).contradicts(connection) is None


# --- the mark's own file


def test_a_torn_slot_costs_no_more_than_the_last_mark(tmp_path: Path) -> None:
    path = tmp_path / "mark"
    for torn, left in ((0, 3), (1, 2)):  # the third mark is in slot 1
        water = HighWater(path)
        for seq in range(1, 4):
            water.put(seq, b"%d" % seq)
        water.close()
        assert read(path) == Mark(3, 3, digest_of(b"3"))
        flip(path, torn * 4096 + 5, 3)
        found = read(path)
        assert found is not None
        assert found.seq == left
        saw("F47", packed(found) in path.read_bytes(), f"slot {torn} was torn, mark {left} is left")
        path.unlink()


@pytest.mark.parametrize("content", [b"", b"x", b"\0" * 8192, packed(Mark(1, 2, b"x" * 16))[:-1]])
def test_a_file_without_a_good_slot_is_no_mark_and_no_alarm(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mark"
    path.write_bytes(content)
    assert read(path) is None
    water = HighWater(path)
    water.put(7, b"seven")
    water.close()
    assert read(path) == Mark(1, 7, digest_of(b"seven"))


def test_a_mark_that_was_deleted_or_replaced_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "mark"
    water = HighWater(path)
    water.put(1, b"one")
    path.unlink()
    water.put(2, b"two")
    assert read(path) == Mark(2, 2, digest_of(b"two"))
    (tmp_path / "other").write_bytes(b"other")
    (tmp_path / "other").rename(path)
    water.put(3, b"three")
    water.close()
    assert read(path) == Mark(3, 3, digest_of(b"three"))


def test_a_mark_that_cannot_be_written_is_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "mark"
    path.mkdir()
    water = HighWater(path)
    water.put(1, b"one")
    assert water.mark is None
