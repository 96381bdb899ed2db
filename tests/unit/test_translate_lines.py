"""The lines that we send, and how their answers find their way; held against what was sent to a real Codex."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest

from baa.api.interactions import AnswerInteraction, InteractionKind, Scope
from baa.api.sessions import ApprovalPolicy, Fork, LocalImage, Sandbox, SessionSettings, TextInput, TurnRequest
from baa.codexd.appserver import lines, translate
from baa.codexd.appserver.lines import Line
from baa.codexd.appserver.translate import Called, Dropped, ForTurn, Incoming
from baa.codexd.machines import inputs as i
from tests.support.dialect import come, raw, recorded
from tests.support.record_transcript import FREE, NOBODY, SESSION, hand

TOLD_AT = "2026-11-24T00:00:00.000Z"
EMITTED = 1_795_478_400_000

WRITING = SessionSettings(
    cwd="/home/user/project",
    sandbox=Sandbox.WORKSPACE_WRITE,
    approval_policy=ApprovalPolicy.ON_REQUEST,
    model="big",
    model_provider="other",
    base_instructions="be",
    developer_instructions="do",
)


# --- our lines, and the answers to them

ITEM = {"id": "item", "type": "agentMessage"}
OURS = ITEM | {"clientId": "trn_a"}
REQUEST = TurnRequest(prompt="go", model="big", effort="high")
WITH_ALL = TurnRequest(
    prompt="see",
    input=(TextInput("see"), LocalImage("/home/user/a.png")),
    sandbox=Sandbox.READ_ONLY,
    approval_policy=ApprovalPolicy.UNTRUSTED,
    output_schema={"type": "object"},
)
SENT: list[tuple[i.LineEffect, str, dict[str, Any]]] = [
    (
        i.OpenThread(SESSION, None, FREE),
        "thread/start",
        {"cwd": "/home/user/project", "sandbox": "danger-full-access", "approvalPolicy": "never"},
    ),
    (
        i.OpenThread(SESSION, "thread", WRITING),
        "thread/resume",
        {
            "threadId": "thread",
            "excludeTurns": True,
            "cwd": "/home/user/project",
            "model": "big",
            "modelProvider": "other",
            "sandbox": "workspace-write",
            "approvalPolicy": "on-request",
            "baseInstructions": "be",
            "developerInstructions": "do",
            "config": {"sandbox_workspace_write.network_access": False},
        },
    ),
    (
        i.HandTurn("trn_a", "thread", REQUEST, WRITING, "big", "high"),
        "turn/start",
        {
            "threadId": "thread",
            "input": [{"type": "text", "text": "go"}],
            "clientUserMessageId": "trn_a",
            "model": "big",
            "effort": "high",
            "approvalPolicy": "on-request",
            "sandboxPolicy": {"type": "workspaceWrite", "writableRoots": [], "networkAccess": False},
        },
    ),
    (
        i.HandTurn("trn_a", "thread", WITH_ALL, WRITING, "big", None, forget_effort=True),
        "turn/start",
        {
            "threadId": "thread",
            "input": [{"type": "text", "text": "see"}, {"type": "localImage", "path": "/home/user/a.png"}],
            "clientUserMessageId": "trn_a",
            "model": "big",
            "approvalPolicy": "untrusted",
            "sandboxPolicy": {"type": "readOnly", "networkAccess": False},
            "outputSchema": {"type": "object"},
            "collaborationMode": {
                "mode": "default",
                "settings": {"model": "big", "reasoning_effort": None, "developer_instructions": None},
            },
        },
    ),
    (
        i.HandTurn("trn_a", "thread", TurnRequest(prompt="/compact", compact=True), WRITING, "big", "high"),
        "thread/compact/start",
        {"threadId": "thread"},
    ),
    (
        i.OpenThread(SESSION, None, FREE, Fork("ses_b", "thread_b", "codex_b")),
        "thread/fork",
        {
            "threadId": "thread_b",
            "lastTurnId": "codex_b",
            "excludeTurns": True,
            "cwd": "/home/user/project",
            "sandbox": "danger-full-access",
            "approvalPolicy": "never",
        },
    ),
    (
        i.SteerTurn("trn_a", "str_a", "thread", "codex", (TextInput("more"),), None, None),
        "turn/steer",
        {
            "threadId": "thread",
            "expectedTurnId": "codex",
            "input": [{"type": "text", "text": "more"}],
            "clientUserMessageId": "str_a",
        },
    ),
    (i.CleanTerminals("trn_a", "thread"), "thread/backgroundTerminals/clean", {"threadId": "thread"}),
    (i.CleanTerminals("trn_a", "sub", answered=False), "thread/backgroundTerminals/clean", {"threadId": "sub"}),
    (i.UnloadThread(SESSION, "thread"), "thread/unsubscribe", {"threadId": "thread"}),
    (i.InterruptTurn("trn_a", "thread", "codex"), "turn/interrupt", {"threadId": "thread", "turnId": "codex"}),
    (
        i.ReadHistory(SESSION, "thread"),
        "thread/turns/list",
        {"threadId": "thread", "limit": 20, "itemsView": "full", "sortDirection": "desc"},
    ),
]

ALLOWED = {
    "thread/compact/start",  # for attached terminals only
    *("initialize", "initialized", "thread/start", "thread/resume", "thread/fork", "thread/read", "thread/unsubscribe"),
    *(
        "thread/backgroundTerminals/clean",
        "thread/turns/list",
        "thread/items/list",
        "thread/loaded/list",
        "turn/start",
        "turn/steer",
        "turn/interrupt",
    ),
    *("thread/backgroundTerminals/clean", "model/list", "account/read", "account/rateLimits/read"),
}


def sent(line: Line) -> dict[str, Any]:
    assert line.data.endswith(b"\n")
    message: dict[str, Any] = msgspec.json.decode(line.data)
    assert message.get("id") == line.request_id
    return message


@pytest.mark.parametrize(("effect", "method", "params"), SENT)
def test_an_effect_is_one_request_that_is_named_for_what_it_serves(
    effect: i.LineEffect, method: str, params: dict[str, Any]
) -> None:
    line = lines.line_of(effect, 7)
    owner = getattr(effect, "turn_id", None) or getattr(effect, "session_id", None)

    assert sent(line) == {"id": line.request_id, "method": method, "params": params}
    assert line.request_id is not None
    assert line.request_id.startswith(f"{owner}:")
    assert line.request_id.endswith(":7")


def test_every_effect_that_is_a_request_is_among_those_above() -> None:
    assert {type(effect) for effect, _, _ in SENT} == {*get_args(i.LineEffect)} - {i.Answer}


def test_only_allowed_methods_are_ever_sent() -> None:
    own = [lines.handshake(1, "0"), lines.initialized(), lines.read_account(3), lines.read_limits(4)]
    own.append(lines.read_thread(5, "thread"))
    methods = {sent(line)["method"] for line in own} | {method for _, method, _ in SENT}
    methods |= {message["method"] for message in recorded("sent") if "method" in message}

    assert methods <= ALLOWED


def test_a_sandbox_never_gets_the_network_and_full_access_needs_no_word_for_it() -> None:
    for sandbox in Sandbox:
        settings = msgspec.structs.replace(FREE, sandbox=sandbox)
        for thread_id in (None, "thread"):
            params = sent(lines.line_of(i.OpenThread(SESSION, thread_id, settings), 1))["params"]
            network = {"sandbox_workspace_write.network_access": False}
            assert params["sandbox"] == sandbox
            assert params.get("config") == (network if sandbox is Sandbox.WORKSPACE_WRITE else None)


def test_the_lines_of_the_recorded_conversation_are_still_the_same() -> None:
    said = recorded("sent")
    thread = next(m["params"]["threadId"] for m in said if m.get("method") == "turn/start")

    assert sent(lines.handshake(1, "0")) == said[0]
    assert sent(lines.initialized()) == said[1]
    assert sent(lines.read_account(3)) == said[2]
    assert sent(lines.read_limits(4)) == said[3]
    assert sent(lines.line_of(i.OpenThread(SESSION, None, FREE), 5)) == said[4]
    assert sent(lines.line_of(hand(1, thread, "work"), 6)) == said[5]
    assert sent(lines.line_of(i.OpenThread(SESSION, NOBODY, FREE), 14)) == said[-3]


ERROR = {"code": -32600, "message": "no"}
ANSWERS: list[tuple[Line, object, Incoming, Incoming]] = [
    (
        lines.handshake(1, "0"),
        {"userAgent": "baa/0.163.0 (Debian; x86_64)"},
        translate.Initialized("0.163.0"),
        translate.HandshakeFailed("no"),
    ),
    (
        lines.read_account(3),
        {"account": None, "requiresOpenaiAuth": True},
        translate.AccountRead(logged_in=False, login_required=True),
        Dropped("account/read refused"),
    ),
    (
        lines.line_of(i.OpenThread(SESSION, None, FREE), 4),
        {"thread": {"id": "thread"}, "model": "big"},
        ForTurn(SESSION, i.ThreadOpened(2, "thread", True, "big")),
        ForTurn(SESSION, i.ThreadRefused(ERROR)),
    ),
    (
        lines.line_of(i.OpenThread(SESSION, "thread", FREE), 4),
        {"thread": {"id": "thread"}},
        ForTurn(SESSION, i.ThreadOpened(2, "thread", False, None)),
        ForTurn(SESSION, i.ThreadRefused(ERROR)),
    ),
    (
        lines.line_of(i.HandTurn("trn_a", "thread", REQUEST, FREE, None, None), 5),
        {"turn": {"id": "codex", "status": "inProgress"}},
        Dropped("turn/start answered"),
        ForTurn("trn_a", i.TurnRefused("trn_a", ERROR)),
    ),
    (
        lines.line_of(i.InterruptTurn("trn_a", "thread", "codex"), 6),
        {},
        Dropped("turn/interrupt answered"),
        Dropped("turn/interrupt answered"),
    ),
    (
        lines.line_of(i.SteerTurn("trn_a", "str_a", "thread", "codex", (TextInput("more"),), "key", "hash"), 6),
        {"turnId": "codex"},
        ForTurn("trn_a", i.TurnSteered("trn_a", "str_a")),
        ForTurn("trn_a", i.TurnSteered("trn_a", "str_a", ERROR)),
    ),
    (
        lines.line_of(i.CleanTerminals("trn_a", "thread"), 6),
        {},
        ForTurn("trn_a", i.TerminalsCleaned("trn_a")),
        ForTurn("trn_a", i.TerminalsCleaned("trn_a", ERROR)),
    ),
    (
        lines.line_of(i.CleanTerminals("trn_a", "sub", answered=False), 6),
        {},
        Dropped("a sub-agent's terminals cleaned"),
        Dropped("a sub-agent's terminals cleaned"),
    ),
    (
        lines.line_of(i.UnloadThread(SESSION, "thread"), 6),
        {"status": "unsubscribed"},
        Dropped("thread/unsubscribe answered"),
        Dropped("thread/unsubscribe answered"),
    ),
    (
        lines.read_limits(4),
        {"rateLimits": {"limitId": "codex"}},
        translate.LimitsRead({"limitId": "codex"}),
        Dropped("account/rateLimits/read refused"),
    ),
    (
        lines.read_thread(5, "thread"),
        {"thread": {}},
        Called("call:read:5", raw({"thread": {}}), None),
        Called("call:read:5", raw(None), ERROR),
    ),
    (
        lines.line_of(i.ReadHistory(SESSION, "thread"), 7),
        {"data": [{"id": "codex", "status": "inProgress", "items": [OURS]}, {"id": "x"}]},
        ForTurn(
            SESSION,
            i.HistoryRead(
                (
                    i.FoundTurn(
                        "codex",
                        "trn_a",
                        None,
                        None,
                        (("item", "agentMessage", raw(ITEM | {"clientId": "trn_a"}), None),),
                    ),
                    i.FoundTurn("x", None, None, None, ()),
                )
            ),
        ),
        ForTurn(SESSION, i.HistoryRead(None, ERROR)),
    ),
]


@pytest.mark.parametrize(("line", "result", "good", "bad"), ANSWERS)
def test_an_answer_finds_its_way_by_its_id_alone(line: Line, result: object, good: Incoming, bad: Incoming) -> None:
    assert come({"id": line.request_id, "result": result}, generation=2) == good
    assert come({"id": line.request_id, "error": ERROR}, generation=2) == bad


@pytest.mark.parametrize("result", [None, [], {"thread": 7}, {"data": [7]}, {"userAgent": 7}, {"account": 7}])
@pytest.mark.parametrize(("line", "bad"), [(line, bad) for line, _, _, bad in ANSWERS])
def test_an_answer_of_another_shape_is_worth_as_much_as_a_refusal(line: Line, bad: Incoming, result: object) -> None:
    message = {"id": line.request_id, "result": result}
    reads = line.request_id is not None and any(
        f":{what}:" in line.request_id for what in ("open", "resume", "history")
    )
    if isinstance(told := come(message), ForTurn) and reads:
        assert type(told.given) is type(bad.given if isinstance(bad, ForTurn) else None)
        assert "cannot read" in getattr(told.given, "error", {})["message"]
    else:
        good = {Dropped, translate.Initialized, translate.AccountRead, translate.LimitsRead, Called, ForTurn}
        assert type(told) in {type(bad), *good}


@pytest.mark.parametrize("id_", [0, 17, "", ":", "::", "x", "ses_a", "ses_a:new:1", "trn_a:begin:1", "START"])
def test_an_answer_to_nothing_of_ours_is_dropped(id_: str | int) -> None:
    assert come({"id": id_, "result": {}}) == Dropped("answer to no request of ours")


@pytest.mark.parametrize(
    ("agent", "version"),
    [("baa/0.163.0 (x)", "0.163.0"), ("baa/1.2.3-alpha.1", "1.2.3-alpha.1"), ("nothing", ""), ("", "")],
)
def test_the_version_of_codex_is_read_off_its_user_agent(agent: str, version: str) -> None:
    assert come({"id": "child:initialize:1", "result": {"userAgent": agent}}) == translate.Initialized(version)


@pytest.mark.parametrize(
    ("account", "needed", "known"),
    [({"type": "chatgpt"}, True, (True, False)), (None, True, (False, True)), (None, False, (False, False))],
)
def test_a_login_is_missing_only_where_one_is_required(account: object, needed: bool, known: tuple[bool, bool]) -> None:
    message = {"id": "child:account:3", "result": {"account": account, "requiresOpenaiAuth": needed}}

    assert come(message) == translate.AccountRead(*known)


# --- answers to what Codex asks

ANSWERED: list[tuple[InteractionKind, object, AnswerInteraction | None, object]] = [
    (InteractionKind.COMMAND, "accept", AnswerInteraction(decision="accept"), {"decision": "accept"}),
    (InteractionKind.FILE_CHANGE, {"a": 1}, AnswerInteraction(decision="a"), {"decision": {"a": 1}}),
    (InteractionKind.COMMAND, None, None, {"decision": "decline"}),
    (
        InteractionKind.PERMISSIONS,
        "accept",
        AnswerInteraction(decision="accept", scope=Scope.SESSION),
        {"permissions": {"network": {"enabled": True}}, "scope": "session"},
    ),
    (
        InteractionKind.PERMISSIONS,
        "accept",
        AnswerInteraction(decision="accept", content={}),
        {"permissions": {}, "scope": "turn"},
    ),
    (InteractionKind.PERMISSIONS, None, None, {"permissions": {}, "scope": "turn"}),
    (
        InteractionKind.USER_INPUT,
        "accept",
        AnswerInteraction(decision="accept", answers={"q": "yes", "r": ["a", "b"]}),
        {"answers": {"q": {"answers": ["yes"]}, "r": {"answers": ["a", "b"]}}},
    ),
    (InteractionKind.USER_INPUT, None, None, {"answers": {}}),
    (
        InteractionKind.ELICITATION,
        "accept",
        AnswerInteraction(decision="accept", content={"n": 1}),
        {"action": "accept", "content": {"n": 1}},
    ),
    (
        InteractionKind.ELICITATION,
        "cancel",
        AnswerInteraction(decision="cancel"),
        {"action": "cancel", "content": None},
    ),
    (InteractionKind.ELICITATION, None, None, {"action": "decline", "content": None}),
    (
        InteractionKind.TOOL_CALL,
        "accept",
        AnswerInteraction(decision="accept", content="done"),
        {"contentItems": [{"type": "inputText", "text": "done"}], "success": True},
    ),
    (InteractionKind.TOOL_CALL, None, None, {"contentItems": [], "success": False}),
]


@pytest.mark.parametrize(("kind", "decision", "answer", "result"), ANSWERED)
def test_an_answer_reaches_codex_in_its_own_words_and_without_one_nothing_is_allowed(
    kind: InteractionKind, decision: object, answer: AnswerInteraction | None, result: object
) -> None:
    request = raw({"permissions": {"network": {"enabled": True}}})
    line = lines.line_of(i.Answer(3, kind, request, decision, answer), 9)

    assert line.request_id is None
    assert msgspec.json.decode(line.data) == {"id": 3, "result": result}
