"""The attempts that a worker runs, and one look at the engine for all: whose end is asked for, which is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import structlog

from baa.engine.store import EngineFailed, Lost, Standing

LOOK_S: Final = 0.2

_log = structlog.get_logger("worker")


class Engine(Protocol):
    """What is asked of the engine."""

    async def standing(self, owner: str, attempt_ids: Sequence[str]) -> dict[str, Standing]:
        """How the worker stands to these attempts. Raises EngineFailed."""


class Executor(Protocol):
    """What runs one attempt."""

    async def run(self, task_id: str, number: int, cancel: asyncio.Event) -> None:
        """Until it has ended, or is not ours any more. `cancel`: set once its end is asked for."""


@dataclass(slots=True)
class _Running:
    cancel: asyncio.Event = field(default_factory=asyncio.Event)
    lost: asyncio.Event = field(default_factory=asyncio.Event)
    owned: bool = False


class Execution:
    """Runs what the queue hands over. `watch` it meanwhile. `is_mine`: whether this is still the node's worker."""

    def __init__(
        self, engine: Engine, executor: Executor, *, owner: str, is_mine: Callable[[], Awaitable[bool]]
    ) -> None:
        self._engine = engine
        self._executor = executor
        self._owner = owner
        self._is_mine = is_mine
        self._running: dict[str, _Running] = {}

    async def run(self, task_id: str, number: int) -> None:
        """Run an attempt. Raises Lost: it is not ours any more, and the queue must keep it for whose it is."""
        attempt_id = f"{task_id}:{number}"
        running = self._running[attempt_id] = _Running()
        try:
            async with asyncio.TaskGroup() as tasks:
                doing = tasks.create_task(self._executor.run(task_id, number, running.cancel), name="attempt")
                losing = tasks.create_task(running.lost.wait(), name="lost")
                await asyncio.wait((doing, losing), return_when=asyncio.FIRST_COMPLETED)
                doing.cancel()
                losing.cancel()
        finally:
            del self._running[attempt_id]
        if running.lost.is_set() or not await self._is_mine():
            raise Lost(attempt_id)

    async def watch(self) -> None:
        """Look every 200 ms, until cancelled. While the engine is away all stays as it was."""
        while True:
            await asyncio.sleep(LOOK_S)
            if not self._running:
                continue
            try:
                standing = await self._engine.standing(self._owner, list(self._running))
            except EngineFailed:
                continue  # the heartbeat tells of it
            for attempt_id, found in standing.items():
                if (running := self._running.get(attempt_id)) is not None:
                    self._take_in(attempt_id, running, found)

    def _take_in(self, attempt_id: str, running: _Running, found: Standing) -> None:
        if found.cancel_asked:
            running.cancel.set()
        if running.owned and not found.owned and not running.lost.is_set():
            _log.warning("attempt.taken_away", attempt_id=attempt_id)
            running.lost.set()
        running.owned = running.owned or found.owned
