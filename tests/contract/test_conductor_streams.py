"""The live stream of the conductor's events: how it ends for a reader that does not read, or comes too late.

The application is called as its server calls it, on real databases; test_serve.py has what a close is on the wire.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from baa.conductor.http_events import Events
from baa.engine.store import Engine
from baa.http.limits import Message
from baa.http.patience import Patience
from tests.support.engines import Fleet, fleet_on, lead, submit
from tests.support.node import within

Gate = Callable[[str], Awaitable[None]]


@pytest.fixture
async def fleet(engine_url: str) -> AsyncIterator[Fleet]:
    async with fleet_on(engine_url) as fleet:
        yield fleet


async def sent(engine: Engine, gate: Gate, *, unread_s: float, gone: asyncio.Event | None = None) -> list[Message]:
    """All that a reader from the oldest event on is sent, until its stream ends. `gate`: each text passes through it.

    `gone`: once it is set, the reader leaves.
    """
    came: list[Message] = []
    leaves = gone or asyncio.Event()
    connected = False

    async def receive() -> Message:
        nonlocal connected
        if not connected:
            connected = True
            return {"type": "websocket.connect"}
        await leaves.wait()
        return {"type": "websocket.disconnect", "code": 1001}

    async def send(message: Message) -> None:
        if "text" in message:
            await gate(message["text"])
        came.append(message)

    scope: dict[str, Any] = {"type": "websocket", "query_string": b"after=0", "headers": []}
    events = Events(engine, Patience(), unread_s=unread_s)
    await within(events.serve(scope, receive, send))
    assert events.count == 0
    return came


async def test_a_reader_that_does_not_read_is_closed_with_4408(fleet: Fleet) -> None:
    engine = await fleet.open()
    await submit(engine)

    async def gate(text: str) -> None:
        if '"type":"events"' in text:
            await asyncio.Event().wait()

    accepted, hello, *closed = await sent(engine, gate, unread_s=0.05)
    assert (accepted["type"], json.loads(hello["text"])["type"]) == ("websocket.accept", "hello")
    assert closed == [{"type": "websocket.close", "code": 4408, "reason": "not reading"}]


async def test_a_reader_whose_next_event_is_gone_is_closed_with_4410(fleet: Fleet) -> None:
    engine = await fleet.open()
    await engine.cancel((await submit(engine)).task_id)

    async def gate(text: str) -> None:
        if '"type":"hello"' in text:  # meanwhile the leader lets go of what it was to read
            fleet.later(2000)
            assert await engine.prune(await lead(engine), keep_ms=1000)

    accepted, hello, *closed = await sent(engine, gate, unread_s=60)
    assert (accepted["type"], json.loads(hello["text"])["type"]) == ("websocket.accept", "hello")
    assert closed == [{"type": "websocket.close", "code": 4410, "reason": "cursor_expired"}]


async def test_a_reader_that_leaves_is_sent_no_close(fleet: Fleet) -> None:
    engine, gone = await fleet.open(), asyncio.Event()
    await submit(engine)

    async def gate(text: str) -> None:
        if '"type":"events"' in text:
            gone.set()

    _, hello, events = await sent(engine, gate, unread_s=60, gone=gone)
    assert json.loads(events["text"])["from"] == json.loads(hello["text"])["after"]
