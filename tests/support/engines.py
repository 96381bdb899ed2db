"""Engines on SQLite and on a real PostgreSQL, under a clock that the test moves, and what is put into them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from baa.api.conductor import Node, NodeState
from baa.api.tasks import Attempt, SubmitTask, Task
from baa.engine.leases import LEADER
from baa.engine.store import Engine, open_engine

TTL = 6000
TURN_LEASE = 12_000
HASH = b"\1" * 32


class Machine:
    """The database's clock and boot, and the wall clock of whoever opens it."""

    def __init__(self) -> None:
        self.now = 1_000_000
        self.boot = "first"
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds

    def utc_ms(self) -> int:
        return 1_800_000_000_000 + self.now


@dataclass
class Fleet:
    """One database, opened as often as a test wants."""

    url: str
    machine: Machine = field(default_factory=Machine)
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    _opened: bool = False

    @property
    def postgres(self) -> bool:
        return self.url.startswith("postgresql")

    async def open(self) -> Engine:
        """Another program's engine."""
        machine = self.machine
        engine = await open_engine(
            self.url, clock=machine, now_ms=lambda: machine.now, boot_id=lambda: machine.boot, patience_ms=30_000
        )
        self._stack.push_async_callback(engine.close)
        if not self._opened:
            self._opened = True
            self._set_clock()
        return engine

    def sql(self, statement: str) -> list[tuple[object, ...]]:
        """Run a statement from outside."""
        url = self.url.replace("postgresql:", "postgresql+psycopg:").replace("sqlite://", "sqlite:///")
        options = {"options": "-c search_path=baa"} if self.postgres else {}
        engine = sa.create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT", connect_args=options)
        with engine.connect() as connection:
            result = connection.exec_driver_sql(statement)
            return [tuple(row) for row in result] if result.returns_rows else []

    def later(self, ms: int) -> None:
        """Let time pass, everywhere."""
        self.machine.now += ms
        self._set_clock()

    def _set_clock(self) -> None:
        if self.postgres:
            body = f"'SELECT {self.machine.now}::BIGINT'"
            self.sql(f"CREATE OR REPLACE FUNCTION now_ms() RETURNS BIGINT LANGUAGE sql VOLATILE AS {body}")

    async def close(self) -> None:
        await self._stack.aclose()


@asynccontextmanager
async def fleet_on(url: str) -> AsyncIterator[Fleet]:
    """A fleet on a file's URL or a server's; everything that was opened is closed at the end."""
    fleet = Fleet(url)
    try:
        yield fleet
    finally:
        await fleet.close()


def node(node_id: str = "here", incarnation: str | None = None, slots: int = 2) -> Node:
    """A node as its worker registers it."""
    return Node(
        node_id=node_id,
        incarnation=incarnation or f"{node_id}-1",
        version="1",
        slots=slots,
        state=NodeState.ACTIVE,
        pid=7,
        started_at="2026-01-01T00:00:00.000Z",
        seen_at="2026-01-01T00:00:00.000Z",
    )


async def lead(engine: Engine, holder: str = "leader") -> int:
    """Take the lead, or keep it; the term."""
    lease = await engine.acquire(LEADER, holder=holder, node_id=holder, ttl_ms=TTL)
    assert lease.holder == holder
    return lease.term


async def join(engine: Engine, node_id: str = "here", incarnation: str | None = None, slots: int = 2) -> str:
    """Register a node; its incarnation."""
    joined = node(node_id, incarnation, slots)
    await engine.register(joined, ttl_ms=TTL, turn_lease_ms=TURN_LEASE)
    return joined.incarnation


async def beat(engine: Engine, owner: str, node_id: str = "here") -> bool:
    """A heartbeat; whether the node goes on."""
    return bool(await engine.heartbeat(node_id, owner, NodeState.ACTIVE, ttl_ms=TTL))


async def submit(engine: Engine, **given: object) -> Task:
    """Queue a small task."""
    request = SubmitTask(**{"prompt": "Do it.", "cwd": "/w", **given})  # type: ignore[arg-type]
    task, new = await engine.submit(request, key=None, body_hash=HASH)
    assert new
    return task


async def assigned(engine: Engine, node_id: str = "here", **given: object) -> Attempt:
    """A new task's first attempt, given to a node."""
    task = await submit(engine, **given)
    attempt = await engine.assign(await lead(engine), task.task_id, node_id)
    assert attempt is not None
    return attempt


async def running(engine: Engine, owner: str, node_id: str = "here", **given: object) -> Attempt:
    """A new task's first attempt, taken up by a worker."""
    attempt = await assigned(engine, node_id, **given)
    claimed = await engine.claim(attempt.task_id, attempt.number, node_id=node_id, owner=owner)
    assert claimed is not None
    return claimed[1]
