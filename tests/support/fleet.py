"""A fleet of a test's own on one PostgreSQL: nodes (each codexd and worker-runner with folders of its own), conductors.

The work is done in one folder that all nodes may write to, as a repository at the same path would be.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from baa.api.conductor import NodeState
from baa.api.sessions import Sandbox
from baa.api.tasks import Attempt, Check, SubmitTask, Task
from baa.engine.store import Engine, EngineFailed, open_engine
from baa.scripted import ScriptedModel
from tests.support.moved_clock import under
from tests.support.node import PATIENCE_SECONDS, Node, moment
from tests.support.programs import Program

TTL_MS = 2000
"""Of a node; a turn's lease is twice that."""


@dataclass
class Member:
    """A node of the fleet."""

    name: str
    node: Node
    worker: Program


@dataclass
class Fleet:
    """What runs, and the engine that all of it shares."""

    model: ScriptedModel
    engine: Engine
    folder: Path
    url: str
    members: dict[str, Member] = field(default_factory=dict)
    conductors: dict[str, Program] = field(default_factory=dict)

    async def submitted(self, name: str, prompt: str, check: str, *, attempts: int = 3, turns: int = 3) -> str:
        """A new task, in a folder of its own; its id."""
        place = self.folder / name
        place.mkdir()
        checks = [Check(command=check)]
        return await self.asked(prompt=prompt, cwd=str(place), checks=checks, max_attempts=attempts, max_turns=turns)

    async def asked(self, **given: Any) -> str:
        """Any new task, worked at without a sandbox; its id."""
        request = SubmitTask(sandbox=Sandbox.DANGER_FULL_ACCESS, **given)
        task, _ = await self.engine.submit(request, key=None, body_hash=b"1" * 32)
        return task.task_id

    async def attempts(self, task_id: str) -> list[Attempt]:
        """All attempts at a task so far, oldest first."""
        return (await self.engine.task(task_id)).attempts or []

    async def worker_of(self, task_id: str) -> Member:
        """The node that works on the task's newest attempt."""
        return self.members[(await self.attempts(task_id))[-1].node_id]

    async def ended(self, task_id: str, seconds: float = PATIENCE_SECONDS) -> Task:
        """The task, once it has ended; the database may be away meanwhile."""
        async with asyncio.timeout(seconds):
            while True:
                try:
                    task = await self.engine.task(task_id)
                except EngineFailed:
                    continue
                if task.ended_at is not None:
                    return task
                await moment(0.05)

    async def told(self, task_id: str) -> list[str]:
        """The types of all events of a task."""
        events, _ = await self.engine.events(0, 1000, task_id=task_id)
        return [event.type for event in events]


@asynccontextmanager
async def a_fleet(
    folder: Path,
    url: str,
    model: ScriptedModel,
    *,
    nodes: tuple[str, ...],
    conductors: tuple[str, ...],
    urls: Mapping[str, str] | None = None,
    ttl_ms: int = TTL_MS,
    slots: int = 2,
    moved: Path | None = None,
) -> AsyncIterator[Fleet]:
    """All of it runs, and every node is known to the queue. The conductors run no tasks themselves.

    `urls`: by which another way a node reaches the same database. `moved`: a file by whose seconds every program's wall
    clock is moved.
    """
    shared = folder / "shared"
    shared.mkdir()
    settings = {"BAA_ENGINE_URL": url, "BAA_WORKER_NODE_TTL_MS": str(ttl_ms), "BAA_WORKER_EMBEDDED": "false"}
    settings["BAA_WORKER_SLOTS"] = str(slots)
    async with AsyncExitStack() as stack:
        engine = await open_engine(url)
        stack.push_async_callback(engine.close)
        fleet = Fleet(model, engine, shared, url)
        for name in conductors:
            program = Program("conductor", folder / name / "baa", BAA_NODE_ID=name, **settings)
            if moved is not None:
                program.command = under(moved, "baa.conductor")
            fleet.conductors[name] = await stack.enter_async_context(program)
        for name in nodes:
            node = Node(folder / name, model.base_url)
            node.allow(shared)
            worker = Program("worker-runner", node.home, BAA_NODE_ID=name, **settings)
            if moved is not None:
                node.command, worker.command = under(moved, "baa.codexd"), under(moved, "baa.worker")
            await stack.enter_async_context(node)
            await node.start()
            worker.environment["BAA_ENGINE_URL"] = (urls or {}).get(name, url)
            worker.environment |= {"BAA_CONFIG": str(node.folder / "baa.toml"), "HOME": str(node.folder / "user")}
            fleet.members[name] = Member(name, node, await stack.enter_async_context(worker))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while [each.state for each in await engine.nodes()] != [NodeState.ACTIVE] * len(nodes):
                await moment(0.05)
        yield fleet
