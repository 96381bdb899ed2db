"""The engine's tables. A time in milliseconds is one of the database's clock, good only within its `boot_id`."""

from __future__ import annotations

from typing import Final

import apsw

VERSION: Final = 1

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS lease (
  name TEXT PRIMARY KEY, holder TEXT NOT NULL, node_id TEXT NOT NULL, term INTEGER NOT NULL,
  boot_id TEXT NOT NULL, expires_ms INTEGER NOT NULL, expires_at TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS node (
  node_id TEXT PRIMARY KEY, incarnation TEXT NOT NULL, version TEXT NOT NULL, slots INTEGER NOT NULL,
  state TEXT NOT NULL, pid INTEGER NOT NULL, boot_id TEXT NOT NULL, expires_ms INTEGER NOT NULL,
  started_at TEXT NOT NULL, seen_at TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS probe (holder TEXT PRIMARY KEY, count INTEGER NOT NULL) STRICT;
"""


class NewerSchema(Exception):
    """The file was written by a newer release."""


def prepare(connection: apsw.Connection) -> None:
    """Make what is missing, in one transaction. Raises NewerSchema, and apsw.Error."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        (found,) = connection.execute("PRAGMA user_version").fetchone() or (0,)
        if int(found) > VERSION:
            raise NewerSchema(f"its schema is version {found}, and this release knows {VERSION}")
        connection.execute(_TABLES)
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except BaseException:  # boundary: the caller gets it, and no transaction is left open
        connection.execute("ROLLBACK")
        raise
