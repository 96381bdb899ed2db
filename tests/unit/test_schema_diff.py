"""Two releases compared where codexd uses them: nothing that it sends or reads is forgotten."""

from __future__ import annotations

import copy
from typing import Any, get_args

import pytest

from baa.codexd.appserver import messages, methods, translate
from baa.codexd.machines import inputs as i
from tests.proof import schema as s


def of(*types: str) -> dict[str, Any]:
    return {"type": list(types) if len(types) > 1 else types[0]}


def thing(required: tuple[str, ...] = (), /, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": properties}


def called(method: str, params: str) -> dict[str, Any]:
    return thing(("method",), method={"enum": [method]}, params={"$ref": f"#/definitions/{params}"})


def tagged(tag: str, /, **properties: Any) -> dict[str, Any]:
    return thing(("type",), type={"enum": [tag]}, **properties)


TEXT = of("string")
BUNDLE: dict[str, Any] = {
    "definitions": {
        "ClientRequest": {"oneOf": [called("turn/start", "TurnStartParams"), called("turn/interrupt", "Interrupt")]},
        "ServerNotification": {"oneOf": [called("turn/started", "TurnStartedNotification")]},
        "ServerRequest": {
            "oneOf": [called("item/fileChange/requestApproval", "FileParams"), called("attestation/generate", "Empty")]
        },
        "TurnStartParams": thing(
            ("threadId", "input"),
            threadId=TEXT,
            model=of("string", "null"),
            input={"type": "array", "items": {"$ref": "#/definitions/UserInput"}},
            sandboxPolicy={"anyOf": [{"$ref": "#/definitions/SandboxPolicy"}, of("null")]},
        ),
        "UserInput": {"oneOf": [tagged("text", text=TEXT), tagged("localImage", path=TEXT)]},
        "SandboxPolicy": {"oneOf": [tagged("readOnly"), tagged("dangerFullAccess")]},
        "Interrupt": thing(("threadId",), threadId=TEXT, turnId=TEXT),
        "TurnStartedNotification": thing(("threadId", "turn"), threadId=TEXT, turn={"$ref": "#/definitions/Turn"}),
        "Turn": thing(("id", "status"), id=TEXT, status={"enum": ["inProgress", "completed"]}),
        "ThreadItem": {"oneOf": [tagged("plan", id=TEXT), tagged("agentMessage", id=TEXT, text=TEXT)]},
        "FileParams": thing(("threadId",), threadId=TEXT, itemId=TEXT),
        "FileResponse": thing(("decision",), decision={"enum": ["accept", "decline"]}),
        "Empty": thing(),
    }
}


def changed(**definitions: Any) -> dict[str, str]:
    bundle = copy.deepcopy(BUNDLE)
    bundle["definitions"].update(definitions)
    return s.facts(s.Schema(bundle))


def lines_of(new: dict[str, str]) -> list[str]:
    return s.report("1", "2", s.differences(changed(), new)).splitlines()[1:]


# --- what is used is what codexd uses


def test_every_line_that_codexd_writes_is_looked_at() -> None:
    assert {type(effect) for effect in s._EFFECTS} | {i.Answer} == set(get_args(i.LineEffect))
    assert s.sent().keys() | {"initialized"} == methods.ALLOWED
    assert s.answered().keys() == translate.QUESTIONS.keys()


def test_every_message_that_codexd_reads_is_looked_at() -> None:
    assert s.READ.keys() == {*translate.STREAMS, *translate._MODELLED, "error"}
    assert s.RESULTS.keys() <= methods.OWN
    read = {*s.READ.values(), *(type_ for _, type_ in s.RESULTS.values()), s.ITEM[1], messages.QuestionParams}
    inner = {messages.Turn, messages.Thread, messages.StoredThread}  # within one of those
    ours = {messages.About, messages.PermissionsParams}  # whom it concerns; what was asked, given back
    ours.add(messages.DeltaLine)  # a line around a DeltaMessage
    types = {
        value for value in vars(messages).values() if isinstance(value, type) and value.__module__ == messages.__name__
    }
    assert types - {messages.Message} == read | inner | ours


def test_what_is_sent_holds_all_that_a_session_and_a_turn_can_say() -> None:
    (start,), turns = s.sent()["thread/start"], s.sent()["turn/start"]
    assert {"personality", "serviceTier", "config", "ephemeral"} <= start.keys()
    assert {turn["sandboxPolicy"]["type"] for turn in turns} == {"readOnly", "workspaceWrite", "dangerFullAccess"}
    assert any("collaborationMode" in turn for turn in turns)


# --- what differs


@pytest.mark.parametrize(
    ("definitions", "told"),
    [
        ({}, []),
        ({"Other": thing(("new",), new=TEXT)}, []),  # not used
        (
            {"ClientRequest": {"oneOf": [called("turn/start", "TurnStartParams")]}},
            ["- turn/interrupt"],  # and not its parameters one by one
        ),
        (
            {"Interrupt": thing(("threadId", "why"), threadId=TEXT, turnId=TEXT, why=TEXT)},
            ["~ turn/interrupt params requires: threadId -> threadId, why"],
        ),
        ({"Interrupt": thing(("threadId",), threadId=TEXT, turn=TEXT)}, ["- turn/interrupt params.turnId: string"]),
        (
            {"Interrupt": thing(("threadId",), threadId=of("integer"), turnId=TEXT)},
            ["~ turn/interrupt params.threadId: string -> integer"],
        ),
        (
            {"SandboxPolicy": {"oneOf": [tagged("readOnly")]}},
            [
                "~ turn/start params.sandboxPolicy: - <dangerFullAccess>",
                "- turn/start params.sandboxPolicy<dangerFullAccess>",
            ],
        ),
        (
            {"UserInput": {"oneOf": [tagged("text", text=TEXT), tagged("localImage", path=TEXT, detail=TEXT)]}},
            [],  # a field more that need not be given
        ),
        (
            {"Turn": thing(("id",), id=TEXT, status={"enum": ["inProgress", "completed", "paused"]})},
            ['~ turn/started params.turn.status: + "paused"'],
        ),
        ({"Turn": thing(("id", "status"), id=TEXT)}, None),
        (
            {
                "ServerRequest": {
                    "oneOf": [called("item/fileChange/requestApproval", "FileParams"), called("new", "Empty")]
                }
            },
            ["- question attestation/generate: refused", "+ question new: refused"],
        ),
        (
            {"FileResponse": thing(("decision",), decision={"enum": ["accept", "reject"]})},
            ['~ question item/fileChange/requestApproval answer.decision: "accept" | "decline" -> "accept" | "reject"'],
        ),
    ],
)
def test_a_difference_is_told_once_and_where_it_is(definitions: dict[str, Any], told: list[str] | None) -> None:
    found = lines_of(changed(**definitions))
    if told is None:
        told = ['- turn/started params.turn.status: "completed" | "inProgress"']
    assert found == told


def test_what_a_release_lacks_is_what_codexd_would_use_of_another() -> None:
    new = changed()
    old = changed(
        ClientRequest={"oneOf": [called("turn/start", "TurnStartParams")]},
        ServerRequest={"oneOf": [called("item/fileChange/requestApproval", "FileParams")]},
    )
    assert s.lacks(old, new) == ["turn/interrupt"]  # nobody misses a question that is refused
    assert s.lacks(new, new) == []


def test_what_several_shapes_share_is_theirs_too() -> None:
    image = {"oneOf": [thing(url=TEXT), thing(file=TEXT)]}
    nested = {"oneOf": [*BUNDLE["definitions"]["ThreadItem"]["oneOf"], {**tagged("image", id=TEXT), **image}]}
    new = changed(ThreadItem=nested)
    assert lines_of(new) == ['~ item.type: + "image"']
    assert new["item.id"] == changed()["item.id"]


def test_two_that_are_the_same_are_said_to_be() -> None:
    assert s.report("1", "2", []) == "Codex 1 and 2 are the same in all that codexd uses."
