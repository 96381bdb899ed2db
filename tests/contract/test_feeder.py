"""Events of a real codexd, taken over into the engine on both databases: each once, in order, none missed unsaid."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from baa import config
from baa.api.conductor import Node as FleetNode
from baa.api.conductor import NodeState
from baa.api.sessions import CreateSession, Sandbox, StartTurn
from baa.api.tasks import QueueEvent
from baa.client.codexd import Codexd
from baa.engine.store import Engine, Lost, open_engine
from baa.scripted import Say, ScriptedModel, when
from baa.worker.feeder import Feeder
from tests.support.node import Node, within
from tests.support.postgres import PostgreSQL

pytestmark = pytest.mark.timeout(150)

SCENARIOS = (when("count", (Say.numbered(40, 5),)),)


@asynccontextmanager
async def a_node(folder: Path) -> AsyncIterator[tuple[Node, Codexd]]:
    async with ScriptedModel(SCENARIOS) as model, Node(folder, model.base_url) as node:
        await node.start()
        async with Codexd(config.load(environ=node.environment())) as codexd:
            yield node, codexd


@pytest.fixture
async def engine(engine_url: str) -> AsyncIterator[Engine]:
    opened = await open_engine(engine_url)
    yield opened
    await opened.close()


async def join(engine: Engine, owner: str) -> None:
    at = "2026-11-26T00:00:00.000Z"
    node = FleetNode(
        node_id="here",
        incarnation=owner,
        version="1",
        slots=1,
        state=NodeState.ACTIVE,
        pid=1,
        started_at=at,
        seen_at=at,
    )
    await engine.register(node, ttl_ms=600_000)


@asynccontextmanager
async def feeding(engine: Engine, codexd: Codexd, owner: str = "a") -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(Feeder(engine, codexd, node_id="here", owner=owner).run(), name="feeder")
        yield
        running.cancel()


async def a_turn(node: Node, codexd: Codexd) -> str:
    """The id of a turn that has ended."""
    session = await codexd.create_session(CreateSession(cwd=str(node.work), sandbox=Sandbox.DANGER_FULL_ACCESS))
    turn = (await codexd.start_turn(StartTurn(session_id=session.session_id, prompt="count"))).turn
    await codexd.turn(turn.turn_id, wait_ms=60_000)
    return turn.turn_id


async def told(engine: Engine, turn_id: str) -> list[QueueEvent]:
    """All events of the engine, once the end of that turn is among them."""

    async def whole() -> list[QueueEvent]:
        found: list[QueueEvent] = []
        after = 0
        while True:
            events, after = await engine.events(after, 1000)
            found += events
            if any(each.turn_id == turn_id and each.type == "turn.completed" for each in found):
                return found
            await engine.wait(after)

    return await within(whole())


async def of_codexd(codexd: Codexd) -> list[int]:
    """The seqs of all its events but deltas."""
    found: list[int] = []
    after = "0"
    while True:
        page = await codexd.event_page(after, limit=1000)
        found += [each.seq for each in page.events if each.type != "item.delta"]
        if page.next == after:
            return found
        after = page.next


def seqs(events: list[QueueEvent]) -> list[int]:
    return [each.payload["seq"] for each in events if each.source.startswith("codexd")]


async def test_every_event_but_deltas_comes_once_and_in_order_also_from_a_next_life(
    engine: Engine, tmp_path: Path
) -> None:
    async with a_node(tmp_path) as (node, codexd):
        await join(engine, "a")
        first = await a_turn(node, codexd)
        async with feeding(engine, codexd):
            await told(engine, first)
        second = await a_turn(node, codexd)  # nobody feeds: codexd's log keeps it
        await join(engine, "b")
        async with feeding(engine, codexd, "b"):
            await told(engine, second)
            third = await a_turn(node, codexd)
            events = await told(engine, third)
        have, all_of_it = seqs(events), await of_codexd(codexd)
        assert have == all_of_it[: len(have)]
        assert {each.node_id for each in events} == {"here"}
        assert not [each for each in events if each.type == "item.delta"]
        assert [each.seq for each in events] == list(range(1, len(events) + 1))


async def test_a_codexd_that_is_killed_is_waited_for(engine: Engine, tmp_path: Path) -> None:
    async with a_node(tmp_path) as (node, codexd):
        await join(engine, "a")
        first = await a_turn(node, codexd)
        async with feeding(engine, codexd):
            await told(engine, first)
            await node.kill()
            await node.start()
            events = await told(engine, await a_turn(node, codexd))
        have = seqs(events)
        assert have == (await of_codexd(codexd))[: len(have)]


async def test_what_codexd_has_no_more_is_said_to_be_missed(engine: Engine, tmp_path: Path) -> None:
    async with a_node(tmp_path) as (node, codexd):
        await join(engine, "a")
        await engine.append_codexd("a", "here", "anotherlog", 77, [])
        async with feeding(engine, codexd):
            events = await told(engine, await a_turn(node, codexd))
        missed: list[dict[str, Any]] = [each.payload for each in events if each.type == "node.events_missed"]
        assert missed == [{"after": "anotherlog:77", "reason": "cursor_expired"}]
        have = seqs(events)
        assert have == (await of_codexd(codexd))[: len(have)], "the rest is whole"


async def test_a_worker_that_is_not_the_nodes_any_more_feeds_nothing(engine: Engine, tmp_path: Path) -> None:
    async with a_node(tmp_path) as (node, codexd):
        await join(engine, "a")
        await join(engine, "b")
        await a_turn(node, codexd)
        with pytest.raises(Lost):
            await within(Feeder(engine, codexd, node_id="here", owner="a").run())
        events, _ = await engine.events(0, 1000)
        assert seqs(events) == []


async def test_a_database_that_is_away_is_waited_for(postgres: PostgreSQL, postgres_url: str, tmp_path: Path) -> None:
    engine = await open_engine(postgres_url, patience_ms=200)
    async with a_node(tmp_path) as (node, codexd):
        await join(engine, "a")
        async with feeding(engine, codexd):
            await told(engine, await a_turn(node, codexd))
            postgres.kill()
            over_it = await a_turn(node, codexd)
            postgres.start()
            events = await told(engine, over_it)
        have = seqs(events)
        assert have == (await of_codexd(codexd))[: len(have)]
    await engine.close()
