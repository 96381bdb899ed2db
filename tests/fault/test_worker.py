"""worker-runner as a real process: registered, alive by its heartbeat, drained, superseded, frozen, killed."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from baa import __version__
from baa.api.conductor import Node, NodeState
from baa.engine.store import Engine, open_engine
from tests.support.faults import saw
from tests.support.node import PATIENCE_SECONDS, until
from tests.support.outside import outside
from tests.support.postgres import PostgreSQL
from tests.support.programs import Program

pytestmark = pytest.mark.timeout(150)

TTL = {"BAA_WORKER_NODE_TTL_MS": "2000"}


class Fleet:
    """An engine and the workers on it."""

    def __init__(self, folder: Path, url: str, engine: Engine) -> None:
        self.engine = engine
        self._folder = folder
        self._url = url

    def worker(self, home: str = "baa", **settings: str) -> Program:
        """A worker-runner of the node `here`, in a home of its own if it is given one."""
        return Program("worker-runner", self._folder / home, **TTL, BAA_ENGINE_URL=self._url, **settings)

    def conductor(self, home: str, **settings: str) -> Program:
        """A conductor of the same node, with the worker that it has in it by default."""
        return Program("conductor", self._folder / home, **TTL, BAA_ENGINE_URL=self._url, **settings)

    async def becomes(self, state: NodeState) -> Node:
        """The one node, once it is in that state."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                nodes = await self.engine.nodes()
                if [node.state for node in nodes] == [state]:
                    return nodes[0]


@pytest.fixture
async def fleet(tmp_path: Path, engine_url: str) -> AsyncIterator[Fleet]:
    engine = await open_engine(engine_url)
    yield Fleet(tmp_path, engine_url, engine)
    await engine.close()


async def test_it_registers_lives_and_leaves(fleet: Fleet) -> None:
    async with fleet.worker(BAA_WORKER_SLOTS="3") as program:
        assert program.address == "here"
        node = await fleet.becomes(NodeState.ACTIVE)
        assert (node.node_id, node.version, node.slots, node.pid) == ("here", __version__, 3, program.pid)
        seen = node.seen_at
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (await fleet.becomes(NodeState.ACTIVE)).seen_at == seen:
                pass
        assert await program.stop() == (0, "")
        gone = await fleet.becomes(NodeState.GONE)
        assert gone.incarnation == node.incarnation
        assert program.log.index("node.draining") < program.log.index("node.gone")


async def test_one_that_is_killed_is_gone_when_its_heartbeat_expires(fleet: Fleet) -> None:
    async with fleet.worker() as program:
        await fleet.becomes(NodeState.ACTIVE)
        await program.kill()
        gone = await fleet.becomes(NodeState.GONE)
        saw("F16", gone.state is NodeState.GONE, "the worker was killed, and its node expired")
        await program.start()
        await fleet.becomes(NodeState.ACTIVE)


async def test_one_of_another_home_for_the_same_node_ends_the_first(fleet: Fleet) -> None:
    async with fleet.worker() as first:
        await fleet.becomes(NodeState.ACTIVE)
        async with fleet.worker("other") as second:
            code, stderr = await first.ended()
            assert code == 75
            assert "The node here was given up as gone, or another worker took it over" in stderr
            assert (await fleet.becomes(NodeState.ACTIVE)).pid == second.pid


async def test_a_conductor_whose_worker_was_replaced_leaves_and_lets_go_of_the_lead(fleet: Fleet) -> None:
    async with (
        fleet.conductor("first") as first,
        fleet.conductor("standby", BAA_WORKER_EMBEDDED="false") as standby,
    ):
        assert (await fleet.becomes(NodeState.ACTIVE)).pid == first.pid
        assert (await first.get("/rolez"))["role"] == "leader"
        async with fleet.worker("other") as second:
            code, stderr = await first.ended()
            assert code == 75
            assert "another worker took it over" in stderr
            assert (await fleet.becomes(NodeState.ACTIVE)).pid == second.pid
            assert not (first.home / "state" / "endpoint.json").exists(), "nobody looks for it any more"
            assert '"event":"role.standby"' in first.log, "it did not wait for its lease to run out"
            assert (await standby.becomes("/rolez", lambda data: data["role"] == "leader"))["term"] == 2


async def test_a_second_one_of_the_same_home_waits_until_the_first_is_gone(fleet: Fleet) -> None:
    async with fleet.worker() as first:
        await fleet.becomes(NodeState.ACTIVE)
        async with fleet.worker() as second:
            await until(lambda: "worker.waits" in second.log)
            assert (await fleet.becomes(NodeState.ACTIVE)).pid == first.pid
            await first.kill()
            async with asyncio.timeout(PATIENCE_SECONDS):
                while (await fleet.becomes(NodeState.ACTIVE)).pid != second.pid:
                    pass
            async with fleet.worker() as third:
                assert await third.stop() == (0, ""), "also while it waits"


async def test_a_frozen_one_that_was_replaced_leaves_when_it_wakes(fleet: Fleet) -> None:
    async with fleet.worker() as frozen:
        await fleet.becomes(NodeState.ACTIVE)
        frozen.signal(signal.SIGSTOP)
        try:
            await fleet.becomes(NodeState.GONE)
            async with fleet.worker("other") as second:
                frozen.signal(signal.SIGCONT)
                assert (await frozen.ended())[0] == 75
                node = await fleet.becomes(NodeState.ACTIVE)
                saw("F16", node.pid == second.pid, "the worker was frozen, and left when it woke")
        finally:
            if frozen.returncode is None:
                frozen.signal(signal.SIGCONT)


async def test_one_that_the_operator_drains_stays_and_takes_nothing_until_it_is_started_again(fleet: Fleet) -> None:
    async with fleet.worker() as program:
        await fleet.becomes(NodeState.ACTIVE)
        await fleet.engine.drain("here")
        node = await fleet.becomes(NodeState.DRAINING)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (await fleet.becomes(NodeState.DRAINING)).seen_at == node.seen_at:
                pass
        assert await program.stop() == (0, "")
        await program.start()
        await fleet.becomes(NodeState.ACTIVE)


async def test_it_waits_for_an_engine_that_does_not_answer_as_it_should(tmp_path: Path) -> None:
    file = tmp_path / "engine.sqlite3"
    engine = await open_engine(file)
    fleet = Fleet(tmp_path, f"sqlite://{file}", engine)
    async with fleet.worker() as program:
        await fleet.becomes(NodeState.ACTIVE)
        with outside(file) as sql:
            sql.exec_driver_sql("ALTER TABLE node RENAME TO away")
            await until(lambda: "engine.trouble" in program.log)
            sql.exec_driver_sql("ALTER TABLE away RENAME TO node")
        await until(lambda: "engine.mended" in program.log)
        await fleet.becomes(NodeState.ACTIVE)
        assert await program.stop() == (0, "")
    await engine.close()


async def test_it_outlives_its_server_and_leaves_in_time_without_it(
    tmp_path: Path, postgres: PostgreSQL, postgres_url: str
) -> None:
    engine = await open_engine(postgres_url)
    fleet = Fleet(tmp_path, postgres_url, engine)
    async with fleet.worker() as program:
        await fleet.becomes(NodeState.ACTIVE)
        postgres.kill()
        await until(lambda: "engine.trouble" in program.log)
        postgres.start()
        await until(lambda: "engine.mended" in program.log)
        await fleet.becomes(NodeState.ACTIVE)
        postgres.kill()
        assert await program.stop() == (0, "")
        assert postgres_url not in program.log
    await engine.close()
