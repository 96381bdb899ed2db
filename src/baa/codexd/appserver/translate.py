"""Both directions of the dialect: what the child says becomes inputs, what we want of it becomes lines.

A request's id names the durable thing it serves and the line's number, `trn_…:start:7`: the answer finds its way by the
id alone, also when the codexd that asked is dead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar, assert_never

import msgspec
from msgspec import UNSET, Raw, Struct

from baa.api.events import EventType
from baa.api.sessions import Sandbox
from baa.clock import rfc3339
from baa.codexd.appserver import jsonrpc
from baa.codexd.appserver import messages as m
from baa.codexd.appserver.jsonrpc import Envelope
from baa.codexd.machines import inputs as i

_T = TypeVar("_T")

OFF: Final = (
    "features.plugins=false",
    "analytics.enabled=false",
    "feedback.enabled=false",
    "check_for_update_on_startup=false",
)
"""Settings of the child that keep it from speaking to anybody but its model provider and from changing itself."""

HISTORY_TURNS: Final = 20
"""How many of a thread's last turns are asked for: the one in doubt is always among the last."""


# --- what came


class ForSession(Struct, frozen=True):
    """An input for the session that has this thread."""

    thread_id: str
    given: i.Input


class ForTurn(Struct, frozen=True):
    """An input for the session of this turn, or for this session."""

    owner_id: str
    given: i.Input


class Initialized(Struct, frozen=True):
    """The child answered the handshake."""

    codex_version: str


class AccountRead(Struct, frozen=True):
    """The child told who is logged in."""

    logged_in: bool
    login_required: bool


class LimitsRead(Struct, frozen=True):
    """The child told the account's rate limits."""

    limits: dict[str, Any]


class ForNobody(Struct, frozen=True):
    """A message about no session of ours, passed on whole."""

    note: i.Noted


class Asked(Struct, frozen=True):
    """The child asked something: `line` is what codexd answers, at once."""

    thread_id: str | None
    note: i.Noted
    line: bytes


class Dropped(Struct, frozen=True):
    """A message that changes nothing, counted under `why`."""

    why: str


class HandshakeFailed(Struct, frozen=True):
    """The child refused the handshake."""

    why: str


Incoming = ForSession | ForTurn | Initialized | HandshakeFailed | AccountRead | LimitsRead | ForNobody | Asked | Dropped

DERIVED: Final = frozenset(
    {
        "thread/started",
        "thread/status/changed",
        "thread/readState/changed",
        "thread/goal/cleared",
        "remoteControl/status/changed",
        "serverRequest/resolved",
    }
)
"""Notifications that say what we know from elsewhere, or that concern only Codex's own clients."""

STREAMS: Final = {
    "item/agentMessage/delta": "text",
    "item/plan/delta": "plan",
    "item/commandExecution/outputDelta": "output",
    "item/fileChange/outputDelta": "output",
    "item/reasoning/textDelta": "reasoning",
    "item/reasoning/summaryTextDelta": "summary",
}

WARNINGS: Final = frozenset({"error", "warning", "configWarning", "deprecationNotice", "guardianWarning"})

ENDS: Final = {
    "completed": i.TurnEnd.COMPLETED,
    "failed": i.TurnEnd.FAILED,
    "interrupted": i.TurnEnd.INTERRUPTED,
}

DECLINED: Final = {
    "item/commandExecution/requestApproval": {"decision": "decline"},
    "item/fileChange/requestApproval": {"decision": "decline"},
    "applyPatchApproval": {"decision": "denied"},
    "execCommandApproval": {"decision": "denied"},
}
"""Approvals: nobody can be asked in this release, so the answer is the one that lets nothing happen."""

_about: Final = msgspec.json.Decoder(m.About)
_delta: Final = msgspec.json.Decoder(m.DeltaMessage)
_item: Final = msgspec.json.Decoder(m.ItemMessage)
_head: Final = msgspec.json.Decoder(m.ItemHead)
_turn: Final = msgspec.json.Decoder(m.TurnMessage)
_limits_message: Final = msgspec.json.Decoder(m.LimitsMessage)
_update: Final = msgspec.json.Decoder(m.UpdateMessage)


def incoming(message: Envelope, generation: int) -> Incoming:
    """What one message of the child in this generation means.

    Raises msgspec.DecodeError if the message lacks what its method promises.
    """
    if message.method is UNSET:
        return _answer(message, generation)
    if message.id is not UNSET:
        return _question(message)
    method = message.method
    emitted = None if message.emitted_at_ms is None else rfc3339(message.emitted_at_ms)
    stream = STREAMS.get(method)
    if stream is not None:
        delta = _delta.decode(_params(message))
        return ForSession(delta.thread_id, i.ItemGrew(delta.turn_id, delta.item_id, stream, delta.delta, emitted))
    modelled = _MODELLED.get(method)
    if modelled is not None:
        return modelled(message, emitted)
    if method in DERIVED:
        return Dropped(method)
    type_ = EventType.CODEX_WARNING if method in WARNINGS else EventType.CODEX_NOTIFICATION
    note = i.Noted(type_, method, message.params, emitted)
    thread_id = _thread_of(message)
    return ForNobody(note) if thread_id is None else ForSession(thread_id, note)


def _params(message: Envelope) -> Raw:
    return message.params if message.params is not UNSET else Raw(b"{}")


def _thread_of(message: Envelope) -> str | None:
    try:
        return _about.decode(_params(message)).thread_id
    except msgspec.DecodeError:
        return None


def _item_message(message: Envelope, emitted: str | None) -> Incoming:
    told = _item.decode(_params(message))
    head = _head.decode(told.item)
    given = i.ItemBegan if message.method == "item/started" else i.ItemFinished
    return ForSession(told.thread_id, given(told.turn_id, head.id, head.type, told.item, emitted))


def _turn_started(message: Envelope, emitted: str | None) -> Incoming:
    told = _turn.decode(_params(message))
    return ForSession(told.thread_id, i.TurnNamed(told.turn.id, None, emitted))


def _turn_completed(message: Envelope, emitted: str | None) -> Incoming:
    told = _turn.decode(_params(message))
    end, error = ENDS.get(told.turn.status), told.turn.error
    if end is None:  # It ended all the same, and nobody must wait for it.
        end, error = i.TurnEnd.FAILED, error or {"message": f"Codex ended the turn as {told.turn.status!r}."}
    return ForSession(told.thread_id, i.TurnFinished(told.turn.id, end, error, emitted))


def _updated(type_: EventType) -> Callable[[Envelope, str | None], Incoming]:
    def told(message: Envelope, emitted: str | None) -> Incoming:
        whose = _update.decode(_params(message))
        return ForSession(whose.thread_id, i.Updated(whose.turn_id, type_, _params(message), emitted))

    return told


def _limits(message: Envelope, _: str | None) -> Incoming:
    return LimitsRead(_limits_message.decode(_params(message)).rate_limits or {})


_MODELLED: Final[dict[str, Callable[[Envelope, str | None], Incoming]]] = {
    "turn/started": _turn_started,
    "turn/completed": _turn_completed,
    "item/started": _item_message,
    "item/completed": _item_message,
    "thread/tokenUsage/updated": _updated(EventType.USAGE_UPDATED),
    "turn/plan/updated": _updated(EventType.PLAN_UPDATED),
    "turn/diff/updated": _updated(EventType.DIFF_UPDATED),
    "account/rateLimits/updated": _limits,
}


def _question(message: Envelope) -> Incoming:
    assert message.id is not UNSET
    assert message.method is not UNSET
    declined = DECLINED.get(message.method)
    if declined is not None:
        line, told = jsonrpc.answer(message.id, declined), "declined"
    else:
        line, told = jsonrpc.refusal(message.id, -32601, "codexd does not answer this request"), "refused"
    note = i.Noted(EventType.CODEX_NOTIFICATION, message.method, message.params, None, answered=told)
    return Asked(_thread_of(message), note, line)


def _answer(message: Envelope, generation: int) -> Incoming:
    owner_id, what, *_ = *str(message.id).split(":"), ""
    read = _ANSWERS.get(what)
    if read is None:
        return Dropped("answer to no request of ours")
    try:
        return read(owner_id, message, generation)
    except msgspec.DecodeError as error:
        if what == "start":  # The turn may well run: its own notification will name it.
            raise
        # An answer of a shape that we do not know is worth as much as a refusal, and nobody waits for another.
        told = {"message": f"codexd cannot read Codex's answer: {error}"}
        return read(owner_id, msgspec.structs.replace(message, result=UNSET, error=told), generation)


def _initialize_answered(_: str, message: Envelope, generation: int) -> Incoming:
    if message.error is not UNSET:
        return HandshakeFailed(str(message.error.get("message", message.error)))
    agent = _result(message, m.InitializeResult).user_agent
    return Initialized(agent.partition("/")[2].partition(" ")[0])


def _account_answered(_: str, message: Envelope, generation: int) -> Incoming:
    if message.error is not UNSET:
        return Dropped("account/read refused")
    told = _result(message, m.AccountResult)
    return AccountRead(told.account is not None, told.requires_openai_auth and told.account is None)


def _open_answered(fresh: bool) -> Callable[[str, Envelope, int], Incoming]:
    def read(session_id: str, message: Envelope, generation: int) -> Incoming:
        if message.error is not UNSET:
            return ForTurn(session_id, i.ThreadRefused(message.error))
        told = _result(message, m.ThreadResult)
        return ForTurn(session_id, i.ThreadOpened(generation, told.thread.id, fresh, told.model))

    return read


def _start_answered(turn_id: str, message: Envelope, generation: int) -> Incoming:
    if message.error is not UNSET:
        return ForTurn(turn_id, i.TurnRefused(turn_id, message.error))
    return ForTurn(turn_id, i.TurnNamed(_result(message, m.TurnResult).turn.id, turn_id, None))


def _interrupt_answered(_: str, message: Envelope, generation: int) -> Incoming:
    return Dropped("turn/interrupt answered")


def _history_answered(session_id: str, message: Envelope, generation: int) -> Incoming:
    if message.error is not UNSET:
        return ForTurn(session_id, i.HistoryRead(None, message.error))
    return ForTurn(session_id, i.HistoryRead(tuple(map(_found, _result(message, m.TurnsResult).data))))


def _found(turn: m.Turn) -> i.FoundTurn:
    heads = [_head.decode(item) for item in turn.items]
    client_id = next((head.client_id for head in heads if head.client_id is not None), None)
    items = tuple((head.id, head.type, item) for head, item in zip(heads, turn.items, strict=True))
    return i.FoundTurn(turn.id, client_id, ENDS.get(turn.status), turn.error, items)


def _result(message: Envelope, type_: type[_T]) -> _T:
    return msgspec.json.decode(message.result if message.result is not UNSET else b"null", type=type_)


_ANSWERS: Final[dict[str, Callable[[str, Envelope, int], Incoming]]] = {
    "initialize": _initialize_answered,
    "account": _account_answered,
    "open": _open_answered(fresh=True),
    "resume": _open_answered(fresh=False),
    "start": _start_answered,
    "interrupt": _interrupt_answered,
    "history": _history_answered,
}


# --- what we want


class Line(Struct, frozen=True):
    """A line for the child. `request_id` is set if an answer is due."""

    request_id: str | None
    data: bytes


def handshake(number: int, version: str) -> Line:
    """The first line to a new child. `number` is its number among the lines of this generation."""
    params = {
        "clientInfo": {"name": "baa", "title": "baa-conductor", "version": version},
        "capabilities": {"experimentalApi": True},
    }
    return _request("child:initialize", number, "initialize", params)


def initialized() -> Line:
    """The second line: the handshake is complete."""
    return Line(None, jsonrpc.notification("initialized"))


def read_account(number: int) -> Line:
    """Ask who is logged in."""
    return _request("child:account", number, "account/read", {})


def line_of(effect: i.OpenThread | i.HandTurn | i.InterruptTurn | i.ReadHistory, number: int) -> Line:
    """The line that carries out `effect`, as number `number` of this generation."""
    match effect:
        case i.OpenThread():
            return _open_line(effect, number)
        case i.HandTurn():
            params = _without_none(
                {
                    "threadId": effect.thread_id,
                    "input": [{"type": "text", "text": effect.request.prompt}],
                    "clientUserMessageId": effect.turn_id,
                    "model": effect.request.model,
                    "effort": effect.request.effort,
                }
            )
            return _request(f"{effect.turn_id}:start", number, "turn/start", params)
        case i.InterruptTurn():
            params = {"threadId": effect.thread_id, "turnId": effect.codex_turn_id}
            return _request(f"{effect.turn_id}:interrupt", number, "turn/interrupt", params)
        case i.ReadHistory():
            params = {
                "threadId": effect.thread_id,
                "limit": HISTORY_TURNS,
                "itemsView": "full",
                "sortDirection": "desc",
            }
            return _request(f"{effect.session_id}:history", number, "thread/turns/list", params)
        case _:
            assert_never(effect)


def _open_line(effect: i.OpenThread, number: int) -> Line:
    settings = effect.settings
    params: dict[str, Any] = {
        "cwd": settings.cwd,
        "model": settings.model,
        "modelProvider": settings.model_provider,
        # Given on resume too: Codex 0.163 came back from kill -9 with a read-only sandbox of its own choice.
        "sandbox": settings.sandbox.value,
        "approvalPolicy": settings.approval_policy.value,
        "baseInstructions": settings.base_instructions,
        "developerInstructions": settings.developer_instructions,
    }
    if settings.sandbox is Sandbox.WORKSPACE_WRITE:
        params["config"] = {"sandbox_workspace_write.network_access": False}
    if effect.thread_id is None:
        return _request(f"{effect.session_id}:open", number, "thread/start", _without_none(params))
    resume = {"threadId": effect.thread_id, "excludeTurns": True, **_without_none(params)}
    return _request(f"{effect.session_id}:resume", number, "thread/resume", resume)


def _request(what: str, number: int, method: str, params: dict[str, Any]) -> Line:
    request_id = f"{what}:{number}"
    return Line(request_id, jsonrpc.request(request_id, method, params))


def _without_none(params: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in params.items() if value is not None}
