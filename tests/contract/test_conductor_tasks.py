"""Tasks, nodes and the queue over HTTP and by the client, at a conductor that runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from baa import config
from baa.api.errors import Code, Rejected
from baa.api.tasks import Check, QueueEventType, SubmitTask, TaskState
from baa.client import sync
from baa.client.conductor import Conductor
from baa.config import Config
from tests.support.node import within
from tests.support.programs import Program

pytestmark = pytest.mark.timeout(120)

UNKNOWN = "tsk_" + "0" * 26
SMALL = {"prompt": "Do it.", "cwd": "/w", "node": "nowhere"}  # a node that never comes: it stays queued


@pytest.fixture
async def program(tmp_path: Path, engine_url: str) -> AsyncIterator[Program]:
    async with Program(
        "conductor", tmp_path / "baa", BAA_ENGINE_URL=engine_url, BAA_WORKER_EMBEDDED="false"
    ) as program:
        yield program


@pytest.fixture
def found(program: Program) -> Config:
    return config.load(environ=program.environment)


@pytest.fixture
async def conductor(found: Config) -> AsyncIterator[Conductor]:
    async with Conductor(found) as conductor:
        yield conductor


def small(**more: Any) -> SubmitTask:
    return SubmitTask(prompt="Do it.", cwd="/w", node="nowhere", **more)


async def post(program: Program, path: str, body: object = None, **headers: str) -> httpx2.Response:
    given = {"authorization": f"Bearer {program.token('drive')}", **headers}
    async with httpx2.AsyncClient(trust_env=False, timeout=30) as http:
        return await http.post(program.address + path, json={} if body is None else body, headers=given)


def refused(answer: httpx2.Response) -> tuple[int, str, dict[str, Any]]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["details"]


async def test_a_task_is_told_as_it_was_asked_for(conductor: Conductor) -> None:
    asked = small(title="Small", checks=[Check(command="true")], priority=3, metadata={"a": "b"})
    task = await conductor.submit(asked)
    assert (task.state, task.title, task.request, task.attempts) == (TaskState.QUEUED, "Small", asked, None)
    found = await conductor.task(task.task_id)
    assert (found.attempts, found.attempt_count, found.reason) == ([], 0, None)
    with pytest.raises(Rejected) as error:
        await conductor.task(UNKNOWN)
    assert error.value.code is Code.TASK_NOT_FOUND


async def test_the_same_key_fifty_times_at_once_is_one_task(program: Program, conductor: Conductor) -> None:
    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(conductor.submit(small(), idempotency_key="once")) for _ in range(50)]
    assert len({each.result().task_id for each in asked}) == 1
    assert len((await conductor.task_page()).tasks) == 1
    answer = await post(program, "/v1/tasks", {**SMALL, "prompt": "Another."}, **{"idempotency-key": "once"})
    assert refused(answer)[:2] == (422, "idempotency_mismatch")


WRONG: tuple[tuple[dict[str, Any], str], ...] = (
    ({"prompt": "x"}, "cwd"),
    ({"prompt": "x", "cwd": "/w", "repository": "/r"}, "cwd"),
    ({"prompt": "x", "cwd": "w"}, "cwd"),
    ({"prompt": "x", "repository": "~/r"}, "repository"),
    ({"prompt": "x", "cwd": "/w", "ref": "main"}, "ref"),
    ({"prompt": "x", "repository": "/w", "ref": "main", "workspace": "inplace"}, "ref"),
    ({"prompt": "x", "repository": "/w", "ref": "--upload-pack=x"}, "ref"),
    ({"prompt": "x", "cwd": "/w", "node": "Not a node"}, "node"),
    ({"prompt": " ", "cwd": "/w"}, "prompt"),
    ({"prompt": "x", "cwd": "/w", "checks": [{"command": "\n"}]}, "checks[0].command"),
    ({"prompt": "x", "cwd": "/w", "dependsOn": ["x"]}, "dependsOn[0]"),
    ({"prompt": "x", "cwd": "/w", "shell": "zsh"}, "$.shell"),
    ({"prompt": "x", "cwd": "/w", "sandbox": "none"}, "$.sandbox"),
    ({"prompt": "x", "cwd": "/w", "outputSchema": {"type": "nope"}}, "outputSchema"),
    ({"prompt": "x", "cwd": "/w", "outputSchema": {"$ref": "https://example.com/s"}}, "outputSchema"),
)


async def test_what_cannot_be_meant_is_refused_with_its_field(program: Program, conductor: Conductor) -> None:
    for asked, field in WRONG:
        status, code, details = refused(await post(program, "/v1/tasks", asked))
        assert (status, code, details.get("field")) == (422, "invalid_request", field), asked
    assert [task async for task in conductor.tasks()] == []


async def test_a_dependency_must_exist(conductor: Conductor) -> None:
    with pytest.raises(Rejected) as error:
        await conductor.submit(small(depends_on=[UNKNOWN]))
    assert error.value.code is Code.INVALID_REQUEST
    assert UNKNOWN in error.value.message


async def test_cancel_and_retry_in_every_state_that_waits(conductor: Conductor) -> None:
    task = await conductor.submit(small())
    follows = await conductor.submit(small(depends_on=[task.task_id]))
    assert (await conductor.cancel(task.task_id)).state is TaskState.CANCELED
    with pytest.raises(Rejected) as error:
        await conductor.cancel(task.task_id)
    assert (error.value.code, error.value.details["state"]) == (Code.TASK_ENDED, "canceled")
    async with conductor.events("0", task_id=follows.task_id, types=[QueueEventType.TASK_FAILED]) as events:
        assert (await within(anext(events))).payload["reason"] == "dependency_failed"
    assert (await conductor.task(follows.task_id)).reason == "dependency_failed"
    assert (await conductor.retry(task.task_id)).state is TaskState.QUEUED
    with pytest.raises(Rejected) as error:
        await conductor.retry(task.task_id)
    assert error.value.code is Code.TASK_NOT_ENDED


async def test_pages_of_tasks_newest_first_and_by_state(conductor: Conductor, found: Config) -> None:
    made = [(await conductor.submit(small(title=str(number)))).task_id for number in range(5)]
    await conductor.cancel(made[1])
    page = await conductor.task_page(limit=2)
    assert [task.task_id for task in page.tasks] == made[:2:-1]
    rest = await conductor.task_page(limit=3, page_token=page.next_page_token)
    assert ([task.task_id for task in rest.tasks], rest.next_page_token) == (made[2::-1], None)
    assert [task.task_id async for task in conductor.tasks()] == made[::-1]
    assert [task.task_id async for task in conductor.tasks(states=[TaskState.CANCELED])] == [made[1]]
    ended = (await conductor.task(made[1])).ended_at
    assert [task.task_id async for task in conductor.tasks(since=ended)] == made[::-1]
    later = "2100-01-01T00:00:00Z"
    assert [task.task_id async for task in conductor.tasks(since=later)] == [*made[:1:-1], made[0]]
    for wrong in ("yesterday", "2026-11-26", "2026-11-26T18:00:00"):
        with pytest.raises(Rejected) as error:
            await conductor.task_page(since=wrong)
        assert error.value.code is Code.INVALID_REQUEST

    def script() -> list[str]:
        with sync.Conductor(found) as blocking:
            return [task.task_id for task in blocking.tasks()]

    assert await asyncio.to_thread(script) == made[::-1]


async def test_pause_resume_and_a_node_that_is_not_there(conductor: Conductor) -> None:
    assert not await conductor.paused()
    await conductor.pause()
    await conductor.pause()
    assert await conductor.paused()
    await conductor.resume()
    assert not await conductor.paused()
    with pytest.raises(Rejected) as error:
        await conductor.drain("nowhere")
    assert error.value.code is Code.NODE_NOT_FOUND
    page = await conductor.event_page(types=["system.paused", "system.resumed"])
    assert [event.type for event in page.events] == ["system.paused", "system.resumed"]


async def test_events_are_whole_across_a_restart_of_the_conductor(program: Program, conductor: Conductor) -> None:
    first = await conductor.submit(small())
    async with conductor.events("0", types=["task.queued"]) as events:
        assert (await within(anext(events))).task_id == first.task_id
        await program.kill()
        await program.start()
        second = await conductor.submit(small())
        assert (await within(anext(events))).task_id == second.task_id
        assert (events.gaps, events.connections) == (0, 2)
        cursor = events.cursor
    assert cursor is not None
    page = await conductor.event_page(cursor, types=["task.queued"])
    assert page.events == []
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(conductor.event_page(page.next, types=["task.queued"], wait_ms=30_000))
        third = await conductor.submit(small())
    assert [event.task_id for event in waiting.result().events] == [third.task_id]


async def test_cursors_that_are_of_no_use_are_refused_before_the_upgrade(
    program: Program, conductor: Conductor
) -> None:
    page = await conductor.event_page()
    epoch = page.next.partition(":")[0]
    token = program.token()
    for after, status, code in (
        (f"{epoch}:99999", 409, "cursor_ahead"),
        ("another:0", 410, "cursor_expired"),
        ("x", 422, "invalid_request"),
    ):
        answer = await program.ask("GET", f"/v1/events?after={after}", token=token)
        assert refused(answer)[:2] == (status, code)
        uri = f"{program.address.replace('http', 'ws', 1)}/v1/events?after={after}"
        with pytest.raises(InvalidStatus) as error:
            await connect(uri, additional_headers={"Authorization": f"Bearer {token}"}, proxy=None)
        assert error.value.response.status_code == status
    for query in ("types=turn.started,x", "types=item.delta", "taskId=1", "limit=0", "sessionId=x", "waitMs=60001"):
        answer = await program.ask("GET", f"/v1/events?{query}", token=token)
        assert refused(answer)[:2] == (422, "invalid_request")


async def test_the_read_token_may_look_and_no_more(program: Program) -> None:
    read = program.token("read")
    for path in ("/v1/tasks", "/v1/events", "/v1/nodes", "/v1/system"):
        assert (await program.ask("GET", path)).status_code == 401
        assert (await program.ask("GET", path, token=read)).status_code == 200
    for path in ("/v1/tasks", f"/v1/tasks/{UNKNOWN}/cancel", "/v1/system/pause", "/v1/nodes/here/drain"):
        answer = await post(program, path, authorization=f"Bearer {read}")
        assert refused(answer)[:2] == (403, "read_only_token")
