"""Deadlines, leases and the like: set by what is decided, kept in the log's file, and told when their time is over.

Time is monotonic, so a clock that is set changes nothing. What is stored holds the boot and UTC besides: after a reboot
the monotonic clock began anew, and UTC decides. A stall and a session's rest are not stored: both follow from the log
(walltime.py). Nor are Codex's own times for its answers: they begin anew (deadlines.py).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from baa.clock import Clock
from baa.codexd.eventlog import Transaction
from baa.codexd.machines.inputs import TimerKind
from baa.engine.boot import boot_id

STORED: Final = frozenset({TimerKind.DEADLINE, TimerKind.LEASE, TimerKind.ANSWER})

Owned = tuple[str, TimerKind]


class Periods(NamedTuple):
    """How long what nobody asks for lasts.

    `idle_ms`: a thread without a turn stays subscribed; Codex keeps about 1 MiB for each, and opens one in 10 ms.
    `interaction_deadline_ms`: a question of Codex's waits for its answer. `answer_ms`: the longest that Codex may take
    for anything, where its own time for it (deadlines.py) is not shorter.
    """

    idle_ms: int = 60_000
    interaction_deadline_ms: int = 15 * 60_000
    answer_ms: int = 60_000


USUAL: Final = Periods()


@dataclass(frozen=True, slots=True)
class StoredTimer:
    """A timer as the log's file has it: both clocks in milliseconds."""

    owner_id: str
    kind: TimerKind
    boot_id: str
    monotonic_ms: int
    utc_ms: int


@dataclass(slots=True)
class _Stall:
    """A running turn that must be heard of: how long its silence may last, and when it was last heard."""

    after_s: float
    heard: float


@dataclass(slots=True)
class Timers:
    """All timers of one codexd."""

    clock: Clock
    _due: dict[Owned, float] = field(default_factory=dict)
    _heap: list[tuple[float, Owned]] = field(default_factory=list)
    _stalls: dict[str, _Stall] = field(default_factory=dict)

    def restore(self, rows: Iterable[StoredTimer]) -> None:
        """Take up what an earlier codexd had set."""
        now, utc_ms, boot = self.clock.monotonic(), self.clock.utc_ms(), boot_id()
        for row in rows:
            due = row.monotonic_ms / 1000 if row.boot_id == boot else now + (row.utc_ms - utc_ms) / 1000
            self._put((row.owner_id, row.kind), due)

    def set(self, transaction: Transaction, owner_id: str, kind: TimerKind, after_ms: int) -> None:
        """Come back in `after_ms`; what was set before for this owner and kind no longer counts."""
        now = self.clock.monotonic()
        due = now + after_ms / 1000
        self._put((owner_id, kind), due)
        if kind is TimerKind.STALL:
            self._stalls[owner_id] = _Stall(after_ms / 1000, now)
        if kind in STORED:
            values = (owner_id, kind.value, boot_id(), round(due * 1000), self.clock.utc_ms() + after_ms)
            statement = (
                "INSERT OR REPLACE INTO timer (owner_id, kind, boot_id, monotonic_ms, utc_ms) VALUES (?, ?, ?, ?, ?)"
            )
            transaction.statements.append((statement, values))

    def arm(self, owner_id: str, kind: TimerKind, after_ms: int) -> None:
        """Like `set`, for what no later codexd need know of."""
        self._put((owner_id, kind), self.clock.monotonic() + after_ms / 1000)

    def clear(self, transaction: Transaction, owner_id: str) -> None:
        """Forget every timer of this owner."""
        self._stalls.pop(owner_id, None)
        found = [kind for kind in TimerKind if self._due.pop((owner_id, kind), None) is not None]
        if not STORED.isdisjoint(found):
            transaction.statements.append(("DELETE FROM timer WHERE owner_id = ?", (owner_id,)))

    def watch_silence(self, turn_id: str, after_ms: int, silent_ms: int) -> None:
        """For a turn that ran before this codexd: nothing was heard of it for `silent_ms`."""
        now = self.clock.monotonic()
        self._stalls[turn_id] = _Stall(after_ms / 1000, now - silent_ms / 1000)
        self._put((turn_id, TimerKind.STALL), now + (after_ms - silent_ms) / 1000)

    def heard(self, turn_id: str) -> None:
        """Something of this turn happened."""
        stall = self._stalls.get(turn_id)
        if stall is not None:
            stall.heard = self.clock.monotonic()

    def over(self, asking: frozenset[str]) -> Iterator[Owned]:
        """What is due now. The turns in `asking` wait for an answer of a client's: that is no stall."""
        now = self.clock.monotonic()
        while self._heap and self._heap[0][0] <= now:
            due, owned = heapq.heappop(self._heap)
            if self._due.get(owned) != due:
                continue  # set anew, or forgotten
            owner_id, kind = owned
            if kind is TimerKind.STALL:
                stall = self._stalls[owner_id]
                if owner_id in asking:
                    stall.heard = now
                if stall.heard + stall.after_s > now:
                    self._put(owned, stall.heard + stall.after_s)
                    continue
            del self._due[owned]
            yield owned

    def next_in(self) -> float | None:
        """Seconds until something may be due; None = nothing is set."""
        return max(0.0, self._heap[0][0] - self.clock.monotonic()) if self._heap else None

    def lease_ms(self, turn_ids: Iterable[str]) -> int:
        """Milliseconds until the earliest lease of these turns ends, at least 1; 0 = none of them has one."""
        found = (self._due.get((turn_id, TimerKind.LEASE)) for turn_id in turn_ids)
        ends = [due for due in found if due is not None]
        return max(1, round((min(ends) - self.clock.monotonic()) * 1000)) if ends else 0

    def _put(self, owned: Owned, due: float) -> None:
        self._due[owned] = due
        heapq.heappush(self._heap, (due, owned))
