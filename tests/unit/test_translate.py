"""What Codex says of itself becomes inputs; held against what a real Codex said (record_transcript.py)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec import Raw

from baa.api.events import EventType, ItemDelta
from baa.api.interactions import InteractionKind
from baa.api.sessions import ApprovalPolicy, Sandbox, SessionSettings
from baa.clock import rfc3339
from baa.codexd.appserver import jsonrpc, translate
from baa.codexd.appserver.translate import Asked, Dropped, ForNobody, ForSession, ForTurn, Incoming
from baa.codexd.machines import inputs as i
from tests.support.dialect import come, raw, recorded
from tests.support.record_transcript import turn_id

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


# --- what a real Codex said

WORK = """
TurnNamed
ItemBegan userMessage · ItemFinished userMessage
ItemBegan reasoning · Noted item/reasoning/summaryPartAdded · ItemGrew summary · ItemFinished reasoning
ItemBegan agentMessage · ItemGrew text · ItemFinished agentMessage
ItemBegan commandExecution · ItemFinished commandExecution
Updated usage.updated
ItemBegan fileChange · ItemFinished fileChange
Updated diff.updated · Updated usage.updated · Updated diff.updated
ItemBegan agentMessage · ItemGrew text · ItemFinished agentMessage
Updated usage.updated · Updated diff.updated
TurnFinished completed
"""
ASK = """
TurnNamed
ItemBegan userMessage · ItemFinished userMessage
ItemBegan commandExecution · Asked command accept AMENDMENT cancel decline · AskedNoMore
ItemFinished commandExecution
Updated usage.updated
ItemBegan agentMessage · ItemGrew text · ItemFinished agentMessage
Updated usage.updated
TurnFinished completed
"""
FAIL = """
TurnNamed
ItemBegan userMessage · ItemFinished userMessage
Noted error
TurnFinished failed
"""
WAIT = """
TurnNamed
ItemBegan userMessage · ItemFinished userMessage
ItemBegan agentMessage · ItemGrew text
Updated usage.updated
TurnFinished interrupted
"""
WHOLE = f"""
Initialized 0.163.0 · Noted configWarning · AccountRead
ThreadOpened · Noted warning {WORK}
ThreadOpened · Noted warning {ASK}
Noted warning {FAIL}
Noted warning {WAIT}
HistoryRead of 3 · ThreadRefused · HistoryRead of none · TurnRefused
"""


def shown(come: Incoming) -> str:
    match come:
        case translate.Initialized(version):
            return f"Initialized {version}"
        case Asked():
            offered = ["AMENDMENT" if isinstance(each, dict) else each for each in come.decisions]
            return f"Asked {come.kind} {' '.join(offered)}"
        case ForSession(_, given) | ForTurn(_, given) | ForNobody(given):
            return f"{type(given).__name__} {detail(given)}".strip()
        case _:
            return type(come).__name__


def detail(given: i.Input) -> str:
    match given:
        case i.ItemBegan() | i.ItemFinished():
            return given.kind
        case i.ItemGrew():
            return " ".join(piece.stream for piece in given.pieces)
        case i.Updated():
            return given.type
        case i.TurnFinished():
            return given.end
        case i.Noted():
            return given.method
        case i.HistoryRead():
            return f"of {'none' if given.turns is None else len(given.turns)}"
        case _:
            return ""


def test_what_codex_says_of_a_whole_conversation_becomes_the_inputs_of_it() -> None:
    story = [shown(come(message)) for message in recorded("told")]
    # What changes nothing is left out here, and so is what only continues the line before.
    heard = [text for text in story if text not in {"Dropped", "LimitsRead"}]
    merged = [text for text, before in zip(heard, [None, *heard], strict=False) if text != before]

    assert merged == [part.strip() for line in WHOLE.split("\n") for part in line.split("·") if part.strip()]


def test_the_messages_that_change_nothing_are_known_by_name() -> None:
    dropped = {told.why for message in recorded("told") if isinstance(told := come(message), Dropped)}

    assert dropped - translate.DERIVED == {
        "turn/interrupt answered",
        "turn/start answered",
        "account/rateLimits/read refused",
    }


def test_the_turns_of_the_recorded_history_are_those_of_the_conversation() -> None:
    answers = [told for message in recorded("told") if isinstance(told := come(message), ForTurn)]
    (history,) = (told.given for told in answers if isinstance(told.given, i.HistoryRead) and told.given.turns)
    assert isinstance(history, i.HistoryRead)
    assert history.turns is not None
    ended = [told.given for m in recorded("told") if isinstance(told := come(m), ForSession)]
    ends = {given.codex_turn_id: given.end for given in ended if isinstance(given, i.TurnFinished)}

    assert [(found.client_id, found.end) for found in history.turns] == [
        (turn_id(4), i.TurnEnd.INTERRUPTED),
        (turn_id(3), i.TurnEnd.FAILED),
        (turn_id(1), i.TurnEnd.COMPLETED),
    ]
    assert all(ends[found.codex_turn_id] is found.end for found in history.turns)
    assert [kind for _, kind, _, _ in history.turns[-1].items] == [
        "userMessage",
        "reasoning",
        "agentMessage",
        "commandExecution",
        "fileChange",
        "agentMessage",
    ]


def test_every_recorded_message_has_a_time_of_its_own_unless_it_is_an_answer_or_a_question() -> None:
    for message in recorded("told"):
        told = come(message)
        if isinstance(told, ForSession):
            given = told.given.pieces[0] if isinstance(told.given, i.ItemGrew) else told.given
            assert getattr(given, "emitted_at", None) == rfc3339(message["emittedAtMs"])


# --- the shapes, one by one

ITEM = {"id": "item", "type": "agentMessage", "text": "é"}
RAW_ITEM = Raw(msgspec.json.encode(ITEM))
WHO = {"threadId": "thread", "turnId": "codex"}


def piece(stream: str) -> ItemDelta:
    return ItemDelta(item_id="item", stream=stream, delta="é", emitted_at=TOLD_AT)


NOTIFICATIONS: list[tuple[str, dict[str, Any], i.FromThread]] = [
    ("turn/started", {"threadId": "thread", "turn": {"id": "codex"}}, i.TurnNamed("codex", TOLD_AT)),
    *(
        (
            "turn/completed",
            {"threadId": "thread", "turn": {"id": "codex", "status": end.value, "error": error}},
            i.TurnFinished("codex", end, error, TOLD_AT),
        )
        for end, error in zip(i.TurnEnd, (None, {"message": "no"}, None), strict=True)
    ),
    ("item/started", WHO | {"item": ITEM}, i.ItemBegan("codex", "item", "agentMessage", RAW_ITEM, TOLD_AT)),
    ("item/completed", WHO | {"item": ITEM}, i.ItemFinished("codex", "item", "agentMessage", RAW_ITEM, TOLD_AT, "é")),
    *(
        (method, WHO | {"itemId": "item", "delta": "é"}, i.ItemGrew("codex", (piece(stream),)))
        for method, stream in translate.STREAMS.items()
    ),
    *(
        (method, WHO | {"x": [1]}, i.Updated("codex", type_, raw(WHO | {"x": [1]}), TOLD_AT))
        for method, type_ in (
            ("thread/tokenUsage/updated", EventType.USAGE_UPDATED),
            ("turn/plan/updated", EventType.PLAN_UPDATED),
            ("turn/diff/updated", EventType.DIFF_UPDATED),
        )
    ),
    ("warning", WHO, i.Noted(EventType.CODEX_WARNING, "warning", raw(WHO), TOLD_AT)),
    ("new/thing", WHO, i.Noted(EventType.CODEX_NOTIFICATION, "new/thing", raw(WHO), TOLD_AT)),
]


@pytest.mark.parametrize(("method", "params", "given"), NOTIFICATIONS)
def test_a_notification_is_an_input_for_the_session_of_its_thread(
    method: str, params: dict[str, Any], given: i.FromThread
) -> None:
    message = {"method": method, "params": params, "emittedAtMs": EMITTED}

    assert come(message) == ForSession("thread", given)


@pytest.mark.parametrize("method", ["warning", "new/thing"])
@pytest.mark.parametrize("params", [{}, {"threadId": None}, {"threadId": 7}, [1], None, "text"])
def test_a_notification_about_no_thread_is_for_nobody_and_passed_on_whole(method: str, params: object) -> None:
    type_ = EventType.CODEX_WARNING if method == "warning" else EventType.CODEX_NOTIFICATION

    assert come({"method": method, "params": params}) == ForNobody(i.Noted(type_, method, raw(params), None))


@pytest.mark.parametrize("method", sorted(translate.DERIVED))
def test_what_we_know_from_elsewhere_is_dropped_under_its_name(method: str) -> None:
    assert come({"method": method, "params": WHO}) == Dropped(method)


def as_a_piece(line: bytes) -> Incoming | None:
    found = translate.piece(line)
    return None if found is None else ForSession(found.thread_id, i.ItemGrew(found.codex_turn_id, (found.told,)))


def test_a_piece_as_codex_writes_it_is_read_at_once_and_means_the_same() -> None:
    pieces = [message for message in recorded("told") if message.get("method") in translate.STREAMS]
    assert pieces
    for message in pieces:
        assert as_a_piece(msgspec.json.encode(message)) == come(message)


@pytest.mark.parametrize("method", translate.STREAMS)
@pytest.mark.parametrize("more", [{}, {"emittedAtMs": 1}, {"emittedAtMs": None, "new": [{}]}])
def test_a_piece_of_any_stream_is_read_at_once(method: str, more: dict[str, Any]) -> None:
    message = {"method": method, "params": WHO | {"itemId": "item", "delta": "é"}, **more}
    assert as_a_piece(msgspec.json.encode(message)) == come(message)


TEXT = b'{"method":"item/agentMessage/delta","params":{"threadId":"t","turnId":"c","itemId":"i","delta":'


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b'{"method":"item/started","params":{}}',
        b'{"method":"item/agentMessage/delta',
        b'{"method":"item/agentMessage/delta","params":{"threadId":"t"}}',
        b'{"params":{},"method":"item/agentMessage/delta"}',
        b'["item/agentMessage/delta"]',
        TEXT + b'"x"},"id":1}',
        TEXT + b'"x"},"emittedAtMs":-1}',
        TEXT + b"7}}",
        TEXT + b'"x"}} more',
        TEXT + b'"\xff"}}',
        TEXT + b'"\\ud800"}}',
        TEXT + b'"x"},"new":' + b"[" * 100_000 + b"}",
    ],
)
def test_what_is_not_written_so_is_no_piece_but_read_like_every_line(line: bytes) -> None:
    assert translate.piece(line) is None


@pytest.mark.parametrize("error", [None, {"message": "why"}])
def test_a_turn_that_ends_in_a_word_we_do_not_know_has_failed_and_nobody_waits_for_it(
    error: dict[str, Any] | None,
) -> None:
    params = {"threadId": "thread", "turn": {"id": "codex", "status": "paused", "error": error}}
    told = error or {"message": "Codex ended the turn as 'paused'."}

    assert come({"method": "turn/completed", "params": params}) == ForSession(
        "thread", i.TurnFinished("codex", i.TurnEnd.FAILED, told, None)
    )


TURN_METHODS = ("turn/started", "turn/completed")
ITEM_METHODS = ("item/started", "item/completed", "item/plan/delta")
NO_PARAMS: list[object] = [None, [], "x", {"threadId": 7}, {"threadId": "thread"}]
NO_LIMITS: list[object] = [None, [], {"rateLimits": [1]}]


@pytest.mark.parametrize(
    ("method", "params"),
    [
        *((method, params) for method in (*TURN_METHODS, *ITEM_METHODS, "turn/diff/updated") for params in NO_PARAMS),
        *((method, WHO | {"item": item}) for method in ITEM_METHODS for item in (None, 1, {}, {"id": "item"})),
        *((method, {"threadId": "thread", "turn": turn}) for method in TURN_METHODS for turn in (None, {}, {"id": 1})),
        *(("account/rateLimits/updated", params) for params in NO_LIMITS),
    ],
)
def test_a_notification_that_lacks_what_its_method_promises_cannot_be_read(method: str, params: object) -> None:
    with pytest.raises(msgspec.DecodeError):
        come({"method": method, "params": params})


def test_limits_are_what_codex_says_last() -> None:
    message = {"method": "account/rateLimits/updated", "params": {"rateLimits": {"primary": {"usedPercent": 7}}}}

    assert come(message) == translate.LimitsRead({"primary": {"usedPercent": 7}})
    assert come({"method": "account/rateLimits/updated", "params": {"rateLimits": None}}) == translate.LimitsRead({})


# --- questions

QUESTION = WHO | {"itemId": "item"}
ASKED_FOR = {
    "item/commandExecution/requestApproval": ("command", ("accept", "acceptForSession", "decline", "cancel")),
    "item/fileChange/requestApproval": ("file_change", ("accept", "acceptForSession", "decline", "cancel")),
    "item/permissions/requestApproval": ("permissions", ("accept", "decline")),
    "item/tool/requestUserInput": ("user_input", ("accept", "decline")),
    "mcpServer/elicitation/request": ("elicitation", ("accept", "decline", "cancel")),
    "item/tool/call": ("tool_call", ("accept", "decline")),
}


def refused(id_: str | int, method: str, params: object) -> translate.Refused:
    note = i.Noted(EventType.CODEX_NOTIFICATION, method, raw(params), None, answered="refused")
    thread_id = params.get("threadId") if isinstance(params, dict) else None
    return translate.Refused(thread_id, note, jsonrpc.refusal(id_, -32601, "codexd does not answer this request"))


@pytest.mark.parametrize("method", sorted(translate.QUESTIONS))
@pytest.mark.parametrize("id_", [0, "x:start:7"])
def test_what_a_client_may_answer_is_asked_for_the_session_of_its_thread(method: str, id_: str | int) -> None:
    kind, decisions = ASKED_FOR[method]

    assert come({"id": id_, "method": method, "params": QUESTION}) == Asked(
        "thread",
        id_,
        InteractionKind(kind),
        "codex",
        "item",
        raw(QUESTION),
        decisions,
        refused(id_, method, QUESTION),
    )
    without = {"turnId": "codex"}
    assert come({"id": id_, "method": method, "params": without}) == refused(id_, method, without)


def test_the_decisions_that_codex_offers_are_those_and_the_two_ways_to_say_no() -> None:
    amend = {"acceptWithExecpolicyAmendment": {"execpolicy_amendment": ["ls"]}}
    params = QUESTION | {"availableDecisions": ["accept", amend, "cancel"]}
    asked = come({"id": 1, "method": "item/commandExecution/requestApproval", "params": params})

    assert isinstance(asked, Asked)
    assert asked.decisions == ("accept", amend, "cancel", "decline")


@pytest.mark.parametrize("method", ["applyPatchApproval", "execCommandApproval"])
def test_an_approval_of_old_is_declined_at_once_and_passed_on(method: str) -> None:
    note = i.Noted(EventType.CODEX_NOTIFICATION, method, raw(WHO), None, answered="declined")
    line = jsonrpc.answer(7, {"decision": "denied"})

    assert come({"id": 7, "method": method, "params": WHO}) == translate.Refused("thread", note, line)


@pytest.mark.parametrize("params", [WHO, {}, None, [1]])
def test_a_question_that_we_do_not_know_is_answered_with_an_error(params: object) -> None:
    assert come({"id": 5, "method": "item/new/ask", "params": params}) == refused(5, "item/new/ask", params)


def test_codex_says_when_it_no_longer_waits() -> None:
    message = {"method": "serverRequest/resolved", "params": {"threadId": "thread", "requestId": 3}}

    assert come(message) == translate.AskedNoMore("thread", 3)


def test_a_stream_that_is_begun_anew_and_the_threads_of_sub_agents_are_told() -> None:
    error = WHO | {"willRetry": True}
    noted = i.Noted(EventType.CODEX_WARNING, "error", raw(error), None, retried_turn_id="codex")
    assert come({"method": "error", "params": error}) == ForSession("thread", noted)
    last = come({"method": "error", "params": WHO | {"willRetry": False}})
    assert isinstance(last, ForSession)
    assert isinstance(last.given, i.Noted)
    assert last.given.retried_turn_id is None

    spawn = {"id": "spawn", "type": "collabAgentToolCall", "receiverThreadIds": ["sub"]}
    began = come({"method": "item/started", "params": WHO | {"item": spawn}})
    assert isinstance(began, ForSession)
    assert isinstance(began.given, i.ItemBegan)
    assert began.given.agents == ("sub",)
