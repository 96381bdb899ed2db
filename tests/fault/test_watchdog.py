"""What codexd tells a service manager: that it serves, that it lives, and nothing while its log cannot be written."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import apsw
import pytest

from baa.scripted import Hold, Say, ScriptedModel, when
from tests.support.node import PATIENCE_SECONDS, Node, within

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


def drop_all(listening: socket.socket) -> None:
    try:
        while True:
            listening.recv(4096)
    except BlockingIOError:
        return


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
    assert (await node.running_turn(turn_id))["status"] == "in_progress"
    model.release("held")
    assert await node.ended() == 0


async def seen_stuck(node: ManagedNode, listening: socket.socket) -> bool:
    """Register a session, which takes its time: whether the manager and healthz noticed before it was registered."""
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as tasks:
        registering = tasks.create_task(node.session())
        drop_all(listening)
        while not registering.done():  # nothing is told before it is committed
            try:
                async with asyncio.timeout(SILENCE_S):
                    await loop.sock_recv(listening, 4096)
            except TimeoutError:
                if (await node.get("/healthz")).status_code == 503:
                    return True
    return False


async def test_the_watchdog_is_not_fed_while_the_log_is_not_written(
    managed: tuple[ManagedNode, socket.socket, ScriptedModel],
) -> None:
    """A trigger, made from outside, keeps the log's writer busy within a commit, as a disk that hangs would.

    How long the trigger takes nobody knows: as long as it was too short to be noticed, the next takes twice the steps.
    """
    node, listening, _ = managed
    await node.start()
    await node.child()
    connection = apsw.Connection(str(node.database))
    connection.set_busy_timeout(5000)

    async def until_seen() -> None:
        steps = 20_000_000
        stuck = "CREATE TRIGGER stuck AFTER INSERT ON event WHEN new.type = 'session.registered' BEGIN %s; END"
        connection.execute(stuck % (COUNT % steps))
        while not await seen_stuck(node, listening):
            steps *= 2
            connection.execute("DROP TRIGGER stuck")
            connection.execute(stuck % (COUNT % steps))

    await within(until_seen(), 2 * PATIENCE_SECONDS)
    drop_all(listening)
    assert await until_told(listening, lambda _: True) == ["WATCHDOG=1"]
    assert (await node.get("/healthz")).status_code == 200
    connection.execute("DROP TRIGGER stuck")
    connection.close()
