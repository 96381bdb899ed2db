"""A node with all that runs a task: a real codexd and Codex, an engine, a repository, and workers that come and go.

As a program it is such a worker alone: `python -m tests.support.station ENGINE TASK NUMBER OWNER [WRITES]`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from baa import config
from baa.api.conductor import Node as Registered
from baa.api.conductor import NodeState
from baa.api.sessions import Sandbox
from baa.api.tasks import Attempt, SubmitTask, Task
from baa.client.codexd import Codexd
from baa.clock import SystemClock
from baa.config import Config
from baa.engine.store import Engine, Lost, Standing, open_engine
from baa.scripted import ScriptedModel
from baa.worker.attempt import Executor
from baa.worker.execution import Execution
from baa.worker.turns import Turns
from baa.worker.workspace import Workspaces
from tests.support.node import Node
from tests.support.repositories import Repository

HERE = "here"
TTL_MS = 600_000  # nobody's heartbeat matters here: a worker is superseded by the next one, or by nobody
LEASE_MS = 600_000


@dataclass
class Station:
    """The node, and what a test does to it."""

    node: Node
    model: ScriptedModel
    engine: Engine
    repo: Repository
    may_renew: bool = True
    lease_ms: int = LEASE_MS
    lives: int = 0

    async def assigned(self, **given: object) -> Attempt:
        """A new task's first attempt, given to this node; it works in the repository, without a sandbox."""
        told = {"prompt": "Do it.", "cwd": str(self.repo.folder), "sandbox": Sandbox.DANGER_FULL_ACCESS, **given}
        task, _ = await self.engine.submit(SubmitTask(**told), key=None, body_hash=b"1" * 32)  # type: ignore[arg-type]
        return await self.next_of(task.task_id)

    async def next_of(self, task_id: str) -> Attempt:
        """The next attempt at a task, given to this node, which has a worker."""
        if self.lives == 0:
            await self.registered()
        lease = await self.engine.acquire("leader", holder="test", node_id=HERE, ttl_ms=TTL_MS)
        attempt = await self.engine.assign(lease.term, task_id, HERE)
        assert attempt is not None
        return attempt

    async def registered(self) -> str:
        """Another life of this node's worker, which supersedes the one before."""
        self.lives += 1
        owner = f"life-{self.lives}"
        worker = Registered(
            node_id=HERE,
            incarnation=owner,
            version="1",
            slots=2,
            state=NodeState.ACTIVE,
            pid=os.getpid(),
            started_at="2026-01-01T00:00:00.000Z",
            seen_at="2026-01-01T00:00:00.000Z",
        )
        await self.engine.register(worker, ttl_ms=TTL_MS)
        return owner

    async def run(self, attempt: Attempt) -> Task:
        """Run an attempt as the worker's latest life; the task as it stands then."""
        owner = f"life-{self.lives}"

        async def is_mine() -> bool:
            return True

        async with (
            an_executor(
                self.engine,
                settings_of(self.node),
                owner=owner,
                lease_ms=self.lease_ms,
                may_renew=lambda: self.may_renew,
            ) as executor,
            asyncio.TaskGroup() as group,
        ):
            execution = Execution(self.engine, executor, owner=owner, is_mine=is_mine)
            watching = group.create_task(execution.watch(), name="standing")
            with suppress(Lost):  # it has ended, and was seen to have ended
                await execution.run(attempt.task_id, attempt.number)
            watching.cancel()
        return await self.engine.task(attempt.task_id)

    async def done(self, **given: object) -> tuple[Task, Attempt]:
        """A new task's first attempt, from its submission to its end."""
        task = await self.run(await self.assigned(**given))
        assert task.attempts is not None
        return task, task.attempts[-1]

    async def told(self, task_id: str) -> list[str]:
        """The types of all events of a task."""
        events, _ = await self.engine.events(0, 1000, task_id=task_id)
        return [event.type for event in events]


def settings_of(node: Node) -> Config:
    """The configuration of a worker on this node."""
    return config.load(environ=node.environment())


@asynccontextmanager
async def an_executor(
    engine: Engine, settings: Config, *, owner: str, lease_ms: int, may_renew: Callable[[], bool]
) -> AsyncIterator[Executor]:
    """What runs attempts, as the runner makes it. Nothing is left to chance."""
    async with Codexd(settings) as codexd, Codexd(settings, patience_s=0) as renewing:
        yield Executor(
            engine,
            Turns(codexd, renewing, lease_ms=lease_ms, may_renew=may_renew, unavailable_s=1),
            Workspaces(settings.worktrees_dir),
            SystemClock(),
            HERE,
            owner,
            chance=lambda: 0.0,
        )


@asynccontextmanager
async def a_station(folder: Path, model: ScriptedModel, node: Node, url: str = "") -> AsyncIterator[Station]:
    """A station on a node that serves, with a repository of its own, and an engine in `folder` or at `url`."""
    async with AsyncExitStack() as stack:
        engine = await open_engine(url or folder / "engine.sqlite3")
        stack.push_async_callback(engine.close)
        yield Station(node, model, engine, Repository(node.work / folder.name))


class Dying(Engine):
    """An engine whose program is killed right before its nth write of an attempt, or -n: right after it."""

    dies_at: int
    writes: int

    async def record(self, *given: Any, **more: Any) -> Standing:
        self._before()
        standing = await super().record(*given, **more)
        self._after()
        return standing

    async def finish(self, *given: Any, **more: Any) -> Task:
        self._before()
        task = await super().finish(*given, **more)
        self._after()
        return task

    def _before(self) -> None:
        self.writes += 1
        if self.writes == self.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def _after(self) -> None:
        if -self.writes == self.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)


async def alone(engine_file: str, task_id: str, number: str, owner: str, writes: str = "0") -> None:
    """A worker that runs one attempt; it is killed at that write, if it comes to it (`Dying`)."""
    engine = await open_engine(Path(engine_file))
    engine.__class__ = Dying
    assert isinstance(engine, Dying)
    engine.writes, engine.dies_at = 0, int(writes)
    settings = config.load()
    try:
        async with an_executor(engine, settings, owner=owner, lease_ms=LEASE_MS, may_renew=lambda: True) as executor:
            await executor.run(task_id, int(number), asyncio.Event())
    finally:
        await engine.close()


if __name__ == "__main__":
    asyncio.run(alone(*sys.argv[1:]))
