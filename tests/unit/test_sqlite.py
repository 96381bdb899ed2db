"""SQLite as every program opens it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Barrier

import apsw
import pytest

from baa.sqlite import open_reader, open_writer

MANY = 8
ROUNDS = 25


def test_many_may_open_a_new_file_at_once(tmp_path: Path) -> None:
    """SQLite waits for every lock but the one that makes a new file one of WAL."""
    together = Barrier(MANY, timeout=20)

    def work(path: Path) -> str:
        together.wait()
        with closing(open_writer(path)) as connection:
            connection.execute("BEGIN IMMEDIATE; CREATE TABLE IF NOT EXISTS t (a); INSERT INTO t VALUES (1); COMMIT")
            (mode,) = next(connection.execute("PRAGMA journal_mode"))
            return str(mode)

    with ThreadPoolExecutor(MANY) as threads:
        for number in range(ROUNDS):
            path = tmp_path / str(number)
            assert list(threads.map(work, [path] * MANY)) == ["wal"] * MANY
            with closing(open_reader(path)) as reader:
                assert next(reader.execute("SELECT count(*) FROM t")) == (MANY,)


def test_a_reader_makes_no_file(tmp_path: Path) -> None:
    with pytest.raises(apsw.CantOpenError):
        open_reader(tmp_path / "none")
    assert list(tmp_path.iterdir()) == []
