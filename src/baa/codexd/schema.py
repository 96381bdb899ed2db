"""The log's file: its tables and their invariants, and refusing a file that a newer release wrote."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import apsw

VERSION: Final = 4

LOG: Final = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;

-- The log. `body` holds the event's bytes as every reader gets them.
CREATE TABLE event (
    seq        INTEGER PRIMARY KEY,
    session_id TEXT,
    type       TEXT NOT NULL,
    body       BLOB NOT NULL
) STRICT;
CREATE INDEX event_of_session ON event (session_id, seq);
"""

FOLDING: Final = """
-- What follows from the events, and from nothing else (tables.py).
CREATE TABLE session (
    session_id       TEXT PRIMARY KEY,
    created_seq      INTEGER NOT NULL UNIQUE,
    settings         TEXT NOT NULL,
    purpose          TEXT,
    thread_id        TEXT UNIQUE,
    forked_from      TEXT,
    model            TEXT,
    effort           TEXT,
    effort_set       INTEGER NOT NULL DEFAULT 0,
    resumable        INTEGER NOT NULL DEFAULT 0,
    last_turn_id     TEXT,
    last_turn_status TEXT,
    usage            TEXT,
    created_at       TEXT NOT NULL,
    updated_at       TEXT NOT NULL,
    closed_at        TEXT
) STRICT;

CREATE TABLE turn (
    turn_id       TEXT PRIMARY KEY,
    session_id    TEXT NOT NULL REFERENCES session (session_id),
    queued_seq    INTEGER NOT NULL UNIQUE,
    status        TEXT NOT NULL,
    origin        TEXT NOT NULL,
    request       TEXT NOT NULL,
    generation    INTEGER NOT NULL DEFAULT 0,
    codex_turn_id TEXT,
    reason        TEXT,
    error         TEXT,
    evidence      TEXT NOT NULL DEFAULT '{}',
    final_message TEXT,
    output        TEXT,
    usage         TEXT,
    diff          TEXT,
    plan          TEXT,
    queued_at     TEXT NOT NULL,
    accepted_at   TEXT,
    started_at    TEXT,
    ended_at      TEXT,
    CHECK ((ended_at IS NULL) = (status IN ('queued', 'accepted', 'in_progress')))
) STRICT;
CREATE INDEX turn_of_session ON turn (session_id, queued_seq);
CREATE INDEX turn_open ON turn (session_id, queued_seq) WHERE ended_at IS NULL;
-- Codex merges a second turn into a running one: at most one of a session is ever with it.
CREATE UNIQUE INDEX turn_with_codex ON turn (session_id) WHERE status IN ('accepted', 'in_progress');

CREATE TABLE item (
    turn_id     TEXT NOT NULL REFERENCES turn (turn_id),
    item_id     TEXT NOT NULL,
    started_seq INTEGER NOT NULL,
    kind        TEXT NOT NULL,
    status      TEXT NOT NULL,
    item        TEXT NOT NULL,
    text        TEXT,
    reason      TEXT,
    agent       TEXT,
    started_at  TEXT NOT NULL,
    ended_at    TEXT,
    PRIMARY KEY (turn_id, item_id)
) STRICT;

CREATE TABLE interaction (
    interaction_id TEXT PRIMARY KEY,
    session_id     TEXT NOT NULL REFERENCES session (session_id),
    turn_id        TEXT,
    generation     INTEGER NOT NULL,
    request_id     TEXT NOT NULL,
    asked_seq      INTEGER NOT NULL,
    kind           TEXT NOT NULL,
    status         TEXT NOT NULL,
    item_id        TEXT,
    request        TEXT NOT NULL,
    decisions      TEXT NOT NULL,
    answer         TEXT,
    resolved_by    TEXT,
    requested_at   TEXT NOT NULL,
    deadline_at    TEXT NOT NULL,
    ended_at       TEXT,
    CHECK ((ended_at IS NULL) = (status = 'open'))
) STRICT;
CREATE INDEX interaction_of_turn ON interaction (turn_id, asked_seq);
CREATE INDEX interaction_open ON interaction (session_id) WHERE status = 'open';
CREATE UNIQUE INDEX interaction_asked ON interaction (generation, request_id) WHERE status = 'open';

-- `seq` is the place before what the key brought about; `steered`: that was more input for the turn, not the turn.
CREATE TABLE idempotency_key (
    key       TEXT PRIMARY KEY,
    body_hash TEXT NOT NULL,
    turn_id   TEXT NOT NULL REFERENCES turn (turn_id),
    seq       INTEGER NOT NULL,
    steered   INTEGER NOT NULL DEFAULT 0,
    at        TEXT NOT NULL
) STRICT;
"""

LINK: Final = """
-- The link to the child: where codexd goes on after its own death. Not part of the folding.
CREATE TABLE generation (
    generation  INTEGER PRIMARY KEY,
    keeper_id   TEXT NOT NULL,
    folder      TEXT NOT NULL,
    child_pid   INTEGER,
    child_start TEXT NOT NULL DEFAULT '',
    version     TEXT,
    started_at  TEXT NOT NULL,
    ready_at    TEXT,
    spool_read  INTEGER NOT NULL DEFAULT 0,
    lines       INTEGER NOT NULL DEFAULT 0,
    ended_at    TEXT,
    code        INTEGER,
    signal      INTEGER,
    reason      TEXT,
    keeper_died INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE UNIQUE INDEX generation_living ON generation ((ended_at IS NULL)) WHERE ended_at IS NULL;

-- Lines for the child: kept until the keeper took them and, if they ask something, until the answer is in the log.
CREATE TABLE outbox (
    generation INTEGER NOT NULL REFERENCES generation (generation),
    number     INTEGER NOT NULL,
    request_id TEXT,
    line       BLOB NOT NULL,
    PRIMARY KEY (generation, number)
) STRICT;
CREATE INDEX outbox_request ON outbox (request_id) WHERE request_id IS NOT NULL;
"""

WISHES: Final = """
-- What the answer to a line will need that the line does not say.
ALTER TABLE outbox ADD COLUMN note BLOB;

-- The sessions whose thread a child has in memory, and which child.
CREATE TABLE loaded (
    session_id TEXT PRIMARY KEY,
    generation INTEGER NOT NULL
) STRICT;

-- The threads of sub-agents: whose they are, and Codex's id of the turn that runs in each.
CREATE TABLE agent (
    thread_id     TEXT PRIMARY KEY,
    session_id    TEXT NOT NULL,
    codex_turn_id TEXT
) STRICT;

-- Turns that are to end and sessions that are to be closed: as what and why, and what Codex said of it so far.
CREATE TABLE ending (
    owner_id TEXT PRIMARY KEY,
    told     TEXT NOT NULL
) STRICT;

-- Deadlines and leases. Within one boot the monotonic clock decides, after another UTC.
CREATE TABLE timer (
    owner_id     TEXT NOT NULL,
    kind         TEXT NOT NULL,
    boot_id      TEXT NOT NULL,
    monotonic_ms INTEGER NOT NULL,
    utc_ms       INTEGER NOT NULL,
    PRIMARY KEY (owner_id, kind)
) STRICT;
"""

KEEPING: Final = """
-- How far the log was when codexd had run for so long, all its lives together: how old an event is, no wall clock says.
CREATE TABLE mark (
    ran_ms INTEGER PRIMARY KEY,
    seq    INTEGER NOT NULL
) STRICT;

-- The first seq that is kept; the last one up to which old deltas were dropped; and how long codexd has run.
INSERT INTO meta (key, value) VALUES ('oldest', '1'), ('compacted', '0'), ('ran_ms', '0');
"""

SECRETS: Final = """
-- What must be kept as it is and is not told (redacting.py), closed with a key that is not in this file: a session's
-- settings, a turn's request, a question.
CREATE TABLE sealed (
    owner_id TEXT PRIMARY KEY,
    told     BLOB NOT NULL
) STRICT;

-- What is held back of texts that come in pieces.
CREATE TABLE held (
    turn_id TEXT NOT NULL,
    item_id TEXT NOT NULL,
    stream  TEXT NOT NULL,
    told    BLOB NOT NULL,
    PRIMARY KEY (turn_id, item_id, stream)
) STRICT;
"""

FOLDED: Final = ("session", "turn", "item", "interaction", "idempotency_key")
"""The tables that follow from the events alone."""


BORN: Final = {
    "session": "created_seq >= ?1",
    "turn": "queued_seq >= ?1",
    "item": "turn_id IN (SELECT turn_id FROM {log}.turn WHERE queued_seq >= ?1)",
    "interaction": "asked_seq >= ?1",
    "idempotency_key": "turn_id IN (SELECT turn_id FROM {log}.turn WHERE queued_seq >= ?1)",
}
"""Which rows of each of them were born from a seq on, as SQL; `{log}` is the database that they stand in."""


class NewerSchema(Exception):
    """The file was written by a newer release: reading it as ours could lose what we do not know of."""


def prepare(
    connection: apsw.Connection, *, epoch: str, daemon_id: str, fold: Callable[[apsw.Connection], None] = lambda _: None
) -> None:
    """Make the tables in a new file; bring a file of an earlier version up to this one, in one transaction.

    `fold` makes the folded tables anew from the events. Only a file of version 1 needs that: since then these tables
    are changed by SQL, because they outlive their events. Raises NewerSchema for a file of a later version.
    """
    (version,) = next(connection.execute("PRAGMA user_version"))
    if version > VERSION:
        raise NewerSchema(f"the log has schema {version}, this release knows {VERSION}")
    if version == VERSION:
        return
    connection.execute("PRAGMA foreign_keys = OFF")  # not within a transaction, and of no use while tables are replaced
    with connection:
        if version == 0:
            connection.execute(LOG + FOLDING + LINK)
            meta = [("epoch", epoch), ("daemon_id", daemon_id)]
            connection.executemany("INSERT INTO meta (key, value) VALUES (?, ?)", meta)
        elif version == 1:
            for table in FOLDED:
                connection.execute(f"DROP TABLE IF EXISTS {table}")
            connection.execute(FOLDING)
            fold(connection)
        if version < 2:
            connection.execute(WISHES)
        if version < 3:
            connection.execute(KEEPING)
        connection.execute(SECRETS)
        connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute("PRAGMA foreign_keys = ON")
