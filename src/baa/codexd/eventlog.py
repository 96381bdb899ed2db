"""The event log: one writer thread, group commit, and a tail in memory for those who read along.

Append, commit, then tell. Transactions are taken in the order they were given; several make one commit. `seq` and `at`
are given here and nowhere else. If a commit fails, nothing of it was told, and the log takes nothing more: codexd ends,
its keeper goes on, and the next codexd starts from the last commit.

A commit that only lacks space is another matter: what was decided is committed all the same, out of the ballast at once
or else when there is space again. Until the ballast is whole again the log is `full`, and nothing new is to be decided.
"""

from __future__ import annotations

import asyncio
import errno
import math
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final, TypeVar

import apsw
import msgspec
import structlog

from baa.api import ids
from baa.api.events import Cursor, EventType, ItemAbandoned
from baa.clock import Clock, rfc3339
from baa.codexd import opening, reading, schema, tables
from baa.codexd.ballast import OPENING_BYTES, Ballast
from baa.codexd.highwater import MARK_S, HighWater
from baa.codexd.machines.inputs import NewEvent
from baa.codexd.redacting import Redacting, cannot_open
from baa.codexd.seal import Seal, seal_of
from baa.codexd.stored import Stored, about, body_of, insert, run_at
from baa.known_secrets import KnownSecrets
from baa.sqlite import open_reader

TOGETHER_S: Final = 0.004
"""Seconds after a batch in which what nobody waits for is gathered for the next: fewer, larger commits are the cheapest
speed there is. What a caller or the child waits for is given to the writer at once, with all that was gathered."""

SILENT_S: Final = 0.1
"""Seconds for which what tells nobody anything waits for something that does: until then it costs no commit."""

TOGETHER_MAX: Final = 500
"""Events after which a commit takes no more: they all have its beginning as their time, and the first is told after the
last is written."""

UNPUT_S: Final = 0.002
UNPUT_LONGEST_S: Final = 0.1
UNPUT_MAX: Final = 1000
"""What was committed is put down in the log file as well: after so many seconds of quiet, or so many since it was told,
or so many events. While that is done the other thread could not tell anybody what was committed."""

TAIL_BYTES: Final = 8 * 1024 * 1024
"""Bytes of the newest events kept in memory, so that those who read along do not ask the file."""

BACKLOG_MAX: Final = 20_000
"""Events given but not committed. Past it the main loop stops reading the spool until the disk has caught up."""

SPACE_S: Final = 1.0
"""Seconds between two looks for space while there is none."""

SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
"""Why a write fails that will pass once somebody has made room, or the folder writable."""

_log = structlog.get_logger("log")

Told = TypeVar("Told")


@dataclass(slots=True)
class Transaction:
    """What belongs together: events, the statements of the link, and what is done once both are on disk."""

    events: list[NewEvent] = field(default_factory=list)
    statements: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)
    done: list[Callable[[int], None]] = field(default_factory=list)
    """Called in the loop's thread with the seq before the transaction's first event."""


class LogFailed(Exception):
    """A commit failed: what was given with it and after it is not in the log."""


class EventLog:
    """The log of one state folder. Made and used in the loop's thread; only `_run` is another's."""

    def __init__(self, path: Path, *, clock: Clock, secrets: KnownSecrets | None = None) -> None:
        """Open the log, or make it. `secrets` are not told by it; without them, those of the environment.

        A damaged one is set aside first. Raises apsw.Error if the file cannot be opened, schema.NewerSchema if a later
        release wrote it.
        """
        self.path = path
        self._clock = clock
        born = clock.utc_ms()
        daemon_id = ids.new_id(ids.DAEMON, born)
        prepare = partial(schema.prepare, epoch=_new_epoch(born), daemon_id=daemon_id, fold=tables.fold)
        self._connection, self.replaced = opening.opened(path, prepare)
        self._ballast = Ballast(opening.ballast_of(path))
        self._water = HighWater(opening.mark_of(path))
        self._readers = threading.local()
        self.epoch = self.meta("epoch")
        self.daemon_id = self.meta("daemon_id")
        self.head: int = next(self._connection.execute("SELECT coalesce(max(seq), 0) FROM event"))[0]
        self.oldest = int(self.meta("oldest"))
        self._redacting = Redacting(
            self._connection, secrets or KnownSecrets(None, None), seal_of(opening.seal_of(path)), self.head
        )
        self.appended_bytes = 0
        told = self._connection.execute("SELECT value FROM meta WHERE key = 'went_back'").fetchone()
        self.shorter = self._water.contradicts(self._connection) if told is None else None
        self.went_back = self.shorter if told is None else str(told[0])
        self.went_back = self.went_back or cannot_open(self._connection, self.seal)
        self._distrusted = self.went_back is not None
        self._unmarked: tuple[int, bytes] | None = None
        self._unput: list[Stored] = []
        self._unput_until = math.inf
        self._mark_at = 0.0
        self.tail: deque[Stored] = deque()
        self._tail_bytes = 0
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._backlog = 0
        self.full: str | None = None
        self.stuck = asyncio.Event()
        self._filled = False
        self._space_at = 0.0
        self.on_events: Callable[[Sequence[Stored]], None] = lambda _: None  # called in the writer's thread
        self.on_news: Callable[[], None] = lambda: None
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._loop = asyncio.get_running_loop()
        self._given: SimpleQueue[list[Transaction]] = SimpleQueue()
        self._gathered: list[Transaction] = []
        self._gathering = threading.Lock()
        self._together_until = 0.0
        self._giving: asyncio.TimerHandle | None = None
        self._closing = threading.Event()
        self._seq = self.head
        self.stamp = clock.monotonic()
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def meta(self, key: str) -> str:
        """A fact about the log itself. Call it before the first transaction only."""
        return str(next(self._connection.execute("SELECT value FROM meta WHERE key = ?", (key,)))[0])

    @property
    def seal(self) -> Seal:
        """What opens the values of the log that were closed."""
        return self._redacting.seal

    def told(self, value: Told) -> Told:
        """The value as the log would tell it: without secrets; the value itself if there are none."""
        return self._redacting.told(value)

    @property
    def problem(self) -> str | None:
        """What is wrong with the log, and what to do."""
        if self.full is None:
            lost = self.shorter and (
                f"The log had lost its end when codexd started: {self.shorter}. Turns that were open then are lost, and"
                " cursors from before have expired. Look after the disk."
            )
            return self.replaced or lost
        return (
            f"codexd's log cannot be written ({self.full}), so nothing new is taken. Make room where {self.path.parent}"
            " is: codexd goes on by itself within seconds."
        )

    def cursor(self, seq: int) -> Cursor:
        """The place after `seq` in this log."""
        return Cursor(self.epoch, seq)

    def submit(self, transaction: Transaction) -> None:
        """Give a transaction to the writer. What is in its `done` is called after the commit, in this thread."""
        self._backlog += len(transaction.events)
        self._measure_backlog()
        with self._gathering:
            self._gathered.append(transaction)
        now = self._loop.time()
        due = now if transaction.done else self._together_until if transaction.events else now + SILENT_S
        if due <= now:
            self._give()
        elif self._giving is None or due < self._giving.when():
            if self._giving is not None:
                self._giving.cancel()
            self._giving = self._loop.call_at(due, self._give)

    def _give(self) -> None:
        if self._giving is not None:
            self._giving.cancel()
            self._giving = None
        self._together_until = self._loop.time() + TOGETHER_S
        self._give_gathered()

    def _give_gathered(self) -> None:
        with self._gathering:  # `close` is another thread's: what it gives is whole, and stands where it was given
            gathered, self._gathered = self._gathered, []
            if gathered:
                self._given.put(gathered)

    def change_epoch(self, transaction: Transaction) -> None:
        """From this transaction on it is another log: every cursor given so far is worth nothing."""
        epoch = _new_epoch(self._clock.utc_ms())
        transaction.statements.append(("UPDATE meta SET value = ? WHERE key = 'epoch'", (epoch,)))
        transaction.statements.append(("DELETE FROM meta WHERE key = 'went_back'", ()))
        transaction.done.append(lambda _: self._begin_anew(epoch))

    def _begin_anew(self, epoch: str) -> None:
        self.epoch = epoch
        self._distrusted = False

    async def room(self) -> None:
        """Wait until the writer has caught up enough to be given more of the spool. A full log is not waited for."""
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
        """Commit what was given, and close. Blocks until both are done; what finds no space then is not committed."""
        self._give_gathered()
        self._closing.set()
        self._given.put([])
        self._thread.join()
        self._connection.close()

    # --- the writer's thread

    def _run(self) -> None:
        self._look_for_space()
        while True:
            if self._filled:
                self._look_for_space()
            batch = self._take()
            if not batch or len(self._unput) > UNPUT_MAX or self.stamp >= self._unput_until:
                self._put_down()
            if not batch:
                if self._closing.is_set() and self._given.empty():
                    break
                self._mark()
                continue
            try:
                told, stored = self._commit_in_the_end(batch)
            except BaseException as error:  # boundary: log writer. Nothing of this batch is in the log.
                # Closing would copy from the write-ahead file, and sync it again.
                self._connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
                if isinstance(error, apsw.CorruptError):
                    opening.put_down_damage(self.path, str(error))
                self._tell(self._fail, error)
                self._put_down()
                return
            self.stamp = self._clock.monotonic()
            self._tell(self._committed, told, stored)
            if stored:
                if not self._unput:
                    self._unput_until = self.stamp + UNPUT_LONGEST_S
                self._unput += stored
                self._unmarked = (stored[-1].seq, stored[-1].body)
            self._mark()
        self._mark(at_the_end=True)
        self._water.close()

    def _put_down(self) -> None:
        stored, self._unput = self._unput, []
        if not stored:
            return
        try:
            self.on_events(stored)
        except Exception as error:  # boundary: log file. What is committed stands, whatever cannot be said of it.
            self._tell(partial(_log.error, "log.not_put_down", why=str(error)))

    def _take(self) -> list[Transaction]:
        """What was given by now, to a bound; nothing if nothing was for a while, or it closes."""
        batch: list[Transaction] = []
        events = 0
        patience = UNPUT_S if self._unput else 0.5
        with suppress(Empty):
            given = self._given.get(timeout=0.0 if self._closing.is_set() else patience)
            while True:
                batch += given
                events += sum(len(transaction.events) for transaction in given)
                if events >= TOGETHER_MAX:
                    break
                given = self._given.get_nowait()
        self.stamp = self._clock.monotonic()
        return batch

    def _mark(self, *, at_the_end: bool = False) -> None:
        """Say beside the log how far it has come; not while its end is missing, before that is committed as a fact."""
        now = self._clock.monotonic()
        if self._unmarked is None or self._distrusted or (now < self._mark_at and not at_the_end):
            return
        mark = self._water.mark
        self._water.put(*self._unmarked, both=mark is not None and mark.seq > self._unmarked[0])
        self._unmarked, self._mark_at = None, now + MARK_S

    def _commit_in_the_end(self, batch: Sequence[Transaction]) -> tuple[list[tuple[Transaction, int]], list[Stored]]:
        """Commit, however long that takes for want of space: all that is in the batch has been decided."""
        while True:
            try:
                return self._commit(batch)
            except apsw.Error as error:
                why = self._lack(error)
                if why is None:
                    raise
                self._filled = True
                self._tell(self._fill, why)
                if self._ballast.release(OPENING_BYTES):
                    continue
                if self._closing.is_set():
                    raise
            self._tell(self.stuck.set)
            self._put_down()
            self._closing.wait(SPACE_S)
            self.stamp = self._clock.monotonic()

    def _lack(self, error: apsw.Error) -> str | None:
        """What is lacking, if the write failed for something that comes back; after a failed sync nothing does."""
        if isinstance(error, apsw.FullError):
            return os.strerror(errno.ENOSPC)
        synced = (apsw.SQLITE_IOERR_FSYNC, apsw.SQLITE_IOERR_DIR_FSYNC)
        if not isinstance(error, apsw.IOError) or getattr(error, "extendedresult", 0) in synced:
            return None
        number = self._connection.system_errno
        return os.strerror(number) if number in SPACE else None

    def _look_for_space(self) -> None:
        now = self._clock.monotonic()
        if now < self._space_at:
            return
        self._space_at = now + SPACE_S
        held = self._ballast.hold()
        if held and self._filled:
            self._tell(self._empty)
        elif not held and not self._filled:
            self._tell(self._fill, os.strerror(errno.ENOSPC))
        self._filled = not held

    def _tell(self, call: Callable[..., None], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *args)
        except RuntimeError:  # The loop is closed: there is nobody left to tell.
            return

    def _commit(self, batch: Sequence[Transaction]) -> tuple[list[tuple[Transaction, int]], list[Stored]]:
        connection, seq = self._connection, self._seq
        at = rfc3339(self._clock.utc_ms())
        told: list[tuple[Transaction, int]] = []
        stored: list[Stored] = []
        inserted = 0
        redacting = self._redacting
        redacting.begin()
        connection.execute("BEGIN IMMEDIATE")
        try:
            for transaction in batch:
                told.append((transaction, seq))
                events, index = transaction.events, 0
                while index < len(events):
                    event = events[index]
                    if event.type is EventType.ITEM_DELTA:
                        run = run_at(events, index)
                        stored += self._pieces(run, seq, at)
                        seq += len(run)
                        index += len(run)
                        continue
                    index += 1
                    for late in redacting.before(event):
                        seq += 1
                        stored.append(self._append(late, seq, at))
                    seq += 1
                    if event.type is EventType.ITEM_ABANDONED:  # its text is made of the deltas before it
                        insert(connection, stored[inserted:])
                        inserted = len(stored)
                    stored.append(self._append(event, seq, at))
                for statement, values in transaction.statements:
                    connection.execute(statement, redacting.statement(values))
            insert(connection, stored[inserted:])
            redacting.put_down()
            connection.execute("COMMIT")
        except BaseException:  # boundary: transaction. It is undone whatever went wrong, and passed on.
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        self._seq = seq
        redacting.committed()
        return told, stored

    def _append(self, event: NewEvent, seq: int, at: str) -> Stored:
        payload = event.payload
        if isinstance(payload, ItemAbandoned) and event.turn_id is not None:
            text = reading.text_so_far(self._connection, event.turn_id, payload.item_id)
            payload = msgspec.structs.replace(payload, text=text)
        encoded = self._redacting.encoded(event, payload)
        body = body_of(event, seq, at, encoded)
        if event.type is not EventType.ITEM_DELTA:
            tables.project(self._connection, event.type, (event.session_id, event.turn_id, seq, at), encoded)
        return Stored(seq, event.session_id, event.type.value, body)

    def _pieces(self, run: Sequence[NewEvent], seq: int, at: str) -> list[Stored]:
        """What `_append` makes of pieces of one turn. Nearly all events are pieces: each costs as little as it can."""
        first = run[0]
        session_id, type_ = first.session_id, first.type.value
        between = about(first, at)
        return [
            Stored(number, session_id, type_, b'{"seq":%d,%b%b}' % (number, between, encoded))
            for number, encoded in enumerate(self._redacting.deltas(run), seq + 1)
        ]

    # --- back in the loop's thread

    def _committed(self, told: list[tuple[Transaction, int]], stored: list[Stored]) -> None:
        self._backlog -= sum(len(transaction.events) for transaction, _ in told)
        self.stuck.clear()
        self._measure_backlog()
        if self.failed.done():  # what is committed now is told by the next codexd
            return
        try:
            if stored:
                self.head = stored[-1].seq
                self._keep(stored)
                changed, self._changed = self._changed, asyncio.Event()
                changed.set()
                self.on_news()
            for transaction, seq in told:
                for call in transaction.done:
                    call(seq)
        except Exception as mistake:  # boundary: telling. It is ours: codexd ends of it.
            if not self.failed.done():
                self.failed.set_exception(mistake)

    def _keep(self, stored: list[Stored]) -> None:
        self.tail.extend(stored)
        size = sum(len(event.body) for event in stored)
        self.appended_bytes += size
        self._tail_bytes += size
        while self._tail_bytes > TAIL_BYTES:
            self._tail_bytes -= len(self.tail.popleft().body)

    def _measure_backlog(self) -> None:
        if self.full or self._backlog <= BACKLOG_MAX // 2:
            self._room.set()
        elif self._backlog > BACKLOG_MAX:
            self._room.clear()

    def _fill(self, why: str) -> None:
        if self.full is None:
            _log.error("log.full", why=why, folder=str(self.path.parent))
        self.full = why
        self._measure_backlog()

    def _empty(self) -> None:
        _log.info("log.has_space")
        self.full = None
        self._measure_backlog()

    def _fail(self, error: BaseException) -> None:
        if not self.failed.done():
            failure = LogFailed(f"the event log cannot be written: {error}")
            failure.__cause__ = error
            self.failed.set_exception(failure)


def _new_epoch(utc_ms: int) -> str:
    return ids.new_id("epo", utc_ms)[4:14]
