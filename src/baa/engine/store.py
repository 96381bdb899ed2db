"""The engine as programs hold it: each method one transaction on SQLite or PostgreSQL, in a thread of its own.

What expires is decided inside SQL, by the database's clock (on SQLite: the machine's, with its boot id), so that no
process compares its own time with another's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import exc

from baa.api.conductor import Node, NodeState
from baa.api.errors import EX_CONFIG, EX_UNAVAILABLE, CannotStart
from baa.api.tasks import Attempt, AttemptState, Evidence, QueueEvent, SubmitTask, Task, TaskState
from baa.clock import Clock, SystemClock
from baa.engine import attempts, boot, counts, events, leading, leases, nodes, schema, tasks
from baa.engine.attempts import Standing
from baa.engine.counts import Counts
from baa.engine.database import (
    PATIENCE_MS,
    THREADS,
    Database,
    EngineFailed,
    Transaction,
    failed,
    open_postgres,
    open_sqlite,
)
from baa.engine.events import Head
from baa.engine.leases import Fenced, Lease
from baa.engine.nodes import Beat, Lost
from baa.engine.waiting import FreeNode, Waiting, WaitingTask
from baa.engine.wake import Wake

__all__ = [
    "Beat",
    "Counts",
    "Engine",
    "EngineFailed",
    "Fenced",
    "FreeNode",
    "Head",
    "Lease",
    "Lost",
    "Standing",
    "Waiting",
    "WaitingTask",
    "open_engine",
]

EX_IOERR: Final = 74


class Engine:
    """The engine's database, open. All methods raise EngineFailed; those of the leader Fenced, of a worker Lost."""

    def __init__(self, database: Database, patience_ms: int) -> None:
        self._database = database
        self._patience_ms = patience_ms
        self._wake = Wake(self._look)
        database.on_head = self._wake.told

    async def close(self) -> None:
        """Close the database, once what was begun has ended."""
        await self._database.close()

    async def probe(self, holder: str) -> None:
        """Write a row and read it back."""

        def work(tx: Transaction) -> None:
            sql = """INSERT INTO probe (holder, count) VALUES (:holder, 1)
                ON CONFLICT (holder) DO UPDATE SET count = probe.count + 1"""
            tx.run(sql, holder=holder)
            if tx.row("SELECT count FROM probe WHERE holder = :holder", holder=holder) is None:
                raise EngineFailed("what was written could not be read back")

        await self._database.write(work)

    async def acquire(self, name: str, *, holder: str, node_id: str, ttl_ms: int) -> Lease:
        """Take the lease if it is free, expired or mine, for `ttl_ms`; the lease as it stands then, whoever's it is.

        A new holder gets the next term; terms never go back.
        """
        return await self._database.write(
            lambda tx: leases.acquire(tx, name, holder=holder, node_id=node_id, ttl_ms=ttl_ms)
        )

    async def release(self, name: str, *, holder: str, term: int) -> None:
        """Let go of the lease, if it is this holder's in this term. The term stays, so that the next one is higher."""
        await self._database.write(lambda tx: leases.release(tx, name, holder=holder, term=term))

    async def register(self, node: Node, *, ttl_ms: int, turn_lease_ms: int | None = None) -> None:
        """Write a node down as alive for `ttl_ms`; an earlier incarnation of it is superseded.

        `turn_lease_ms` is the lease of its tasks' turns at codexd, twice `ttl_ms` if it is not given.
        """
        lease_ms = 2 * ttl_ms if turn_lease_ms is None else turn_lease_ms
        await self._database.write(lambda tx: nodes.register(tx, node, ttl_ms=ttl_ms, turn_lease_ms=lease_ms))

    async def heartbeat(self, node_id: str, incarnation: str, state: NodeState, *, ttl_ms: int) -> Beat:
        """Say that this incarnation is alive and in `state`; false if it was superseded or given up as gone."""
        return await self._database.write(lambda tx: nodes.heartbeat(tx, node_id, incarnation, state, ttl_ms=ttl_ms))

    async def drain(self, node_id: str) -> Node:
        """Give the node no further work, for as long as its worker lives. Raises Rejected: `node_not_found`."""
        return await self._database.write(lambda tx: nodes.drain(tx, node_id))

    async def nodes(self) -> list[Node]:
        """All nodes that ever registered, by id. One whose heartbeat expired is `gone`, whatever it said last."""
        return await self._database.read(nodes.nodes)

    # Tasks, by any conductor.

    async def submit(self, request: SubmitTask, *, key: str | None, body_hash: bytes) -> tuple[Task, bool]:
        """Queue a task; the task, and whether it is new: the same key and body are the same task.

        Raises Rejected: `idempotency_mismatch`, or `invalid_request` where it depends on a task that does not exist.
        """
        return await self._database.write(lambda tx: tasks.submit(tx, request, key=key, body_hash=body_hash))

    async def task(self, task_id: str, *, attempts: bool = True) -> Task:
        """The task, with its attempts if asked for. Raises Rejected: `task_not_found`."""
        return await self._database.read(lambda tx: tasks.get(tx, task_id, attempts=attempts))

    async def tasks(
        self,
        *,
        state: Sequence[TaskState] | None = None,
        limit: int = 100,
        after: str | None = None,
        since: str | None = None,
    ) -> tuple[list[Task], str | None]:
        """A page of tasks without their attempts, newest first, and the `after` of the next one; None: the last.

        `since`, as `rfc3339` writes it, leaves out those that ended before.
        """
        return await self._database.read(
            lambda tx: tasks.listed(tx, states=state, limit=limit, after=after, since=since)
        )

    async def cancel(self, task_id: str) -> Task:
        """End what no worker has taken up, at once; ask for the end of what runs (`cancel_asked`).

        Raises Rejected: `task_not_found`, `task_ended`.
        """
        return await self._database.write(lambda tx: tasks.cancel(tx, task_id))

    async def retry(self, task_id: str) -> Task:
        """Queue a task that failed or was cancelled again; its attempts count on.

        Raises Rejected: `task_not_found`, `task_not_ended`, `task_ended` (it succeeded).
        """
        return await self._database.write(lambda tx: tasks.retry(tx, task_id))

    async def pause(self, paused: bool) -> bool:
        """Stop giving tasks to nodes, or go on; what runs, runs on. Whether the queue is paused now."""
        return await self._database.write(lambda tx: tasks.pause(tx, on=paused))

    async def paused(self) -> bool:
        """Whether the queue is paused."""
        return await self._database.read(tasks.paused)

    async def counts(self) -> Counts:
        """How the queue stands, in numbers."""
        return await self._database.read(counts.counts)

    # The leader's, each in its term. Raises Fenced when that is over: nothing was written.

    async def schedulable(self, limit: int) -> Waiting:
        """What could be given to a node now: at most `limit` tasks, higher priority first, then older ones."""
        return await self._database.read(lambda tx: leading.schedulable(tx, limit))

    async def assign(self, term: int, task_id: str, node_id: str) -> Attempt | None:
        """Give a queued task to a node as its next attempt. None: that cannot be done any more; look again."""
        return await self._database.write(lambda tx: leading.assign(tx, term, task_id, node_id))

    async def unqueued(self, term: int) -> list[Attempt]:
        """The attempts that no worker has taken up yet: each is to be on its node's queue."""
        return await self._database.write(lambda tx: leading.unqueued(tx, term))

    async def fail(self, term: int, task_id: str, reason: str) -> bool:
        """End a queued task as failed; False if it is not queued any more."""
        return await self._database.write(lambda tx: leading.fail(tx, term, task_id, reason))

    async def reap(self, term: int) -> list[Attempt]:
        """Give up expired nodes, and end as lost what can run there no longer; at most 100 attempts a time.

        Call it only after having led for as long as a node's heartbeat is good: after an outage all seem expired.
        """
        return await self._database.write(lambda tx: leading.reap(tx, term))

    async def prune(self, term: int, *, keep_ms: int) -> int:
        """Let go of at most 1000 of the oldest events, older than `keep_ms` and before those of any open task.

        How many went; fewer than 1000: no more may go.
        """
        return await self._database.write(lambda tx: leading.prune(tx, term, keep_ms=keep_ms))

    async def forget(self, term: int, *, keep_ms: int) -> int:
        """Let go of at most 100 tasks that ended longer than `keep_ms` ago and that no other depends on.

        How many went; their attempts and keys went with them.
        """
        return await self._database.write(lambda tx: leading.forget(tx, term, keep_ms=keep_ms))

    # A worker's; `owner` is its incarnation. Tried again while the database is away.

    async def claim(self, task_id: str, number: int, *, node_id: str, owner: str) -> tuple[Task, Attempt] | None:
        """Take an attempt up, or go on with it; the task with all its attempts. None: there is nothing to do."""
        return await self._database.write(
            lambda tx: attempts.claim(tx, task_id, number, node_id=node_id, owner=owner), patience_ms=self._patience_ms
        )

    async def record(
        self,
        owner: str,
        attempt_id: str,
        *,
        session_id: str | None = None,
        turn_id: str | None = None,
        evidence: Evidence | None = None,
        tokens: int | None = None,
        events: Sequence[tuple[str, Mapping[str, Any]]] = (),
    ) -> Standing:
        """Write down how far the attempt is (None leaves what stands there), with its events. Raises Lost."""
        return await self._database.write(
            lambda tx: attempts.record(
                tx,
                owner,
                attempt_id,
                session_id=session_id,
                turn_id=turn_id,
                evidence=evidence,
                tokens=tokens,
                told=events,
            ),
            patience_ms=self._patience_ms,
        )

    async def standing(self, owner: str, attempt_ids: Sequence[str]) -> dict[str, Standing]:
        """How the worker stands to each of its attempts: still its own, and whether its end was asked for."""
        return await self._database.read(lambda tx: attempts.standing(tx, owner, attempt_ids))

    async def finish(
        self,
        owner: str,
        attempt_id: str,
        state: AttemptState,
        *,
        reason: str | None = None,
        evidence: Evidence | None = None,
        tokens: int | None = None,
        park_until_ms: int | None = None,
    ) -> Task:
        """End the attempt and move its task on, by `decide.after`; the task as it stands then. Raises Lost.

        `park_until_ms` (UTC): ask for another attempt, not before then; with the reason `usage_limit` this one was
        no try. The same again, after an answer that was lost, gives the same.
        """
        return await self._database.write(
            lambda tx: attempts.finish(
                tx,
                owner,
                attempt_id,
                state,
                reason=reason,
                evidence=evidence,
                tokens=tokens,
                park_until_utc=park_until_ms,
            ),
            patience_ms=self._patience_ms,
        )

    async def orphans(self, node_id: str, owner: str) -> list[Attempt]:
        """What earlier lives of this node's worker left running, for this one to claim."""
        return await self._database.read(lambda tx: attempts.orphans(tx, node_id, owner))

    # Events.

    async def append_codexd(
        self,
        owner: str,
        node_id: str,
        epoch: str,
        next_seq: int,
        events: Sequence[Mapping[str, Any]],
        missed: Mapping[str, Any] | None = None,
    ) -> None:
        """Take over events of the node's codexd (as its API tells them) with its cursor `epoch:next_seq`, each once.

        `missed` is told before them, as `node.events_missed`: what codexd had no longer. Raises Lost.
        """
        await self._database.write(
            lambda tx: attempts.append_codexd(tx, owner, node_id, epoch, next_seq, events, missed),
            patience_ms=self._patience_ms,
        )

    async def feed_cursor(self, node_id: str) -> str | None:
        """Up to where the node's codexd was taken over, as a cursor of codexd's; None: nothing yet."""
        return await self._database.read(lambda tx: events.feed_cursor(tx, node_id))

    async def events(
        self, after: int, limit: int, types: Sequence[str] | None = None, task_id: str | None = None
    ) -> tuple[list[QueueEvent], int]:
        """The events after `after`, of some types and of one task if given, and the `after` of the next page.

        Raises Rejected: `cursor_expired`, `cursor_ahead`.
        """
        return await self._database.read(lambda tx: events.page(tx, after, limit, types=types, task_id=task_id))

    async def head(self) -> Head:
        """How far the events go, and from where on they are still there."""
        return await self._database.read(events.head)

    async def wait(self, seq: int) -> int:
        """The number of the last event, once there is one above `seq`."""
        return await self._wake.wait(seq)

    async def _look(self) -> int:
        return (await self.head()).head


async def open_engine(
    place: Path | str,
    *,
    clock: Clock | None = None,
    now_ms: Callable[[], int] = boot.milliseconds,
    boot_id: Callable[[], str] = boot.boot_id,
    patience_ms: int = PATIENCE_MS,
) -> Engine:
    """The engine in a file (a path, or `sqlite:///PATH`), made if missing, or on a server (`postgresql://…`).

    `now_ms` and `boot_id` are the file's clock. `patience_ms`: how long a worker's writes are tried again while the
    database is away. Raises CannotStart: 74 or 69 when the file or the server cannot be opened, 78 when a newer
    release made it.
    """
    url = str(place)
    postgres = url.startswith("postgresql")
    path = Path(url.removeprefix("sqlite://"))

    def work() -> sa.Engine:
        opened = open_postgres(url, patience_ms) if postgres else open_sqlite(path, now_ms, boot_id)
        try:
            with opened.begin() as connection:
                schema.prepare(connection)
        except BaseException:  # boundary: the caller gets it, and no connection is left open
            opened.dispose()
            raise
        return opened

    threads = ThreadPoolExecutor(THREADS if postgres else 1, thread_name_prefix="engine")
    shown = "The engine's database" if postgres else f"The engine's file {path}"
    try:
        opened = await asyncio.get_running_loop().run_in_executor(threads, work)
    except schema.NewerSchema as newer:
        threads.shutdown(wait=False)
        raise CannotStart(f"{shown}: {newer}. Install that release again.", exit_code=EX_CONFIG) from None
    except (exc.SQLAlchemyError, OSError) as error:
        threads.shutdown(wait=False)
        raise CannotStart(
            f"{shown} cannot be opened: {failed(error)}", exit_code=EX_UNAVAILABLE if postgres else EX_IOERR
        ) from error
    return Engine(Database(opened, threads, clock or SystemClock(), events.number), patience_ms)
