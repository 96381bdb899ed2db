"""The log's file as SQLite keeps it: its settings, a write-ahead file that comes back, and what an upgrade does."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from baa.clock import SystemClock
from baa.codexd import opening, schema, tables
from baa.codexd.eventlog import EventLog, Transaction
from baa.sqlite import open_reader, open_writer
from tests.support.faults import saw
from tests.unit.test_eventlog import committed, opened, registered, stored, turn_with_item, warning

LIMIT = 64 << 20

KILLED = """
import os, signal, sys
from pathlib import Path
import apsw
from baa.codexd import opening, schema, tables

def kill(cursor, statement, bindings):
    if statement.startswith("PRAGMA user_version ="):
        os.kill(os.getpid(), signal.SIGKILL)
    return True

def hook(connection):
    connection.exec_trace = kill

apsw.connection_hooks.append(hook)
opening.opened(Path(sys.argv[1]), lambda c: schema.prepare(c, epoch="e", daemon_id="d", fold=tables.fold))
"""


def facts(path: Path) -> list[list[tuple[object, ...]]]:
    """All rows of all folded tables, and the version."""
    with closing(open_reader(path)) as connection:
        told = [connection.execute(f"SELECT * FROM {table}").fetchall() for table in schema.FOLDED]
        return [*told, connection.execute("PRAGMA user_version").fetchall()]


async def older(path: Path, version: int, *, size: int = 0) -> None:
    """A log as a release of this schema left it, with an event of this size at its end."""
    async with opened(path) as log:
        await committed(log, Transaction([registered(), *turn_with_item(), warning("x"), warning("x" * size)]))
    with closing(open_writer(path)) as connection:
        connection.execute("DROP TABLE sealed; DROP TABLE held")
        if version < 3:
            connection.execute("DROP TABLE mark; DELETE FROM meta WHERE key IN ('oldest', 'compacted', 'ran_ms')")
        if version == 1:
            connection.execute("DROP TABLE loaded; DROP TABLE agent; DROP TABLE ending; DROP TABLE timer")
            connection.execute("ALTER TABLE outbox DROP COLUMN note")
        connection.execute(f"PRAGMA user_version = {version}")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def test_the_settings_of_a_writer_are_those_that_were_decided(tmp_path: Path) -> None:
    with closing(open_writer(tmp_path / "log")) as connection:
        wanted = {
            "journal_mode": "wal",
            "synchronous": 2,  # FULL
            "fullfsync": 1,
            "checkpoint_fullfsync": 1,
            "foreign_keys": 1,
            "trusted_schema": 0,
            "cell_size_check": 1,
            "temp_store": 2,  # MEMORY
            "journal_size_limit": LIMIT,
        }
        assert {name: next(connection.execute(f"PRAGMA {name}"))[0] for name in wanted} == wanted


async def test_a_long_reader_makes_the_write_ahead_file_grow_and_it_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "log.sqlite3"
    wal = Path(f"{path}-wal")
    big = "x" * (1 << 20)
    async with opened(path) as log:
        await committed(log, Transaction([warning("first")]))
        with closing(open_reader(path)) as reader, reader:
            reader.execute("SELECT * FROM event").fetchall()
            for _ in range(20):
                await committed(log, Transaction([warning(big)] * 4))
            grown = wal.stat().st_size
            saw("F49", grown > LIMIT, f"a reader held the write-ahead file at {grown} bytes")
            assert reader.execute("SELECT count(*) FROM event").fetchall() == [(1,)]
        for _ in range(2):  # one copies all of it, the next begins the file anew
            await committed(log, Transaction([warning("after")]))
        assert wal.stat().st_size <= LIMIT
        assert log.head == 83


@pytest.mark.parametrize("version", [1, 2, 3])
async def test_an_upgrade_keeps_a_copy_and_gives_the_same_tables(tmp_path: Path, version: int) -> None:
    path = tmp_path / "log.sqlite3"
    await older(path, version)
    rows, before = stored(path), facts(path)
    async with opened(path) as log:
        assert log.head == len(rows)
    assert facts(path)[:-1] == before[:-1]
    assert stored(path) == rows
    copy = path.with_name(f"{path.name}.schema-{version}")
    assert facts(copy) == before
    assert stored(copy) == rows


@pytest.mark.parametrize("version", [1, 2, 3])
async def test_an_upgrade_that_is_killed_leaves_the_old_log_whole(tmp_path: Path, version: int) -> None:
    path = tmp_path / "log.sqlite3"
    await older(path, version)
    rows, before = stored(path), facts(path)
    run = [sys.executable, "-c", KILLED, str(path)]
    killed = await asyncio.to_thread(subprocess.run, run, check=False)
    saw("F46", killed.returncode == -signal.SIGKILL, f"killed before the upgrade from schema {version} was whole")
    assert facts(path) == before
    async with opened(path):
        assert stored(path) == rows
    assert facts(path)[:-1] == before[:-1]


async def test_an_upgrade_whose_copy_cannot_be_made_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "log.sqlite3"
    await older(path, 2)
    before = facts(path)
    copy = path.with_name(f"{path.name}.schema-2")
    copy.mkdir()
    with pytest.raises(OSError, match="schema-2"):
        EventLog(path, clock=SystemClock())
    assert facts(path) == before
    assert not list(tmp_path.glob("*.part"))


def test_a_copy_is_there_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "log.sqlite3"
    with closing(open_writer(path)) as connection:
        schema.prepare(connection, epoch="e", daemon_id="d", fold=tables.fold)
        Path(f"{path}.schema-7.part").write_bytes(b"half of one that was cut off")
        copy = opening.keep_copy(connection, path, 7)
    with closing(apsw.Connection(str(copy), flags=apsw.SQLITE_OPEN_READONLY)) as connection:
        assert next(connection.execute("SELECT value FROM meta WHERE key = 'epoch'")) == ("e",)
    assert copy.stat().st_mode & 0o777 == 0o600
