"""What the log lets go of: its oldest events, and before that the deltas of turns that ended long ago.

Sessions, turns and ledgers are tables and stay. How old an event is, is told by how long codexd has run since, so no
clock that is set cuts anything. The newest event always stays, and nothing goes from the oldest open turn on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import apsw
import msgspec

from baa.api.events import EventType
from baa.clock import Clock
from baa.codexd.eventlog import EventLog, Transaction

BATCH_EVENTS: Final = 500
"""Events deleted in one transaction at most: what a turn may have to wait for is some milliseconds."""

BATCH_BYTES: Final = 4 << 20
"""Bytes of them after which a batch is full."""

COUNTED_SEQS: Final = 20_000
"""Seqs looked at in one query when the log is counted: no long read stands in the way of a checkpoint."""

OTHERS: Final = 4
"""How many times longer than a batch took the writer is left to others before the next one."""

LOOK_S: Final = 1.0
"""Seconds between two looks at the log's size."""

MARK_S: Final = 600.0
"""Seconds between two marks of the log's age, at most."""

MARKS_A_LIMIT: Final = 20
"""How many marks at least fall into the shortest limit."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How long events are kept, how long the deltas of ended turns are, and how many bytes of events. 0 = no limit."""

    age_ms: int
    delta_ms: int
    size: int

    @property
    def mark_s(self) -> float:
        """Seconds between two marks."""
        shortest = min((limit for limit in (self.age_ms, self.delta_ms) if limit), default=0)
        return min(MARK_S, shortest / 1000 / MARKS_A_LIMIT) if shortest else MARK_S


class Row(NamedTuple):
    """An event: its seq, and the bytes of its body."""

    seq: int
    size: int


def droppable(rows: Iterable[Row], *, old: int, excess: int, pinned: int) -> list[Row]:
    """The events that go in one batch, of the log's oldest: those up to seq `old`, and more while `excess` is left.

    Always a prefix, and never one from seq `pinned` on.
    """
    gone: list[Row] = []
    left = BATCH_BYTES
    for row in rows:
        if row.seq >= pinned or left <= 0 or (row.seq > old and excess <= 0):
            break
        gone.append(row)
        left -= row.size
        excess -= row.size
    return gone


class Retention:
    """Keeps one log within its limits, in small batches through its one writer."""

    def __init__(self, log: EventLog, limits: Limits, *, clock: Clock) -> None:
        """Nothing happens before `run`."""
        self._log = log
        self._limits = limits
        self._clock = clock
        self._ran_ms = int(log.meta("ran_ms"))
        self._compacted = int(log.meta("compacted"))
        self._marked = -1
        self._since = self._mark_at = clock.monotonic()
        self._counted: int | None = None

    @property
    def bytes(self) -> int | None:
        """Bytes of the events that are kept; None while those of earlier codexds are being counted."""
        return None if self._counted is None else self._counted + self._log.appended_bytes

    async def run(self) -> None:
        """Look after the log, for ever."""
        while True:
            await self.look()
            await asyncio.sleep(min(LOOK_S, self._limits.mark_s))

    async def look(self) -> None:
        """Drop what is to go by now."""
        if self._counted is None:
            await self._count()
        now = self._clock.monotonic()
        if now >= self._mark_at:
            self._mark_at = now + self._limits.mark_s
            self._ran_ms, self._since = self._ran_ms + round((now - self._since) * 1000), now
            await self._mark()
            await self._compact()
            await self._cut()
        elif self._excess() > 0:
            await self._cut()

    async def _count(self) -> None:
        """Count the bytes of the events that there are, a part of the log at a time."""
        head, appended, counted = self._log.head, self._log.appended_bytes, 0
        for first in range(self._log.oldest, head + 1, COUNTED_SEQS):
            part = (first, min(first + COUNTED_SEQS - 1, head))
            query = "SELECT coalesce(sum(length(body)), 0) FROM event WHERE seq BETWEEN ? AND ?"
            ((size,),) = await self._read(query, part)
            counted += size
        self._counted = counted - appended

    def _excess(self) -> int:
        kept = self.bytes
        return 0 if kept is None or not self._limits.size else kept - self._limits.size

    async def _mark(self) -> None:
        """Put down how long codexd has run, and how far the log was then."""
        statements: list[tuple[str, tuple[Any, ...]]] = [_meta("ran_ms", self._ran_ms)]
        if self._log.head > self._marked:
            self._marked = self._log.head
            statements.append(("INSERT OR REPLACE INTO mark (ran_ms, seq) VALUES (?, ?)", (self._ran_ms, self._marked)))
        await self._write(*statements)

    async def _old(self, limit_ms: int) -> int:
        """The last seq that is at least so old; 0 if none is, or there is no limit."""
        if not limit_ms:
            return 0
        query = "SELECT coalesce(max(seq), 0) FROM mark WHERE ran_ms <= ?"
        ((seq,),) = await self._read(query, (self._ran_ms - limit_ms,))
        return int(seq)

    async def _pinned(self) -> int:
        """The first seq that must stay: where the oldest open turn begins, or else the newest event."""
        ((pinned,),) = await self._read("SELECT min(queued_seq) FROM turn WHERE ended_at IS NULL", ())
        return self._log.head if pinned is None else min(int(pinned), self._log.head)

    async def _cut(self) -> None:
        """Drop the oldest events, as long as they are too old or too many."""
        old = await self._old(self._limits.age_ms)
        # An open turn may end meanwhile, never the other way round: a later one begins after all of these.
        pinned = await self._pinned()
        query = f"SELECT seq, length(body) FROM event WHERE seq >= ? ORDER BY seq LIMIT {BATCH_EVENTS}"
        while old >= self._log.oldest or self._excess() > 0:
            rows = await self._read(query, (self._log.oldest,))
            gone = droppable(map(Row._make, rows), old=old, excess=self._excess(), pinned=pinned)
            if not gone:
                return
            self._log.oldest = gone[-1].seq + 1  # told before it is so: nobody begins to read what is just going
            forgotten = ("DELETE FROM mark WHERE seq < ?", (gone[-1].seq,))
            await self._drop(gone, _meta("oldest", self._log.oldest), forgotten)

    async def _compact(self) -> None:
        """Drop the old deltas of turns that have ended: their text is in the ledgers."""
        bound = min(await self._old(self._limits.delta_ms), await self._pinned() - 1)
        query = (
            "SELECT seq, length(body) FROM event WHERE seq > ? AND seq <= ? AND type = ?"
            f" ORDER BY seq LIMIT {BATCH_EVENTS}"
        )
        while (after := max(self._compacted, self._log.oldest - 1)) < bound:
            rows = await self._read(query, (after, bound, EventType.ITEM_DELTA.value))
            gone = droppable(map(Row._make, rows), old=bound, excess=0, pinned=bound + 1)
            self._compacted = gone[-1].seq if gone else bound
            await self._drop(gone, _meta("compacted", self._compacted))

    async def _drop(self, gone: list[Row], *told: tuple[str, tuple[Any, ...]]) -> None:
        """Delete these events with what is to be told of it, in one transaction; then let others write."""
        began = self._clock.monotonic()
        seqs = msgspec.json.encode([row.seq for row in gone]).decode()
        await self._write(*told, ("DELETE FROM event WHERE seq IN (SELECT value FROM json_each(?))", (seqs,)))
        assert self._counted is not None
        self._counted -= sum(row.size for row in gone)
        await asyncio.sleep(OTHERS * (self._clock.monotonic() - began))

    async def _write(self, *statements: tuple[str, tuple[Any, ...]]) -> None:
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done = [lambda _: None if written.done() else written.set_result(None)]
        self._log.submit(Transaction(statements=list(statements), done=done))
        await written

    async def _read(self, query: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        def read() -> list[tuple[apsw.SQLiteValue, ...]]:
            return list(self._log.reader().execute(query, values))

        return await asyncio.to_thread(read)


def _meta(key: str, value: int) -> tuple[str, tuple[Any, ...]]:
    return ("UPDATE meta SET value = ? WHERE key = ?", (str(value), key))
