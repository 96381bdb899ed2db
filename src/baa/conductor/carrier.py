"""The queue that carries attempts to their nodes' workers, as the leader uses it: opened once it can be reached."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from baa.api.tasks import Attempt
from baa.engine.queue import Queue, open_queue
from baa.engine.store import EngineFailed


class Carrier:
    """The queue of the library's database at `url`. Its methods raise EngineFailed; each may be tried again."""

    def __init__(self, url: str) -> None:
        """Opens nothing yet."""
        self._url = url
        self._queue: Queue | None = None
        self._opening = asyncio.Lock()

    async def warm(self) -> None:
        """Open the queue, if that can be done now: so the first task need not wait for it."""
        with suppress(EngineFailed):
            await self._opened()

    async def put(self, attempt: Attempt) -> None:
        """Hand an attempt to its node's worker; the same one again changes nothing."""
        await (await self._opened()).put(attempt.node_id, attempt.task_id, attempt.number)

    async def prune(self, older_than_ms: int) -> int:
        """Forget up to 1000 attempts that ended so long ago; how many it were."""
        return await (await self._opened()).prune(older_than_ms)

    async def close(self) -> None:
        """Let go of the database."""
        if self._queue is not None:
            with suppress(EngineFailed):
                await self._queue.close()

    async def _opened(self) -> Queue:
        async with self._opening:
            if self._queue is None:
                self._queue = await open_queue(self._url)
            return self._queue
