"""The lines that we send, and how their answers find their way; held against what was sent to a real Codex."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest

from baa.api.sessions import ApprovalPolicy, Sandbox, SessionSettings, TurnRequest
from baa.codexd.appserver import translate
from baa.codexd.appserver.translate import Dropped, ForTurn, Incoming, Line
from baa.codexd.machines import inputs as i
from tests.support.dialect import come, raw, recorded
from tests.support.record_transcript import NOBODY, SESSION, turn_id

TOLD_AT = "2026-11-24T00:00:00.000Z"
EMITTED = 1_795_478_400_000

FREE = SessionSettings(
    cwd="/home/user/project", sandbox=Sandbox.DANGER_FULL_ACCESS, approval_policy=ApprovalPolicy.NEVER
)
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
REQUEST = TurnRequest(prompt="go", model="big", effort="high")
SENT: list[tuple[i.Effect, str, dict[str, Any]]] = [
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
        i.HandTurn("trn_a", "thread", REQUEST),
        "turn/start",
        {
            "threadId": "thread",
            "input": [{"type": "text", "text": "go"}],
            "clientUserMessageId": "trn_a",
            "model": "big",
            "effort": "high",
        },
    ),
    (i.InterruptTurn("trn_a", "thread", "codex"), "turn/interrupt", {"threadId": "thread", "turnId": "codex"}),
    (
        i.ReadHistory(SESSION, "thread"),
        "thread/turns/list",
        {"threadId": "thread", "limit": 20, "itemsView": "full", "sortDirection": "desc"},
    ),
]

ALLOWED = {
    *("initialize", "initialized", "thread/start", "thread/resume", "thread/fork", "thread/read", "thread/unsubscribe"),
    *("thread/turns/list", "thread/items/list", "thread/loaded/list", "turn/start", "turn/steer", "turn/interrupt"),
    *("model/list", "account/read", "account/rateLimits/read"),
}


def sent(line: Line) -> dict[str, Any]:
    assert line.data.endswith(b"\n")
    message: dict[str, Any] = msgspec.json.decode(line.data)
    assert message.get("id") == line.request_id
    return message


@pytest.mark.parametrize(("effect", "method", "params"), SENT)
def test_an_effect_is_one_request_that_is_named_for_what_it_serves(
    effect: i.OpenThread | i.HandTurn | i.InterruptTurn | i.ReadHistory, method: str, params: dict[str, Any]
) -> None:
    line = translate.line_of(effect, 7)
    owner = getattr(effect, "turn_id", None) or getattr(effect, "session_id", None)

    assert sent(line) == {"id": line.request_id, "method": method, "params": params}
    assert line.request_id is not None
    assert line.request_id.startswith(f"{owner}:")
    assert line.request_id.endswith(":7")


def test_every_effect_that_is_a_request_is_among_those_above() -> None:
    assert {type(effect) for effect, _, _ in SENT} == {*get_args(i.Effect)} - {i.Count}


def test_only_allowed_methods_are_ever_sent() -> None:
    lines = [translate.handshake(1, "0"), translate.initialized(), translate.read_account(3)]
    methods = {sent(line)["method"] for line in lines} | {method for _, method, _ in SENT}
    methods |= {message["method"] for message in recorded("sent") if "method" in message}

    assert methods <= ALLOWED


def test_a_sandbox_never_gets_the_network_and_full_access_needs_no_word_for_it() -> None:
    for sandbox in Sandbox:
        settings = msgspec.structs.replace(FREE, sandbox=sandbox)
        for thread_id in (None, "thread"):
            params = sent(translate.line_of(i.OpenThread(SESSION, thread_id, settings), 1))["params"]
            network = {"sandbox_workspace_write.network_access": False}
            assert params["sandbox"] == sandbox
            assert params.get("config") == (network if sandbox is Sandbox.WORKSPACE_WRITE else None)


def test_the_lines_of_the_recorded_conversation_are_still_the_same() -> None:
    said = recorded("sent")
    thread = next(m["params"]["threadId"] for m in said if m.get("method") == "turn/start")

    assert sent(translate.handshake(1, "0")) == said[0]
    assert sent(translate.initialized()) == said[1]
    assert sent(translate.read_account(3)) == said[2]
    assert sent(translate.line_of(i.OpenThread(SESSION, None, FREE), 4)) == said[3]
    assert sent(translate.line_of(i.HandTurn(turn_id(1), thread, TurnRequest(prompt="work")), 5)) == said[4]
    assert sent(translate.line_of(i.OpenThread(SESSION, NOBODY, FREE), 13)) == said[-3]


ERROR = {"code": -32600, "message": "no"}
ANSWERS: list[tuple[Line, object, Incoming, Incoming]] = [
    (
        translate.handshake(1, "0"),
        {"userAgent": "baa/0.163.0 (Debian; x86_64)"},
        translate.Initialized("0.163.0"),
        translate.HandshakeFailed("no"),
    ),
    (
        translate.read_account(3),
        {"account": None, "requiresOpenaiAuth": True},
        translate.AccountRead(logged_in=False, login_required=True),
        Dropped("account/read refused"),
    ),
    (
        translate.line_of(i.OpenThread(SESSION, None, FREE), 4),
        {"thread": {"id": "thread"}, "model": "big"},
        ForTurn(SESSION, i.ThreadOpened(2, "thread", True, "big")),
        ForTurn(SESSION, i.ThreadRefused(ERROR)),
    ),
    (
        translate.line_of(i.OpenThread(SESSION, "thread", FREE), 4),
        {"thread": {"id": "thread"}},
        ForTurn(SESSION, i.ThreadOpened(2, "thread", False, None)),
        ForTurn(SESSION, i.ThreadRefused(ERROR)),
    ),
    (
        translate.line_of(i.HandTurn("trn_a", "thread", REQUEST), 5),
        {"turn": {"id": "codex", "status": "inProgress"}},
        ForTurn("trn_a", i.TurnNamed("codex", "trn_a", None)),
        ForTurn("trn_a", i.TurnRefused("trn_a", ERROR)),
    ),
    (
        translate.line_of(i.InterruptTurn("trn_a", "thread", "codex"), 6),
        {},
        Dropped("turn/interrupt answered"),
        Dropped("turn/interrupt answered"),
    ),
    (
        translate.line_of(i.ReadHistory(SESSION, "thread"), 7),
        {"data": [{"id": "codex", "status": "inProgress", "items": [ITEM | {"clientId": "trn_a"}]}, {"id": "x"}]},
        ForTurn(
            SESSION,
            i.HistoryRead(
                (
                    i.FoundTurn(
                        "codex", "trn_a", None, None, (("item", "agentMessage", raw(ITEM | {"clientId": "trn_a"})),)
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
    """Except for that of turn/start: the turn may well run, and its notification names it."""
    message = {"id": line.request_id, "result": result}
    if line.request_id is not None and ":start:" in line.request_id:
        with pytest.raises(msgspec.DecodeError):
            come(message)
    elif isinstance(told := come(message), ForTurn):
        assert type(told.given) is type(bad.given if isinstance(bad, ForTurn) else None)
        assert "cannot read" in getattr(told.given, "error", {})["message"]
    else:
        assert type(told) in {type(bad), translate.Initialized, translate.AccountRead}


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
