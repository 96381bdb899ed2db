"""`unixepoch('subsec')` where SQLite has it not: before 3.42 it is null.

From Python 3.12 on the queue's library takes for granted that SQLite has it, in its tables' defaults and its queries;
but which SQLite a Python comes with is a matter of who built it.
"""

from __future__ import annotations

import sqlite3  # noqa: TID251  (the library's connections are of this; none is opened here)
import time
from typing import Any, Final

import sqlalchemy as sa

SINCE: Final = (3, 42)


def listen() -> None:
    """From now on every SQLite connection of this process has it."""
    if sqlite3.sqlite_version_info < SINCE and not sa.event.contains(sa.Engine, "connect", _connected):
        sa.event.listen(sa.Engine, "connect", _connected)


def _connected(connection: Any, _: object) -> None:
    if isinstance(connection, sqlite3.Connection):
        connection.create_function("unixepoch", 1, _unixepoch)


def _unixepoch(modifier: object) -> float:
    if modifier not in ("subsec", "subsecond"):
        raise ValueError(f"unixepoch({modifier!r}) is not made up for")
    return time.time()
