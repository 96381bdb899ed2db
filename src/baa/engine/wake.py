"""Waiting for new events: told at once of this process's own, and looking for those of others four times a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

POLL_S: Final = 0.25


class Wake:
    """How far the events are known to go. However many wait, `look` (the database's head) is asked once a poll."""

    def __init__(self, look: Callable[[], Awaitable[int]]) -> None:
        self._look = look
        self._looked = -POLL_S
        self._looking = asyncio.Lock()
        self._head = 0
        self._moved = asyncio.Event()

    def told(self, head: int) -> None:
        """The events go to `head` now."""
        if head > self._head:
            self._head = head
            self._moved.set()
            self._moved = asyncio.Event()

    async def wait(self, seq: int) -> int:
        """The head, once it is above `seq`. Raises what `look` raises."""
        while self._head <= seq:
            moved = self._moved
            async with self._looking:
                if time.monotonic() - self._looked >= POLL_S and self._head <= seq:
                    self._looked = time.monotonic()
                    self.told(await self._look())
            if self._head <= seq:
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL_S):
                        await moved.wait()
        return self._head
