"""The engine: leases and nodes in one SQLite file, each method one short transaction in a thread of its own.

What expires is decided inside SQL, by the database's clock (on SQLite: the machine's, with its boot id), so that no
process compares its own time with another's.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

import apsw
from msgspec import Struct

from baa.api.conductor import Node, NodeState
from baa.api.errors import EX_CONFIG, CannotStart
from baa.clock import Clock, SystemClock, rfc3339
from baa.engine import boot, schema
from baa.sqlite import open_writer

T = TypeVar("T")

EX_IOERR: Final = 74

_VALID: Final = "(boot_id = boot_id() AND expires_ms > now_ms())"


class EngineFailed(Exception):
    """The engine's file could not be read or written; what was asked may not have been done."""


class Lease(Struct, frozen=True, kw_only=True):
    """A lease as it was committed. `valid`: it had not expired, by the database's clock, when it was read."""

    holder: str
    node_id: str
    term: int
    valid: bool
    expires_at: str


class Engine:
    """The engine's file, open. All methods raise EngineFailed."""

    def __init__(self, connection: apsw.Connection, threads: ThreadPoolExecutor, clock: Clock) -> None:
        self._connection = connection
        self._threads = threads
        self._clock = clock

    async def close(self) -> None:
        """Close the file, once what was begun has ended."""
        await self._run(self._connection.close)
        self._threads.shutdown(wait=False)

    async def probe(self, holder: str) -> None:
        """Write a row and read it back."""

        def work() -> None:
            sql = "INSERT INTO probe VALUES (?, 1) ON CONFLICT (holder) DO UPDATE SET count = count + 1"
            self._connection.execute(sql, (holder,))
            if self._connection.execute("SELECT count FROM probe WHERE holder = ?", (holder,)).fetchone() is None:
                raise EngineFailed("what was written could not be read back")

        await self._transaction(work)

    async def acquire(self, name: str, *, holder: str, node_id: str, ttl_ms: int) -> Lease:
        """Take the lease if it is free, expired or mine, for `ttl_ms`; the lease as it stands then, whoever's it is.

        A new holder gets the next term; terms never go back.
        """

        def work() -> Lease:
            sql = f"""
                INSERT INTO lease VALUES (:name, :holder, :node_id, 1, boot_id(), now_ms() + :ttl, :expires_at)
                ON CONFLICT (name) DO UPDATE SET
                  term = term + (holder != :holder OR NOT {_VALID}), holder = :holder, node_id = :node_id,
                  boot_id = boot_id(), expires_ms = now_ms() + :ttl, expires_at = :expires_at
                WHERE holder = :holder OR NOT {_VALID}"""
            expires_at = rfc3339(self._clock.utc_ms() + ttl_ms)
            given = {"name": name, "holder": holder, "node_id": node_id, "ttl": ttl_ms, "expires_at": expires_at}
            self._connection.execute(sql, given)
            found = self._lease(name)
            assert found is not None
            return found

        return await self._transaction(work)

    async def release(self, name: str, *, holder: str, term: int) -> None:
        """Let go of the lease, if it is this holder's in this term. The term stays, so that the next one is higher."""

        def work() -> None:
            sql = "UPDATE lease SET expires_ms = 0 WHERE name = ? AND holder = ? AND term = ?"
            self._connection.execute(sql, (name, holder, term))

        await self._transaction(work)

    async def register(self, node: Node, *, ttl_ms: int) -> None:
        """Write a node down as alive for `ttl_ms`; an earlier incarnation of it is superseded."""

        def work() -> None:
            sql = """INSERT OR REPLACE INTO node
                (node_id, incarnation, version, slots, state, pid, boot_id, expires_ms, started_at, seen_at)
                VALUES (?, ?, ?, ?, ?, ?, boot_id(), now_ms() + ?, ?, ?)"""
            row = (node.node_id, node.incarnation, node.version, node.slots, str(node.state), node.pid, ttl_ms)
            self._connection.execute(sql, (*row, node.started_at, node.seen_at))

        await self._transaction(work)

    async def heartbeat(self, node_id: str, incarnation: str, state: NodeState, *, ttl_ms: int) -> bool:
        """Say that this incarnation is alive and in `state`; False if another incarnation took the node over."""

        def work() -> bool:
            sql = """UPDATE node SET state = ?, boot_id = boot_id(), expires_ms = now_ms() + ?, seen_at = ?
                WHERE node_id = ? AND incarnation = ?"""
            seen_at = rfc3339(self._clock.utc_ms())
            self._connection.execute(sql, (str(state), ttl_ms, seen_at, node_id, incarnation))
            return self._connection.changes() == 1

        return await self._transaction(work)

    async def nodes(self) -> list[Node]:
        """All nodes that ever registered, by id. One whose heartbeat expired is `gone`, whatever it said last."""

        def work() -> list[Node]:
            sql = f"""
                SELECT node_id, incarnation, version, slots, CASE WHEN {_VALID} THEN state ELSE 'gone' END,
                  pid, started_at, seen_at
                FROM node ORDER BY node_id"""
            return [
                Node(
                    node_id=str(row[0]),
                    incarnation=str(row[1]),
                    version=str(row[2]),
                    slots=int(str(row[3])),
                    state=NodeState(str(row[4])),
                    pid=int(str(row[5])),
                    started_at=str(row[6]),
                    seen_at=str(row[7]),
                )
                for row in self._connection.execute(sql)
            ]

        return await self._transaction(work)

    def _lease(self, name: str) -> Lease | None:
        sql = f"SELECT holder, node_id, term, {_VALID}, expires_at FROM lease WHERE name = ?"
        row = self._connection.execute(sql, (name,)).fetchone()
        if row is None:
            return None
        holder, node_id, term, valid, expires_at = row
        return Lease(
            holder=str(holder), node_id=str(node_id), term=int(str(term)), valid=bool(valid), expires_at=str(expires_at)
        )

    async def _transaction(self, work: Callable[[], T]) -> T:
        def whole() -> T:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                result = work()
                self._connection.execute("COMMIT")
            except BaseException:  # boundary: the caller gets it, and no transaction is left open
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
            return result

        return await self._run(whole)

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except (apsw.Error, OSError) as error:
            raise EngineFailed(str(error)) from error


async def open_engine(
    path: Path,
    *,
    clock: Clock | None = None,
    now_ms: Callable[[], int] = boot.milliseconds,
    boot_id: Callable[[], str] = boot.boot_id,
) -> Engine:
    """The engine in `path`, made if missing, for its owner only. `now_ms` and `boot_id` are the database's clock.

    Raises CannotStart.
    """

    def work() -> apsw.Connection:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = open_writer(path)
        connection.create_scalar_function("now_ms", lambda *_: now_ms(), 0)
        connection.create_scalar_function("boot_id", lambda *_: boot_id(), 0)
        schema.prepare(connection)
        return connection

    threads = ThreadPoolExecutor(1, thread_name_prefix="engine")
    try:
        connection = await asyncio.get_running_loop().run_in_executor(threads, work)
    except schema.NewerSchema as newer:
        raise CannotStart(f"{path}: {newer}. Install that release again.", exit_code=EX_CONFIG) from None
    except (apsw.Error, OSError) as error:
        raise CannotStart(f"The engine's file {path} cannot be opened: {error}", exit_code=EX_IOERR) from error
    return Engine(connection, threads, clock or SystemClock())
