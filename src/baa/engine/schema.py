"""The engine's tables, for SQLite and PostgreSQL. A time in milliseconds (`…_ms`) is one of the database's clock.

On SQLite that clock is good only within its `boot_id`; on PostgreSQL the boot is always the same. `…_utc` is UTC.
"""

from __future__ import annotations

import secrets
from typing import Final

import sqlalchemy as sa

VERSION: Final = 2

_LOCK: Final = 0x62616100
"""The advisory lock under which a schema is made: programs of a fleet start at once."""

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS lease (
  name TEXT PRIMARY KEY, holder TEXT NOT NULL, node_id TEXT NOT NULL, term BIGINT NOT NULL,
  boot_id TEXT NOT NULL, expires_ms BIGINT NOT NULL, expires_at TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS probe (holder TEXT PRIMARY KEY, count BIGINT NOT NULL);
CREATE TABLE IF NOT EXISTS node (
  node_id TEXT PRIMARY KEY, incarnation TEXT NOT NULL UNIQUE, version TEXT NOT NULL, slots BIGINT NOT NULL,
  state TEXT NOT NULL, drain BIGINT NOT NULL, pid BIGINT NOT NULL, boot_id TEXT NOT NULL, registered_ms BIGINT NOT NULL,
  expires_ms BIGINT NOT NULL, ttl_ms BIGINT NOT NULL, turn_lease_ms BIGINT NOT NULL,
  started_at TEXT NOT NULL, seen_at TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS task (
  task_id TEXT PRIMARY KEY, state TEXT NOT NULL, reason TEXT, title TEXT NOT NULL, request TEXT NOT NULL,
  priority BIGINT NOT NULL, only_node TEXT, idempotency_key TEXT UNIQUE, body_hash TEXT NOT NULL,
  attempts BIGINT NOT NULL, tries BIGINT NOT NULL, parks BIGINT NOT NULL, node_id TEXT, cancel_asked BIGINT NOT NULL,
  not_before_utc BIGINT, result TEXT NOT NULL, created_at TEXT NOT NULL, started_at TEXT, ended_at TEXT
);
CREATE INDEX IF NOT EXISTS task_by_state ON task (state, priority, task_id);
CREATE TABLE IF NOT EXISTS dependency (
  task_id TEXT NOT NULL REFERENCES task, depends_on TEXT NOT NULL REFERENCES task, PRIMARY KEY (task_id, depends_on)
);
CREATE TABLE IF NOT EXISTS attempt (
  attempt_id TEXT PRIMARY KEY, task_id TEXT NOT NULL REFERENCES task, number BIGINT NOT NULL, state TEXT NOT NULL,
  reason TEXT, node_id TEXT NOT NULL, owner TEXT, session_id TEXT, turn_id TEXT, tokens BIGINT NOT NULL,
  turns BIGINT NOT NULL, time_ms BIGINT NOT NULL, evidence TEXT NOT NULL, boot_id TEXT, started_ms BIGINT,
  created_at TEXT NOT NULL, started_at TEXT, ended_at TEXT, UNIQUE (task_id, number)
);
CREATE INDEX IF NOT EXISTS attempt_by_state ON attempt (state, node_id);
CREATE INDEX IF NOT EXISTS attempt_by_session ON attempt (session_id);
CREATE TABLE IF NOT EXISTS setting (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS head (
  name TEXT PRIMARY KEY, epoch TEXT NOT NULL, seq BIGINT NOT NULL, oldest BIGINT NOT NULL
);
CREATE TABLE IF NOT EXISTS feed (node_id TEXT PRIMARY KEY, epoch TEXT NOT NULL, next_seq BIGINT NOT NULL);
CREATE TABLE IF NOT EXISTS event (
  seq BIGINT PRIMARY KEY, at TEXT NOT NULL, stored_utc BIGINT NOT NULL, type TEXT NOT NULL, node_id TEXT, task_id TEXT,
  attempt BIGINT, session_id TEXT, turn_id TEXT, source TEXT NOT NULL, source_epoch TEXT, source_seq BIGINT,
  payload TEXT NOT NULL, UNIQUE (node_id, source_epoch, source_seq)
);
CREATE INDEX IF NOT EXISTS event_by_task ON event (task_id, seq);
CREATE INDEX IF NOT EXISTS event_by_age ON event (stored_utc)
"""

_POSTGRES: Final = """
CREATE SCHEMA IF NOT EXISTS baa;
CREATE TABLE IF NOT EXISTS version (version BIGINT PRIMARY KEY);
CREATE OR REPLACE FUNCTION now_ms() RETURNS BIGINT LANGUAGE sql VOLATILE AS
  'SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)';
CREATE OR REPLACE FUNCTION boot_id() RETURNS TEXT LANGUAGE sql IMMUTABLE AS 'SELECT ''''::TEXT'
"""


class NewerSchema(Exception):
    """The database was written by a newer release."""


def prepare(connection: sa.Connection) -> None:
    """Make what is missing, in the caller's transaction. Raises NewerSchema, and sqlalchemy's errors."""
    if connection.dialect.name == "postgresql":
        for limit in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
            connection.exec_driver_sql(f"SET LOCAL {limit} = '60s'")  # a fleet that starts at once waits in line here
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
        found = 0
        if connection.exec_driver_sql("SELECT to_regclass('baa.version')").scalar():
            found = connection.exec_driver_sql("SELECT coalesce(max(version), 0) FROM version").scalar_one()
        if found < VERSION:
            _run(connection, _POSTGRES)
    else:
        found = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
    if found > VERSION:
        raise NewerSchema(f"its schema is version {found}, and this release knows {VERSION}")
    if found == VERSION:
        return
    if found == 1:  # Nodes register anew; leases stay, because terms must not go back.
        connection.exec_driver_sql("DROP TABLE node")
    if connection.dialect.name == "postgresql":
        _run(connection, _TABLES)
        connection.exec_driver_sql("DELETE FROM version")
        connection.exec_driver_sql(f"INSERT INTO version (version) VALUES ({VERSION})")
    else:
        _run(connection, _TABLES.replace("BIGINT", "INTEGER").replace("\n);", "\n) STRICT;"))
        connection.exec_driver_sql(f"PRAGMA user_version = {VERSION}")
    begun = {"epoch": secrets.token_hex(8)}
    connection.execute(sa.text("INSERT INTO head VALUES ('event', :epoch, 0, 1) ON CONFLICT DO NOTHING"), begun)
    connection.exec_driver_sql("INSERT INTO setting VALUES ('paused', '0') ON CONFLICT DO NOTHING")


def _run(connection: sa.Connection, script: str) -> None:
    for statement in script.split(";\n"):
        connection.exec_driver_sql(statement)
