"""When a worker may renew the leases of its turns: by its own monotonic clock, and only as the node's worker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from baa.api.conductor import Node, NodeState
from baa.engine.store import Engine, open_engine
from baa.worker.life import Life, Superseded
from tests.support.outside import outside

TTL = 15_000


class Local:
    """The worker's own clock, and the database's beside it."""

    def __init__(self) -> None:
        self.seconds = 100.0
        self.database_ms = 1000

    def monotonic(self) -> float:
        return self.seconds

    def utc_ms(self) -> int:
        return 1_700_000_000_000


def life_on(engine: Engine, clock: Local, incarnation: str = "a") -> Life:
    node = Node(
        node_id="here",
        incarnation=incarnation,
        version="1",
        slots=2,
        state=NodeState.ACTIVE,
        pid=1,
        started_at="2026-11-26T00:00:00.000Z",
        seen_at="2026-11-26T00:00:00.000Z",
    )
    return Life(engine, node, clock, ttl_ms=TTL, turn_lease_ms=2 * TTL)


@asynccontextmanager
async def engine_in(folder: Path, clock: Local) -> AsyncIterator[Engine]:
    engine = await open_engine(
        folder / "engine.sqlite3", now_ms=lambda: clock.database_ms, boot_id=lambda: "boot", patience_ms=0
    )
    yield engine
    await engine.close()


async def test_it_may_for_two_thirds_of_the_time_for_which_its_last_heartbeat_is_good(tmp_path: Path) -> None:
    clock = Local()
    async with engine_in(tmp_path, clock) as engine:
        life = life_on(engine, clock)
        assert not life.may_renew(), "before it has registered"
        await life.register()
        clock.seconds += 9.999
        assert life.may_renew()
        await life.tell(NodeState.ACTIVE)
        clock.seconds += 9.999
        assert life.may_renew()
        clock.seconds += 0.002
        assert not life.may_renew()
        await life.tell(NodeState.ACTIVE)
        assert life.may_renew()


async def test_a_heartbeat_that_fails_gives_no_further_time(tmp_path: Path) -> None:
    clock = Local()
    async with engine_in(tmp_path, clock) as engine:
        life = life_on(engine, clock)
        await life.register()
        with outside(tmp_path / "engine.sqlite3") as sql:
            sql.exec_driver_sql("ALTER TABLE node RENAME TO away")
            clock.seconds += 9
            await life.tell(NodeState.ACTIVE)
            assert life.may_renew()
            clock.seconds += 2
            assert not life.may_renew()
            sql.exec_driver_sql("ALTER TABLE away RENAME TO node")
        await life.tell(NodeState.ACTIVE)
        assert life.may_renew()


async def test_time_counts_from_when_the_heartbeat_was_begun(tmp_path: Path) -> None:
    """The database counts from when it took it, which is later: ours must end before theirs."""
    clock = Local()

    def slow() -> int:
        clock.seconds += 4  # the answer takes its time
        return clock.database_ms

    async with engine_in(tmp_path, clock):
        slowly = await open_engine(tmp_path / "engine.sqlite3", now_ms=slow, boot_id=lambda: "boot", patience_ms=0)
        begun = clock.seconds
        life = life_on(slowly, clock)
        await life.register()
        assert clock.seconds > begun
        clock.seconds = begun + 9.999
        assert life.may_renew()
        clock.seconds = begun + 10
        assert not life.may_renew()
        await slowly.close()


async def test_one_that_was_superseded_may_not_at_once_and_is_told_to_leave(tmp_path: Path) -> None:
    clock = Local()
    async with engine_in(tmp_path, clock) as engine:
        first, second = life_on(engine, clock, "a"), life_on(engine, clock, "b")
        await first.register()
        await second.register()
        assert first.may_renew(), "it cannot know yet"
        with pytest.raises(Superseded, match="gone"):
            await first.tell(NodeState.ACTIVE)
        assert not first.may_renew()
        assert second.may_renew()


async def test_a_drain_that_is_asked_for_comes_with_the_heartbeat(tmp_path: Path) -> None:
    clock = Local()
    async with engine_in(tmp_path, clock) as engine:
        life = life_on(engine, clock)
        await life.register()
        await engine.drain("here")
        await life.tell(NodeState.ACTIVE)
        assert life.drain.is_set()
        assert [node.state for node in await engine.nodes()] == [NodeState.DRAINING]
        await life.tell(NodeState.GONE)
        assert [node.state for node in await engine.nodes()] == [NodeState.GONE]


async def test_it_beats_three_times_in_the_time_for_which_a_beat_is_good(tmp_path: Path) -> None:
    clock = Local()
    async with engine_in(tmp_path, clock) as engine:
        assert life_on(engine, clock).beat_s == 5
