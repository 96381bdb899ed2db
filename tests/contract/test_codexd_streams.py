"""When a stream is quiet, when its reader stops reading, and when that one is gone: real sockets, short times."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from baa.api import events as e
from baa.api.events import EventType
from baa.clock import SystemClock
from baa.codexd.eventlog import EventLog, Transaction
from baa.codexd.machines.inputs import NewEvent
from baa.codexd.subscriptions import CLOSED_SLOW, STEP, Subscriptions
from baa.http.limits import Receive, Scope, Send
from baa.http.serve import HttpServer, bind
from tests.support.faults import saw
from tests.support.house import until

QUIET_S = 0.05
UNREAD_S = 1.5
SMALL, SMALL_ONES = 50_000, 400  # bytes of one fit into the room that a connection has when its reader has read all
FLOOD = 200  # events of 100 kB: more than all buffers between the log and a reader hold
WAIT_S = 50
READERS = ("websocket", "sse")


@pytest.fixture(autouse=True)
def nothing_is_logged_as_a_failure(caplog: pytest.LogCaptureFixture) -> Any:
    yield
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


class Streams(NamedTuple):
    """A log whose streams are served, and nothing else."""

    log: EventLog
    subscriptions: Subscriptions
    server: HttpServer
    port: int

    async def tell(self, *texts: str) -> None:
        """Have events with these texts committed and told."""
        told = asyncio.Event()
        warnings = [NewEvent(EventType.CODEX_WARNING, None, None, e.Notification(method=text)) for text in texts]
        self.log.submit(Transaction(events=warnings, done=[lambda _: told.set()]))
        await told.wait()

    def websocket(self, query: str = "") -> connect:
        return connect(f"ws://127.0.0.1:{self.port}/{query}", proxy=None, max_size=None, max_queue=1, close_timeout=0.1)

    async def sse(self, query: str = "") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """The body of a stream, whose head was read."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(b"GET /%b HTTP/1.1\r\nHost: here\r\n\r\n" % query.encode())
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        return reader, writer


@asynccontextmanager
async def streams(
    folder: Path, *, quiet_s: float = 60, unread_s: float = 60, grace_s: float = 0.2
) -> AsyncIterator[Streams]:
    log = EventLog(folder / "log.sqlite3", clock=SystemClock())
    subscriptions = Subscriptions(log, heartbeat_s=quiet_s, unread_s=unread_s)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        serve = subscriptions.serve if scope["type"] == "websocket" else subscriptions.serve_sse
        await serve(scope, receive, send)

    sock = bind("127.0.0.1", 0)
    server = HttpServer(app, sock, grace_seconds=grace_s)
    try:
        async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as group:
            group.create_task(server.serve(), name="server")
            await server.started.wait()
            try:
                yield Streams(log, subscriptions, server, sock.getsockname()[1])
            finally:
                server.stop()
    finally:
        await asyncio.to_thread(log.close)


async def frame(socket: ClientConnection) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(await socket.recv())
    return found


async def message(reader: asyncio.StreamReader) -> tuple[str, str, dict[str, Any]]:
    """One server-sent event (id, event, data); each is a chunk of its own."""
    size = int(await reader.readuntil(b"\r\n"), 16)
    chunk = (await reader.readexactly(size + 2)).decode()
    id_, event, data = (line.partition(": ")[2] for line in chunk.strip().split("\n"))
    return id_, event, json.loads(data)


async def test_a_quiet_stream_says_that_it_lives_and_where_the_log_stands(tmp_path: Path) -> None:
    async with streams(tmp_path, quiet_s=QUIET_S) as house:
        async with house.websocket() as socket:
            assert (await frame(socket))["type"] == "hello"
            for _ in range(2):
                assert await frame(socket) == {"type": "heartbeat", "head": f"{house.log.epoch}:0"}
            await house.tell("news")
            while (after := await frame(socket))["type"] == "heartbeat":
                pass
            assert (after["from"], after["next"]) == (f"{house.log.epoch}:0", f"{house.log.epoch}:1")
            assert await frame(socket) == {"type": "heartbeat", "head": f"{house.log.epoch}:1"}
        reader, writer = await house.sse()
        await message(reader)
        cursor = f"{house.log.epoch}:1"
        assert await message(reader) == (cursor, "heartbeat", {"type": "heartbeat", "head": cursor})
        writer.close()


async def test_a_reader_that_wants_nothing_of_what_comes_is_told_how_far_it_has_come(tmp_path: Path) -> None:
    async with (
        streams(tmp_path, quiet_s=QUIET_S) as house,
        house.websocket("?types=turn.queued") as socket,
    ):
        at = (await frame(socket))["after"]
        await house.tell("other", "other")
        while (moved := await frame(socket))["type"] == "heartbeat":
            pass
        assert moved == {"type": "events", "from": at, "next": f"{house.log.epoch}:2", "events": []}


async def test_what_comes_in_numbers_comes_in_frames_of_many(tmp_path: Path) -> None:
    async with streams(tmp_path) as house, house.websocket() as socket:
        await frame(socket)
        await house.tell(*["news"] * 2500)
        frames = [await frame(socket)]
        while len(frames[-1]["events"]) == 1000:
            frames.append(await frame(socket))
        assert [len(each["events"]) for each in frames] == [1000, 1000, 500]
        assert [each["from"] for each in frames[1:]] == [each["next"] for each in frames[:-1]]


async def test_several_readers_are_told_by_the_same_frames_wherever_each_began(tmp_path: Path) -> None:
    async with streams(tmp_path) as house:
        await house.tell(*["old"] * 100)
        async with house.websocket("?after=0") as one, house.websocket(f"?after={house.log.epoch}:70") as two:
            await until(lambda: house.subscriptions.count == 2)
            both = one, two
            for socket in both:
                await frame(socket)
                assert (await frame(socket))["next"] == f"{house.log.epoch}:100"
            await house.tell(*["news"] * (2 * STEP))
            frames = [[await socket.recv() for _ in range(3)] for socket in both]
    assert frames[0] == frames[1]
    assert [json.loads(each)["next"].partition(":")[2] for each in frames[0]] == [
        f"{STEP}",
        f"{2 * STEP}",
        f"{2 * STEP + 100}",
    ]


@pytest.mark.parametrize("how", READERS)
async def test_a_reader_that_stops_reading_is_cut_off_and_comes_back_by_its_cursor(tmp_path: Path, how: str) -> None:
    """It holds neither a connection nor memory, and another reader does not notice."""
    async with streams(tmp_path, unread_s=UNREAD_S) as house:
        reader, writer = await asyncio.open_connection("127.0.0.1", house.port, limit=1024)
        upgrade = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        key = b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        head = upgrade + key if how == "websocket" else b"Accept: text/event-stream\r\n"
        writer.write(b"GET /?after=0 HTTP/1.1\r\nHost: here\r\n" + head + b"\r\n")
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        async with house.websocket() as other:
            await frame(other)
            await until(lambda: house.subscriptions.count == 2)
            seen = 0
            for told in range(1, SMALL_ONES + 1):  # one at a time: for who has read the last, no frame has to wait
                await house.tell("x" * SMALL)
                while seen < told:
                    seen += len((await frame(other))["events"])
            await until(lambda: house.subscriptions.count == 1)
            await until(lambda: house.server.connections == 1)
        saw("F70", seen == SMALL_ONES, f"a {how} reader took nothing of {SMALL_ONES} large events, and was cut off")
        writer.transport.abort()
        async with house.websocket("?after=0") as again:
            await frame(again)
            assert (await frame(again))["events"][0]["seq"] == 1


async def test_a_websocket_that_is_not_read_is_closed_with_its_own_code(tmp_path: Path) -> None:
    async with streams(tmp_path, unread_s=UNREAD_S, grace_s=WAIT_S) as house, house.websocket("?after=0") as socket:
        await frame(socket)
        for _ in range(FLOOD // 10):
            await house.tell(*["x" * 100_000] * 10)
        await until(lambda: house.subscriptions.count == 0)
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                await socket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == CLOSED_SLOW
        saw("F70", closed.value.rcvd.code, "a reader took nothing, and found its close code when it read again")


@pytest.mark.parametrize("how", READERS)
async def test_a_reader_that_is_gone_is_noticed_though_nothing_is_told(tmp_path: Path, how: str) -> None:
    async with streams(tmp_path) as house:
        if how == "websocket":
            socket = await house.websocket()
            await frame(socket)
            cut = socket.transport.abort
        else:
            reader, writer = await house.sse()
            await message(reader)
            cut = writer.transport.abort
        assert house.subscriptions.count == 1
        cut()
        await until(lambda: house.subscriptions.count == 0 and house.server.connections == 0)
        saw("F72", house.server.connections == 0, f"a {how} reader went away without a word")
