"""What Codex's own terminal UI is told, in Codex's words: answers, notes and questions. What it asks: attached.py."""

from __future__ import annotations

import platform
import sys
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw

from baa.codexd.appserver import jsonrpc
from baa.codexd.appserver import messages as m
from baa.codexd.appserver.attached import INVALID, Greeting, Loaded, RequestId, Waived
from baa.codexd.appserver.jsonrpc import Envelope
from baa.codexd.appserver.translate import QUESTIONS
from baa.codexd.machines.interaction import Question

ABOUT_ACCOUNT: Final = frozenset({"account/rateLimits/updated"})
"""Notifications of no thread that every UI is told."""

OURS_TO_TELL: Final = "serverRequest/resolved"
"""A notification that codexd tells of its own questions, by its own ids."""

UNSTEERABLE: Final = "cannot steer a compact turn"
"""Codex's words. The UI keeps what was typed until the turn has ended, if it hears why."""

OVERLOADED: Final = -32001


def greeted(asked: Greeting, *, version: str, codex_home: str) -> bytes:
    """The answer to the handshake, in the name of the child that codexd made it with."""
    system = "macos" if sys.platform == "darwin" else "linux"
    result = {
        "userAgent": f"baa/{version} ({platform.system()} {platform.release()}; {platform.machine()})",
        "codexHome": codex_home,
        "platformFamily": "unix",
        "platformOs": system,
    }
    return jsonrpc.answer(asked.request_id, result)


def waived(asked: Waived, *, idle: bool) -> list[bytes]:
    """What is told of what is not done. Where the UI waits for a turn of it, it has one: it fails at once.

    `idle`: no turn runs, so that this one is taken for no other.
    """
    params: list[tuple[str, dict[str, Any]]] = [("warning", {"message": asked.why})]
    turn = {"id": f"waived-{asked.request_id}", "items": [], "itemsView": "notLoaded", "status": m.RUNNING}
    result = {"turn": {**turn, "error": None}, "reviewThreadId": asked.thread_id} if asked.awaits else {}
    if asked.awaits and idle:
        error = {"message": asked.why, "codexErrorInfo": None, "additionalDetails": None}
        params = [
            ("turn/started", {"turn": {**turn, "error": None}}),
            ("turn/completed", {"turn": {**turn, "status": "failed", "error": error}}),
        ]
    notes = ({"method": method, "params": {"threadId": asked.thread_id, **more}} for method, more in params)
    return [jsonrpc.answer(asked.request_id, result), *map(msgspec.json.encode, notes)]


def loaded(asked: Loaded, thread_id: str) -> bytes:
    """The answer to which threads are loaded."""
    return jsonrpc.answer(asked.request_id, {"data": [thread_id], "nextCursor": None})


def running(codex_turn_id: str) -> dict[str, Any]:
    """The answer to a `turn/start` that an earlier turn took as more input, as Codex itself gives it."""
    return {"turn": {"id": codex_turn_id, "items": [], "status": m.RUNNING, "error": None}}


def refused(request_id: RequestId, why: str, code: int = INVALID) -> bytes:
    """No."""
    return jsonrpc.refusal(request_id, code, why)


def unsteerable(request_id: RequestId) -> bytes:
    """No more input for a turn that shortens the history, as Codex itself says it."""
    info = {"activeTurnNotSteerable": {"turnKind": "compact"}}
    data = {"message": UNSTEERABLE, "codexErrorInfo": info, "additionalDetails": None}
    return msgspec.json.encode({"id": request_id, "error": {"code": INVALID, "message": UNSTEERABLE, "data": data}})


def passed_on(request_id: RequestId, answer: Envelope) -> bytes:
    """An answer of the child's, under the id that the UI knows."""
    if answer.error is not UNSET:
        return msgspec.json.encode({"id": request_id, "error": answer.error})
    result = answer.result if answer.result is not UNSET else Raw(b"null")
    return msgspec.json.encode({"id": request_id, "result": result})


def renamed(line: bytes, names: dict[str, str]) -> bytes:
    """A notification in which the user's own messages have the ids that the UI gave them."""
    if b'"clientId":"' not in line:
        return line
    for ours, its in names.items():
        line = line.replace(b'"clientId":"%b"' % ours.encode(), b'"clientId":%b' % msgspec.json.encode(its))
    return line


_METHOD_OF: Final = {kind: method for method, kind in QUESTIONS.items()}


def question(asked: Question) -> bytes:
    """A question of Codex's, under the id that it has with codexd."""
    return jsonrpc.request(asked.interaction_id, _METHOD_OF[asked.kind], asked.request)


def no_more(asked: Question) -> bytes:
    """Nobody waits for the answer to this question any more."""
    thread_id = msgspec.json.decode(asked.request, type=m.About).thread_id
    params = {"threadId": thread_id, "requestId": asked.interaction_id}
    return msgspec.json.encode({"method": OURS_TO_TELL, "params": params})


def grown(thread_id: str, codex_turn_id: str, item_id: str, text: str) -> bytes:
    """What a message said before the UI came, as if it were said now."""
    params = {"threadId": thread_id, "turnId": codex_turn_id, "itemId": item_id, "delta": text}
    return msgspec.json.encode({"method": "item/agentMessage/delta", "params": params})


def told(message: Envelope) -> tuple[str | None, str | None]:
    """The method and the thread of a notification of the child's."""
    method = None if message.method is UNSET else message.method
    try:
        return method, msgspec.json.decode(message.params, type=m.About).thread_id if message.params else None
    except msgspec.DecodeError:
        return method, None
