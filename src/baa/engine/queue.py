"""The queue: how an attempt that the leader assigned reaches its node's worker. The only importer of DBOS Transact.

The library carries: it hands each attempt to a worker at least once, keeps it for the next incarnation if that one dies
and tells a worker that it was dropped. What is true of an attempt stands in our own tables, and the worker asks there
first. A workflow is one attempt (`TASK:NUMBER` is its id) with one step; a queue is one node (`node:ID`).

The library lives in threads and on an event loop of its own: when the database is away it sleeps and tries again, for
ever, and ours must not stand still with it. An attempt runs on ours.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread
from typing import Any, Final, TypeAlias, TypeVar

import sqlalchemy as sa
import structlog
from dbos import DBOS, DBOSClient, DBOSPortableJSONSerializer, error

from baa.engine import queue_log, sqlite_time
from baa.engine.store import EngineFailed, Lost

T = TypeVar("T")
Run: TypeAlias = Callable[[str, int], Awaitable[None]]
"""What runs an attempt, given its task and number. It may be called again for one that it ran already.

Lost or cancelled it stays taken, for the next incarnation; however else it comes back, the queue has done with it.
"""

APPLICATION: Final = "baa-conductor"
PROTOCOL: Final = "1"
"""The version of what is put and taken, not of the release: a worker takes only what has the same."""

WORKFLOW: Final = "attempt"
POLL_S: Final = 0.1
MAX_RECOVERIES: Final = 5
"""How often an attempt is taken up by a further incarnation of its worker: one that kills them all is left lying."""

IDLE_S: Final = 5.0
"""Seconds after which PostgreSQL takes its locks from a worker that stands still in the middle of a transaction."""

CONNECTION: Final = {
    "connect_timeout": "5",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
}
"""How soon a PostgreSQL that does not answer is given up, where its URL does not say otherwise."""

LEAVE_S: Final = 10.0
"""Seconds for attempts that are cancelled to clean up, and again for the library's threads to end."""

HIGHEST: Final = 1000
"""The highest priority of a task."""

BUSY_S: Final = 30.0
BATCH: Final = 1000
ENDED: Final = ["SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"]

_log = structlog.get_logger("queue")


def workflow_id(task_id: str, number: int) -> str:
    """The id of an attempt's workflow, which makes putting it idempotent."""
    return f"{task_id}:{number}"


def queue_of(node_id: str) -> str:
    """The name of a node's queue."""
    return f"node:{node_id}"


def executor_of(node_id: str, incarnation: str) -> str:
    """What the library knows a worker by: never the same for two processes."""
    return f"{node_id}:{incarnation}"


def library_url(engine_url: str, home: Path) -> str:
    """The library's database beside the engine's: a file of its own next to an SQLite file, the same on PostgreSQL."""
    if engine_url.startswith("postgres"):
        return engine_url
    file = Path("/" + engine_url.removeprefix("sqlite:///").lstrip("/")) if engine_url else home / "state" / "engine"
    return f"sqlite:///{file.with_name('queue.sqlite3')}"


async def open_queue(url: str) -> Queue:
    """The queue in the library's database at `url`, which is made or migrated.

    Raises EngineFailed where the database cannot be reached: try again.
    """
    queue_log.take_over()
    sqlite_time.listen()
    threads = ThreadPoolExecutor(2, thread_name_prefix="queue")
    try:
        client = await _call(threads, lambda: _prepare(url))
    except BaseException:  # boundary: the caller gets it, and no thread is left
        threads.shutdown(wait=False)
        raise
    return Queue(url, threads, client)


class Queue:
    """The queue as any program sees it. All methods raise EngineFailed; what was asked may then have been done."""

    def __init__(self, url: str, threads: ThreadPoolExecutor, client: DBOSClient) -> None:
        self._url = url
        self._threads = threads
        self._client = client

    async def close(self) -> None:
        """Let go of the database."""
        await self._call(self._client.destroy)
        self._threads.shutdown(wait=False)

    async def put(self, node_id: str, task_id: str, number: int, *, priority: int = 0) -> None:
        """Hand an attempt to the worker of its node; the same one again changes nothing, whatever became of it."""

        def work() -> None:
            self._client.enqueue(
                {
                    "workflow_name": WORKFLOW,
                    "queue_name": queue_of(node_id),
                    "workflow_id": workflow_id(task_id, number),
                    "app_version": PROTOCOL,
                    "priority": HIGHEST + 1 - priority,  # the library's lowest number, which is 1, runs first
                },
                task_id,
                number,
            )

        await self._call(work)

    async def drop(self, task_id: str, number: int) -> None:
        """Take an attempt back: it is not begun any more, and one that runs is cancelled within about a second.

        Nothing happens where it was never put or has ended.
        """
        await self._call(lambda: self._client.cancel_workflow(workflow_id(task_id, number)))

    async def recover(self, node_id: str, incarnation: str) -> list[str]:
        """Queue again what earlier incarnations of this node had taken; the ids of those attempts.

        Only for the incarnation that has registered: all others of the node are dead, or end by themselves. Each is
        queued again once, however often and by however many this is called.
        """

        def work() -> list[str]:
            client, queue, mine = self._client, queue_of(node_id), executor_of(node_id, incarnation)
            taken = client.list_workflows(status="PENDING", queue_name=queue, load_input=False, load_output=False)
            others = [(each.workflow_id, each.executor_id) for each in taken if each.executor_id not in (mine, None)]
            # Not `resume_workflow`: that one also queues again what runs. This asks for the owner in its update.
            again = client._sys_db.reenqueue_for_recovery
            return [workflow for workflow, owner in others if again(workflow, [str(owner)], queue)]

        return await self._call(work)

    async def prune(self, older_than_ms: int) -> int:
        """Forget up to 1000 attempts that ended so long ago; how many it were."""

        def work() -> int:
            before = (datetime.now(UTC) - timedelta(milliseconds=older_than_ms)).isoformat()
            client = self._client
            found = client.list_workflows(
                status=ENDED, completed_before=before, limit=BATCH, load_input=False, load_output=False
            )
            if found:
                client.delete_workflows([each.workflow_id for each in found])
            return len(found)

        return await self._call(work)

    @asynccontextmanager
    async def taking(self, *, node_id: str, incarnation: str, slots: int, run: Run) -> AsyncIterator[Intake]:
        """Take this node's attempts and run them, at most `slots` at once, until the end of the block.

        What still runs there is cancelled and stays taken, for the next incarnation; `Intake.drain` lets it end first.
        One in a process. Raises EngineFailed.
        """
        await self._call(lambda: self._register(node_id, slots))
        raised: Exception | None = None
        async with asyncio.TaskGroup() as tasks:
            intake = Intake(tasks, run)
            try:
                await intake.start(_patient(self._url), node_id, incarnation)
                yield intake
            except Exception as each:  # boundary: it goes on as it is, not as one of a group
                raised = each
            finally:
                await intake.drain(0)
        if raised is not None:
            raise raised

    def _register(self, node_id: str, slots: int) -> None:
        queue = queue_of(node_id)
        self._client.register_queue(queue, worker_concurrency=slots, polling_interval_sec=POLL_S)

    async def _call(self, work: Callable[[], T]) -> T:
        return await _call(self._threads, work)


class Intake:
    """What a worker has taken. Everything but the library's own calls happens on the worker's event loop."""

    def __init__(self, tasks: asyncio.TaskGroup, run: Run) -> None:
        self._tasks = tasks
        self._run = run
        self._loop = asyncio.get_running_loop()
        self._running: dict[str, asyncio.Task[None]] = {}
        self._launched = False
        self._refuses = False

    @property
    def running(self) -> list[str]:
        """The ids of the attempts that run now."""
        return list(self._running)

    async def start(self, url: str, node_id: str, incarnation: str) -> None:
        """Begin to take. Raises EngineFailed."""

        def launch() -> None:
            self._workflow()
            DBOS(
                config={
                    "name": APPLICATION,
                    "application_version": PROTOCOL,
                    "executor_id": executor_of(node_id, incarnation),
                    "system_database_url": url,
                    "sys_db_idle_transaction_timeout_sec": IDLE_S,
                    "serializer": DBOSPortableJSONSerializer(),
                    "run_migrations": False,
                    "log_level": queue_log.LEVEL,
                }
            )
            DBOS.listen_queues([queue_of(node_id)])
            DBOS.launch()  # in a thread: the library makes an event loop of its own, and may wait here for the database

        self._launched = True
        try:
            await asyncio.wrap_future(_thread("queue-launch", launch))
        except (sa.exc.SQLAlchemyError, error.DBOSException, OSError) as failed:
            raise EngineFailed(queue_log.short(failed)) from failed

    async def drain(self, seconds: float, hurried: asyncio.Event | None = None) -> None:
        """Take nothing more, let what runs end for so many seconds or until `hurried`, then cancel the rest of it.

        What was cancelled stays taken. Afterwards nothing of the library is left that would do anything.
        """
        if not self._launched:
            return
        self._launched = False
        leaving: Future[None] | None = None
        if self._running and seconds > 0:
            leaving = _thread("queue-leave", lambda: _leave(int(seconds + LEAVE_S) + 1))
            await self._wait(seconds, hurried)
        self._refuses = True
        for task in self._running.values():
            task.cancel()
        await self._wait(LEAVE_S, None)
        leaving = leaving or _thread("queue-leave", lambda: _leave(0))
        try:
            async with asyncio.timeout(LEAVE_S):
                await asyncio.wrap_future(leaving)
        except TimeoutError:  # it waits for a database that is away
            _log.warning("queue.left_behind")

    async def _wait(self, seconds: float, hurried: asyncio.Event | None) -> None:
        """Until nothing runs, but no longer than so many seconds and not once it is hurried."""
        async with asyncio.TaskGroup() as tasks:
            hurry = tasks.create_task((hurried or asyncio.Event()).wait(), name="hurried")
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    while self._running and not hurry.done():
                        await asyncio.wait((*self._running.values(), hurry), return_when=asyncio.FIRST_COMPLETED)
            hurry.cancel()

    # --- on the library's event loop

    def _workflow(self) -> None:
        """The one workflow, with its one step, which lasts as long as the attempt runs on our loop."""

        @DBOS.step(name="run", preemptible=True)
        async def step(task_id: str, number: int) -> None:
            key = workflow_id(task_id, number)
            told: Future[bool] = Future()
            self._ask(self._begin, key, task_id, number, told)
            answer = asyncio.wrap_future(told)
            try:
                ended = await asyncio.shield(answer)
            except asyncio.CancelledError:  # it was dropped
                self._ask(self._cancel, key)
                await answer
                raise
            if not ended:  # then nothing may be put down of it: it stays taken
                raise asyncio.CancelledError

        @DBOS.workflow(name=WORKFLOW, max_recovery_attempts=MAX_RECOVERIES)
        async def attempt(task_id: str, number: int) -> None:
            await step(task_id, number)

    def _ask(self, ask: Callable[..., None], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(ask, *arguments)
        except RuntimeError:  # our loop is closed
            raise asyncio.CancelledError from None

    # --- on ours

    def _begin(self, key: str, task_id: str, number: int, told: Future[bool]) -> None:
        running = self._running.get(key)
        if running is None and self._refuses:
            _tell(told, ended=False)
            return
        if running is None:  # else it was queued again while it ran here: there is one of it
            running = self._tasks.create_task(self._attempt(task_id, number), name=key)
            self._running[key] = running
            running.add_done_callback(lambda _: self._running.pop(key, None))
        running.add_done_callback(lambda task: _tell(told, ended=not task.cancelled()))

    def _cancel(self, key: str) -> None:
        if (running := self._running.get(key)) is not None:
            running.cancel()

    async def _attempt(self, task_id: str, number: int) -> None:
        try:
            await self._run(task_id, number)
        except Lost:  # this worker is the node's no more: it stays taken, for the one that is
            raise asyncio.CancelledError from None
        except Exception as error:  # boundary: attempt. A mistake of ours in one must not end the others.
            _log.error("attempt.failed", task_id=task_id, number=number, exc_info=error)


def _tell(told: Future[bool], *, ended: bool) -> None:
    if not told.done():
        told.set_result(ended)


async def _call(threads: ThreadPoolExecutor, work: Callable[[], T]) -> T:
    try:
        return await asyncio.get_running_loop().run_in_executor(threads, work)
    except (sa.exc.SQLAlchemyError, error.DBOSException, OSError) as failed:
        raise EngineFailed(queue_log.short(failed)) from failed


def _leave(seconds: int) -> None:
    DBOS.destroy(workflow_completion_timeout_sec=seconds, destroy_registry=True)


def _prepare(url: str) -> DBOSClient:
    if url.startswith("sqlite"):
        file = Path(url.removeprefix("sqlite:///"))
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        engine = sa.create_engine(url, connect_args={"timeout": BUSY_S})
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")  # stays with the file; the library does not set it
        engine.dispose()
    DBOS.migrate(_patient(url))
    return DBOSClient(
        system_database_url=_patient(url),
        serializer=DBOSPortableJSONSerializer(),
        application_name=APPLICATION,
        retry_connection_errors=False,
        sys_db_idle_transaction_timeout_sec=IDLE_S,
    )


def _patient(url: str) -> str:
    parts = sa.make_url(url)
    if parts.get_backend_name() == "sqlite":
        return url
    given = CONNECTION | {name: str(value) for name, value in parts.query.items()}
    return parts.update_query_dict(given).render_as_string(hide_password=False)


def _thread(name: str, work: Callable[[], T]) -> Future[T]:
    """What `work` gives, in a thread that no end of the program waits for: the library may wait for a database."""
    future: Future[T] = Future()

    def whole() -> None:
        try:
            result = work()
        except BaseException as error:  # boundary: thread. Whoever awaits the future gets it.
            future.set_exception(error)
        else:
            future.set_result(result)

    Thread(target=whole, name=name, daemon=True).start()
    return future
