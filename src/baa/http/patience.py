"""Answers that wait for something: each as long as it was asked to, and none longer than the program serves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Patience:
    """The waits that are under way."""

    def __init__(self) -> None:
        """Nobody waits."""
        self._waits: set[asyncio.Timeout] = set()
        self._over = False

    @property
    def count(self) -> int:
        """How many wait now."""
        return len(self._waits)

    @asynccontextmanager
    async def wait(self, milliseconds: int) -> AsyncIterator[None]:
        """Leave what is inside after so long, or when the program stops serving: the answer is then what there is."""
        try:
            async with asyncio.timeout(0 if self._over else milliseconds / 1000) as wait:
                self._waits.add(wait)
                try:
                    yield
                finally:
                    self._waits.remove(wait)
        except TimeoutError:
            return

    def end(self) -> None:
        """Let all who wait have their answers now, and those to come at once."""
        self._over = True
        now = asyncio.get_running_loop().time()
        for wait in self._waits:
            wait.reschedule(now)
