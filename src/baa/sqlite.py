"""SQLite as every program here opens it: one copy of the library (apsw's), WAL, and a full sync at each commit."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import apsw

BUSY_MS: Final = 5000
"""Milliseconds to wait for a lock. There is one writer, so only a checkpoint or a backup is ever waited for."""

AGAIN_S: Final = 0.01
"""Seconds between two tries to make a new file one of WAL, where SQLite itself does not wait for the lock."""


PRAGMAS: Final = (
    "synchronous=FULL",
    "fullfsync=ON",  # macOS only: there fsync alone does not reach the disk
    "checkpoint_fullfsync=ON",
    "foreign_keys=ON",
    "trusted_schema=OFF",
    "cell_size_check=ON",
    "temp_store=MEMORY",
    "wal_autocheckpoint=4000",
    "journal_size_limit=67108864",
)
"""How every connection that writes is set up, whichever library opens it."""


def open_writer(path: Path) -> apsw.Connection:
    """The writing connection; makes the file if there is none.

    `synchronous=FULL`: what is acknowledged has been synced. Raises apsw.Error.
    """
    connection = apsw.Connection(str(path))
    connection.set_busy_timeout(BUSY_MS)
    _use_wal(connection)
    for pragma in PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")
    return connection


def _use_wal(connection: apsw.Connection) -> None:
    """Programs that open a new file at once all want to change it, and SQLite tells all but one at once: busy."""
    until = time.monotonic() + BUSY_MS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except apsw.BusyError:
            if time.monotonic() > until:
                raise
            time.sleep(AGAIN_S)
        else:
            return


def open_reader(path: Path) -> apsw.Connection:
    """A connection that only reads. Raises apsw.Error if there is no such file."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    connection.set_busy_timeout(BUSY_MS)
    connection.execute("PRAGMA trusted_schema=OFF")
    return connection
