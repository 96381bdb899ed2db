"""What Codex asks beside commands: edits, permissions, and its user's opinion; and what codexd does not answer."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from baa.scripted import Call, Patch, Run, Say, ScriptedModel, when
from tests.support.node import Json, Node
from tests.support.oracle import flaws_of
from tests.support.questions import House, accepted, answer, endings, play, question

pytestmark = pytest.mark.timeout(180)

FEATURES = ("request_permissions_tool", "default_mode_request_user_input", "exec_permission_approvals")
EDIT = "*** Begin Patch\n*** Add File: {name}.txt\n+new\n*** End Patch"
CHOICE = {
    "id": "colour",
    "header": "Colour",
    "question": "Which one?",
    "options": [{"label": "Red", "description": "warm"}, {"label": "Blue", "description": "cold"}],
}
WHY = CHOICE | {"id": "why", "header": "Why", "question": "Why that one?"}
WANTED = {
    "reason": "to look around",
    "permissions": {
        "network": {"enabled": True},
        "file_system": {"entries": [{"path": {"type": "path", "path": "/opt"}, "access": "write"}]},
    },
}
NOTHING = {"permissions": {"network": None, "file_system": None}, "scope": "turn"}
MORE = {
    "cmd": "echo more",
    "sandbox_permissions": "with_additional_permissions",
    "justification": "More?",
    "additional_permissions": {"file_system": {"write": ["/opt"]}},
}
EDITS = ("accept", "decline", "cancel")
SCENARIOS = (
    *(when(f"edit-{name}", Patch(EDIT.format(name=name)), Say("Tried.")) for name in EDITS),
    when(
        "edits",
        Patch(EDIT.format(name="first")),
        Patch("*** Begin Patch\n*** Update File: first.txt\n@@\n-new\n+newer\n*** End Patch"),
        Say("Both."),
    ),
    when("permissions", Call("request_permissions", WANTED), Say("Thanks.")),
    when("choose", Call("request_user_input", {"questions": [CHOICE, WHY]}), Say("I see.")),
    when("key", Call("request_user_input", {"questions": [WHY, CHOICE | {"id": "key", "isSecret": True}]}), Say("So.")),
    when("more", Call("exec_command", MORE), Say("Tried.")),
    when("plain", Say("Plain.")),
    when("clock", Run("true"), Say("Late.")),
)


@pytest.fixture(scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    folder = tmp_path_factory.mktemp("asks")
    async with ScriptedModel(SCENARIOS) as model, Node(folder, model.base_url, features=FEATURES) as node:
        await node.start()
        yield House(node, model)


# --- edits


@pytest.mark.parametrize("decision", EDITS)
async def test_an_edit_is_made_only_if_it_may(house: House, decision: str) -> None:
    node, _ = house
    session_id = await node.session(approvalPolicy="untrusted")
    asked, turn = await play(node, session_id, f"edit-{decision}", decision)
    assert (asked["kind"], asked["decisions"]) == (
        "file_change",
        ["accept", "acceptForSession", "decline", "cancel"],
    )
    (edit,) = (item for item in turn["items"] if item["kind"] == "fileChange")
    assert edit["itemId"] == asked["itemId"]
    assert (node.work / f"{decision}.txt").exists() == (decision == "accept")
    told = {"accept": "completed", "decline": "declined", "cancel": "inProgress"}[decision]
    assert edit["item"]["status"] == told
    if decision == "cancel":  # Codex never ends the item then
        assert (turn["status"], turn["finalMessage"], edit["status"]) == ("interrupted", None, "abandoned")
    else:
        assert (turn["status"], turn["finalMessage"], edit["status"]) == ("completed", "Tried.", "completed")
        assert ("rejected by user" in house.reports(f"edit-{decision}")) == (decision == "decline")
    assert await endings(node, session_id) == [("interaction.resolved", "client")]
    assert flaws_of(await node.events(sessionId=session_id)) == []


async def test_an_edit_accepted_for_the_session_is_not_asked_again(house: House) -> None:
    node, _ = house
    session_id = await node.session(approvalPolicy="untrusted")
    _, turn = await play(node, session_id, "edits", "acceptForSession")
    assert turn["status"] == "completed"
    assert (node.work / "first.txt").read_text() == "newer\n"
    assert await endings(node, session_id) == [("interaction.resolved", "client")]


# --- permissions


async def permitted(house: House, decision: str, **more: object) -> tuple[Json, Json]:
    """What Codex tells its model of the permissions that it got, and the question."""
    session_id = await house.node.session(approvalPolicy="on-request", sandbox="workspace-write")
    asked, turn = await play(house.node, session_id, "permissions", decision, **more)
    assert (turn["status"], turn["finalMessage"]) == ("completed", "Thanks.")
    assert turn["interactions"][0]["interactionId"] == asked["interactionId"]
    assert await endings(house.node, session_id) == [("interaction.resolved", "client")]
    told: Json = json.loads(house.reports("permissions"))
    return told, asked


@pytest.mark.parametrize("scope", ["turn", "session"])
async def test_permissions_are_granted_for_as_long_as_they_may(house: House, scope: str) -> None:
    told, asked = await permitted(house, "accept", scope=scope)
    assert (asked["kind"], asked["decisions"]) == ("permissions", ["accept", "decline"])
    assert asked["request"]["reason"] == "to look around"
    assert told == {
        "permissions": {"network": {"enabled": True}, "file_system": {"write": ["/opt"]}},
        "scope": scope,
    }


async def test_permissions_without_a_scope_are_for_the_turn(house: House) -> None:
    told, _ = await permitted(house, "accept")
    assert told["scope"] == "turn"


async def test_fewer_permissions_can_be_granted_than_asked_for(house: House) -> None:
    told, _ = await permitted(house, "accept", content={"network": {"enabled": True}})
    assert told == {"permissions": {"network": {"enabled": True}, "file_system": None}, "scope": "turn"}


async def test_more_permissions_than_asked_for_are_not_granted(house: House) -> None:
    entries = [{"path": {"type": "path", "path": "/"}, "access": "write"}]
    told, _ = await permitted(house, "accept", content={"fileSystem": {"entries": entries}})
    assert told == NOTHING


async def test_declined_permissions_are_none(house: House) -> None:
    told, _ = await permitted(house, "decline")
    assert told == NOTHING


async def test_a_command_may_ask_for_more_permissions(house: House) -> None:
    node, _ = house
    session_id = await node.session(approvalPolicy="on-request", sandbox="workspace-write")
    asked, turn = await play(node, session_id, "more", "decline")
    assert asked["request"]["additionalPermissions"]["fileSystem"]["write"] == ["/opt"]
    assert asked["decisions"] == ["accept", "cancel", "decline"]
    assert turn["status"] == "completed"
    assert "rejected by user" in house.reports("more")


@pytest.mark.parametrize("content", ["all of them", ["network"], 7])
async def test_permissions_granted_are_an_object(house: House, content: object) -> None:
    node, _ = house
    session_id = await node.session(approvalPolicy="on-request", sandbox="workspace-write")
    turn_id = await node.turn(session_id, "permissions")
    asked = await question(node, session_id)
    misfit = await answer(node, asked, "accept", content=content)
    assert (misfit.status_code, misfit.json()["error"]["details"]["kind"]) == (422, "permissions")
    await accepted(node, asked, "decline")
    await node.end_of_turn(turn_id)


# --- the user's opinion


@pytest.mark.parametrize(
    ("decision", "answers", "told"),
    [
        (
            "accept",
            {"colour": "Red", "why": ["It is warm.", "I like it."]},
            {"colour": {"answers": ["Red"]}, "why": {"answers": ["It is warm.", "I like it."]}},
        ),
        ("accept", {"colour": "Green, if that is possible"}, {"colour": {"answers": ["Green, if that is possible"]}}),
        ("decline", None, {}),
    ],
)
async def test_a_user_is_asked_and_heard(house: House, decision: str, answers: object, told: object) -> None:
    node, _ = house
    session_id = await node.session()  # also where no approval is ever asked for
    more = {} if answers is None else {"answers": answers}
    asked, turn = await play(node, session_id, "choose", decision, **more)
    assert asked["kind"] == "user_input"
    assert [each["id"] for each in asked["request"]["questions"]] == ["colour", "why"]
    assert (turn["status"], turn["finalMessage"]) == ("completed", "I see.")
    assert turn["interactions"][0]["answer"]["answers"] == answers
    assert json.loads(house.reports("choose")) == {"answers": told}
    assert await endings(node, session_id) == [("interaction.resolved", "client")]


async def test_an_answer_that_codex_wants_as_a_secret_is_told_to_codex_and_nobody_else(house: House) -> None:
    node, _ = house
    session_id = await node.session()
    turn_id = await node.turn(session_id, "key")
    asked = await question(node, session_id)
    said = {"why": "Seen.", "key": "correct-horse-battery"}
    first, again = [await answer(node, asked, "accept", answers=said) for _ in range(2)]
    shown = {"why": "Seen.", "key": "[redacted]"}
    for each in (first, again):
        assert (each.status_code, each.json()["data"]["interaction"]["answer"]["answers"]) == (200, shown)
    turn = await node.end_of_turn(turn_id)
    assert turn["interactions"][0]["answer"]["answers"] == shown
    assert json.loads(house.reports("key"))["answers"] == {name: {"answers": [words]} for name, words in said.items()}
    events = (await node.get(f"/v1/codexd/events?after=0&limit=1000&sessionId={session_id}")).text
    assert ("Seen." in events, said["key"] in events) == (True, False)
    files = [path.read_bytes() for path in node.state.glob("codexd.sqlite3*")]
    assert any(b"Seen." in data for data in files)
    assert not any(said["key"].encode() in data for data in files), "not even while its line waited"


async def test_a_users_answer_needs_its_words(house: House) -> None:
    node, _ = house
    session_id = await node.session()
    turn_id = await node.turn(session_id, "choose")
    asked = await question(node, session_id)
    misfits: list[Json] = [{}, {"answers": {}}, {"answers": {"colour": 7}}, {"answers": {"why": "x"}, "scope": "turn"}]
    for body in misfits:
        assert (await answer(node, asked, "accept", **body)).status_code == 422
    await accepted(node, asked, "decline")
    assert (await node.end_of_turn(turn_id))["status"] == "completed"


# --- what codexd does not answer


async def test_a_request_that_codexd_does_not_answer_is_refused_at_once_and_told(tmp_path: Path) -> None:
    clock = (
        '[features.current_time_reminder]\nenabled = true\nreminder_interval_seconds = 1\nclock_source = "external"\n'
    )
    async with ScriptedModel(SCENARIOS) as model, Node(tmp_path, model.base_url, codex=clock) as node:
        await node.start()
        session_id = await node.session()
        turn = await node.play(session_id, "clock")  # Codex asks its client for the time, and cannot do without
        assert turn["status"] == "failed"
        assert "codexd does not answer this request" in turn["error"]["message"]
        assert (turn["interactions"], await endings(node, session_id)) == ([], [])
        events = await node.events(sessionId=session_id, types="codex.notification")
        (refused,) = (each for each in events if each["payload"]["method"] == "currentTime/read")
        assert (refused["payload"]["answered"], refused["turnId"]) == ("refused", turn["turnId"])
        assert set(refused["payload"]["params"]) == {"threadId"}
        assert (await node.session_of(session_id))["openInteractions"] == 0
