"""The engine's database, SQLite or PostgreSQL: one transaction after another, in threads of their own.

The SQL of the engine is one text for both. What differs is here and in `schema`: how a connection is opened, which rows
need a lock of their own, and how a commit whose answer was lost is found out about. `now_ms()` and `boot_id()` are
functions that the database knows, so that no process compares its own time with another's.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.pool import QueuePool

from baa.clock import Clock, rfc3339
from baa.sqlite import AGAIN_S, BUSY_MS, PRAGMAS

T = TypeVar("T")

PATIENCE_MS: Final = 10_000
"""How long what a worker must write down is tried again: two thirds of the time for which its node is good."""

SLOW_MS: Final = 5000
"""The least that a server is given for a statement, in milliseconds, whatever the patience."""

PAUSE_S: Final = 0.2
"""Seconds between two tries."""

THREADS: Final = 4
"""Transactions at once on PostgreSQL, where one may wait for the network. SQLite has one writer, and gets one."""

_COLLISIONS: Final = ("40001", "40P01")
"""PostgreSQL's codes for transactions that met: it undid this one, and wants it again."""

_NOT_NOW: Final = ("08", "25P03", "53", "55", "57")
"""PostgreSQL's codes begin so where the server was away or full, or let go of a program that was frozen."""


class EngineFailed(Exception):
    """The engine's database could not be read or written; what was asked may not have been done.

    `passing`: the database was away, full or busy, and the same may succeed later.
    """

    def __init__(self, message: str, *, passing: bool = False) -> None:
        super().__init__(message)
        self.passing = passing


class Unsettled(Generic[T], Exception):
    """The commit was sent and its answer was lost. `mark` names the transaction to who asks for its end."""

    def __init__(self, mark: str | None, result: T, head: int, error: str) -> None:
        super().__init__(error)
        self.mark = mark
        self.result = result
        self.head = head


class Transaction:
    """What an operation may do with the database, all of it or nothing. `now` is UTC, for people."""

    def __init__(self, connection: sa.Connection, utc_ms: int) -> None:
        self.utc_ms = utc_ms
        self.now = rfc3339(utc_ms)
        self.told: list[dict[str, Any]] = []
        self._connection = connection
        self._locks = connection.dialect.name == "postgresql"

    def rows(self, sql: str, *, lock: str = "", **values: Any) -> Sequence[sa.Row[Any]]:
        """The rows of a query. `lock`, SHARE or UPDATE, keeps others from changing them before the commit.

        SQLite needs no such lock: its transactions that write come one after another. A value that is a list stands
        for `IN :name`.
        """
        if lock and self._locks:
            sql = f"{sql} FOR {lock}"
        return self._execute(sql, values).all()

    def row(self, sql: str, *, lock: str = "", **values: Any) -> sa.Row[Any] | None:
        """The first row of a query, or None."""
        found = self.rows(sql, lock=lock, **values)
        return found[0] if found else None

    def number(self, sql: str, **values: Any) -> int:
        """The one number that a query gives."""
        found = self.row(sql, **values)
        assert found is not None
        return int(found[0])

    def run(self, sql: str, **values: Any) -> int:
        """Change rows; how many were changed."""
        return self._execute(sql, values).rowcount

    def many(self, sql: str, values: list[dict[str, Any]]) -> None:
        """Do the same with each of `values`."""
        if values:
            self._connection.execute(_statement(sql, ()), values)

    def _execute(self, sql: str, values: dict[str, Any]) -> sa.CursorResult[Any]:
        lists = tuple(name for name, value in values.items() if isinstance(value, (list, tuple)))
        return self._connection.execute(_statement(sql, lists), values)


@lru_cache(maxsize=512)
def _statement(sql: str, lists: tuple[str, ...]) -> sa.TextClause:
    return sa.text(sql).bindparams(*(sa.bindparam(name, expanding=True) for name in lists))


class Database:
    """An open database. `before_commit` is the last thing that every transaction which writes does."""

    def __init__(
        self, engine: sa.Engine, threads: ThreadPoolExecutor, clock: Clock, before_commit: Callable[[Transaction], int]
    ) -> None:
        self.on_head: Callable[[int], None] = lambda head: None
        self._engine = engine
        self._threads = threads
        self._clock = clock
        self._before_commit = before_commit

    async def close(self) -> None:
        """Close every connection, once what was begun has ended."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._threads.shutdown()  # a caller that was cancelled left its thread at work: it gives its connection back
        self._engine.dispose()

    async def read(self, work: Callable[[Transaction], T]) -> T:
        """What `work` finds in one state of the database. Raises EngineFailed."""
        return await self._run(work, writes=False, patience_ms=0)

    async def write(self, work: Callable[[Transaction], T], *, patience_ms: int = 0) -> T:
        """Do `work` and commit it; what it gives. While the database is away it is tried for `patience_ms`.

        `work` may be called more than once, and only the last call counts. Raises EngineFailed.
        """
        return await self._run(work, writes=True, patience_ms=patience_ms)

    async def _run(self, work: Callable[[Transaction], T], *, writes: bool, patience_ms: int) -> T:
        until = time.monotonic() + patience_ms / 1000
        while True:
            try:
                result, head = await self._in_thread(lambda: self._transaction(work, writes=writes))
            except Unsettled as unsettled:
                if not await self._committed(unsettled, max(until, time.monotonic() + PAUSE_S)):
                    continue
                result, head = unsettled.result, unsettled.head
            except EngineFailed as failed:
                if not failed.passing or time.monotonic() > until:
                    raise
                await asyncio.sleep(PAUSE_S)
                continue
            if head:
                self.on_head(head)
            return result

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _transaction(self, work: Callable[[Transaction], T], *, writes: bool) -> tuple[T, int]:
        while True:
            try:
                return self._once(work, writes=writes)
            except exc.DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) not in _COLLISIONS:
                    raise failed(error) from error
            except (exc.SQLAlchemyError, OSError) as error:
                raise failed(error) from error

    def _once(self, work: Callable[[Transaction], T], *, writes: bool) -> tuple[T, int]:
        with self._engine.connect() as connection:
            if not writes:
                connection.execution_options(**_reading(connection))
            with connection.begin() as whole:
                transaction = Transaction(connection, self._clock.utc_ms())
                result = work(transaction)
                if not writes:
                    return result, 0
                head = self._before_commit(transaction)
                mark = _mark(connection)
                try:
                    whole.commit()
                except exc.OperationalError as error:
                    if mark is None:
                        raise
                    raise Unsettled(mark, result, head, str(error.orig)) from error
            return result, head

    async def _committed(self, unsettled: Unsettled[T], until: float) -> bool:
        """Whether the transaction was committed. Raises EngineFailed when that cannot be found out in time."""

        def ask() -> str | None:
            with self._engine.connect() as connection:
                sql = sa.text("SELECT pg_xact_status(CAST(:mark AS xid8))")
                return connection.execute(sql, {"mark": unsettled.mark}).scalar()

        while True:
            try:
                status = await self._in_thread(ask)
            except (exc.SQLAlchemyError, OSError):
                status = None
            if status in ("committed", "aborted"):
                return status == "committed"
            if time.monotonic() > until:
                raise EngineFailed(f"it is not known whether this was committed: {unsettled}", passing=True)
            await asyncio.sleep(PAUSE_S)


def _mark(connection: sa.Connection) -> str | None:
    if connection.dialect.name != "postgresql":
        return None
    mark: str | None = connection.execute(_statement("SELECT pg_current_xact_id_if_assigned()::text", ())).scalar()
    return mark


def _reading(connection: sa.Connection) -> dict[str, Any]:
    """One state of the database for the whole transaction."""
    return {"isolation_level": "REPEATABLE READ"} if connection.dialect.name == "postgresql" else {"reads": True}


def failed(error: Exception) -> EngineFailed:
    """The library's error as ours: the driver's words, without the statement and its values."""
    origin = getattr(error, "orig", None) or error
    words = " ".join(str(origin).split())
    state = getattr(origin, "sqlstate", None) or ""
    away = isinstance(error, (exc.OperationalError, exc.TimeoutError, exc.InterfaceError, OSError))
    passing = away and "no such" not in words if not state else state.startswith(_NOT_NOW)
    return EngineFailed(words or type(origin).__name__, passing=passing)


def open_sqlite(path: Path, now_ms: Callable[[], int], boot_id: Callable[[], str]) -> sa.Engine:
    """The file, made if missing, for its owner only; in WAL. Raises sqlalchemy's errors and OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    engine = sa.create_engine(
        sa.URL.create("sqlite", database=str(path)),
        poolclass=QueuePool,
        pool_size=1,
        max_overflow=0,
        hide_parameters=True,
        connect_args={"check_same_thread": False, "timeout": BUSY_MS / 1000},
    )

    @event.listens_for(engine, "connect")
    def connect(driver: Any, _: Any) -> None:
        driver.isolation_level = None  # transactions begin where we say so
        driver.create_function("now_ms", 0, now_ms)
        driver.create_function("boot_id", 0, boot_id)
        _use_wal(driver)
        for pragma in PRAGMAS:
            driver.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        reads = connection.get_execution_options().get("reads", False)
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    return engine


def _use_wal(driver: Any) -> None:
    """Programs that open a new file at once all want to change it, and SQLite tells all but one at once: busy."""
    until = time.monotonic() + BUSY_MS / 1000
    while True:
        try:
            driver.execute("PRAGMA journal_mode=WAL")
        except driver.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(AGAIN_S)
        else:
            return


def open_postgres(url: str, patience_ms: int) -> sa.Engine:
    """The server, not yet spoken to. `patience_ms` bounds a statement, and how long a dead connection is believed in.

    A program that is frozen in the middle of a transaction holds locks; the server takes them from it after half of
    that time. None of this is shorter than a slow machine needs.
    """
    waits_ms = max(patience_ms, SLOW_MS)
    options = {
        "search_path": "baa",
        "synchronous_commit": "on",
        "statement_timeout": waits_ms,
        "lock_timeout": waits_ms,
        "idle_in_transaction_session_timeout": waits_ms // 2,
        "client_min_messages": "warning",
    }
    return sa.create_engine(
        sa.make_url(url).set(drivername="postgresql+psycopg"),
        pool_size=THREADS,
        max_overflow=0,
        pool_pre_ping=True,
        hide_parameters=True,
        connect_args={
            "options": " ".join(f"-c {name}={value}" for name, value in options.items()),
            "connect_timeout": waits_ms // 2000,
            "keepalives_idle": 2,
            "keepalives_interval": 1,
            "keepalives_count": 3,
            "tcp_user_timeout": waits_ms,
            "application_name": "baa",
        },
    )
