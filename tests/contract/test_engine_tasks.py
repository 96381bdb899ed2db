"""Tasks in the engine, on SQLite and on PostgreSQL: submitted once, told, cancelled, tried again, given to nodes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from baa.api.errors import Code, Rejected
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
from baa.engine.decide import USAGE_LIMIT
from baa.engine.store import Engine, Standing
from tests.support.engines import HASH, Fleet, assigned, fleet_on, join, lead, running, submit

pytestmark = pytest.mark.timeout(150)


@pytest.fixture
async def fleet(engine_url: str) -> AsyncIterator[Fleet]:
    async with fleet_on(engine_url) as fleet:
        yield fleet


async def told(engine: Engine) -> list[str]:
    events, _ = await engine.events(0, 1000)
    return [event.type for event in events if not event.type.startswith("node.")]


async def refused(code: Code, asking: object) -> Rejected:
    with pytest.raises(Rejected) as caught:
        await asking  # type: ignore[misc]
    assert caught.value.code is code
    return caught.value


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
    assert await told(engine) == [
        "task.queued",
        "task.started",
        "attempt.assigned",
        "attempt.started",
        "attempt.turn",
        "attempt.ended",
        "task.succeeded",
    ]


async def test_one_key_is_one_task_however_often_it_is_submitted_at_once(fleet: Fleet) -> None:
    engines = [await fleet.open() for _ in range(3)]
    request = SubmitTask(prompt="Once.", cwd="/w")
    async with asyncio.TaskGroup() as tasks:
        asked = [
            tasks.create_task(engines[number % 3].submit(request, key="k", body_hash=HASH)) for number in range(50)
        ]
    answers = [each.result() for each in asked]
    assert len({task.task_id for task, _ in answers}) == 1
    assert [new for _, new in answers].count(True) == 1
    assert await told(engines[0]) == ["task.queued"]
    error = await refused(Code.IDEMPOTENCY_MISMATCH, engines[1].submit(request, key="k", body_hash=b"\2" * 32))
    assert error.details == {"taskId": answers[0][0].task_id}
    other, new = await engines[2].submit(request, key=None, body_hash=HASH)
    assert new
    assert other.task_id != answers[0][0].task_id


async def test_pages_are_newest_first_and_by_state(fleet: Fleet) -> None:
    engine = await fleet.open()
    made = []
    for number in range(5):
        fleet.machine.now += 1
        made.append((await submit(engine, title=f"{number}")).task_id)
    await engine.cancel(made[1])
    await engine.cancel(made[4])
    page, after = await engine.tasks(limit=3)
    assert ([task.task_id for task in page], after) == (made[4:1:-1], made[2])
    page, after = await engine.tasks(limit=3, after=after)
    assert ([task.task_id for task in page], after) == (made[1::-1], None)
    page, after = await engine.tasks(state=[TaskState.CANCELED, TaskState.FAILED], limit=1)
    assert ([task.task_id for task in page], after) == ([made[4]], made[4])
    page, after = await engine.tasks(state=[TaskState.CANCELED], limit=2)
    assert ([task.task_id for task in page], after) == ([made[4], made[1]], None)
    assert await engine.tasks(state=[TaskState.RUNNING]) == ([], None)
    await refused(Code.TASK_NOT_FOUND, engine.task("tsk_none"))


async def test_cancel_in_every_state(fleet: Fleet) -> None:
    engine = await fleet.open()
    owner = await join(engine, slots=9)
    await refused(Code.TASK_NOT_FOUND, engine.cancel("tsk_none"))

    queued = await submit(engine)
    assert (await engine.cancel(queued.task_id)).state is TaskState.CANCELED
    error = await refused(Code.TASK_ENDED, engine.cancel(queued.task_id))
    assert error.details == {"state": "canceled"}

    given = await assigned(engine)
    task = await engine.cancel(given.task_id)
    assert task.attempts is not None
    assert (task.state, task.attempts[0].state) == (TaskState.CANCELED, AttemptState.CANCELED)
    assert await engine.claim(given.task_id, 1, node_id="here", owner=owner) is None

    works = await running(engine, owner)
    for _ in range(2):
        task = await engine.cancel(works.task_id)
        assert (task.state, task.cancel_asked) == (TaskState.RUNNING, True)
    assert (await engine.record(owner, works.attempt_id, tokens=1)).cancel_asked
    assert (await engine.standing(owner, [works.attempt_id]))[works.attempt_id].cancel_asked
    assert (await engine.finish(owner, works.attempt_id, AttemptState.LOST)).state is TaskState.CANCELED
    assert (await told(engine)).count("task.cancel_asked") == 1

    quick = await running(engine, owner)
    await engine.cancel(quick.task_id)
    task = await engine.finish(owner, quick.attempt_id, AttemptState.SUCCEEDED)
    assert task.state is TaskState.SUCCEEDED, "what is done is done"
    assert (await refused(Code.TASK_ENDED, engine.cancel(quick.task_id))).details == {"state": "succeeded"}


async def test_retry_in_every_state(fleet: Fleet) -> None:
    engine = await fleet.open()
    owner = await join(engine)
    await refused(Code.TASK_NOT_FOUND, engine.retry("tsk_none"))
    attempt = await running(engine, owner)
    await refused(Code.TASK_NOT_ENDED, engine.retry(attempt.task_id))
    evidence = Evidence(branch="baa/x", final_message="No.")
    task = await engine.finish(owner, attempt.attempt_id, AttemptState.CHECKS_FAILED, tokens=5, evidence=evidence)
    assert (task.state, task.reason, task.branch) == (TaskState.FAILED, "checks_failed", "baa/x")
    task = await engine.retry(attempt.task_id)
    assert (task.state, task.reason, task.ended_at, task.tokens) == (TaskState.QUEUED, None, None, 5)
    await refused(Code.TASK_NOT_ENDED, engine.retry(attempt.task_id))
    second = await engine.assign(await lead(engine), attempt.task_id, "here")
    assert second is not None
    assert (second.number, second.attempt_id) == (2, f"{attempt.task_id}:2")
    assert await engine.claim(attempt.task_id, 2, node_id="here", owner=owner) is not None
    assert (await engine.cancel(attempt.task_id)).cancel_asked
    await engine.finish(owner, second.attempt_id, AttemptState.CANCELED)
    assert (await engine.retry(attempt.task_id)).cancel_asked is False
    third = await engine.assign(await lead(engine), attempt.task_id, "here")
    assert third is not None
    claimed = await engine.claim(attempt.task_id, 3, node_id="here", owner=owner)
    assert claimed is not None
    assert [each.state for each in claimed[0].attempts or []] == ["checks_failed", "canceled", "running"]
    await engine.finish(owner, third.attempt_id, AttemptState.SUCCEEDED)
    assert (await refused(Code.TASK_ENDED, engine.retry(attempt.task_id))).details == {"state": "succeeded"}


async def test_a_task_waits_for_what_it_depends_on(fleet: Fleet) -> None:
    engine = await fleet.open()
    term, owner = await lead(engine), await join(engine)
    error = await refused(
        Code.INVALID_REQUEST,
        engine.submit(SubmitTask(prompt="x", depends_on=["tsk_none"]), key=None, body_hash=HASH),
    )
    assert "tsk_none" in error.message
    first = await running(engine, owner)
    second = await submit(engine, depends_on=[first.task_id, first.task_id])
    third = await submit(engine, depends_on=[second.task_id])
    assert (await engine.schedulable(10)).tasks == []
    assert await engine.assign(term, second.task_id, "here") is None
    await engine.finish(owner, first.attempt_id, AttemptState.SUCCEEDED)
    (waiting,) = (await engine.schedulable(10)).tasks
    assert (waiting.task_id, waiting.dependencies) == (second.task_id, {first.task_id: TaskState.SUCCEEDED})
    await engine.cancel(second.task_id)
    (waiting,) = (await engine.schedulable(10)).tasks
    assert (waiting.task_id, waiting.dependencies) == (third.task_id, {second.task_id: TaskState.CANCELED})
    assert await engine.assign(term, third.task_id, "here") is None
    assert await engine.fail(term, third.task_id, "dependency_failed")
    assert not await engine.fail(term, third.task_id, "dependency_failed")
    task = await engine.task(third.task_id)
    assert (task.state, task.reason) == (TaskState.FAILED, "dependency_failed")


async def test_what_is_given_out_first_and_to_whom(fleet: Fleet) -> None:
    engine = await fleet.open()
    term = await lead(engine)
    low = await submit(engine, priority=-1)
    fleet.machine.now += 1
    first, second, only = await submit(engine), await submit(engine), await submit(engine, node="there", priority=9)
    assert (await engine.schedulable(10)).nodes == []
    assert await engine.assign(term, first.task_id, "here") is None, "there is no such node"
    await join(engine, "here", slots=1)
    found = [task.task_id for task in (await engine.schedulable(10)).tasks]
    assert found == [*sorted((first.task_id, second.task_id)), low.task_id]
    assert [task.task_id for task in (await engine.schedulable(1)).tasks] == found[:1]
    await join(engine, "there")
    waiting = await engine.schedulable(10)
    assert (waiting.tasks[0].task_id, waiting.tasks[0].node) == (only.task_id, "there")
    assert await engine.assign(term, only.task_id, "here") is None
    assert await engine.assign(term, first.task_id, "here") is not None
    assert await engine.assign(term, first.task_id, "there") is None, "it is given away already"
    assert await engine.assign(term, second.task_id, "here") is None, "its one slot is taken"
    assert [node.node_id for node in (await engine.schedulable(10)).nodes] == ["there"]


async def test_a_paused_queue_gives_out_nothing_and_what_runs_runs_on(fleet: Fleet) -> None:
    engine = await fleet.open()
    term, owner = await lead(engine), await join(engine)
    attempt = await running(engine, owner)
    task = await submit(engine)
    assert not await engine.paused()
    for _ in range(2):
        assert await engine.pause(True)
    assert await engine.paused()
    assert (await engine.schedulable(10)).paused
    assert await engine.assign(term, task.task_id, "here") is None
    assert (await engine.finish(owner, attempt.attempt_id, AttemptState.SUCCEEDED)).state is TaskState.SUCCEEDED
    assert not await engine.pause(False)
    assert await engine.assign(term, task.task_id, "here") is not None
    assert [each for each in await told(engine) if each.startswith("system.")] == ["system.paused", "system.resumed"]


async def test_a_parked_task_waits_until_its_time_and_is_tried_no_less(fleet: Fleet) -> None:
    engine = await fleet.open()
    owner = await join(engine)
    attempt = await running(engine, owner, max_attempts=1)
    until = fleet.machine.utc_ms() + 1000
    task = await engine.finish(owner, attempt.attempt_id, AttemptState.FAILED, reason=USAGE_LIMIT, park_until_ms=until)
    assert (task.state, task.reason, task.not_before is not None) == (TaskState.QUEUED, USAGE_LIMIT, True)
    assert (await engine.schedulable(10)).tasks == []
    assert await engine.assign(await lead(engine), attempt.task_id, "here") is None
    fleet.later(1000)
    assert [each.last_node for each in (await engine.schedulable(10)).tasks] == ["here"]
    assert await engine.assign(await lead(engine), attempt.task_id, "here") is not None
    claimed = await engine.claim(attempt.task_id, 2, node_id="here", owner=owner)
    assert claimed is not None
    assert claimed[0].not_before is None
    task = await engine.finish(owner, f"{attempt.task_id}:2", AttemptState.LOST)
    assert (task.state, task.reason) == (TaskState.FAILED, "lost"), "it had one attempt"
