"""The events of this node's codexd, taken over into the engine's: each once, in their order, without deltas.

codexd's log keeps them while the database is away; the cursor is committed with what was taken over.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import msgspec
import structlog

from baa.api.errors import BaaError, CannotStart, Code
from baa.api.events import EventType
from baa.client.codexd import Codexd
from baa.client.discovery import Unreachable
from baa.engine.store import Engine, EngineFailed

TYPES: Final = tuple(each for each in EventType if each is not EventType.ITEM_DELTA)
PAGE: Final = 200
WAIT_MS: Final = 20_000
AGAIN_S: Final = 1.0

_log = structlog.get_logger("feeder")


class Feeder:
    """What carries them. `run` it while the worker lives."""

    def __init__(self, engine: Engine, codexd: Codexd, *, node_id: str, owner: str) -> None:
        self._engine = engine
        self._codexd = codexd
        self._node_id = node_id
        self._owner = owner
        self._missed: dict[str, Any] | None = None
        self._trouble: str | None = None

    async def run(self) -> None:
        """Until cancelled, or until Lost is raised: another worker feeds then. What is away is waited for."""
        cursor: str | None = None
        while True:
            try:
                if cursor is None:
                    cursor = await self._engine.feed_cursor(self._node_id) or "0"
                cursor = await self._once(cursor)
                self._say(None)
            except EngineFailed as error:
                cursor = None  # whether it was committed is looked up
                await self._wait("engine", error)
            except (BaaError, Unreachable, CannotStart) as error:
                await self._wait("codexd", error)

    async def _once(self, cursor: str) -> str:
        """Take over the events that follow `cursor`; the next one."""
        wait_ms = 0 if self._missed else WAIT_MS
        try:
            page = await self._codexd.event_page(cursor, types=TYPES, limit=PAGE, wait_ms=wait_ms)
        except BaaError as refused:
            if refused.code not in (Code.CURSOR_EXPIRED, Code.CURSOR_AHEAD):
                raise
            # It let go of them, or has another log: what was missed is said, and the rest is taken from its oldest.
            self._missed = {"after": cursor, "reason": str(refused.code)}
            _log.error("node.events_missed", after=cursor, reason=str(refused.code))
            return "0"
        if page.next != cursor or self._missed:
            epoch, _, seq = page.next.rpartition(":")
            events = [msgspec.to_builtins(event) for event in page.events]
            await self._engine.append_codexd(self._owner, self._node_id, epoch, int(seq), events, self._missed)
            self._missed = None
        return page.next

    async def _wait(self, whose: str, error: Exception) -> None:
        self._say(f"{whose}: {getattr(error, 'message', error)}")
        await asyncio.sleep(AGAIN_S)

    def _say(self, trouble: str | None) -> None:
        if trouble is not None and self._trouble is None:
            _log.warning("feeder.waits", why=trouble)
        if trouble is None and self._trouble is not None:
            _log.info("feeder.goes_on")
        self._trouble = trouble
