"""What we want of the child becomes lines. Every request's id names the durable thing it serves (translate.py)."""

from __future__ import annotations

from typing import Any, Final, assert_never

import msgspec
from msgspec import Struct

from baa.api.interactions import InteractionKind, Scope
from baa.api.sessions import InputPart, LocalImage, Sandbox, SessionSettings, TurnRequest
from baa.codexd.appserver import jsonrpc
from baa.codexd.appserver import messages as m
from baa.codexd.machines import inputs as i
from baa.codexd.machines.interaction import secrets_of

OFF: Final = (
    "features.plugins=false",
    "analytics.enabled=false",
    "feedback.enabled=false",
    "check_for_update_on_startup=false",
)
"""Settings of the child that keep it from speaking to anybody but its model provider and from changing itself."""

COMPACT: Final = "thread/compact/start"
"""A turn of its own, in which Codex shortens the thread's history. One that runs it would interrupt."""

HISTORY_TURNS: Final = 20
"""How many of a thread's last turns are asked for: the one in doubt is always among the last."""


class Line(Struct, frozen=True):
    """A line for the child. `request_id` is set if an answer is due; `note` is what that answer will need besides.

    `secret`: somebody was asked for a secret, and it is in here.
    """

    request_id: str | None
    data: bytes
    note: bytes | None = None
    secret: bool = False


class SteerNote(Struct, frozen=True):
    """What is told of a steer once Codex took it."""

    input: tuple[InputPart, ...]
    idempotency_key: str | None = None
    body_hash: str | None = None


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


def read_limits(number: int) -> Line:
    """Ask how much of the account's limits is used."""
    return _request("child:limits", number, "account/rateLimits/read", {})


def ping(number: int) -> Line:
    """Ask for the least that Codex answers without asking anybody: it lives if it does."""
    return _request("child:ping", number, "thread/loaded/list", {})


def read_thread(number: int, thread_id: str) -> Line:
    """Ask for a stored thread; the caller waits for the answer, and nobody else."""
    return _request("call:read", number, "thread/read", {"threadId": thread_id, "includeTurns": False})


def read_last_turns(number: int, thread_id: str) -> Line:
    """Ask for the last two turns of a stored thread: at most one of them runs."""
    params = {"threadId": thread_id, "limit": 2, "itemsView": "notLoaded", "sortDirection": "desc"}
    return _request("call:read", number, "thread/turns/list", params)


def line_of(effect: i.LineEffect, number: int) -> Line:
    """The line that carries out `effect`, as number `number` of this generation."""
    match effect:
        case i.OpenThread():
            return _open_line(effect, number)
        case i.HandTurn():
            return _hand_line(effect, number)
        case i.SteerTurn():
            params: dict[str, Any] = {
                "threadId": effect.thread_id,
                "expectedTurnId": effect.codex_turn_id,
                "input": _input(effect.input),
                "clientUserMessageId": effect.steer_id,
            }
            line = _request(f"{effect.turn_id}:steer:{effect.steer_id}", number, "turn/steer", params)
            note = SteerNote(effect.input, effect.idempotency_key, effect.body_hash)
            return msgspec.structs.replace(line, note=msgspec.json.encode(note))
        case i.InterruptTurn():
            params = {"threadId": effect.thread_id, "turnId": effect.codex_turn_id}
            return _request(f"{effect.turn_id}:interrupt", number, "turn/interrupt", params)
        case i.CleanTerminals():
            params = {"threadId": effect.thread_id}
            what = "clean" if effect.answered else "tidy"
            return _request(f"{effect.turn_id}:{what}", number, "thread/backgroundTerminals/clean", params)
        case i.UnloadThread():
            params = {"threadId": effect.thread_id}
            return _request(f"{effect.session_id}:unload", number, "thread/unsubscribe", params)
        case i.ReadHistory():
            params = {
                "threadId": effect.thread_id,
                "limit": HISTORY_TURNS,
                "itemsView": "full",
                "sortDirection": "desc",
            }
            return _request(f"{effect.session_id}:history", number, "thread/turns/list", params)
        case i.Answer():
            secret = effect.answer is not None and bool(secrets_of(effect.kind, effect.request))
            return Line(None, jsonrpc.answer(effect.request_id, _answer(effect)), secret=secret)
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
        "serviceTier": settings.service_tier,
        "ephemeral": True if settings.ephemeral else None,
    }
    if settings.sandbox is Sandbox.WORKSPACE_WRITE:
        config: dict[str, Any] = {"sandbox_workspace_write.network_access": settings.network_access}
        if settings.writable_roots:
            config["sandbox_workspace_write.writable_roots"] = list(settings.writable_roots)
        params["config"] = config
    if effect.fork is not None:
        fork = {
            "threadId": effect.fork.thread_id,
            "lastTurnId": effect.fork.last_turn_id,
            "excludeTurns": True,
            **params,
        }
        return _request(f"{effect.session_id}:fork", number, "thread/fork", _without_none(fork))
    params["personality"] = None if settings.personality is None else settings.personality.value
    if effect.thread_id is None:
        return _request(f"{effect.session_id}:open", number, "thread/start", _without_none(params))
    params.pop("ephemeral")
    resume = {"threadId": effect.thread_id, "excludeTurns": True, **_without_none(params)}
    return _request(f"{effect.session_id}:resume", number, "thread/resume", resume)


def _hand_line(effect: i.HandTurn, number: int) -> Line:
    request, settings = effect.request, effect.settings
    if request.compact:  # it says nothing of itself: the next turn/started of the thread is it
        return _request(f"{effect.turn_id}:start", number, COMPACT, {"threadId": effect.thread_id})
    params = {
        "threadId": effect.thread_id,
        "input": _input(request.parts),
        "clientUserMessageId": effect.turn_id,
        "model": effect.model,
        "effort": effect.effort,
        # What one turn changes, Codex keeps for the next: so each turn says all of it.
        "approvalPolicy": (request.approval_policy or settings.approval_policy).value,
        "sandboxPolicy": _sandbox_policy(request, settings),
        "outputSchema": request.output_schema,
        "personality": None if settings.personality is None else settings.personality.value,
    }
    if effect.forget_effort:  # null would mean "as before": only a mode can take an effort away
        own = {"model": effect.model or "", "reasoning_effort": None, "developer_instructions": None}
        params["collaborationMode"] = {"mode": "default", "settings": own}
    return _request(f"{effect.turn_id}:start", number, "turn/start", _without_none(params))


def _sandbox_policy(request: TurnRequest, settings: SessionSettings) -> dict[str, Any]:
    network = settings.network_access if request.network_access is None else request.network_access
    match request.sandbox or settings.sandbox:
        case Sandbox.READ_ONLY:
            return {"type": "readOnly", "networkAccess": False}
        case Sandbox.WORKSPACE_WRITE:
            roots = list(settings.writable_roots)
            return {"type": "workspaceWrite", "writableRoots": roots, "networkAccess": network}
        case Sandbox.DANGER_FULL_ACCESS:
            return {"type": "dangerFullAccess"}


def _input(parts: tuple[InputPart, ...]) -> list[dict[str, str]]:
    return [
        {"type": "localImage", "path": part.path}
        if isinstance(part, LocalImage)
        else {"type": "text", "text": part.text}
        for part in parts
    ]


def _answer(effect: i.Answer) -> dict[str, Any]:
    """An answer in Codex's words; without one, the no that lets the turn go on."""
    answer = effect.answer
    accepted = answer is not None and effect.decision == "accept"
    match effect.kind:
        case InteractionKind.COMMAND | InteractionKind.FILE_CHANGE:
            return {"decision": effect.decision or "decline"}
        case InteractionKind.PERMISSIONS:
            if not accepted or answer is None:
                return {"permissions": {}, "scope": Scope.TURN.value}
            asked = msgspec.json.decode(effect.request, type=m.PermissionsParams).permissions
            granted = asked if answer.content is None else answer.content
            return {"permissions": granted, "scope": (answer.scope or Scope.TURN).value}
        case InteractionKind.USER_INPUT:
            told = (answer.answers or {}) if accepted and answer is not None else {}
            lists = {name: [given] if isinstance(given, str) else given for name, given in told.items()}
            return {"answers": {name: {"answers": given} for name, given in lists.items()}}
        case InteractionKind.ELICITATION:
            content = answer.content if accepted and answer is not None else None
            return {"action": effect.decision or "decline", "content": content}
        case InteractionKind.TOOL_CALL:
            given = answer.content if accepted and answer is not None else []
            items = [{"type": "inputText", "text": given}] if isinstance(given, str) else given or []
            return {"contentItems": items, "success": accepted}


def _request(what: str, number: int, method: str, params: dict[str, Any]) -> Line:
    request_id = f"{what}:{number}"
    return Line(request_id, jsonrpc.request(request_id, method, params))


def _without_none(params: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in params.items() if value is not None}
