"""Tasks and their attempts in the engine, on SQLite and on PostgreSQL: each operation, alone and against others."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import pytest

from baa.api.tasks import (
    AttemptState,
    AttemptTurn,
    Budget,
    Check,
    Evidence,
    QueueEventType,
    SubmitTask,
    TaskState,
    Workspace,
)
from baa.engine.store import Standing
from tests.support.engines import HASH, Fleet, fleet_on, join, lead

pytestmark = pytest.mark.timeout(150)


@pytest.fixture
async def fleet(engine_url: str) -> AsyncIterator[Fleet]:
    async with fleet_on(engine_url) as fleet:
        yield fleet


async def told(fleet: Fleet) -> list[str]:
    events, _ = await (await fleet.open()).events(0, 1000)
    return [event.type for event in events if not event.type.startswith("node.")]


async def test_a_task_from_its_submission_to_its_end(fleet: Fleet) -> None:
    engine = await fleet.open()
    term, owner = await lead(engine), await join(engine)
    request = SubmitTask(
        prompt="\n  Mend the tests. \nAll of them.",
        repository="/r",
        ref="main",
        workspace=Workspace.WORKTREE,
        checks=[Check(command="make test")],
        budget=Budget(tokens=10),
        metadata={"nul": "\0"},
        output_schema={"type": "object"},
    )
    task, new = await engine.submit(request, key="once", body_hash=HASH)
    assert new
    assert (task.state, task.title, task.request, task.attempts) == (TaskState.QUEUED, "Mend the tests.", request, None)
    assert (task.attempt_count, task.node_id, task.tokens, task.turns) == (0, None, 0, 0)
    assert await engine.task(task.task_id) == msgspec.structs.replace(task, attempts=[])

    waiting = await engine.schedulable(10)
    assert [(each.task_id, each.dependencies, each.last_node) for each in waiting.tasks] == [(task.task_id, {}, None)]
    assert [(each.node_id, each.free) for each in waiting.nodes] == [("here", 2)]
    attempt = await engine.assign(term, task.task_id, "here")
    assert attempt is not None
    assert (attempt.attempt_id, attempt.state, attempt.owner) == (f"{task.task_id}:1", AttemptState.ASSIGNED, None)
    assert await engine.unqueued(term) == [attempt]
    assert (await engine.schedulable(10)).nodes[0].free == 1

    claimed = await engine.claim(task.task_id, 1, node_id="here", owner=owner)
    assert claimed is not None
    task, attempt = claimed
    assert (task.state, task.node_id, attempt.state, attempt.owner) == ("running", "here", "running", owner)
    assert task.attempts == [attempt]
    assert await engine.unqueued(term) == []

    turns = [AttemptTurn(number=1, turn_id="trn_1", why="first"), AttemptTurn(number=2, turn_id="trn_2", why="checks")]
    evidence = Evidence(branch="baa/x", turns=turns, final_message="Done.", output={"files": 2})
    stands = await engine.record(
        owner,
        attempt.attempt_id,
        session_id="ses_1",
        turn_id="trn_1",
        tokens=7,
        events=[(QueueEventType.ATTEMPT_TURN, {"number": 1})],
    )
    assert stands == Standing(cancel_asked=False, owned=True)
    fleet.later(500)
    task = await engine.finish(owner, attempt.attempt_id, AttemptState.SUCCEEDED, evidence=evidence, tokens=9)
    assert (task.state, task.reason, task.tokens, task.turns, task.time_ms) == ("succeeded", None, 9, 2, 500)
    assert (task.final_message, task.output, task.branch) == ("Done.", {"files": 2}, "baa/x")
    assert task.attempts is not None
    (ended,) = task.attempts
    assert (ended.state, ended.session_id, ended.turn_id, ended.evidence) == ("succeeded", "ses_1", "trn_1", evidence)
    assert ended.ended_at is not None
    assert await engine.finish(owner, attempt.attempt_id, AttemptState.SUCCEEDED, tokens=99) == task
    assert await told(fleet) == [
        "task.queued",
        "task.started",
        "attempt.assigned",
        "attempt.started",
        "attempt.turn",
        "attempt.ended",
        "task.succeeded",
    ]
