"""Turns through codexd on the real Codex: what it is asked to do it does, and what it did is told."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from baa.scripted import Drop, Hold, Patch, Refuse, Run, Say, ScriptedModel, when
from tests.support import bad_http, bad_values
from tests.support.faults import saw
from tests.support.node import Json, Node, sandbox_works, within
from tests.support.oracle import Oracle, deltas, flaws_of, numbered, of_turn, types

pytestmark = pytest.mark.timeout(180)  # later than any wait of ours gives up, so that a test that fails cleans up

EDIT = """\
*** Begin Patch
*** Update File: poem.txt
@@
 roses
-are blue
+are red
*** Add File: new.txt
+new
*** End Patch
"""
SESSIONS = 20
ERRORS: dict[int, Any] = {
    400: "other",
    401: {"httpConnectionFailed": {"httpStatusCode": 401}},
    500: "internalServerError",
}
"""How Codex calls what the model's server answered."""

UNKNOWN = ("codexHome", "config", "env", "networkAccess", "serverCommand", "permissions", "sandboxPolicy")
"""What would give an agent more than the ceiling, were there such fields."""

SCENARIOS = (
    when("plain", Say.numbered(40)),
    when("command", Run("echo ran > ran.txt; cat ran.txt; exit 3"), Say("It ran.")),
    when("edit", Patch(EDIT), Say("Edited.")),
    *(when(f"crowd-{n:02}", (Hold("crowd"), Say.numbered(200, pace_ms=2, start=1000 * n))) for n in range(SESSIONS)),
    *(when(f"refuse {status}", Refuse(status)) for status in ERRORS),
    when("cut", (Say("Half of an "), Drop())),
    when("long", (Say("I am "), Hold("long"), Say("done."))),
    when("again", Say("Once.")),
    # A command that fails for the sandbox's sake is told to the model and not to us (Codex 0.163): so it must succeed.
    when(
        "in and out", Run("echo in > in.txt; cat in.txt"), Run("echo x > $(cat outside) || echo refused"), Say("Tried.")
    ),
)


class House(NamedTuple):
    """A node that serves, and the model behind its Codex."""

    node: Node
    model: ScriptedModel


@pytest.fixture(scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    async with ScriptedModel(SCENARIOS) as model, Node(tmp_path_factory.mktemp("turns"), model.base_url) as node:
        await node.start()
        yield House(node, model)


@pytest.fixture
async def fresh(tmp_path: Path) -> AsyncIterator[House]:
    """For tests that stop or kill something."""
    async with ScriptedModel(SCENARIOS) as model, Node(tmp_path, model.base_url) as node:
        await node.start()
        yield House(node, model)


def items(turn: Json, kind: str) -> list[Json]:
    return [item for item in turn["items"] if item["kind"] == kind]


async def test_a_turn_is_answered_at_once_and_told_to_its_end(house: House) -> None:
    node, _ = house
    session_id = await node.session(purpose="a test", metadata={"colour": "red"})
    answer = await node.post("/v1/codexd/turn", {"sessionId": session_id, "prompt": "plain", "metadata": {"n": "1"}})
    assert answer.status_code == 202
    told = answer.json()["data"]
    assert set(told) == {"turn", "cursor"}
    assert told["turn"]["status"] in ("queued", "accepted")
    assert (told["turn"]["sessionId"], told["turn"]["prompt"]) == (session_id, "plain")
    assert (told["turn"]["origin"], told["turn"]["metadata"]) == ("api", {"n": "1"})

    turn = await node.end_of_turn(told["turn"]["turnId"])
    assert (turn["status"], turn["reason"], turn["error"], turn["evidence"]) == ("completed", None, None, {})
    assert turn["finalMessage"] == "".join(numbered(40))
    assert [(item["kind"], item["status"]) for item in turn["items"]] == [
        ("userMessage", "completed"),
        ("agentMessage", "completed"),
    ]
    assert turn["usage"]["totalTokens"] == turn["usage"]["inputTokens"] + turn["usage"]["outputTokens"] > 0
    assert turn["queuedAt"] <= turn["acceptedAt"] <= turn["startedAt"] <= turn["endedAt"]

    events = await node.events(told["cursor"], sessionId=session_id)
    assert types(of_turn(events, turn["turnId"])) == [
        "turn.queued",
        "turn.accepted",
        "turn.started",
        *("item.started", "item.completed"),
        *("item.started", "item.delta", "item.completed"),
        "usage.updated",
        "turn.completed",
    ]
    assert events[0]["type"] == "turn.queued"  # the cursor is the place just before the turn
    assert deltas(events, turn["turnId"]) == numbered(40)
    assert flaws_of(events) == []

    session = await node.session_of(session_id)
    assert (session["status"], session["currentTurnId"], session["queuedTurns"]) == ("idle", None, 0)
    assert (session["lastTurnId"], session["lastTurnStatus"]) == (turn["turnId"], "completed")
    assert (session["purpose"], session["metadata"]) == ("a test", {"colour": "red"})


async def test_a_command_really_runs(house: House) -> None:
    node, _ = house
    turn = await node.play(await node.session(), "command")
    assert (turn["status"], turn["finalMessage"]) == ("completed", "It ran.")
    (command,) = items(turn, "commandExecution")
    assert (command["item"]["aggregatedOutput"], command["item"]["exitCode"]) == ("ran\n", 3)
    assert (node.work / "ran.txt").read_text() == "ran\n"


async def test_an_edit_really_edits(house: House) -> None:
    node, _ = house
    (node.work / "poem.txt").write_text("roses\nare blue\n")
    turn = await node.play(await node.session(), "edit")
    assert turn["status"] == "completed"
    assert (node.work / "poem.txt").read_text() == "roses\nare red\n"
    assert (node.work / "new.txt").read_text() == "new\n"
    (edit,) = items(turn, "fileChange")
    assert {(Path(change["path"]).name, change["kind"]["type"]) for change in edit["item"]["changes"]} == {
        ("poem.txt", "update"),
        ("new.txt", "add"),
    }
    assert items(turn, "commandExecution") == []
    assert "+are red" in turn["diff"]


async def test_sessions_at_once_are_not_mixed(house: House) -> None:
    node, model = house
    start = await node.head()
    sessions = [await node.session() for _ in range(SESSIONS)]
    turns = [await node.turn(session_id, f"crowd-{n:02}") for n, session_id in enumerate(sessions)]
    await within(model.held("crowd", SESSIONS))
    assert (await node.status())["counts"]["turnsRunning"] == SESSIONS
    model.release("crowd")
    for turn_id in turns:
        assert (await node.end_of_turn(turn_id))["status"] == "completed"
    events = await node.events(start)
    assert flaws_of(events) == []
    for n, (session_id, turn_id) in enumerate(zip(sessions, turns, strict=True)):
        assert deltas(events, turn_id) == numbered(200, start=1000 * n)
        assert {event["turnId"] for event in events if event["sessionId"] == session_id} - {None} == {turn_id}


@pytest.mark.parametrize("status", ERRORS)
async def test_an_error_of_the_model_fails_the_turn_and_not_the_session(house: House, status: int) -> None:
    node, _ = house
    session_id = await node.session()
    failed = await node.play(session_id, f"refuse {status}")
    assert failed["status"] == "failed"
    assert failed["error"]["codexErrorInfo"] == ERRORS[status]
    assert (await node.session_of(session_id))["lastTurnStatus"] == "failed"
    assert (await node.play(session_id, "plain"))["status"] == "completed"


async def test_what_a_cut_answer_had_said_is_kept(house: House) -> None:
    node, _ = house
    start = await node.head()
    turn = await node.play(await node.session(), "cut")
    assert turn["status"] == "failed"
    answers = items(turn, "agentMessage")
    assert len(answers) == 2  # Codex asks once more
    assert [(item["status"], item["text"], item["reason"]) for item in answers] == [
        ("abandoned", None, "retried"),  # the second says it all again
        ("abandoned", "Half of an ", None),
    ]
    events = await node.events(start)
    abandoned = [event["payload"] for event in events if event["type"] == "item.abandoned"]
    assert {payload["text"] for payload in abandoned} == {"Half of an "}
    assert flaws_of(events) == []


async def test_a_session_has_one_turn_at_a_time(house: House) -> None:
    node, model = house
    session_id = await node.session()
    turn_id = await node.turn(session_id, "long")
    await within(model.held("long"))
    answer = await node.post("/v1/codexd/turn", {"sessionId": session_id, "prompt": "plain"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "turn_in_progress")
    assert answer.json()["error"]["details"] == {"turnId": turn_id}
    session = await node.session_of(session_id)
    assert (session["status"], session["currentTurnId"]) == ("active", turn_id)
    assert (await node.running_turn(turn_id))["status"] == "in_progress"
    model.release("long")
    assert (await node.end_of_turn(turn_id))["finalMessage"] == "I am done."


async def test_a_running_turn_shows_what_its_item_has_said_so_far(fresh: House) -> None:
    node, model = fresh
    async with Oracle(node) as oracle:
        turn_id = await node.turn(await node.session(), "long")
        await oracle.saw("item.delta", turn_id, count=2)
        (answer,) = items(await node.ledger(turn_id), "agentMessage")
        assert (answer["status"], answer["text"], answer["endedAt"]) == ("started", "I am ", None)
        model.release("long")
        await oracle.end_of(turn_id)
        assert flaws_of(oracle.events) == []


async def test_a_key_makes_one_turn_however_often_it_is_sent(house: House) -> None:
    node, _ = house
    start = await node.head()
    body = {"sessionId": await node.session(), "prompt": "again"}
    key = f"key-{uuid4()}"
    async with asyncio.TaskGroup() as group:
        posts = [group.create_task(node.post("/v1/codexd/turn", body, key=key), name=f"post {n}") for n in range(50)]
    answers = [post.result() for post in posts]
    assert {answer.status_code for answer in answers} == {202}
    told = {(answer.json()["data"]["turn"]["turnId"], answer.json()["data"]["cursor"]) for answer in answers}
    ((turn_id, cursor),) = told
    await node.end_of_turn(turn_id)
    later = (await node.post("/v1/codexd/turn", body, key=key)).json()["data"]
    assert (later["turn"]["turnId"], later["cursor"], later["turn"]["status"]) == (turn_id, cursor, "completed")
    assert [event["type"] for event in await node.events(start)].count("turn.queued") == 1

    other = await node.post("/v1/codexd/turn", body | {"prompt": "plain"}, key=key)
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_mismatch")
    assert other.json()["error"]["details"] == {"turnId": turn_id}


@pytest.mark.parametrize("sent", ["half of it", "all of it"])
async def test_a_client_that_was_cut_off_asks_again_with_its_key_and_there_is_one_turn(house: House, sent: str) -> None:
    node, _ = house
    start, session_id, key = await node.head(), await node.session(), f"key-{uuid4()}"
    body = {"sessionId": session_id, "prompt": "again"}
    case = bad_values.post("turn", b"/v1/codexd/turn", json.dumps(body, separators=(",", ":")).encode(), ())
    raw = bad_http.filled(
        case.raw.replace(b"{json}", f"{{json}}Idempotency-Key: {key}\r\n".encode()), node.address, node.token()
    )
    reader, writer = await asyncio.open_connection(urlsplit(node.address).hostname, urlsplit(node.address).port)
    writer.write(raw if sent == "all of it" else raw[:-10])
    await writer.drain()
    if sent == "all of it":  # its answer is on the way, and nobody takes it
        await within(reader.read(1))
    writer.transport.abort()
    async with asyncio.TaskGroup() as group:
        posts = [group.create_task(node.post("/v1/codexd/turn", body, key=key), name=f"post {n}") for n in range(50)]
    answers = [post.result() for post in posts]
    assert {answer.status_code for answer in answers} == {202}
    (turn_id,) = {answer.json()["data"]["turn"]["turnId"] for answer in answers}
    assert (await node.end_of_turn(turn_id))["status"] == "completed"
    queued = [event["type"] for event in await node.events(start)].count("turn.queued")
    saw("F76", queued == 1, f"a client was cut off when it had sent {sent}, and 50 asked again with its key")


async def test_a_turn_needs_a_session(house: House) -> None:
    node, _ = house
    for session_id in ("ses_00000000000000000000000000", "nonsense"):
        answer = await node.post("/v1/codexd/turn", {"sessionId": session_id, "prompt": "plain"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "session_not_found")
    for path, code in (("turn/trn_00000000000000000000000000", "turn_not_found"), ("sessions/x", "session_not_found")):
        answer = await node.get(f"/v1/codexd/{path}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, code)


@pytest.mark.parametrize(
    ("asked", "status", "code"),
    [
        ({"cwd": "/"}, 403, "policy_ceiling"),
        ({"cwd": "{folder}"}, 403, "policy_ceiling"),
        ({"cwd": "{work}/.hidden"}, 403, "policy_ceiling"),
        ({"cwd": "{work}/link"}, 403, "policy_ceiling"),
        ({"cwd": "{work}/missing"}, 422, "invalid_request"),
        ({"cwd": "{work}/file"}, 422, "invalid_request"),
        ({"cwd": "work"}, 422, "invalid_request"),
        ({}, 422, "invalid_request"),
        ({"cwd": "{work}", "sandbox": "danger-full-access"}, 403, "policy_ceiling"),
        ({"cwd": "{work}", "sandbox": "none"}, 422, "invalid_request"),
        *(({"cwd": "{work}", name: "x"}, 422, "invalid_request") for name in UNKNOWN),
    ],
)
async def test_a_session_keeps_under_the_ceiling(limited: Node, asked: dict[str, str], status: int, code: str) -> None:
    body = {name: value.format(folder=limited.folder, work=limited.work) for name, value in asked.items()}
    answer = await limited.post("/v1/codexd/sessions", body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    saw("F89", answer.status_code == status, f"{sorted(asked)} above the ceiling, or unknown")


@pytest.fixture(scope="module")
async def limited(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    """A node with the usual ceiling, and no Codex."""
    folder = tmp_path_factory.mktemp("limited")
    async with Node(folder, "http://127.0.0.1:1", ceiling="workspace-write", server_command="no-codex") as node:
        (node.work / ".hidden").mkdir()
        (node.work / "link").symlink_to(folder)
        (node.work / "file").touch()
        await node.start()
        yield node


async def test_without_wishes_a_session_has_a_sandbox_and_asks_nobody(limited: Node) -> None:
    answer = await limited.post("/v1/codexd/sessions", {"cwd": str(limited.work)})
    session = answer.json()["data"]["session"]
    assert (session["sandbox"], session["approvalPolicy"]) == ("workspace-write", "never")
    assert (session["status"], session["threadId"]) == ("not_loaded", None)


async def test_a_session_that_never_ran_a_turn_outlives_codexd_and_its_child(fresh: House) -> None:
    node, _ = fresh
    session_id = await node.session()
    first = await node.child()
    assert await node.stop() == 0
    await node.start()
    assert await node.child() != first
    turn = await node.play(session_id, "plain")
    assert (turn["status"], turn["finalMessage"]) == ("completed", "".join(numbered(40)))


@pytest.mark.skipif(not sandbox_works(), reason="Codex's sandbox needs user namespaces")
async def test_a_session_goes_on_in_its_thread_and_sandbox_after_the_child_died(fresh: House) -> None:
    node, _ = fresh
    outside = Path("/var/tmp") / f"baa-test-{uuid4()}"  # the sandbox allows the usual folder for such files
    (node.work / "outside").write_text(str(outside))
    try:
        async with Oracle(node) as oracle:
            session_id = await node.session(sandbox="workspace-write")
            assert (await node.play(session_id, "plain"))["status"] == "completed"
            thread_id = (await node.session_of(session_id))["threadId"]
            os.kill(await node.child(), signal.SIGKILL)
            await oracle.saw("child.ready", count=2)
            assert (await node.session_of(session_id))["status"] == "not_loaded"
            turn = await node.play(session_id, "in and out")
            await oracle.caught_up()
        loaded = [event["payload"] for event in oracle.events if event["type"] == "session.loaded"]
        assert [(told["threadId"], told["fresh"], told["generation"]) for told in loaded] == [
            (thread_id, True, 1),
            (thread_id, False, 2),
        ]
        assert turn["status"] == "completed"
        inside, refused = items(turn, "commandExecution")
        assert (inside["item"]["aggregatedOutput"], inside["item"]["exitCode"]) == ("in\n", 0)
        assert "refused\n" in refused["item"]["aggregatedOutput"]
        assert not outside.exists()
    finally:
        outside.unlink(missing_ok=True)
