"""What Codex asks before it runs a command, and how codexd's clients answer, on the real Codex."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from baa.scripted import Run, Say, ScriptedModel, when
from tests.support.node import Json, Node, sandbox_works
from tests.support.oracle import flaws_of
from tests.support.questions import House, accepted, answer, endings, play, question

pytestmark = pytest.mark.timeout(180)

NOBODY = "00000000000000000000000000"
AMENDMENT = "acceptWithExecpolicyAmendment"
SCENARIOS = (
    *(when(name, Run(f"echo x > {name}.txt; cat {name}.txt"), Say("Tried.")) for name in ("accept", "decline")),
    when("cancel", Run("echo x > cancel.txt"), Say("Not reached.")),
    when("object", Run("touch by-object.txt"), Say("Made.")),
    when("name", Run("mkdir by-name"), Say("Made.")),
    when("both", (Run("touch one.txt"), Run("touch two.txt")), Say("Both.")),
    when("race", Run("touch race.txt"), Say("Raced.")),
    when("wrong", Run("touch wrong.txt"), Say("Done.")),
    when(
        "escape",
        Run("echo out > $(cat outside)", sandbox_permissions="require_escalated", justification="May I?"),
        Say("Tried."),
    ),
)


@pytest.fixture(scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    async with ScriptedModel(SCENARIOS) as model, Node(tmp_path_factory.mktemp("asks"), model.base_url) as node:
        await node.start()
        yield House(node, model)


def command_of(turn: Json) -> Json:
    """The one command of a turn."""
    (item,) = (item for item in turn["items"] if item["kind"] == "commandExecution")
    told: Json = item
    return told


async def test_an_accepted_command_runs(house: House) -> None:
    node, _ = house
    session_id = await node.session(approvalPolicy="untrusted")
    turn_id = await node.turn(session_id, "accept")
    asked = await question(node, session_id)
    assert (asked["turnId"], asked["kind"], asked["answer"], asked["endedAt"]) == (turn_id, "command", None, None)
    assert asked["decisions"] == ["accept", *asked["request"]["availableDecisions"][1:], "decline"]
    assert "accept.txt" in asked["request"]["command"]
    assert not (node.work / "accept.txt").exists()
    assert (await node.ledger(turn_id))["interactions"] == [asked]
    assert (await node.session_of(session_id))["status"] == "active"

    resolved = await accepted(node, asked)
    assert resolved["endedAt"] >= resolved["requestedAt"]
    turn = await node.end_of_turn(turn_id)
    assert (turn["status"], turn["finalMessage"], turn["interactions"]) == ("completed", "Tried.", [resolved])
    command = command_of(turn)
    assert (command["itemId"], command["status"]) == (asked["itemId"], "completed")
    assert (command["item"]["status"], command["item"]["aggregatedOutput"]) == ("completed", "x\n")
    assert (node.work / "accept.txt").read_text() == "x\n"
    assert "x\n" in house.reports("accept")
    # Codex's own word on it (serverRequest/resolved) came meanwhile.
    assert await endings(node, session_id) == [("interaction.resolved", "client")]
    assert flaws_of(await node.events(sessionId=session_id)) == []
    session = await node.session_of(session_id)
    assert (session["openInteractions"], session["interactions"]) == (0, [])


async def test_a_declined_command_does_not_run_and_the_turn_goes_on(house: House) -> None:
    node, _ = house
    session_id = await node.session(approvalPolicy="untrusted")
    _, turn = await play(node, session_id, "decline", "decline")
    assert (turn["status"], turn["finalMessage"]) == ("completed", "Tried.")
    assert command_of(turn)["item"]["status"] == "declined"
    assert "rejected by user" in house.reports("decline")
    assert not (node.work / "decline.txt").exists()
    assert await endings(node, session_id) == [("interaction.resolved", "client")]


async def test_a_cancelled_command_ends_the_turn(house: House) -> None:
    node, _ = house
    session_id = await node.session(approvalPolicy="untrusted")
    _, turn = await play(node, session_id, "cancel", "cancel")
    assert (turn["status"], turn["finalMessage"]) == ("interrupted", None)
    assert command_of(turn)["item"]["status"] == "declined"
    assert not (node.work / "cancel.txt").exists()
    assert await endings(node, session_id) == [("interaction.resolved", "client")]
    assert flaws_of(await node.events(sessionId=session_id)) == []


@pytest.mark.parametrize(("prompt", "made"), [("object", "by-object.txt"), ("name", "by-name")])
async def test_a_command_can_be_accepted_for_ever(house: House, prompt: str, made: str) -> None:
    node, _ = house
    session_id = await node.session(approvalPolicy="untrusted")
    turn_id = await node.turn(session_id, prompt)
    asked = await question(node, session_id)
    (offered,) = (each for each in asked["decisions"] if isinstance(each, dict))
    assert list(offered) == [AMENDMENT]
    resolved = await accepted(node, asked, offered if prompt == "object" else AMENDMENT)
    assert (await node.end_of_turn(turn_id))["status"] == "completed"
    assert (node.work / made).exists()
    assert resolved["decisions"] == asked["decisions"]

    later = await node.session(approvalPolicy="untrusted")
    assert (await node.play(later, prompt))["status"] == "completed"
    assert await endings(node, later) == []  # nobody was asked


async def test_two_commands_at_once_are_two_questions(house: House) -> None:
    node, _ = house
    session_id = await node.session(approvalPolicy="untrusted")
    turn_id = await node.turn(session_id, "both")
    first, second = await question(node, session_id), None
    if "one.txt" in first["request"]["command"]:  # Codex may ask the second one before or after the first answer
        await accepted(node, first, "decline")
        second = await question(node, session_id, 2)
        await accepted(node, second)
    else:
        await accepted(node, first)
        second = await question(node, session_id, 2)
        await accepted(node, second, "decline")
    turn = await node.end_of_turn(turn_id)
    assert [each["interactionId"] for each in turn["interactions"]] == [first["interactionId"], second["interactionId"]]
    assert not (node.work / "one.txt").exists()
    assert (node.work / "two.txt").exists()


async def test_sessions_that_need_an_answer_can_be_found(house: House) -> None:
    node, _ = house
    session_id = await node.session(approvalPolicy="untrusted")
    other_id = await node.session()

    async def needing() -> list[str]:
        page = (await node.get("/v1/codexd/sessions", needs="answer")).json()["data"]
        return [session["sessionId"] for session in page["sessions"]]

    assert await needing() == []
    turn_id = await node.turn(session_id, "decline")
    asked = await question(node, session_id)
    assert await needing() == [session_id]
    assert (await node.session_of(other_id))["openInteractions"] == 0
    await accepted(node, asked, "decline")
    assert await needing() == []
    await node.end_of_turn(turn_id)


async def test_the_first_answer_counts(house: House) -> None:
    node, _ = house
    session_id = await node.session(approvalPolicy="untrusted")
    asked, turn = await play(node, session_id, "accept", "accept")
    again = await answer(node, asked, "accept")
    assert (again.status_code, again.json()["data"]["interaction"]) == (200, turn["interactions"][0])
    late = await answer(node, asked, "decline")
    error = late.json()["error"]
    assert (late.status_code, error["code"]) == (409, "interaction_resolved")
    assert error["details"]["interaction"] == turn["interactions"][0]
    assert await endings(node, session_id) == [("interaction.resolved", "client")]


async def test_of_two_clients_at_once_one_wins(house: House) -> None:
    node, _ = house
    session_id = await node.session(approvalPolicy="untrusted")
    turn_id = await node.turn(session_id, "race")
    asked = await question(node, session_id)
    async with asyncio.TaskGroup() as group:
        posts = [
            group.create_task(answer(node, asked, decision), name=f"{decision} {n}")
            for n in range(8)
            for decision in ("accept", "decline")
        ]
    answers = [post.result() for post in posts]
    turn = await node.end_of_turn(turn_id)
    (winner,) = turn["interactions"]
    assert (node.work / "race.txt").exists() == (winner["answer"]["decision"] == "accept")
    for decision, response in zip(("accept", "decline") * 8, answers, strict=True):
        body = response.json()
        if decision == winner["answer"]["decision"]:
            assert (response.status_code, body["data"]["interaction"]) == (200, winner)
        else:
            assert (response.status_code, body["error"]["details"]["interaction"]) == (409, winner)
    assert await endings(node, session_id) == [("interaction.resolved", "client")]


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"decision": "maybe"}, f"accept, {AMENDMENT}, cancel, decline"),
        ({"decision": "acceptForSession"}, AMENDMENT),  # Codex did not offer it for this command
        ({"decision": {AMENDMENT: {"execpolicy_amendment": ["rm"]}}}, AMENDMENT),
        ({"decision": "accept", "scope": "turn"}, "`scope`"),
        ({"decision": "accept", "answers": {"q": "a"}}, "`answers`"),
        ({"decision": "accept", "content": {}}, "`content`"),
        ({"decision": "accept", "more": 1}, "more"),
        ({}, "decision"),
        ({"decision": None}, "decision"),
    ],
)
async def test_an_answer_that_does_not_fit_changes_nothing(asking: Json, house: House, body: Any, word: str) -> None:
    node, _ = house
    path = f"/v1/codexd/turn/{asking['turnId']}/interactions/{asking['interactionId']}"
    response = await node.post(path, body)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (422, "invalid_request")
    assert word in error["message"]
    assert (await node.ledger(asking["turnId"]))["interactions"] == [asking]


async def test_a_decision_that_does_not_fit_is_told_what_does(asking: Json, house: House) -> None:
    response = await answer(house.node, asking, "maybe")
    assert response.json()["error"]["details"] == {"decisions": asking["decisions"], "kind": "command"}


async def test_an_interaction_is_found_only_where_it_belongs(asking: Json, house: House) -> None:
    node, _ = house
    other_session = await node.session()
    other_turn = (await node.play(other_session, "anything"))["turnId"]
    turn, interaction = f"turn/{asking['turnId']}", asking["interactionId"]
    for where, id_, code in (
        (f"turn/{other_turn}", interaction, "interaction_not_found"),
        (f"sessions/{other_session}", interaction, "interaction_not_found"),
        (f"turn/trn_{NOBODY}", interaction, "turn_not_found"),
        (f"sessions/ses_{NOBODY}", interaction, "session_not_found"),
        (turn, f"int_{NOBODY}", "interaction_not_found"),
        (turn, "nonsense", "interaction_not_found"),
    ):
        response = await node.post(f"/v1/codexd/{where}/interactions/{id_}", {"decision": "accept"})
        assert (response.status_code, response.json()["error"]["code"]) == (404, code)
    headers = {"authorization": f"Bearer {node.token('read')}", "content_type": "application/json"}
    readers = await node.ask("POST", f"/v1/codexd/{turn}/interactions/{interaction}", **headers)
    assert (readers.status_code, readers.json()["error"]["code"]) == (403, "read_only_token")
    assert (await node.ledger(asking["turnId"]))["interactions"] == [asking]


@pytest.fixture(scope="module")
async def asking(house: House) -> AsyncIterator[Json]:
    """A question that nobody answers as long as it is needed."""
    node, _ = house
    session_id = await node.session(approvalPolicy="untrusted")
    turn_id = await node.turn(session_id, "wrong")
    asked = await question(node, session_id)
    yield asked
    await accepted(node, asked, "decline")
    assert (await node.end_of_turn(turn_id))["status"] == "completed"


@pytest.mark.skipif(not sandbox_works(), reason="Codex's sandbox needs user namespaces")
@pytest.mark.parametrize("decision", ["accept", "decline"])
async def test_a_command_leaves_the_sandbox_only_if_it_may(house: House, decision: str) -> None:
    node, _ = house
    outside = Path("/var/tmp") / f"baa-test-{uuid4()}"
    (node.work / "outside").write_text(str(outside))
    try:
        session_id = await node.session(approvalPolicy="on-request", sandbox="workspace-write")
        asked, turn = await play(node, session_id, "escape", decision)
        assert (asked["kind"], asked["request"]["reason"]) == ("command", "May I?")
        assert (turn["status"], turn["finalMessage"]) == ("completed", "Tried.")
        assert outside.exists() == (decision == "accept")
        assert not outside.exists() or outside.read_text() == "out\n"
    finally:
        outside.unlink(missing_ok=True)
