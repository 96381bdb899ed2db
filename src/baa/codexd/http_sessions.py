"""Sessions over HTTP. Handlers contain no decision: they check a body, ask the commands, and answer from the tables."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from litestar import Response, get, post
from litestar.params import FromPath

from baa.api import ids
from baa.api.errors import Code, Rejected
from baa.api.interactions import AnswerInteraction
from baa.api.sessions import CreateSession, Fork, NoFields, Session, SessionStatus
from baa.codexd import reading
from baa.codexd.attaching import Attaching
from baa.codexd.commands import no_such_interaction, no_such_session
from baa.codexd.machines.interaction import told
from baa.codexd.policy import Policy
from baa.codexd.status import Daemon
from baa.http import envelope
from baa.http.request import Asked, answer, optional_body, page_of, query_of, token_of
from baa.http.routes import OPT


def routes(daemon: Daemon, policy: Policy) -> list[Any]:
    """The handlers of `/v1/codexd/sessions`."""
    log, commands = daemon.log, daemon.commands

    @get("/v1/codexd/sessions", opt={OPT: "read"})
    async def list_sessions(request: Asked) -> Response[bytes]:
        query = query_of(request, {"limit", "pageToken", "purpose", "status", "needs"})
        limit, below = page_of(query)
        found, more = await asyncio.to_thread(
            lambda: reading.sessions(
                log.reader(),
                limit=limit,
                below=below,
                purpose=query.get("purpose"),
                status=_status(query.get("status")),
                needs_answer=_needs(query.get("needs")),
            )
        )
        return answer({"sessions": found, "nextPageToken": token_of(more)})

    @post("/v1/codexd/sessions", opt={OPT: "drive"})
    async def create_session(request: Asked) -> Response[bytes]:
        asked = envelope.decode(await request.body(), CreateSession)
        cwd = await _cwd_of(daemon, asked)
        session_id = ids.new_id(ids.SESSION, daemon.clock.utc_ms())
        await commands.create_session(session_id, policy.settings(asked, cwd), thread_id=asked.thread_id)
        return answer({"session": _session(daemon, session_id)}, 201)

    @get("/v1/codexd/sessions/{session_id:str}", opt={OPT: "read"})
    async def read_session(session_id: FromPath[str]) -> Response[bytes]:
        with log.reader():  # one view: how many are open, and which
            found = _session(daemon, session_id)
            asking = reading.open_interactions(log.reader(), session_id)
        return answer({"session": msgspec.structs.replace(found, interactions=asking)})

    @get("/v1/codexd/sessions/{session_id:str}/turns", opt={OPT: "read"})
    async def list_turns(request: Asked, session_id: FromPath[str]) -> Response[bytes]:
        limit, below = page_of(query_of(request, {"limit", "pageToken"}))
        _session(daemon, session_id)
        found, more = await asyncio.to_thread(lambda: reading.turns(log.reader(), session_id, limit=limit, below=below))
        return answer({"turns": found, "nextPageToken": token_of(more)})

    @post("/v1/codexd/sessions/{session_id:str}/close", opt={OPT: "drive"})
    async def close_session(request: Asked, session_id: FromPath[str]) -> Response[bytes]:
        await optional_body(request, NoFields)
        _session(daemon, session_id)
        await commands.close(session_id)
        return answer({"session": _session(daemon, session_id)}, 202)

    @post("/v1/codexd/sessions/{session_id:str}/fork", opt={OPT: "drive"})
    async def fork_session(request: Asked, session_id: FromPath[str]) -> Response[bytes]:
        await optional_body(request, NoFields)
        await daemon.loop.settle()
        source = _session(daemon, session_id)
        settings = daemon.loop.sessions.all[session_id].settings  # the tables tell them without secrets
        settings = policy.fork(settings)
        fork = await _fork_of(daemon, source)
        forked_id = ids.new_id(ids.SESSION, daemon.clock.utc_ms())
        await commands.create_session(forked_id, settings, forked_from=fork)
        return answer({"session": _session(daemon, forked_id)}, 201)

    @post("/v1/codexd/sessions/{session_id:str}/interactions/{interaction_id:str}", opt={OPT: "drive"})
    async def answer_interaction(
        request: Asked, session_id: FromPath[str], interaction_id: FromPath[str]
    ) -> Response[bytes]:
        _session(daemon, session_id)
        return await answered(daemon, request, interaction_id, lambda owner, _: owner == session_id)

    return [list_sessions, create_session, read_session, list_turns, close_session, fork_session, answer_interaction]


def attach(daemon: Daemon, attaching: Attaching) -> Any:
    """The handler that gives tickets to terminals."""

    @post("/v1/codexd/sessions/{session_id:str}/attach", opt={OPT: "drive"})
    async def attach_terminal(request: Asked, session_id: FromPath[str]) -> Response[bytes]:
        await optional_body(request, NoFields)
        _session(daemon, session_id)
        return answer({"attachment": attaching.issue(session_id)}, 201)

    return attach_terminal


def _session(daemon: Daemon, session_id: str) -> Session:
    found = reading.session(daemon.log.reader(), session_id) if ids.is_id(session_id, ids.SESSION) else None
    if found is None:
        raise no_such_session()
    return found


def _status(text: str | None) -> SessionStatus | None:
    if text is None:
        return None
    try:
        return SessionStatus(text)
    except ValueError:
        allowed = ", ".join(SessionStatus)
        raise Rejected(Code.INVALID_REQUEST, f"`status` must be one of: {allowed}.") from None


def _needs(text: str | None) -> bool:
    if text not in (None, "answer"):
        raise Rejected(Code.INVALID_REQUEST, "`needs` can only be `answer`.")
    return text is not None


async def _cwd_of(daemon: Daemon, asked: CreateSession) -> str:
    """The folder of a new session: for a stored thread, its own unless another is given."""
    if asked.thread_id is None:
        if asked.cwd is None:
            raise Rejected(Code.INVALID_REQUEST, "`cwd` is needed: a folder to work in.", details={"field": "cwd"})
        return asked.cwd
    if asked.ephemeral:
        raise Rejected(Code.INVALID_REQUEST, "A stored thread is not ephemeral.", details={"field": "ephemeral"})
    found = await daemon.commands.find_thread(asked.thread_id)
    return asked.cwd or found.cwd


async def _fork_of(daemon: Daemon, source: Session) -> Fork:
    if source.ephemeral:
        raise Rejected(Code.INVALID_REQUEST, "An ephemeral session has no stored history to fork.")
    last_turn_id = reading.last_ended(daemon.log.reader(), source.session_id)
    if source.thread_id is not None and last_turn_id is not None:
        return Fork(source.session_id, source.thread_id, last_turn_id)
    past = None if source.thread_id is None else await daemon.commands.past_of(source.session_id, source.thread_id)
    return past or source.forked_from or Fork(source.session_id, None)


async def answered(daemon: Daemon, request: Asked, interaction_id: str, fits: Any) -> Response[bytes]:
    """Answer a question, or say how it was answered: the same answer again is no mistake, another comes too late."""
    asked = envelope.decode(await request.body(), AnswerInteraction)
    if not ids.is_id(interaction_id, ids.INTERACTION):
        raise no_such_interaction()
    won = await daemon.commands.answer(interaction_id, asked, fits)
    found = reading.interaction(daemon.log.reader(), interaction_id)
    if found is None or not fits(found.session_id, found.turn_id):
        raise no_such_interaction()
    if not won and found.answer != daemon.log.told(told(found.kind, found.request, asked)):
        raise Rejected(
            Code.INTERACTION_RESOLVED,
            "The interaction is over already; `interaction` says how.",
            details={"interaction": found},
        )
    return answer({"interaction": found})
