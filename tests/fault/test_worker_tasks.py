"""Tasks that a real worker-runner runs from the queue, with the real Codex, while it is killed, stopped and drained.

The test is the leader: it assigns an attempt and puts it on the queue.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from baa.api.conductor import NodeState
from baa.api.sessions import Sandbox
from baa.api.tasks import Attempt, AttemptState, Check, SubmitTask, Task, TaskState
from baa.engine.queue import Queue, library_url, open_queue
from baa.engine.store import Engine, open_engine
from baa.scripted import Hold, Run, Say, ScriptedModel, when
from tests.support.node import PATIENCE_SECONDS, Node, until, within
from tests.support.programs import Program
from tests.support.repositories import Repository

pytestmark = pytest.mark.timeout(180)

SCENARIOS = (
    when("toil", Run("echo one >> result"), (Hold("gate"), Say("Done."))),
    when("quick", Run("echo one >> result"), Say("Quick.")),
)


@dataclass
class Place:
    """A node with codexd and a worker, its engine, and the leader's hand."""

    node: Node
    model: ScriptedModel
    engine: Engine
    queue: Queue
    repo: Repository
    worker: Program

    async def submitted(self, prompt: str) -> Attempt:
        """The first attempt at a new task, given to the node and put on its queue."""
        request = SubmitTask(
            prompt=prompt,
            cwd=str(self.repo.folder),
            sandbox=Sandbox.DANGER_FULL_ACCESS,
            checks=[Check(command="grep -c one result")],
        )
        task, _ = await self.engine.submit(request, key=None, body_hash=b"1" * 32)
        lease = await self.engine.acquire("leader", holder="test", node_id="test", ttl_ms=600_000)
        attempt = await self.engine.assign(lease.term, task.task_id, "here")
        assert attempt is not None
        await self.queue.put("here", attempt.task_id, attempt.number)
        return attempt

    async def ended(self, attempt: Attempt) -> Task:
        """The task, once it has ended."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (task := await self.engine.task(attempt.task_id)).ended_at is None:
                pass
        return task

    async def is_(self, state: NodeState) -> None:
        """Wait until the node is in that state."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while [node.state for node in await self.engine.nodes()] != [state]:
                pass

    async def turns(self) -> int:
        """How many turns codexd was ever given."""
        return len(await self.node.events(types="turn.queued"))


@asynccontextmanager
async def a_place(folder: Path, engine_url: str, *, ttl_ms: int = 2000) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        model = await stack.enter_async_context(ScriptedModel(SCENARIOS))
        node = await stack.enter_async_context(Node(folder / "node", model.base_url))
        await node.start()
        engine = await open_engine(engine_url)
        stack.push_async_callback(engine.close)
        queue = await open_queue(library_url(engine_url, node.home))
        stack.push_async_callback(queue.close)
        worker = Program("worker-runner", node.home, BAA_ENGINE_URL=engine_url, BAA_WORKER_NODE_TTL_MS=str(ttl_ms))
        worker.environment |= {"BAA_CONFIG": str(node.folder / "baa.toml"), "HOME": str(node.folder / "user")}
        await stack.enter_async_context(worker)
        place = Place(node, model, engine, queue, Repository(node.work / "repo"), worker)
        await place.is_(NodeState.ACTIVE)
        yield place


def only(task: Task) -> Attempt:
    assert task.attempts is not None
    (attempt,) = task.attempts
    return attempt


async def test_a_task_from_the_queue_is_done_and_its_events_are_all_there(engine_url: str, tmp_path: Path) -> None:
    async with a_place(tmp_path, engine_url) as here:
        task = await here.ended(await here.submitted("quick"))
        assert task.state is TaskState.SUCCEEDED
        assert [check.passed for check in only(task).evidence.checks] == [True]
        types: list[str] = []
        while "turn.completed" not in types:
            types = [event.type for event in (await here.engine.events(0, 1000, task_id=task.task_id))[0]]
        assert {"attempt.assigned", "attempt.started", "turn.started", "attempt.ended", "task.succeeded"} <= set(types)
        assert await here.worker.stop() == (0, "")
        assert "attempt.failed" not in here.worker.log


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_a_worker_that_ends_in_mid_turn_goes_on_with_it_when_it_is_back(
    engine_url: str, tmp_path: Path, how: signal.Signals
) -> None:
    async with a_place(tmp_path, engine_url, ttl_ms=60_000) as here:  # the turn's lease outlasts the pause
        attempt = await here.submitted("toil")
        await within(here.model.held("gate"))
        here.worker.signal(how)
        assert (await here.worker.ended())[0] == (0 if how is signal.SIGTERM else -how)
        await here.worker.start()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while "attempt.resumed" not in [
                event.type for event in (await here.engine.events(0, 1000, task_id=attempt.task_id))[0]
            ]:
                pass
        here.model.release("gate")
        task = await here.ended(attempt)
        assert (task.state, task.attempt_count, await here.turns()) == (TaskState.SUCCEEDED, 1, 1)
        assert await here.worker.stop() == (0, "")


async def test_a_drain_lets_it_end_and_begins_nothing(engine_url: str, tmp_path: Path) -> None:
    async with a_place(tmp_path, engine_url) as here:
        attempt = await here.submitted("toil")
        await within(here.model.held("gate"))
        await here.engine.drain("here")
        await until(lambda: "node.draining" in here.worker.log)
        here.model.release("gate")
        assert (await here.ended(attempt)).state is TaskState.SUCCEEDED
        await here.is_(NodeState.DRAINING)
        assert await here.worker.stop() == (0, "")


async def test_a_task_that_is_canceled_while_it_runs_ends(engine_url: str, tmp_path: Path) -> None:
    async with a_place(tmp_path, engine_url) as here:
        attempt = await here.submitted("toil")
        await within(here.model.held("gate"))
        await here.engine.cancel(attempt.task_id)
        task = await here.ended(attempt)
        assert (task.state, only(task).state) == (TaskState.CANCELED, AttemptState.CANCELED)
        here.model.release("gate")
        assert await here.worker.stop() == (0, "")
