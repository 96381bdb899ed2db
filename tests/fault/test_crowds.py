"""Many at once at the door of a real codexd: connections, readers of the whole log, readers that begin anywhere."""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import struct
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from websockets.asyncio.client import connect

from tests.support.faults import saw
from tests.support.node import Json, Node, until, within

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the tests look at /proc"),
    pytest.mark.timeout(240),
]

SEED = 7
CROWD = 900
RESETS = 2000
READERS = 60
EVENTS = 500
PLACES = 200
LINES = (b"", b"GET /healthz HTTP/1.1\r\nX: ", b"")
RESET = struct.pack("ii", 1, 0)


@pytest.fixture(scope="module")
async def node(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    """codexd without Codex: a session that is registered is an event."""
    folder: Path = tmp_path_factory.mktemp("crowds")
    async with Node(folder, "http://127.0.0.1:9", server_command="/nowhere/codex") as made:
        await made.start()
        yield made


def handshake(node: Node) -> bytes:
    fields = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13")
    more = ("Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", f"Authorization: Bearer {node.token('read')}")
    host = f"Host: {urlsplit(node.address).netloc}"
    return "\r\n".join(("GET /v1/codexd/events HTTP/1.1", host, *fields, *more, "", "")).encode()


async def test_a_crowd_is_served_up_to_the_limit_and_leaves_nothing(node: Node) -> None:
    """A third says nothing, a third half a head, a third wants a stream; then connections that are reset at once."""
    host, port = urlsplit(node.address).hostname, urlsplit(node.address).port
    assert (await node.get("/healthz")).status_code == 200
    descriptors = Path(f"/proc/{node.pid}/fd")
    before = len(os.listdir(descriptors))
    answers: Counter[bytes] = Counter()
    writers: list[asyncio.StreamWriter] = []
    ask = handshake(node)

    async def come(number: int) -> None:
        reader, writer = await asyncio.open_connection(host, port)
        writers.append(writer)
        with suppress(ConnectionError):
            writer.write(LINES[number % 3] if number % 3 < 2 else ask)
            if number % 3 == 2:
                answers[(await reader.readline())[:12]] += 1

    try:
        async with asyncio.timeout(120), asyncio.TaskGroup() as group:
            for number in range(CROWD):
                group.create_task(come(number), name=f"connection {number}")
        assert (await node.get("/healthz")).status_code == 200
    finally:
        for writer in writers:
            writer.transport.abort()
    for _ in range(RESETS):
        with socket.create_connection((host, port)) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    await until(lambda: len(os.listdir(descriptors)) <= before)
    assert set(answers) <= {b"HTTP/1.1 101", b"HTTP/1.1 503", b""}
    saw("F71", answers[b"HTTP/1.1 101"], f"{CROWD} came at once, {RESETS} were reset; of a third: {dict(answers)}")
    assert (await node.get("/healthz")).status_code == 200


def stream(node: Node, after: str) -> connect:
    headers = {"Authorization": f"Bearer {node.token('read')}"}
    address = node.address.replace("http", "ws", 1)
    return connect(f"{address}/v1/codexd/events?after={after}", additional_headers=headers, proxy=None, max_size=None)


async def read(node: Node, after: str, up_to: int) -> list[Json]:
    """Events from the cursor on until one is `up_to` at least; each frame must follow on the one before."""
    found: list[Json] = []
    async with stream(node, after) as told:
        at = json.loads(await within(told.recv()))["after"]
        while not found or found[-1]["seq"] < up_to:
            frame = json.loads(await within(told.recv()))
            if frame["type"] != "events":
                continue
            assert frame["from"] == at
            at = frame["next"]
            found += frame["events"]
    return found


async def seq(node: Node) -> int:
    return int((await node.head()).partition(":")[2])


async def test_readers_of_the_whole_log_get_it_alike_and_hold_up_nobody(node: Node) -> None:
    while await seq(node) < EVENTS:
        async with asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(node.session(metadata={"text": "x" * 500}), name="a session")
    head = await seq(node)
    async with asyncio.timeout(150), asyncio.TaskGroup() as group:
        reading = [group.create_task(read(node, "0", head), name=f"reader {n}") for n in range(READERS)]
        for _ in range(5):
            assert (await node.get("/healthz")).status_code == 200
            await node.session()
    whole = (await node.events())[:head]
    assert all(task.result()[:head] == whole for task in reading)
    saw("F74", len(whole) >= EVENTS, f"{READERS} readers replayed {len(whole)} events at once")


async def test_wherever_a_reader_begins_it_goes_over_to_what_comes_without_a_gap(node: Node) -> None:
    """Sessions are registered all the while, and every reader stays until it was told of one that came after it."""
    draw, done = random.Random(SEED), asyncio.Event()
    epoch = (await node.head()).partition(":")[0]
    found: list[tuple[int, list[Json]]] = []
    places = iter(range(PLACES))

    async def write() -> None:
        while not done.is_set():
            await node.session()

    async def readers() -> None:
        for _ in places:
            head = await seq(node)
            place = draw.randint(max(0, head - 200), head)
            found.append((place, await read(node, f"{epoch}:{place}", head + 1)))

    async with asyncio.timeout(150), asyncio.TaskGroup() as writing:
        for number in range(2):
            writing.create_task(write(), name=f"writer {number}")
        async with asyncio.TaskGroup() as group:
            for number in range(8):
                group.create_task(readers(), name=f"readers {number}")
        done.set()
    whole = {event["seq"]: event for event in await node.events()}
    for place, events in found:
        assert events == [whole[number] for number, _ in zip(count(place + 1), events, strict=False)]
    saw("F75", len(found) == PLACES, f"{PLACES} readers began anywhere in the log while it was written")
