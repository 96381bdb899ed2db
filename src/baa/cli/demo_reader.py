"""The outside reader: one reader of the event stream from cursor 0 to the end, which believes nothing.

It only knows what came over its socket, so it can say whether an event is missing, came twice or out of order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise
from typing import Final

from baa.api.events import TURN_ENDS, Event, EventType
from baa.client.codexd import Codexd
from baa.client.events import EventStream, Gap

WAIT_S: Final = 60.0
"""Seconds for what takes a few, so that a machine under load is no failure."""


BACK: Final = EventType.DAEMON_STARTED
ADOPTED: Final = EventType.CHILD_ADOPTED


class OutsideReader:
    """`events` are all that came, as they came; each is also given to `show`."""

    def __init__(self, show: Callable[[Event], None]) -> None:
        self.events: list[Event] = []
        self.stream: EventStream[Event] | None = None
        self._show = show
        self._deltas: dict[str, list[str]] = {}
        self._ended: set[str | None] = set()
        self._came = asyncio.Condition()

    async def follow(self, codexd: Codexd) -> None:
        """Read until cancelled. Raises what the client does when codexd stays away."""
        async with codexd.events(after="0") as self.stream:
            while True:
                try:
                    async for event in self.stream:
                        await self._take(event)
                except Gap:  # the stream has counted it
                    continue

    async def _take(self, event: Event) -> None:
        self.events.append(event)
        if event.type == EventType.ITEM_DELTA and event.payload["stream"] == "text" and event.turn_id is not None:
            self._deltas.setdefault(event.turn_id, []).append(event.payload["delta"])
        if event.type in TURN_ENDS:
            self._ended.add(event.turn_id)
        self._show(event)
        async with self._came:
            self._came.notify_all()

    async def until(self, *types: EventType) -> Event:
        """The first event of these types, waited for. Raises TimeoutError."""

        def found() -> Event | None:
            return next((event for event in self.events if event.type in types), None)

        await self._until(lambda: found() is not None, f"an event {' or '.join(types)}")
        event = found()
        assert event is not None
        return event

    async def until_seq(self, seq: int) -> None:
        """Wait for the event of this number, or a later one. Raises TimeoutError."""
        await self._until(lambda: bool(self.events) and self.events[-1].seq >= seq, f"event {seq}")

    async def until_deltas(self, turn_id: str, count: int) -> None:
        """Wait for so many pieces of the turn's answer. Raises TimeoutError."""
        await self._until(lambda: len(self.deltas(turn_id)) >= count, f"{count} deltas of {turn_id}")

    async def until_ended(self, turn_id: str) -> None:
        """Wait for the end of a turn. Raises TimeoutError."""
        await self._until(lambda: turn_id in self._ended, f"the end of {turn_id}")

    async def _until(self, fact: Callable[[], bool], what: str) -> None:
        try:
            async with asyncio.timeout(WAIT_S), self._came:
                await self._came.wait_for(fact)
        except TimeoutError:
            raise TimeoutError(f"the outside reader waited {WAIT_S:.0f} s for {what}") from None

    def deltas(self, turn_id: str) -> list[str]:
        """The pieces of a turn's answer, as they came."""
        return self._deltas.get(turn_id, [])

    def written_meanwhile(self) -> int:
        """How many deltas codexd found in the spool when it was back: those between its start and the adoption."""
        own = {event.type: event.seq for event in self.events if event.type in (BACK, ADOPTED)}
        first, last = own[BACK], own.get(ADOPTED, 0)
        return sum(first < event.seq < last for event in self.events if event.type == EventType.ITEM_DELTA)

    @property
    def connections(self) -> int:
        """How often the stream was opened."""
        return 0 if self.stream is None else self.stream.connections

    @property
    def gaps(self) -> int:
        """Frames that did not follow on the last one, and events that are missing by their numbers."""
        missing = sum(max(0, later - earlier - 1) for earlier, later in self._neighbours())
        return missing + (0 if self.stream is None else self.stream.gaps)

    @property
    def repeats(self) -> int:
        """Events that came again, or after a later one."""
        return sum(later <= earlier for earlier, later in self._neighbours())

    def _neighbours(self) -> list[tuple[int, int]]:
        return list(pairwise([0, *(event.seq for event in self.events)]))
