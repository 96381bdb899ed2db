"""What the leader does, round after round: give waiting tasks to nodes, take back what the dead had, let old events go.

Each write is made under the leader's term, which the engine checks. A leader whose term is over writes nothing, says so
and stands by. What it knows between two rounds is only how long it has led without a break.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

import structlog

from baa.api.tasks import Attempt
from baa.clock import Clock
from baa.conductor import scheduler
from baa.conductor.leader import Leader
from baa.engine.store import Engine, EngineFailed, Fenced

ROUND_S: Final = 0.25
"""Seconds between two rounds, if no event wakes the leader before: times that come are nobody's event."""

REST_S: Final = 0.02
"""Seconds after a round before the next: what comes at once is looked at once."""

TASKS_AT_ONCE: Final = 200

UPKEEP_S: Final = 1.0
"""Seconds between two looks at the dead, and at what is assigned and not on the queue."""

PRUNE_S: Final = 60.0
PRUNED_AT_ONCE: Final = 1000

ATTEMPTS_KEPT_MS: Final = 86_400_000
"""How long the library remembers attempts that ended; what became of them stands in our own tables."""

_log = structlog.get_logger("dispatch")


class Carries(Protocol):
    """What carries attempts to workers (`carrier.Carrier`). Raises EngineFailed."""

    async def put(self, attempt: Attempt) -> None:
        """Hand an attempt to its node's worker; the same one again changes nothing."""

    async def prune(self, older_than_ms: int) -> int:
        """Forget some of the attempts that ended so long ago; how many."""


class Dispatch:
    """The leader's work on one engine; while the conductor stands by it does nothing."""

    def __init__(
        self,
        engine: Engine,
        leader: Leader,
        carrier: Carries,
        clock: Clock,
        *,
        node_ttl_ms: int,
        history_ms: int = 0,
    ) -> None:
        """`node_ttl_ms`: how long a node's heartbeat is good for.

        `history_ms`: how long tasks that ended are kept, with their attempts and events; 0 = for ever.
        """
        self._history_ms = history_ms
        self._engine = engine
        self._leader = leader
        self._carrier = carrier
        self._clock = clock
        self._node_ttl_s = node_ttl_ms / 1000
        self._term = 0
        self._since = 0.0
        self._moved = 0.0
        self._upkeep_at = 0.0
        self._prune_at = 0.0
        self._queued: set[str] = set()
        self._trouble = False

    async def run(self) -> None:
        """Lead whenever this conductor is the leader, until cancelled."""
        seen = 0
        while True:
            await self.round()
            await asyncio.sleep(REST_S)
            seen = await self._woken(seen)

    async def _woken(self, seen: int) -> int:
        """Wait for an event, or for the next round; how far the events are known to go."""
        try:
            async with asyncio.timeout(ROUND_S):
                return await self._engine.wait(seen)
        except TimeoutError:
            return seen
        except EngineFailed:  # the round says so
            await asyncio.sleep(ROUND_S)
            return seen

    async def round(self) -> None:
        """One round, if this conductor leads. Trouble with the engine is logged when it begins and when it is over."""
        term = self._leader.term()
        if term is None:
            self._term = 0
            return
        now = self._clock.monotonic()
        if term != self._term or now - self._moved > self._node_ttl_s / 2:
            self._begin(term, now)
        self._moved = now
        try:
            await self._assign(term)
            if now >= self._upkeep_at:
                await self._keep_up(term, now)
                self._upkeep_at = now + UPKEEP_S
        except Fenced:
            _log.warning("term.over", term=term)
            self._leader.step_down(term)
        except EngineFailed as error:
            if not self._trouble:
                _log.error("engine.trouble", error=str(error))
            self._trouble = True
            self._since = self._clock.monotonic()  # the heartbeats of the nodes had no answer either
        else:
            if self._trouble:
                _log.info("engine.mended")
            self._trouble = False

    def _begin(self, term: int, now: float) -> None:
        """A new term; or the same one, after a time in which nothing moved here, and maybe nowhere."""
        if term != self._term:
            _log.info("term.begun", term=term)
            self._queued.clear()
        self._term, self._since, self._upkeep_at = term, now, now

    async def _assign(self, term: int) -> None:
        """Give what waits to free slots, until there is no more of either."""
        while True:
            waiting = await self._engine.schedulable(TASKS_AT_ONCE)
            changed = False
            for decision in scheduler.decide(waiting):
                match decision:
                    case scheduler.Assign(task_id, node_id):
                        attempt = await self._engine.assign(term, task_id, node_id)
                        if attempt is not None:
                            _log.info("attempt.assigned", attempt_id=attempt.attempt_id, node_id=node_id)
                            await self._to_queue(attempt)
                            changed = True
                    case scheduler.Fail(task_id, reason):
                        if await self._engine.fail(term, task_id, reason):
                            _log.info("task.failed", task_id=task_id, reason=reason)
                            changed = True
            if not changed:
                return

    async def _to_queue(self, attempt: Attempt) -> None:
        await self._carrier.put(attempt)
        self._queued.add(attempt.attempt_id)

    async def _keep_up(self, term: int, now: float) -> None:
        waiting = await self._engine.unqueued(term)
        self._queued &= {attempt.attempt_id for attempt in waiting}
        for attempt in waiting:
            if attempt.attempt_id not in self._queued:  # the leader before died in between
                await self._to_queue(attempt)
        if now - self._since >= self._node_ttl_s:
            for lost in await self._engine.reap(term):
                _log.warning("attempt.lost", attempt_id=lost.attempt_id, node_id=lost.node_id, reason=lost.reason)
        if now >= self._prune_at:
            if self._history_ms:
                await self._forget(term, self._history_ms)
            while await self._carrier.prune(ATTEMPTS_KEPT_MS) == PRUNED_AT_ONCE:
                pass
            self._prune_at = now + PRUNE_S

    async def _forget(self, term: int, keep_ms: int) -> None:
        """First the events: nobody shall read of a task that is gone, unless one that is still open keeps them."""
        while await self._engine.prune(term, keep_ms=keep_ms) == PRUNED_AT_ONCE:
            pass
        while gone := await self._engine.forget(term, keep_ms=keep_ms):
            _log.info("tasks.forgotten", count=gone)
