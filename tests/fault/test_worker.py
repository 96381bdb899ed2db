"""worker-runner as a real process: registered, alive by its heartbeat, drained, superseded, killed."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from baa import __version__
from baa.api.conductor import Node, NodeState
from baa.engine.store import open_engine
from tests.support.faults import saw
from tests.support.node import PATIENCE_SECONDS, until
from tests.support.outside import outside
from tests.support.programs import Program

pytestmark = pytest.mark.timeout(150)


def worker(folder: Path, **settings: str) -> Program:
    return Program("worker-runner", folder / "baa", BAA_WORKER_NODE_TTL_MS="2000", **settings)


async def becomes(folder: Path, state: NodeState) -> Node:
    """The one node of the engine, once it is in that state."""
    engine = await open_engine(folder / "baa" / "state" / "engine.sqlite3")
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                nodes = await engine.nodes()
                if [node.state for node in nodes] == [state]:
                    return nodes[0]
    finally:
        await engine.close()


async def test_it_registers_lives_and_drains(tmp_path: Path) -> None:
    async with worker(tmp_path, BAA_WORKER_SLOTS="3") as program:
        assert program.address == "here"
        node = await becomes(tmp_path, NodeState.ACTIVE)
        assert (node.node_id, node.version, node.slots, node.pid) == ("here", __version__, 3, program.pid)
        seen = node.seen_at
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (await becomes(tmp_path, NodeState.ACTIVE)).seen_at == seen:
                pass
        assert await program.stop() == (0, "")
        gone = await becomes(tmp_path, NodeState.GONE)
        assert gone.incarnation == node.incarnation
        assert program.log.index("node.draining") < program.log.index("node.gone")


async def test_one_that_is_killed_is_gone_when_its_heartbeat_expires(tmp_path: Path) -> None:
    async with worker(tmp_path) as program:
        await becomes(tmp_path, NodeState.ACTIVE)
        await program.kill()
        gone = await becomes(tmp_path, NodeState.GONE)
        saw("F16", gone.state is NodeState.GONE, "the worker was killed, and its node expired")
        await program.start()
        await becomes(tmp_path, NodeState.ACTIVE)


async def test_a_second_one_for_the_same_node_ends_the_first(tmp_path: Path) -> None:
    async with worker(tmp_path) as first:
        await becomes(tmp_path, NodeState.ACTIVE)
        async with worker(tmp_path) as second:
            code, stderr = await first.ended()
            assert code == 75
            assert "Another worker-runner took over the node here." in stderr
            assert (await becomes(tmp_path, NodeState.ACTIVE)).pid == second.pid


async def test_it_waits_for_an_engine_that_is_away(tmp_path: Path) -> None:
    async with worker(tmp_path) as program:
        await becomes(tmp_path, NodeState.ACTIVE)
        with outside(tmp_path / "baa" / "state" / "engine.sqlite3") as sql:
            sql.exec_driver_sql("ALTER TABLE node RENAME TO away")
            await until(lambda: "engine.trouble" in program.log)
            sql.exec_driver_sql("ALTER TABLE away RENAME TO node")
        await until(lambda: "engine.mended" in program.log)
        await becomes(tmp_path, NodeState.ACTIVE)
        program.signal(signal.SIGTERM)
        assert await program.ended() == (0, "")
