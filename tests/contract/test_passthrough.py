"""A caller of the conductor's that stops reading a stream of codexd's: neither side of it is held for ever."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from baa.conductor.passthrough import Passthrough
from baa.http.keyring import Keyring
from baa.http.serve import HttpServer, bind
from tests.support.faults import saw
from tests.support.house import until

WAIT_S = 50
UNREAD_S = 0.3
CHUNK = b"%x\r\n%b\r\n" % (100_000, b"x" * 100_000)


@pytest.fixture(autouse=True)
def nothing_is_logged_as_a_failure(caplog: pytest.LogCaptureFixture) -> Any:
    yield
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_a_caller_that_takes_nothing_is_cut_off_from_both_sides() -> None:
    gone = asyncio.Event()

    async def stream_for_ever(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
            while True:
                writer.write(CHUNK)
                await writer.drain()
        except ConnectionError:
            gone.set()
        finally:
            writer.close()

    upstream = await asyncio.start_server(stream_for_ever, "127.0.0.1", 0)
    port = upstream.sockets[0].getsockname()[1]
    sock = bind("127.0.0.1", 0)
    server = HttpServer(
        Passthrough(lambda: f"http://127.0.0.1:{port}", Keyring({}), unread_s=UNREAD_S), sock, grace_seconds=0.2
    )
    async with asyncio.timeout(WAIT_S), upstream, asyncio.TaskGroup() as group:
        group.create_task(server.serve(), name="server")
        reader, writer = await asyncio.open_connection("127.0.0.1", sock.getsockname()[1], limit=1024)
        writer.write(b"GET /v1/codexd/events HTTP/1.1\r\nHost: here\r\nAccept: text/event-stream\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await gone.wait()
        await until(lambda: server.connections == 0)
        saw("F70", gone.is_set(), "a reader took nothing through the conductor, and both sides ended")
        writer.transport.abort()
        server.stop()
