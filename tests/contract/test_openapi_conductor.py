"""What the conductor says of itself is true: real answers of every route, and every error that can be brought about.

As test_openapi.py does with codexd: what was promised and never seen must stand in UNSEEN, with the reason.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import httpx2
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from baa.scripted import Run, Say, ScriptedModel, when
from tests.support.asker import Asker, bounds, refused_at_the_door
from tests.support.described import Described
from tests.support.node import Json, Node, within
from tests.support.postgres import PostgreSQL
from tests.support.programs import Program
from tests.support.repositories import Repository

pytestmark = pytest.mark.timeout(180)

SCENARIOS = (
    when("these checks failed after", Run("echo two > result"), Say("Mended.")),
    when("make it", Run("echo one > result"), Say("Made.")),
)
UNKNOWN: Final = {"taskId": "tsk_" + "0" * 26, "nodeId": "nobody"}
UNSEEN: Final = {
    "internal_error": "it would be a mistake of ours",
    "request_timeout": "it takes longer than a test may wait; test_slow.py has it",
    "too_many_connections": "it takes as many; test_slow.py has it",
    "not_ready": "the database is away in the test below; for health, the conductor would have to hang",
}


async def test_every_answer_is_as_described(tmp_path: Path) -> None:
    async with (
        ScriptedModel(SCENARIOS) as model,
        Node(tmp_path, model.base_url) as node,
        Program("conductor", node.home, BAA_CONFIG=str(tmp_path / "baa.toml")) as conductor,
        httpx2.AsyncClient(trust_env=False, timeout=90) as http,
    ):
        document = await conductor.ask("GET", "/openapi.json", token=conductor.token("drive"))
        assert document.headers["content-type"] == "application/json"
        described = Described(document.json())
        asker = Asker(lambda: conductor.address, conductor.token, http, described)
        await asker.refused("not_ready", "ready")
        await node.start()
        await node.child()
        task_id = await _about_itself_and_a_task(asker, node)
        await refused_at_the_door(asker, UNKNOWN, "/v1/runs")
        await _refused_for_what_it_says(asker, task_id)
        await _moves_of_tasks(asker)
        await _events(asker, task_id)
    left = {each for each in described.promised() - asker.seen if each[2] not in UNSEEN}
    assert left == set()


async def test_whatever_needs_the_database_says_so_while_it_is_away(
    tmp_path: Path, postgres: PostgreSQL, postgres_url: str
) -> None:
    settings = {"BAA_ENGINE_URL": postgres_url, "BAA_WORKER_EMBEDDED": "false"}
    async with (
        Program("conductor", tmp_path / "baa", **settings) as conductor,
        httpx2.AsyncClient(trust_env=False, timeout=90) as http,
    ):
        described = Described((await conductor.ask("GET", "/openapi.json", token=conductor.token())).json())
        asker = Asker(lambda: conductor.address, conductor.token, http, described)
        assert "conductor_engine_answers 1\n" in (await asker.ask("metrics"))["text"]
        postgres.kill()
        needing = {name for name, _, code in described.promised() if code == "not_ready"} - {"health"}
        assert len(needing) > 10
        for name in needing:
            body = {"prompt": "x", "cwd": "/w"} if name == "submitTask" else None
            await asker.refused("not_ready", name, body, **UNKNOWN)
        assert (await asker.ask("health"))["answered"] == 200
        page = (await asker.ask("metrics"))["text"]
        assert "conductor_engine_answers 0\n" in page
        assert "conductor_tasks" not in page


async def _about_itself_and_a_task(asker: Asker, node: Node) -> str:
    """Everything is told of a task that was run: attempts, turns, checks. Its id."""
    for name in ("health", "ready", "role", "openapi", "listNodes", "readSystem"):
        assert (await asker.ask(name))["answered"] == 200
    assert (await asker.ask("health", query={"nonce": "n" * 22}))["answered"] == 200
    repo = Repository(node.work / "project")
    asked = {
        "prompt": "make it",
        "cwd": str(repo.folder),
        "checks": [{"command": "grep two result"}],
        "sandbox": "danger-full-access",
        "priority": 1,
    }
    sent = {"idempotency-key": "one"}
    task_id: str = (await asker.ask("submitTask", asked, headers=sent))["task"]["taskId"]
    assert (await asker.ask("submitTask", asked, headers=sent))["task"]["taskId"] == task_id
    await asker.refused("idempotency_mismatch", "submitTask", {**asked, "priority": 2}, headers=sent)
    await _ended(asker, task_id)
    task = (await asker.ask("readTask", taskId=task_id))["task"]
    assert (task["state"], len(task["attempts"][0]["evidence"]["turns"])) == ("succeeded", 2)
    assert (await asker.ask("listTasks", query={"state": "succeeded", "limit": 1}))["tasks"][0]["taskId"] == task_id
    page = (await asker.ask("metrics"))["text"]
    assert 'conductor_tasks{state="succeeded"} 1\n' in page
    assert 'conductor_nodes{state="active"} 1\n' in page
    assert (await asker.ask("drainNode", nodeId="here"))["node"]["nodeId"] == "here"
    return task_id


async def _ended(asker: Asker, task_id: str) -> None:
    after, over = "0", {"task.succeeded", "task.failed"}
    while True:
        query: dict[str, str | int] = {"after": after, "taskId": task_id, "waitMs": 20_000}
        page = await asker.ask("events", query=query)
        if over & {event["type"] for event in page["events"]}:
            return
        after = page["next"]


async def _refused_for_what_it_says(asker: Asker, task_id: str) -> None:
    there: Json = {"taskId": task_id, "nodeId": "here"}
    for name, (method, path, told) in asker.described.operations.items():
        if method == "POST":
            await asker.refused("invalid_json", name, b"{", **there)
            await asker.refused("invalid_request", name, {"nope": 1}, **there)
        elif "422" in told["responses"]:
            wrong: dict[str, str | int] = {"nonce": "short"} if name == "health" else {"nope": 1}
            await asker.refused("invalid_request", name, query=wrong, **there)
        for parameter in told.get("parameters", []):
            if parameter["schema"]["type"] == "integer":
                await bounds(asker, name, parameter, there)
        for thing in ("task", "node"):
            if f"/{{{thing}Id}}" in path:
                await asker.refused(f"{thing}_not_found", name, **UNKNOWN)
    await asker.refused("node_not_found", "drainNode", nodeId="%00")


async def _moves_of_tasks(asker: Asker) -> None:
    assert (await asker.ask("pause"))["system"] == {"paused": True}
    task_id = (await asker.ask("submitTask", {"prompt": "wait", "cwd": "/w"}))["task"]["taskId"]
    await asker.refused("task_not_ended", "retryTask", taskId=task_id)
    await asker.ask("cancelTask", {}, taskId=task_id)
    await asker.refused("task_ended", "cancelTask", taskId=task_id)
    await asker.ask("retryTask", {}, taskId=task_id)
    done = (await asker.ask("listTasks", query={"state": "succeeded"}))["tasks"][0]["taskId"]
    await asker.refused("task_ended", "retryTask", taskId=done)
    assert (await asker.ask("resume"))["system"] == {"paused": False}


async def _events(asker: Asker, task_id: str) -> None:
    page = await asker.ask("events", query={"taskId": task_id, "types": "turn.started,attempt.check"})
    types = [event["type"] for event in page["events"]]
    assert {"attempt.check"} <= set(types) <= {"turn.started", "attempt.check"}
    epoch, _, head = page["next"].rpartition(":")
    await asker.refused("cursor_ahead", "events", query={"after": f"{epoch}:{int(head) + 1000}"})
    await asker.refused("cursor_expired", "events", query={"after": f"other:{head}"})
    path = asker.address().replace("http", "ws") + "/v1/events"
    headers = {"authorization": f"Bearer {asker.token('read')}"}
    live = asker.described.document["paths"]["/v1/events"]["get"]["x-websocket"]
    async with connect(f"{path}?after=0", additional_headers=headers, proxy=None) as stream:
        for name in ("Hello", "QueueEvents"):
            frame = json.loads(await within(stream.recv()))
            assert asker.described.misfits(live["frame"], frame) == []
            assert asker.described.misfits_of(name, frame) == []
    with pytest.raises(InvalidStatus) as refused:
        await within(connect(f"{path}?after=other:1", additional_headers=headers, proxy=None).__aenter__())
    assert refused.value.response.status_code == 410
