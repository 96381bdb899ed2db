"""The engine's lease and nodes, on one file, with a clock of the test's own."""

from __future__ import annotations

import asyncio
import os
import random
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from baa.api.conductor import Node, NodeState
from baa.api.errors import CannotStart
from baa.engine.store import Engine, EngineFailed, Lease, open_engine
from tests.support.outside import outside

TTL = 6000


class Machine:
    """The machine's clock and boot, as every connection of a test sees them."""

    def __init__(self) -> None:
        self.now = 1000
        self.boot = "first"


@asynccontextmanager
async def engine_on(path: Path, machine: Machine) -> AsyncIterator[Engine]:
    engine = await open_engine(path, now_ms=lambda: machine.now, boot_id=lambda: machine.boot)
    try:
        yield engine
    finally:
        await engine.close()


async def take(engine: Engine, holder: str) -> Lease:
    return await engine.acquire("leader", holder=holder, node_id=f"node-{holder}", ttl_ms=TTL)


async def test_one_holds_it_until_it_expires_by_the_databases_clock(tmp_path: Path) -> None:
    machine = Machine()
    path = tmp_path / "state" / "engine.sqlite3"
    async with engine_on(path, machine) as one, engine_on(path, machine) as two:
        first = await take(one, "a")
        assert (first.holder, first.node_id, first.term, first.valid) == ("a", "node-a", 1, True)
        assert await take(two, "b") == first
        machine.now += TTL - 1
        assert (await take(two, "b")).holder == "a"
        renewed = await take(one, "a")
        assert (renewed.holder, renewed.term) == ("a", 1)
        machine.now += TTL
        taken = await take(two, "b")
        assert (taken.holder, taken.term) == ("b", 2)
        assert (await take(one, "a")).holder == "b"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_lease_that_was_let_expire_comes_back_with_another_term(tmp_path: Path) -> None:
    machine = Machine()
    async with engine_on(tmp_path / "e", machine) as engine:
        assert (await take(engine, "a")).term == 1
        machine.now += TTL
        assert (await take(engine, "a")).term == 2


async def test_a_release_hands_over_at_once_and_keeps_the_term_growing(tmp_path: Path) -> None:
    machine = Machine()
    async with engine_on(tmp_path / "e", machine) as engine:
        await take(engine, "a")
        await engine.release("leader", holder="b", term=1)
        await engine.release("leader", holder="a", term=2)
        assert (await take(engine, "b")).holder == "a", "neither was the holder in its term"
        await engine.release("leader", holder="a", term=1)
        lease = await take(engine, "b")
        assert (lease.holder, lease.term) == ("b", 2)


async def test_after_a_reboot_every_lease_and_every_node_is_expired(tmp_path: Path) -> None:
    machine = Machine()
    async with engine_on(tmp_path / "e", machine) as engine:
        await take(engine, "a")
        await engine.register(node(), ttl_ms=TTL)
        machine.boot, machine.now = "second", 10
        assert [each.state for each in await engine.nodes()] == [NodeState.GONE]
        lease = await take(engine, "b")
        assert (lease.holder, lease.term) == ("b", 2)


@pytest.mark.parametrize("seed", range(20))
async def test_in_any_order_one_term_has_one_holder(tmp_path: Path, seed: int) -> None:
    chance, machine = random.Random(seed), Machine()
    holders: dict[int, str] = {}
    last = 0
    async with engine_on(tmp_path / "e", machine) as engine:
        for _ in range(60):
            machine.now += chance.choice((0, 100, TTL // 2, TTL))
            name = chance.choice("abc")
            lease = await take(engine, name)
            assert lease.valid
            assert lease.term >= last
            assert holders.setdefault(lease.term, lease.holder) == lease.holder
            last = lease.term
            if chance.random() < 0.2:
                await engine.release("leader", holder=name, term=lease.term)
    assert len(holders) > 5


def node(incarnation: str = "one") -> Node:
    return Node(
        node_id="here",
        incarnation=incarnation,
        version="1",
        slots=2,
        state=NodeState.ACTIVE,
        pid=7,
        started_at="2026-01-01T00:00:00.000Z",
        seen_at="2026-01-01T00:00:00.000Z",
    )


async def test_a_node_is_what_its_last_heartbeat_said_until_that_expires(tmp_path: Path) -> None:
    machine = Machine()
    async with engine_on(tmp_path / "e", machine) as engine:
        assert await engine.nodes() == []
        await engine.register(node(), ttl_ms=TTL)
        assert await engine.nodes() == [node()]
        machine.now += TTL - 1
        assert await engine.heartbeat("here", "one", NodeState.DRAINING, ttl_ms=TTL)
        machine.now += TTL - 1
        (seen,) = await engine.nodes()
        assert seen.state is NodeState.DRAINING
        assert seen.seen_at > node().seen_at
        machine.now += 1
        assert [each.state for each in await engine.nodes()] == [NodeState.GONE]


async def test_a_newer_incarnation_takes_the_node_over(tmp_path: Path) -> None:
    machine = Machine()
    async with engine_on(tmp_path / "e", machine) as engine:
        await engine.register(node("one"), ttl_ms=TTL)
        await engine.register(node("two"), ttl_ms=TTL)
        assert not await engine.heartbeat("here", "one", NodeState.GONE, ttl_ms=TTL)
        assert await engine.heartbeat("here", "two", NodeState.ACTIVE, ttl_ms=TTL)
        assert [each.incarnation for each in await engine.nodes()] == ["two"]


async def test_the_probe_writes_and_reads(tmp_path: Path) -> None:
    async with engine_on(tmp_path / "e", Machine()) as engine:
        await engine.probe("me")
        await engine.probe("me")
    with outside(tmp_path / "e") as connection:
        assert connection.exec_driver_sql("SELECT * FROM probe").all() == [("me", 2)]
    async with engine_on(tmp_path / "e", Machine()) as engine:
        with outside(tmp_path / "e") as connection:
            connection.exec_driver_sql("DROP TABLE probe")
        with pytest.raises(EngineFailed, match="no such table"):
            await engine.probe("me")
        assert (await take(engine, "a")).holder == "a", "one failure is not the end"


async def test_a_file_that_cannot_be_used_is_refused_with_the_reason(tmp_path: Path) -> None:
    async with engine_on(tmp_path / "newer", Machine()):
        pass
    with outside(tmp_path / "newer") as connection:
        connection.exec_driver_sql("PRAGMA user_version = 99")
    with pytest.raises(CannotStart, match="schema is version 99") as newer:
        await open_engine(tmp_path / "newer")
    assert newer.value.exit_code == 78

    (tmp_path / "text").write_text("not a database, and long enough to be read as one " * 20)
    with pytest.raises(CannotStart, match="cannot be opened") as broken:
        await open_engine(tmp_path / "text")
    assert broken.value.exit_code == 74


async def test_a_file_of_the_first_version_goes_on_and_its_terms_do_not_go_back(tmp_path: Path) -> None:
    with outside(tmp_path / "e") as connection:
        for sql in FIRST_VERSION:
            connection.exec_driver_sql(sql)
    async with engine_on(tmp_path / "e", Machine()) as engine:
        assert await engine.nodes() == []
        await engine.register(node(), ttl_ms=TTL)
        await engine.probe("me")
        assert (await take(engine, "a")).term == 8


FIRST_VERSION = (
    """CREATE TABLE lease (
      name TEXT PRIMARY KEY, holder TEXT NOT NULL, node_id TEXT NOT NULL, term INTEGER NOT NULL,
      boot_id TEXT NOT NULL, expires_ms INTEGER NOT NULL, expires_at TEXT NOT NULL) STRICT""",
    "INSERT INTO lease VALUES ('leader', 'old', 'node-old', 7, 'first', 0, '')",
    """CREATE TABLE node (
      node_id TEXT PRIMARY KEY, incarnation TEXT NOT NULL, version TEXT NOT NULL, slots INTEGER NOT NULL,
      state TEXT NOT NULL, pid INTEGER NOT NULL, boot_id TEXT NOT NULL, expires_ms INTEGER NOT NULL,
      started_at TEXT NOT NULL, seen_at TEXT NOT NULL) STRICT""",
    "INSERT INTO node VALUES ('here', 'old', '1', 2, 'active', 7, 'first', 9000, '', '')",
    "CREATE TABLE probe (holder TEXT PRIMARY KEY, count INTEGER NOT NULL) STRICT",
    "PRAGMA user_version = 1",
)


async def test_many_open_a_new_file_at_once(tmp_path: Path) -> None:
    async with asyncio.TaskGroup() as tasks:
        opening = [tasks.create_task(open_engine(tmp_path / "e")) for _ in range(8)]
    engines = [task.result() for task in opening]
    holders = {(await take(engine, str(number))).holder for number, engine in enumerate(engines)}
    assert holders == {"0"}
    for engine in engines:
        await engine.close()
    assert os.listdir(tmp_path) == ["e"]
