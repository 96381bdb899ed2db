"""How long Codex's questions wait: over the death of codexd, and no longer than their turn, their child, their time."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path

import pytest

from baa.scripted import Call, Patch, Run, Say, ScriptedModel, when
from tests.support import mcp_server
from tests.support.node import Json, Node, until
from tests.support.oracle import Oracle, flaws_of, types
from tests.support.questions import House, accepted, answer, endings, question, told

pytestmark = pytest.mark.timeout(180)

FEATURES = ("request_permissions_tool", "default_mode_request_user_input")
SERVER = f'[mcp_servers.house]\ncommand = "{sys.executable}"\nargs = ["-I", "{mcp_server.__file__}"]\n'
CHOICE = {
    "id": "colour",
    "header": "Colour",
    "question": "Which one?",
    "options": [{"label": "Red", "description": "warm"}, {"label": "Blue", "description": "cold"}],
}
WANTED = {"reason": "to look around", "permissions": {"network": {"enabled": True}}}
STALL_MS = 4_000
SCENARIOS = (
    when("command", Run("touch made.txt"), Say("Tried.")),
    when("edit", Patch("*** Begin Patch\n*** Add File: made.txt\n+new\n*** End Patch"), Say("Tried.")),
    when("permissions", Call("request_permissions", WANTED), Say("Tried.")),
    when("choose", Call("request_user_input", {"questions": [CHOICE]}), Say("Tried.")),
    when("ask", Call("ask", {"q": "1"}, "mcp__house"), Say("Tried.")),
    when("danger", Call("danger", {"q": "1"}, "mcp__house"), Say("Tried.")),
    when("plain", Say("Plain.")),
)


@pytest.fixture
async def fresh(tmp_path: Path) -> AsyncIterator[House]:
    async with ScriptedModel(SCENARIOS) as model, Node(tmp_path, model.base_url) as node:
        await node.start()
        yield House(node, model)


@pytest.fixture(scope="module")
async def hasty(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    """A node where a question waits no time at all."""
    folder = tmp_path_factory.mktemp("hasty")
    async with (
        ScriptedModel(SCENARIOS) as model,
        Node(folder, model.base_url, features=FEATURES, codex=SERVER, interaction_deadline_ms="50") as node,
    ):
        await node.start()
        yield House(node, model)


async def asks(node: Node, prompt: str = "command", **more: object) -> tuple[str, Json]:
    """A turn that waits for an answer: its id, and the question."""
    session_id = await node.session(approvalPolicy="untrusted")
    started = await node.post("/v1/codexd/turn", {"sessionId": session_id, "prompt": prompt, **more})
    turn_id: str = started.json()["data"]["turn"]["turnId"]
    return turn_id, await question(node, session_id)


def order(events: list[Json], *wanted: str) -> list[str]:
    """In which order events of these types came."""
    return [type_ for type_ in types(events) if type_ in wanted]


# --- codexd dies


async def test_a_question_outlives_codexd(fresh: House) -> None:
    node, _ = fresh
    async with Oracle(node) as oracle:
        turn_id, asked = await asks(node)
        child = await node.child()
        await node.kill()
        await node.start()
        assert (await node.ledger(turn_id))["interactions"] == [asked]  # its deadline too
        assert await question(node, asked["sessionId"]) == asked
        assert await node.child() == child
        await accepted(node, asked)
        assert (await node.end_of_turn(turn_id))["status"] == "completed"
        assert (node.work / "made.txt").exists()
        await oracle.caught_up()
        assert flaws_of(oracle.events) == []
    assert await endings(node, asked["sessionId"]) == [("interaction.resolved", "client")]


async def test_an_answer_that_was_taken_reaches_codex_though_codexd_dies(fresh: House) -> None:
    node, _ = fresh
    turn_id, asked = await asks(node)
    await accepted(node, asked)
    await node.kill()
    await node.start()
    turn = await node.end_of_turn(turn_id)
    assert (turn["status"], turn["interactions"][0]["answer"]["decision"]) == ("completed", "accept")
    assert (node.work / "made.txt").exists()
    assert await endings(node, asked["sessionId"]) == [("interaction.resolved", "client")]
    assert (await answer(node, asked, "accept")).status_code == 200
    assert (await answer(node, asked, "decline")).status_code == 409


async def test_a_question_is_declined_in_time_though_codexd_was_dead_then(tmp_path: Path) -> None:
    async with (
        ScriptedModel(SCENARIOS) as model,
        Node(tmp_path, model.base_url, interaction_deadline_ms="2000") as node,
    ):
        await node.start()
        session_id = await node.session(approvalPolicy="untrusted")
        turn_id = await node.turn(session_id, "command")
        asked = (await told(node, session_id, "interaction.requested"))["payload"]
        await node.kill()
        deadline = datetime.fromisoformat(asked["deadlineAt"]).timestamp()
        await until(lambda: time.time() > deadline)
        await node.start()
        assert (await node.end_of_turn(turn_id))["status"] == "completed"
        assert not (node.work / "made.txt").exists()
        assert await endings(node, session_id) == [("interaction.expired", "deadline")]


# --- the turn, or the child, ends


async def test_an_interrupted_turn_takes_its_question_with_it(fresh: House) -> None:
    node, _ = fresh
    turn_id, asked = await asks(node)
    assert (await node.post(f"/v1/codexd/turn/{turn_id}/interrupt", {})).status_code == 202
    turn = await node.end_of_turn(turn_id)
    assert (turn["status"], turn["reason"]) == ("interrupted", "requested")
    (over,) = turn["interactions"]
    assert (over["status"], over["resolvedBy"], over["answer"]) == ("resolved", "turn_ended", None)
    events = await node.events(sessionId=asked["sessionId"])
    assert order(events, "interaction.resolved", "turn.interrupted") == ["interaction.resolved", "turn.interrupted"]
    assert await endings(node, asked["sessionId"]) == [("interaction.resolved", "turn_ended")]
    assert flaws_of(events) == []
    late = await answer(node, asked, "accept")
    assert (late.status_code, late.json()["error"]["details"]["interaction"]) == (409, over)
    assert (await node.play(asked["sessionId"], "plain"))["status"] == "completed"
    assert not (node.work / "made.txt").exists()


async def test_a_closed_session_takes_its_question_with_it(fresh: House) -> None:
    node, _ = fresh
    turn_id, asked = await asks(node)
    assert (await node.post(f"/v1/codexd/sessions/{asked['sessionId']}/close", {})).status_code == 202
    turn = await node.end_of_turn(turn_id)
    assert (turn["status"], turn["reason"]) == ("interrupted", "session_closed")
    assert await endings(node, asked["sessionId"]) == [("interaction.resolved", "turn_ended")]


async def test_a_turns_deadline_takes_its_question_with_it(fresh: House) -> None:
    node, _ = fresh
    session_id = await node.session(approvalPolicy="untrusted")
    body = {"sessionId": session_id, "prompt": "command", "deadlineMs": 2_000}
    turn_id = (await node.post("/v1/codexd/turn", body)).json()["data"]["turn"]["turnId"]
    await told(node, session_id, "interaction.requested")
    turn = await node.end_of_turn(turn_id)
    assert (turn["status"], turn["reason"]) == ("expired", "deadline")
    assert await endings(node, session_id) == [("interaction.resolved", "turn_ended")]


async def test_a_turn_that_waits_for_an_answer_does_not_stall(fresh: House) -> None:
    node, _ = fresh
    turn_id, asked = await asks(node, stallMs=STALL_MS)
    stalled = datetime.fromisoformat(asked["requestedAt"]).timestamp() + STALL_MS / 1000 + 0.5
    await until(lambda: time.time() > stalled)
    assert (await node.ledger(turn_id))["status"] == "in_progress"
    await accepted(node, asked)
    assert (await node.end_of_turn(turn_id))["status"] == "completed"


async def test_a_childs_death_takes_its_questions_with_it(fresh: House) -> None:
    node, _ = fresh
    turn_id, asked = await asks(node)
    os.kill(await node.child(), signal.SIGKILL)
    turn = await node.end_of_turn(turn_id)
    assert (turn["status"], turn["reason"]) == ("interrupted", "child_exited")
    (over,) = turn["interactions"]
    assert (over["status"], over["resolvedBy"]) == ("resolved", "child_exited")
    events = await node.events(sessionId=asked["sessionId"])
    assert order(events, "interaction.resolved", "turn.interrupted") == ["interaction.resolved", "turn.interrupted"]
    assert flaws_of(events) == []
    assert (await answer(node, asked, "accept")).status_code == 409
    await node.child()
    again = await node.turn(asked["sessionId"], "command")  # the next child asks anew
    second = await question(node, asked["sessionId"], 2)
    assert second["interactionId"] != asked["interactionId"]
    await accepted(node, second)
    assert (await node.end_of_turn(again))["status"] == "completed"


# --- nobody answers


@pytest.mark.parametrize(
    ("prompt", "kind", "report"),
    [
        ("command", "command", "rejected by user"),
        ("edit", "file_change", "rejected by user"),
        ("permissions", "permissions", '"network":null'),
        ("choose", "user_input", '{"answers":{}}'),
        ("ask", "elicitation", '"action": "decline"'),
        ("danger", "elicitation", "user rejected MCP tool call"),
    ],
)
async def test_what_nobody_answers_is_declined_and_the_turn_goes_on(
    hasty: House, prompt: str, kind: str, report: str
) -> None:
    node, _ = hasty
    session_id = await node.session(approvalPolicy="untrusted")
    turn = await node.play(session_id, prompt)
    assert (turn["status"], turn["finalMessage"]) == ("completed", "Tried.")
    assert report in hasty.reports(prompt)
    (over,) = turn["interactions"]
    assert (over["kind"], over["status"], over["resolvedBy"], over["answer"]) == (kind, "expired", "deadline", None)
    assert over["endedAt"] >= over["deadlineAt"] > over["requestedAt"]
    assert await endings(node, session_id) == [("interaction.expired", "deadline")]
    assert not (node.work / "made.txt").exists()
    late = await answer(node, over, "accept", **({"answers": {"colour": "Red"}} if kind == "user_input" else {}))
    assert (late.status_code, late.json()["error"]["code"]) == (409, "interaction_resolved")
    assert late.json()["error"]["details"]["interaction"] == over
    assert flaws_of(await node.events(sessionId=session_id)) == []
