"""Readers of a node's events, over WebSocket and as server-sent events, that come back by their cursor for ever."""

from __future__ import annotations

from collections.abc import Callable

import httpx2
import msgspec
from msgspec import Raw, Struct
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from tests.proof.account import Event, Frame, Seen
from tests.support.node import Node
from tests.support.oracle import PATH, stream

Taker = Callable[[list[Event]], None]


class _Page(Struct):
    data: Frame


async def follow_socket(node: Node, seen: Seen, taker: Taker) -> None:
    """Follow over WebSocket until cancelled. Raises AssertionError if codexd refuses or ends a stream by itself."""
    while True:
        start, address = await node.up()
        try:
            async with stream(node, f"?after={seen.cursor}", address=address) as socket:
                seen.greeted(_frame(await socket.recv(decode=False)))
                while True:
                    _take(seen, taker, await socket.recv(decode=False))
        except InvalidStatus as refused:
            raise AssertionError(f"{seen.name} was refused: {refused.response.body!r}") from refused
        except (OSError, EOFError, InvalidHandshake, ConnectionClosed) as broken:
            why = repr(broken)
        assert not node.serving(start), f"codexd ended {seen.name} by itself: {why}\n{node.stderr}"


async def follow_sse(node: Node, seen: Seen, taker: Taker) -> None:
    """The same as server-sent events, by `Last-Event-ID`."""
    while True:
        start, address = await node.up()
        headers = {"authorization": f"Bearer {node.token('read')}", "accept": "text/event-stream"}
        headers["last-event-id"] = seen.cursor
        why = "it ended"
        try:
            async with (
                httpx2.AsyncClient(trust_env=False, timeout=None) as http,
                http.stream("GET", address + PATH, headers=headers) as answer,
            ):
                assert answer.status_code == 200, f"{seen.name} was refused: {await answer.aread()!r}"
                await _messages(answer, seen, taker)
        except httpx2.TransportError as broken:
            why = repr(broken)
        assert not node.serving(start), f"codexd ended {seen.name} by itself: {why}\n{node.stderr}"


async def _messages(answer: httpx2.Response, seen: Seen, taker: Taker) -> None:
    rest, greeted = b"", False
    async for chunk in answer.aiter_bytes():
        *whole, rest = (rest + chunk).split(b"\n\n")
        for message in whole:
            data = message.partition(b"\ndata: ")[2]
            if greeted:
                _take(seen, taker, data)
            else:
                seen.greeted(_frame(data))
                greeted = True


def _take(seen: Seen, taker: Taker, data: bytes) -> None:
    frame = _frame(data)
    if frame.type == "events":
        taker(seen.take(frame))


def _frame(data: bytes) -> Frame:
    return msgspec.json.decode(data, type=Frame)


async def read_log(node: Node) -> list[Raw]:
    """Every event of the log as it stands now, by pages."""
    events: list[Raw] = []
    after = "0"
    while True:
        answer = await node.get(PATH, after=after, limit=1000)
        assert answer.status_code == 200, answer.text
        page = msgspec.json.decode(answer.content, type=_Page).data
        events += page.events
        if page.next == after:
            return events
        after = page.next
