"""What the child says becomes inputs. The other direction is lines.py.

A request's id names the durable thing it serves and the line's number, `trn_…:start:7`: the answer finds its way by the
id alone, also when the codexd that asked is dead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
from msgspec import UNSET, Raw, Struct

from baa.api.events import EventType, ItemDelta
from baa.api.interactions import InteractionKind
from baa.clock import rfc3339
from baa.codexd.appserver import jsonrpc
from baa.codexd.appserver import messages as m
from baa.codexd.appserver.jsonrpc import Envelope
from baa.codexd.appserver.versions import said, too_old
from baa.codexd.machines import inputs as i
from baa.codexd.machines.interaction import decisions_of

_T = TypeVar("_T")

# --- what came


class ForSession(Struct, frozen=True):
    """An input for the session that has this thread."""

    thread_id: str
    given: i.FromThread


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


class Refused(Struct, frozen=True):
    """The child asked what codexd does not answer: `line` says so, at once."""

    thread_id: str | None
    note: i.Noted
    line: bytes


class Asked(Struct, frozen=True):
    """The child asked something that a client may answer. `refused` is what it gets if no session of ours is meant."""

    thread_id: str
    request_id: str | int
    kind: InteractionKind
    codex_turn_id: str | None
    item_id: str | None
    request: Raw
    decisions: tuple[Any, ...]
    refused: Refused


class AskedNoMore(Struct, frozen=True):
    """The child no longer waits for an answer."""

    thread_id: str
    request_id: str | int


class Called(Struct, frozen=True):
    """The answer to a request that a caller of ours waits for."""

    request_id: str
    result: Raw
    error: dict[str, Any] | None


class Dropped(Struct, frozen=True):
    """A message that changes nothing, counted under `why`."""

    why: str


class HandshakeFailed(Struct, frozen=True):
    """The child refused the handshake, or codexd it. `hopeless`: no child of this Codex could do better."""

    why: str
    hopeless: bool = False
    codex_version: str | None = None


Incoming = (
    ForSession
    | ForTurn
    | Initialized
    | HandshakeFailed
    | AccountRead
    | LimitsRead
    | ForNobody
    | Refused
    | Asked
    | AskedNoMore
    | Called
    | Dropped
)

DERIVED: Final = frozenset(
    {
        "thread/started",
        "thread/status/changed",
        "thread/readState/changed",
        "thread/goal/cleared",
        "thread/settings/updated",
        "remoteControl/status/changed",
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

_METHOD: Final = b'{"method":"'
_METHOD_AT: Final = len(_METHOD)
_STREAM_OF: Final = {method.encode(): stream for method, stream in STREAMS.items()}

WARNINGS: Final = frozenset({"error", "warning", "configWarning", "deprecationNotice", "guardianWarning"})

ENDS: Final = {
    "completed": i.TurnEnd.COMPLETED,
    "failed": i.TurnEnd.FAILED,
    "interrupted": i.TurnEnd.INTERRUPTED,
}

QUESTIONS: Final = {
    "item/commandExecution/requestApproval": InteractionKind.COMMAND,
    "item/fileChange/requestApproval": InteractionKind.FILE_CHANGE,
    "item/permissions/requestApproval": InteractionKind.PERMISSIONS,
    "item/tool/requestUserInput": InteractionKind.USER_INPUT,
    "mcpServer/elicitation/request": InteractionKind.ELICITATION,
    "item/tool/call": InteractionKind.TOOL_CALL,
}

DECLINED: Final = {
    "applyPatchApproval": {"decision": "denied"},
    "execCommandApproval": {"decision": "denied"},
}
"""Approvals of old, which name no thread of ours: the answer is the one that lets nothing happen."""

_about: Final = msgspec.json.Decoder(m.About)
_delta: Final = msgspec.json.Decoder(m.DeltaMessage)
_delta_line: Final = msgspec.json.Decoder(m.DeltaLine)
_item: Final = msgspec.json.Decoder(m.ItemMessage)
_head: Final = msgspec.json.Decoder(m.ItemHead)
_turn: Final = msgspec.json.Decoder(m.TurnMessage)
_limits_message: Final = msgspec.json.Decoder(m.LimitsMessage)
_update: Final = msgspec.json.Decoder(m.UpdateMessage)
_question_params: Final = msgspec.json.Decoder(m.QuestionParams)
_resolved: Final = msgspec.json.Decoder(m.ResolvedMessage)
_error: Final = msgspec.json.Decoder(m.ErrorMessage)


def incoming(message: Envelope, generation: int) -> Incoming:
    """What one message of the child in this generation means.

    Raises msgspec.DecodeError if the message lacks what its method promises.
    """
    if message.method is UNSET:
        return _answer(message, generation)
    if message.id is not UNSET:
        return _asked(message)
    method = message.method
    emitted = None if message.emitted_at_ms is None else rfc3339(message.emitted_at_ms)
    stream = STREAMS.get(method)
    if stream is not None:
        delta = _delta.decode(_params(message))
        piece = ItemDelta(item_id=delta.item_id, stream=stream, delta=delta.delta, emitted_at=emitted)
        return ForSession(delta.thread_id, i.ItemGrew(delta.turn_id, (piece,)))
    modelled = _MODELLED.get(method)
    if modelled is not None:
        return modelled(message, emitted)
    if method in DERIVED:
        return Dropped(method)
    type_ = EventType.CODEX_WARNING if method in WARNINGS else EventType.CODEX_NOTIFICATION
    retried = _retried_turn(message) if method == "error" else None
    note = i.Noted(type_, method, message.params, emitted, retried_turn_id=retried)
    thread_id = _thread_of(message)
    return ForNobody(note) if thread_id is None else ForSession(thread_id, note)


class Piece(NamedTuple):
    """A piece of an item, and of which thread and which turn of Codex's it is."""

    thread_id: str
    codex_turn_id: str
    told: ItemDelta


def piece(line: bytes) -> Piece | None:
    """What `decode` and `incoming` would make of a line that Codex wrote as it writes its pieces; None for all others.

    Nearly every line is one, and each is read once here, instead of by halves.
    """
    stream = _STREAM_OF.get(line[_METHOD_AT : line.find(b'"', _METHOD_AT)])
    if stream is None or not line.startswith(_METHOD):
        return None
    try:
        read = _delta_line.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if read.id is not UNSET:
        return None
    said, at_ms = read.params, read.emitted_at_ms
    emitted = None if at_ms is None else rfc3339(at_ms)
    told = ItemDelta(item_id=said.item_id, stream=stream, delta=said.delta, emitted_at=emitted)
    return Piece(said.thread_id, said.turn_id, told)


def _params(message: Envelope) -> Raw:
    return message.params if message.params is not UNSET else Raw(b"{}")


def _thread_of(message: Envelope) -> str | None:
    try:
        return _about.decode(_params(message)).thread_id
    except msgspec.DecodeError:
        return None


def _retried_turn(message: Envelope) -> str | None:
    try:
        told = _error.decode(_params(message))
    except msgspec.DecodeError:
        return None
    return told.turn_id if told.will_retry else None


def _item_message(message: Envelope, emitted: str | None) -> Incoming:
    told = _item.decode(_params(message))
    head = _head.decode(told.item)
    if message.method == "item/started":
        began = i.ItemBegan(told.turn_id, head.id, head.type, told.item, emitted, _agents_of(head))
        return ForSession(told.thread_id, began)
    finished = i.ItemFinished(told.turn_id, head.id, head.type, told.item, emitted, _message_of(head), _agents_of(head))
    return ForSession(told.thread_id, finished)


def _agents_of(head: m.ItemHead) -> tuple[str, ...]:
    return tuple(head.receiver_thread_ids) if head.type == "collabAgentToolCall" else ()


def _message_of(head: m.ItemHead) -> str | None:
    return head.text if head.type == "agentMessage" and isinstance(head.text, str) else None


def _turn_started(message: Envelope, emitted: str | None) -> Incoming:
    told = _turn.decode(_params(message))
    return ForSession(told.thread_id, i.TurnNamed(told.turn.id, emitted))


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


def _no_more(message: Envelope, _: str | None) -> Incoming:
    told = _resolved.decode(_params(message))
    return AskedNoMore(told.thread_id, told.request_id)


_MODELLED: Final[dict[str, Callable[[Envelope, str | None], Incoming]]] = {
    "turn/started": _turn_started,
    "turn/completed": _turn_completed,
    "item/started": _item_message,
    "item/completed": _item_message,
    "thread/tokenUsage/updated": _updated(EventType.USAGE_UPDATED),
    "turn/plan/updated": _updated(EventType.PLAN_UPDATED),
    "turn/diff/updated": _updated(EventType.DIFF_UPDATED),
    "account/rateLimits/updated": _limits,
    "serverRequest/resolved": _no_more,
}


def _asked(message: Envelope) -> Incoming:
    assert message.id is not UNSET
    assert message.method is not UNSET
    kind = QUESTIONS.get(message.method)
    if kind is None:
        return _refused(message)
    told = _question_params.decode(_params(message))
    if told.thread_id is None:
        return _refused(message)
    offered = told.available_decisions
    return Asked(
        told.thread_id,
        message.id,
        kind,
        told.turn_id,
        told.item_id or told.call_id,
        _params(message),
        decisions_of(kind, offered),
        _refused(message),
    )


def _refused(message: Envelope) -> Refused:
    assert message.id is not UNSET
    assert message.method is not UNSET
    declined = DECLINED.get(message.method)
    if declined is None:
        line, told = jsonrpc.refusal(message.id, -32601, "codexd does not answer this request"), "refused"
    else:
        line, told = jsonrpc.answer(message.id, declined), "declined"
    note = i.Noted(EventType.CODEX_NOTIFICATION, message.method, message.params, None, answered=told)
    return Refused(_thread_of(message), note, line)


def _answer(message: Envelope, generation: int) -> Incoming:
    owner_id, what, *_ = *str(message.id).split(":"), ""
    read = _ANSWERS.get(what)
    if read is None:
        return Dropped("answer to no request of ours")
    if message.error is not UNSET:
        message = msgspec.structs.replace(message, error=said(message.error))
    try:
        return read(owner_id, message, generation)
    except msgspec.DecodeError as error:
        # An answer of a shape that we do not know is worth as much as a refusal, and nobody waits for another.
        told = {"message": f"codexd cannot read Codex's answer: {error}"}
        return read(owner_id, msgspec.structs.replace(message, result=UNSET, error=told), generation)


def _initialize_answered(_: str, message: Envelope, generation: int) -> Incoming:
    if message.error is not UNSET:
        return HandshakeFailed(str(message.error.get("message", message.error)))
    agent = _result(message, m.InitializeResult).user_agent
    version = agent.partition("/")[2].partition(" ")[0]
    flaw = too_old(version)
    return Initialized(version) if flaw is None else HandshakeFailed(flaw, True, version)


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
        opened = i.ThreadOpened(generation, told.thread.id, fresh, told.model, told.reasoning_effort)
        return ForTurn(session_id, opened)

    return read


def _start_answered(turn_id: str, message: Envelope, generation: int) -> Incoming:
    if message.error is not UNSET:
        return ForTurn(turn_id, i.TurnRefused(turn_id, message.error))
    # It is named by turn/started: until then Codex answers an interrupt and a steer with "no active turn".
    return Dropped("turn/start answered")


def _interrupt_answered(_: str, message: Envelope, generation: int) -> Incoming:
    return Dropped("turn/interrupt answered")


def _unload_answered(_: str, message: Envelope, generation: int) -> Incoming:
    return Dropped("thread/unsubscribe answered")


def _steer_answered(turn_id: str, message: Envelope, generation: int) -> Incoming:
    steer_id = (*str(message.id).split(":"), "", "")[2]
    return ForTurn(turn_id, i.TurnSteered(turn_id, steer_id, _error_of(message)))


def _clean_answered(turn_id: str, message: Envelope, generation: int) -> Incoming:
    return ForTurn(turn_id, i.TerminalsCleaned(turn_id, _error_of(message)))


def _tidy_answered(_: str, message: Envelope, generation: int) -> Incoming:
    return Dropped("a sub-agent's terminals cleaned")


def _limits_answered(_: str, message: Envelope, generation: int) -> Incoming:
    if message.error is not UNSET:  # as it is without a login
        return Dropped("account/rateLimits/read refused")
    return LimitsRead(_result(message, m.LimitsMessage).rate_limits or {})


def _ping_answered(_: str, message: Envelope, generation: int) -> Incoming:
    return Dropped("ping answered")


def _called(_: str, message: Envelope, generation: int) -> Incoming:
    result = message.result if message.result is not UNSET else Raw(b"null")
    return Called(str(message.id), result, _error_of(message))


def _look_answered(_: str, message: Envelope, generation: int) -> Incoming:
    return Dropped("answer to an attached terminal")  # which heard it before (attached.py), if it is still there


def _error_of(message: Envelope) -> dict[str, Any] | None:
    return None if message.error is UNSET else message.error


def _history_answered(session_id: str, message: Envelope, generation: int) -> Incoming:
    if message.error is not UNSET:
        return ForTurn(session_id, i.HistoryRead(None, message.error))
    return ForTurn(session_id, i.HistoryRead(tuple(map(_found, _result(message, m.TurnsResult).data))))


def _found(turn: m.Turn) -> i.FoundTurn:
    heads = [_head.decode(item) for item in turn.items]
    client_id = next((head.client_id for head in heads if head.client_id is not None), None)
    items = tuple((head.id, head.type, item, _message_of(head)) for head, item in zip(heads, turn.items, strict=True))
    return i.FoundTurn(turn.id, client_id, ENDS.get(turn.status), turn.error, items)


def _result(message: Envelope, type_: type[_T]) -> _T:
    return msgspec.json.decode(message.result if message.result is not UNSET else b"null", type=type_)


_ANSWERS: Final[dict[str, Callable[[str, Envelope, int], Incoming]]] = {
    "initialize": _initialize_answered,
    "account": _account_answered,
    "limits": _limits_answered,
    "ping": _ping_answered,
    "read": _called,
    "look": _look_answered,
    "open": _open_answered(fresh=True),
    "fork": _open_answered(fresh=True),
    "resume": _open_answered(fresh=False),
    "start": _start_answered,
    "steer": _steer_answered,
    "interrupt": _interrupt_answered,
    "clean": _clean_answered,
    "tidy": _tidy_answered,
    "unload": _unload_answered,
    "history": _history_answered,
}
