"""What runs a node's tasks: as worker-runner alone, or inside the conductor. It reaches the engine and its own codexd.

One a home: a second one waits until the first is gone, by a lock that dies with its process.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import structlog

from baa import __version__, notify
from baa.api.conductor import Node, NodeState
from baa.client.codexd import Codexd
from baa.clock import Clock, SystemClock, rfc3339
from baa.config import Config
from baa.engine.queue import Intake, Queue, Run, library_url, open_queue
from baa.engine.store import Engine, EngineFailed, Lost, open_engine
from baa.process import Stop
from baa.worker.attempt import Executor
from baa.worker.execution import Execution
from baa.worker.feeder import Feeder
from baa.worker.life import Life, Superseded
from baa.worker.turns import Turns
from baa.worker.workspace import Workspaces

FOREVER_S: Final = 1e9
AGAIN_S: Final = 1.0

_log = structlog.get_logger("worker")


async def run(config: Config, stop: Stop, on_started: Callable[[str], None]) -> None:
    """worker-runner, until told to stop; `on_started` is given the node's id.

    Raises CannotStart: 75 when the node was given up, or another worker took it over.
    """
    clock = SystemClock()
    engine = await open_engine(config.engine_url, clock=clock, patience_ms=config.node_ttl_ms * 2 // 3)
    try:
        on_started(config.node_id)
        await work(config, engine, stop, clock)
    finally:
        await engine.close()
    _log.info("stopped")


async def work(config: Config, engine: Engine, stop: Stop, clock: Clock, *, watchdog: bool = True) -> None:
    """Be the worker of this node until told to stop. Raises Superseded.

    A stop lets what runs end for `worker_drain_ms`, or until it is hurried; the next life goes on with the rest of it.
    A drain that the operator asks for has no such limit; then the worker stays, and takes nothing.
    """
    life = Life(engine, _node(config, clock), clock, ttl_ms=config.node_ttl_ms, turn_lease_ms=config.turn_lease_ms)
    try:
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(_watch(life, watchdog=watchdog), name="watchdog")
            async with _alone(config.home / "state" / "worker.lock", stop) as alone:
                if alone and await _unless(stop, life.register()):
                    await _live(config, engine, stop, life, clock)
            watching.cancel()
    except* (Superseded, Lost) as superseded:
        raise Superseded(config.node_id) from superseded


async def _live(config: Config, engine: Engine, stop: Stop, life: Life, clock: Clock) -> None:
    node = life.node
    async with Codexd(config) as codexd, Codexd(config, patience_s=0) as renewing, asyncio.TaskGroup() as tasks:
        beating = tasks.create_task(life.beat(), name="heartbeat")
        feeder = Feeder(engine, codexd, node_id=node.node_id, owner=node.incarnation)
        feeding = tasks.create_task(feeder.run(), name="feeder")
        turns = Turns(codexd, renewing, lease_ms=config.turn_lease_ms, may_renew=life.may_renew)
        workspaces = Workspaces(config.worktrees_dir)
        executor = Executor(engine, turns, workspaces, clock, node.node_id, node.incarnation)
        execution = Execution(engine, executor, owner=node.incarnation, is_mine=life.is_mine)
        watching = tasks.create_task(execution.watch(), name="standing")
        await _take(config, stop, life, execution.run)
        await stop.asked.wait()
        await life.tell(NodeState.DRAINING)
        watching.cancel()
        feeding.cancel()
        beating.cancel()
        await life.tell(NodeState.GONE)


async def _take(config: Config, stop: Stop, life: Life, run: Run) -> None:
    """Take attempts until a stop or a drain, then let them end; the heartbeat goes on meanwhile."""
    node, url = life.node, library_url(config.engine_url, config.home)
    while not stop.asked.is_set():
        try:
            queue = await open_queue(url)
        except EngineFailed as error:
            _log.warning("queue.waits", why=str(error))
            await _unless(stop, asyncio.sleep(life.beat_s))
            continue
        try:
            async with queue.taking(
                node_id=node.node_id, incarnation=node.incarnation, slots=node.slots, run=run
            ) as intake:
                await _until_leaving(queue, stop, life)
                await life.tell(NodeState.DRAINING)
                await _drain(intake, stop, config.worker_drain_ms / 1000)
                return
        except EngineFailed as error:
            _log.warning("queue.waits", why=str(error))
            await _unless(stop, asyncio.sleep(life.beat_s))
        finally:
            await queue.close()


async def _until_leaving(queue: Queue, stop: Stop, life: Life) -> None:
    """Until a stop or a drain. What an earlier life took, also one that does not know yet that it is over, is ours."""
    trouble = False
    while not (stop.asked.is_set() or life.drain.is_set()):
        try:
            if again := await queue.recover(life.node.node_id, life.node.incarnation):
                _log.info("queue.recovered", attempts=again)
            trouble = False
        except EngineFailed as error:
            if not trouble:
                _log.warning("queue.trouble", why=str(error))
            trouble = True
        await _first(stop.asked.wait(), life.drain.wait(), asyncio.sleep(life.beat_s))


async def _drain(intake: Intake, stop: Stop, seconds: float) -> None:
    """Let what runs end: without a limit, but only for so many seconds once a stop is asked for."""
    hurried = asyncio.Event()

    async def hurry() -> None:
        await stop.asked.wait()
        await _first(stop.hurried.wait(), asyncio.sleep(seconds))
        hurried.set()

    async with asyncio.TaskGroup() as tasks:
        hurrying = tasks.create_task(hurry(), name="hurry")
        await intake.drain(FOREVER_S, hurried)
        hurrying.cancel()


@asynccontextmanager
async def _alone(path: Path, stop: Stop) -> AsyncIterator[bool]:
    """Hold the lock inside; False if a stop came before it was free."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        held, waits = False, False
        while not held and not stop.asked.is_set():
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                held = True
            except BlockingIOError:
                if not waits:
                    _log.info(
                        "worker.waits",
                        why="another program runs the tasks of this node: the conductor, or worker-runner",
                    )
                waits = True
                await _unless(stop, asyncio.sleep(AGAIN_S))
        yield held
    finally:
        os.close(descriptor)


async def _unless(stop: Stop, what: Awaitable[None]) -> bool:
    """Await it, unless a stop comes first; whether it was done."""

    async def done() -> None:
        await what

    async with asyncio.TaskGroup() as tasks:
        doing = tasks.create_task(done(), name="doing")
        asked = tasks.create_task(stop.asked.wait(), name="stop")
        await asyncio.wait((doing, asked), return_when=asyncio.FIRST_COMPLETED)
        finished = doing.done()
        doing.cancel()
        asked.cancel()
    return finished


async def _first(*whats: Awaitable[object]) -> None:
    """Await all of them until one is done."""

    async def done(what: Awaitable[object]) -> None:
        await what

    async with asyncio.TaskGroup() as tasks:
        doing = [tasks.create_task(done(what), name="first") for what in whats]
        await asyncio.wait(doing, return_when=asyncio.FIRST_COMPLETED)
        for each in doing:
            each.cancel()


async def _watch(life: Life, *, watchdog: bool) -> None:
    if watchdog:
        await notify.watch(life.healthy)


def _node(config: Config, clock: Clock) -> Node:
    now = rfc3339(clock.utc_ms())
    return Node(
        node_id=config.node_id,
        incarnation=secrets.token_hex(8),
        version=__version__,
        slots=config.worker_slots,
        state=NodeState.ACTIVE,
        pid=os.getpid(),
        started_at=now,
        seen_at=now,
    )
