"""What codexd tells a service manager: that it serves, that it lives, and nothing while its log cannot be written."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import apsw
import pytest

from baa.codexd.status import STALLED_S
from baa.scripted import Hold, Say, ScriptedModel, when
from tests.support.node import Node, within

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the tests look at /proc"),
    pytest.mark.timeout(180),  # later than any wait of ours gives up, so that a test that fails cleans up
]

SILENCE_S = 1.0
"""Seconds without a word that count as silence: ten of codexd's turns to speak."""

SCENARIOS = (when("held", (Say.numbered(5), Hold("held"), Say("the end"))),)
COUNT = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < %d) SELECT max(n) FROM c"


class ManagedNode(Node):
    """A node whose codexd is told where a manager listens."""

    def environment(self, **settings: str) -> dict[str, str]:
        told = {"NOTIFY_SOCKET": str(self.folder / "notify"), "WATCHDOG_USEC": "300000"}
        return super().environment(**settings) | told


@pytest.fixture
async def managed(tmp_path: Path) -> AsyncIterator[tuple[ManagedNode, socket.socket, ScriptedModel]]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.setblocking(False)
        async with ScriptedModel(SCENARIOS) as model, ManagedNode(tmp_path, model.base_url) as node:
            yield node, listening, model


async def until_told(listening: socket.socket, wanted: Callable[[str], bool]) -> list[str]:
    """What was told, up to the first word that is wanted."""
    told: list[str] = []
    loop = asyncio.get_running_loop()
    while not told or not wanted(told[-1]):
        told.append((await within(loop.sock_recv(listening, 4096))).decode())
    return told


async def until_silent(listening: socket.socket) -> None:
    loop = asyncio.get_running_loop()

    async def until_nothing_comes() -> None:
        while True:
            try:
                async with asyncio.timeout(SILENCE_S):
                    await loop.sock_recv(listening, 4096)
            except TimeoutError:
                return

    await within(until_nothing_comes())


def drop_all(listening: socket.socket) -> None:
    try:
        while True:
            listening.recv(4096)
    except BlockingIOError:
        return


def steps_that_take(seconds: float) -> int:
    connection = apsw.Connection(":memory:")
    steps, taken = 500_000, 0.0
    start = time.monotonic()
    connection.execute(COUNT % steps).fetchall()
    taken = time.monotonic() - start
    return int(steps * seconds / taken)


async def test_the_manager_hears_that_it_serves_that_it_lives_and_that_it_stops(
    managed: tuple[ManagedNode, socket.socket, ScriptedModel],
) -> None:
    node, listening, _ = managed
    await node.start()
    told = await until_told(listening, lambda word: word == "READY=1")
    assert set(told[:-1]) <= {"WATCHDOG=1"}
    assert (await node.get("/healthz")).status_code == 200
    assert await until_told(listening, lambda _: True) == ["WATCHDOG=1"]
    node.signal(signal.SIGTERM)
    told = await until_told(listening, lambda word: word == "STOPPING=1")
    assert set(told[:-1]) <= {"WATCHDOG=1"}
    assert await node.ended() == 0


async def test_a_codexd_that_drains_feeds_the_watchdog(
    managed: tuple[ManagedNode, socket.socket, ScriptedModel],
) -> None:
    node, listening, model = managed
    node.settings["drain_ms"] = "3600000"
    await node.start()
    turn_id = await node.turn(await node.session(), "held")
    await within(model.held("held"))
    node.signal(signal.SIGTERM)
    await until_told(listening, lambda word: word == "STOPPING=1")
    for _ in range(5):
        assert await until_told(listening, lambda _: True) == ["WATCHDOG=1"]
    assert (await node.ledger(turn_id))["status"] == "in_progress"
    model.release("held")
    assert await node.ended() == 0


async def test_the_watchdog_is_not_fed_while_the_log_is_not_written(
    managed: tuple[ManagedNode, socket.socket, ScriptedModel],
) -> None:
    """A trigger, made from outside, keeps the log's writer busy within a commit, as a disk that hangs would."""
    node, listening, _ = managed
    await node.start()
    await node.child()
    connection = apsw.Connection(str(node.database))
    connection.set_busy_timeout(5000)
    steps = await asyncio.to_thread(steps_that_take, STALLED_S + 4 * SILENCE_S)
    connection.execute(
        f"CREATE TRIGGER stuck AFTER INSERT ON event WHEN new.type = 'session.registered' BEGIN {COUNT % steps}; END"
    )
    async with asyncio.TaskGroup() as tasks:
        registering = tasks.create_task(node.session())
        drop_all(listening)
        await until_silent(listening)
        assert not registering.done()  # nothing is told before it is committed
        assert (await node.get("/healthz")).status_code == 503
        await within(registering)
    drop_all(listening)
    assert await until_told(listening, lambda _: True) == ["WATCHDOG=1"]
    assert (await node.get("/healthz")).status_code == 200
    connection.execute("DROP TRIGGER stuck")
    connection.close()
