"""The event log: one writer thread, group commit, and a tail in memory for those who read along.

Append, commit, then tell. Transactions are taken in the order they were given; several make one commit. `seq` and `at`
are given here and nowhere else. If a commit fails, nothing of it was told, and the log takes nothing more: codexd ends,
its keeper goes on, and the next codexd starts from the last commit.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import apsw
import msgspec
from msgspec import Struct

from baa.api import ids
from baa.api.events import Cursor, EventType, ItemAbandoned
from baa.clock import Clock, rfc3339
from baa.codexd import reading, schema, tables
from baa.codexd.machines.inputs import NewEvent
from baa.sqlite import open_reader, open_writer

COMMIT_INTERVAL_S: Final = 0.002
"""Seconds between the starts of two commits under load: fewer, larger commits are the cheapest speed there is."""

TAIL_BYTES: Final = 8 * 1024 * 1024
"""Bytes of the newest events kept in memory, so that those who read along do not ask the file."""

BACKLOG_MAX: Final = 20_000
"""Events given but not committed. Past it the main loop stops reading the spool until the disk has caught up."""


@dataclass(slots=True)
class Transaction:
    """What belongs together: events, the statements of the link, and what is done once both are on disk."""

    events: list[NewEvent] = field(default_factory=list)
    statements: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)
    done: list[Callable[[int], None]] = field(default_factory=list)
    """Called in the loop's thread with the seq before the transaction's first event."""


class Stored(Struct, frozen=True):
    """An event as the log holds it."""

    seq: int
    session_id: str | None
    type: str
    body: bytes


class LogFailed(Exception):
    """A commit failed: what was given with it and after it is not in the log."""


class EventLog:
    """The log of one state folder. Made and used in the loop's thread; only `_run` is another's."""

    def __init__(self, path: Path, *, clock: Clock) -> None:
        """Open the log, or make it.

        Raises apsw.Error if the file cannot be opened, schema.NewerSchema if a later release wrote it.
        """
        self.path = path
        self._clock = clock
        self._connection = open_writer(path)
        born = clock.utc_ms()
        daemon_id = ids.new_id(ids.DAEMON, born)
        schema.prepare(self._connection, epoch=_new_epoch(born), daemon_id=daemon_id, fold=tables.fold)
        self._readers = threading.local()
        self.epoch = self.meta("epoch")
        self.daemon_id = self.meta("daemon_id")
        self.head: int = next(self._connection.execute("SELECT coalesce(max(seq), 0) FROM event"))[0]
        self.oldest = int(self.meta("oldest"))
        self.appended_bytes = 0
        told = self._connection.execute("SELECT value FROM meta WHERE key = 'went_back'").fetchone()
        self.went_back: str | None = None if told is None else str(told[0])
        self.tail: deque[Stored] = deque()
        self._tail_bytes = 0
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._backlog = 0
        self.on_events: Callable[[Sequence[Stored]], None] = lambda _: None
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._loop = asyncio.get_running_loop()
        self._given: deque[Transaction] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._seq = self.head
        self.stamp = clock.monotonic()
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def meta(self, key: str) -> str:
        """A fact about the log itself. Call it before the first transaction only."""
        return str(next(self._connection.execute("SELECT value FROM meta WHERE key = ?", (key,)))[0])

    def cursor(self, seq: int) -> Cursor:
        """The place after `seq` in this log."""
        return Cursor(self.epoch, seq)

    def submit(self, transaction: Transaction) -> None:
        """Give a transaction to the writer. What is in its `done` is called after the commit, in this thread."""
        self._backlog += len(transaction.events)
        if self._backlog > BACKLOG_MAX:
            self._room.clear()
        with self._wake:
            self._given.append(transaction)
            self._wake.notify()

    def change_epoch(self, transaction: Transaction) -> None:
        """From this transaction on it is another log: every cursor given so far is worth nothing."""
        epoch = _new_epoch(self._clock.utc_ms())
        transaction.statements.append(("UPDATE meta SET value = ? WHERE key = 'epoch'", (epoch,)))
        transaction.statements.append(("DELETE FROM meta WHERE key = 'went_back'", ()))
        transaction.done.append(lambda _: setattr(self, "epoch", epoch))

    async def room(self) -> None:
        """Wait until the writer has caught up enough to be given more of the spool."""
        await self._room.wait()

    async def wait_past(self, seq: int) -> None:
        """Wait until an event after `seq` is committed."""
        while self.head <= seq:
            await self._changed.wait()

    def reader(self) -> apsw.Connection:
        """A reading connection of the calling thread."""
        connection: apsw.Connection | None = getattr(self._readers, "connection", None)
        if connection is None:
            connection = self._readers.connection = open_reader(self.path)
        return connection

    def close(self) -> None:
        """Commit what was given, and close. Blocks until both are done."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()
        self._connection.close()

    # --- the writer's thread

    def _run(self) -> None:
        last_start = 0.0
        while True:
            with self._wake:
                while not self._given and not self._closing:
                    self._wake.wait(0.5)
                    self.stamp = self._clock.monotonic()
                if not self._given:
                    return
                due = last_start + COMMIT_INTERVAL_S
                while not self._closing and (pause := due - self._clock.monotonic()) > 0:
                    self._wake.wait(pause)
                batch, self._given = self._given, deque()
            last_start = self._clock.monotonic()
            try:
                told, stored = self._commit(batch)
            except BaseException as error:  # boundary: log writer. Nothing of this batch is in the log.
                self._tell(self._fail, error)
                return
            self.stamp = self._clock.monotonic()
            self._tell(self._committed, told, stored)

    def _tell(self, call: Callable[..., None], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *args)
        except RuntimeError:  # The loop is closed: there is nobody left to tell.
            return

    def _commit(self, batch: deque[Transaction]) -> tuple[list[tuple[Transaction, int]], list[Stored]]:
        connection, seq = self._connection, self._seq
        at = rfc3339(self._clock.utc_ms())
        told: list[tuple[Transaction, int]] = []
        stored: list[Stored] = []
        inserted = 0
        connection.execute("BEGIN IMMEDIATE")
        try:
            for transaction in batch:
                told.append((transaction, seq))
                for event in transaction.events:
                    seq += 1
                    if event.type is EventType.ITEM_ABANDONED:  # its text is made of the deltas before it
                        _insert(connection, stored[inserted:])
                        inserted = len(stored)
                    stored.append(self._append(event, seq, at))
                for statement, values in transaction.statements:
                    connection.execute(statement, values)
            _insert(connection, stored[inserted:])
            connection.execute("COMMIT")
        except BaseException:  # boundary: transaction. It is undone whatever went wrong, and passed on.
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        self._seq = seq
        return told, stored

    def _append(self, event: NewEvent, seq: int, at: str) -> Stored:
        payload = event.payload
        if isinstance(payload, ItemAbandoned) and event.turn_id is not None:
            text = reading.text_so_far(self._connection, event.turn_id, payload.item_id)
            payload = msgspec.structs.replace(payload, text=text)
        encoded = msgspec.json.encode(payload)
        body = body_of(event, seq, at, encoded)
        if event.type is not EventType.ITEM_DELTA:
            tables.project(self._connection, event.type, (event.session_id, event.turn_id, seq, at), encoded)
        return Stored(seq, event.session_id, event.type.value, body)

    # --- back in the loop's thread

    def _committed(self, told: list[tuple[Transaction, int]], stored: list[Stored]) -> None:
        self._backlog -= len(stored)
        if self._backlog <= BACKLOG_MAX // 2:
            self._room.set()
        if stored:
            self.head = stored[-1].seq
            self._keep(stored)
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()
            self.on_events(stored)
        for transaction, seq in told:
            for call in transaction.done:
                call(seq)

    def _keep(self, stored: list[Stored]) -> None:
        self.tail.extend(stored)
        size = sum(len(event.body) for event in stored)
        self.appended_bytes += size
        self._tail_bytes += size
        while self._tail_bytes > TAIL_BYTES:
            self._tail_bytes -= len(self.tail.popleft().body)

    def _fail(self, error: BaseException) -> None:
        if not self.failed.done():
            failure = LogFailed(f"the event log cannot be written: {error}")
            failure.__cause__ = error
            self.failed.set_exception(failure)


def body_of(event: NewEvent, seq: int, at: str, payload: bytes) -> bytes:
    """The event's bytes, as every reader gets them. `payload` is already JSON."""
    return b'{"seq":%d,"at":"%b","type":"%b","sessionId":%b,"turnId":%b,"payload":%b}' % (
        seq,
        at.encode(),
        event.type.encode(),
        _id(event.session_id),
        _id(event.turn_id),
        payload,
    )


def _id(text: str | None) -> bytes:
    return b"null" if text is None else b'"%b"' % text.encode()


def _insert(connection: apsw.Connection, stored: list[Stored]) -> None:
    connection.executemany(
        "INSERT INTO event (seq, session_id, type, body) VALUES (?, ?, ?, ?)",
        [(event.seq, event.session_id, event.type, event.body) for event in stored],
    )


def _new_epoch(utc_ms: int) -> str:
    return ids.new_id("epo", utc_ms)[4:14]
