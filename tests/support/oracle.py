"""An outside reader of the event stream: it comes back by its cursor, and holds every frame against the contract.

It knows nothing of ours but the wire. What it finds wrong it keeps in `flaws`, so that a test sees all of it.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from tests.support.node import ENDED, PATIENCE_SECONDS, Json, Node

PATH = "/v1/codexd/events"
ENDS = frozenset(f"turn.{status}" for status in ENDED)


def deltas(events: list[Json], turn_id: str) -> list[str]:
    """The pieces of a turn's answer, as they came."""
    return [event["payload"]["delta"] for event in of_turn(events, turn_id) if event["type"] == "item.delta"]


def of_turn(events: list[Json], turn_id: str) -> list[Json]:
    """The events of a turn."""
    return [event for event in events if event["turnId"] == turn_id]


def types(events: list[Json]) -> list[str]:
    """The types of events, without what Codex says beside its work, and a run of deltas as one."""
    told = [event["type"] for event in events if not event["type"].startswith("codex.")]
    return [type_ for n, type_ in enumerate(told) if n == 0 or (type_, told[n - 1]) != ("item.delta", "item.delta")]


def numbered(count: int, start: int = 0) -> list[str]:
    """The deltas of `Say.numbered`."""
    return [f"w{number} " for number in range(start, start + count)]


def flaws_of(events: list[Json]) -> list[str]:
    """What is not as it was promised: one end for each turn that began, one for each item, before its turn's."""
    flaws: list[str] = []
    ends: Counter[str] = Counter()
    queued: Counter[str] = Counter()
    items: dict[tuple[str, str], int] = {}
    for event in events:
        type_, turn_id, payload = event["type"], event["turnId"], event["payload"]
        if turn_id is not None and ends[turn_id]:
            flaws.append(f"seq {event['seq']}: {type_} after the end of {turn_id}")
        if type_ == "turn.queued" and not payload.get("requeued"):
            queued[turn_id] += 1
        elif type_ in ENDS:
            ends[turn_id] += 1
            open_items = [item for (turn, item), ended in items.items() if turn == turn_id and not ended]
            flaws += [f"seq {event['seq']}: {turn_id} ended before its item {item}" for item in open_items]
        elif type_ == "item.started":
            items[turn_id, payload["itemId"]] = 0
        elif type_ in ("item.completed", "item.abandoned"):
            if items.get((turn_id, payload["itemId"])) != 0:
                flaws.append(f"seq {event['seq']}: {type_} of an item that is not open")
            items[turn_id, payload["itemId"]] = 1
    flaws += [f"{turn} was queued {times} times" for turn, times in queued.items() if times != 1]
    flaws += [f"{turn} has {ends[turn]} ends" for turn in queued if ends[turn] != 1]
    return flaws


class Oracle:
    """An async context manager: inside it `events` grow, from the cursor `after` on, over all starts of codexd.

    Leaving it asserts that nothing was missed and nothing came twice.
    """

    def __init__(self, node: Node, *, after: str = "0") -> None:
        self.events: list[Json] = []
        self.flaws: list[str] = []
        self.connections = 0
        self.cursor = after
        self._node = node
        self._changed = asyncio.Condition()
        self._group = asyncio.TaskGroup()
        self._reading: asyncio.Task[None]

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        self._reading = self._group.create_task(self._read(), name="oracle")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reading.cancel()
        await self._group.__aexit__(None, None, None)
        if kind is None:
            assert self.flaws == []

    async def saw(
        self,
        wanted: str,
        turn_id: str | None = None,
        *,
        count: int = 1,
        where: Callable[[Json], bool] = lambda _: True,
    ) -> Json:
        """The `count`-th event of this type (and turn, and property), of those already here and those to come."""
        return await self._match(
            lambda event: event["type"] == wanted and turn_id in (None, event["turnId"]) and where(event), count
        )

    async def end_of(self, turn_id: str) -> Json:
        """The event that ends a turn."""
        return await self._match(lambda event: event["turnId"] == turn_id and event["type"] in ENDS)

    async def caught_up(self) -> None:
        """Wait until all that is in the log now has been read."""
        head = (await self._node.status())["log"]["head"]
        if head:
            await self._match(lambda event: event["seq"] >= head)

    def deltas(self, turn_id: str) -> list[str]:
        """The pieces of a turn's answer, as they came."""
        return deltas(self.events, turn_id)

    async def _match(self, wanted: Callable[[Json], bool], count: int = 1) -> Json:
        try:
            async with asyncio.timeout(PATIENCE_SECONDS), self._changed:
                return await self._search(wanted, count)
        except TimeoutError:
            raise AssertionError(f"it did not come; the last were {self.events[-10:]}") from None

    async def _search(self, wanted: Callable[[Json], bool], count: int) -> Json:
        seen = 0
        while True:
            for event in self.events[seen:]:
                if wanted(event):
                    count -= 1
                    if count == 0:
                        return event
            seen = len(self.events)
            await self._changed.wait()

    async def _read(self) -> None:
        while True:
            start, address = await self._node.up()
            try:
                async with self.connect(address) as socket:
                    self.connections += 1
                    self._greeted(json.loads(await socket.recv()))
                    async for text in socket:
                        await self._take(json.loads(text))
            except InvalidStatus as refused:
                raise AssertionError(f"the stream was refused: {refused.response.body!r}") from refused
            except (OSError, EOFError, InvalidHandshake, ConnectionClosed) as broken:
                why = repr(broken)
            else:
                why = "closed"
            assert not self._node.serving(start), f"codexd ended the stream by itself: {why}\n{self._node.stderr}"

    def connect(self, address: str) -> connect:
        """A connection that goes on at the cursor."""
        return stream(self._node, f"?after={self.cursor}", address=address)

    def _greeted(self, hello: Json) -> None:
        if hello["type"] != "hello" or (self.cursor != "0" and hello["after"] != self.cursor):
            self.flaws.append(f"at {self.cursor} the stream began with {hello}")
        self.cursor = hello["after"]

    async def _take(self, frame: Json) -> None:
        if frame["type"] == "heartbeat":
            return
        if frame["type"] != "events" or frame["from"] != self.cursor:
            self.flaws.append(f"after {self.cursor} came {frame['type']} from {frame.get('from')}")
        seqs = [event["seq"] for event in frame["events"]]
        if seqs != list(range(seq_of(frame["from"]) + 1, seq_of(frame["next"]) + 1)):
            self.flaws.append(f"from {frame['from']} to {frame['next']} came {seqs}")
        self.cursor = frame["next"]
        async with self._changed:
            self.events += frame["events"]
            self._changed.notify_all()


def stream(
    node: Node,
    query: str = "",
    *,
    address: str | None = None,
    headers: dict[str, str] | None = None,
    host: str | None = None,
) -> connect:
    """A connection to a node's event stream, with the read token unless other headers are given.

    `host` is where the connection goes if that is not what its address says.
    """
    given = {"Authorization": f"Bearer {node.token('read')}"} if headers is None else headers
    url = (address or node.address).replace("http://", "ws://") + PATH + query
    return connect(url, additional_headers=given, proxy=None, max_size=None, host=host or urlsplit(url).hostname)


async def refusal(connection: connect) -> tuple[int, Json]:
    """The status and error with which a handshake is refused."""
    try:
        async with connection:
            raise AssertionError("the handshake was not refused")
    except InvalidStatus as refused:
        body: Json = json.loads(refused.response.body)
        return refused.response.status_code, body["error"]


async def frame_of(socket: ClientConnection) -> Json:
    """The next frame."""
    frame: Json = json.loads(await socket.recv())
    return frame


def seq_of(cursor: str) -> int:
    """The seq in a cursor."""
    return int(cursor.rpartition(":")[2])
