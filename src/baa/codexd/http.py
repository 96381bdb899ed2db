"""codexd over HTTP: the four nouns, `/healthz`, and nothing else.

Handlers read a request, ask the main loop or the log, and answer with what is committed. What is wrong is raised, and
becomes an answer in one place.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any, Final

import msgspec
import structlog
from litestar import Litestar, Request, Response, get, post
from litestar.exceptions import HTTPException
from litestar.params import FromPath

from baa.api import ids
from baa.api.errors import BaaError, Code, Rejected, Unavailable
from baa.api.sessions import TURN_ENDED, CreateSession, StartTurn, TurnRequest
from baa.api.sessions import Turn as ApiTurn
from baa.api.status import AnnounceHandover
from baa.codexd import reading
from baa.codexd.policy import Policy
from baa.codexd.status import Daemon
from baa.codexd.subscriptions import read_on, wanted
from baa.http import envelope
from baa.http.limits import App, Receive, Scope, Send
from baa.http.routes import OPT, RouteTable

PAGE: Final = 100
PAGE_MAX: Final = 1000
WAIT_MAX_MS: Final = 60_000
"""A long poll's longest wait: shorter than what proxies and clients give up after."""

KEY_MAX: Final = 255

_log = structlog.get_logger("http")

Asked = Request[Any, Any, Any]


def application(daemon: Daemon, policy: Policy, events_path: str) -> tuple[App, RouteTable]:
    """The ASGI application of codexd, and its routes for the guard."""
    litestar = Litestar(
        route_handlers=[
            *_about_itself(daemon),
            *_about_sessions(daemon, policy),
            *_about_turns(daemon),
            _events(daemon, events_path),
        ],
        exception_handlers={BaaError: _refused, HTTPException: _not_routed, Exception: _broken},
        openapi_config=None,
        logging_config=None,
    )
    routes = RouteTable()
    routes.add_application(litestar)
    routes.add("websocket", "GET", events_path, "read")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":  # the guard has let nothing through but the event stream
            await daemon.subscriptions.serve(scope, receive, send)
        elif scope["path"] == events_path and _wants_sse(scope):
            await daemon.subscriptions.serve_sse(scope, receive, send)
        else:
            await litestar(scope, receive, send)  # type: ignore[arg-type]

    return app, routes


def _wants_sse(scope: Scope) -> bool:
    accepted = b",".join(value for name, value in scope["headers"] if name == b"accept").lower()
    return any(part.partition(b";")[0].strip() == b"text/event-stream" for part in accepted.split(b","))


def _answer(data: dict[str, Any], status: int = 200) -> Response[bytes]:
    return Response(envelope.success(data), status_code=status, media_type="application/json")


def _about_itself(daemon: Daemon) -> list[Any]:
    @get("/healthz", opt={OPT: "open"})
    async def healthz() -> Response[bytes]:
        if not daemon.healthy():
            raise Unavailable(Code.STARTING, "codexd makes no progress. See its log.")
        return _answer({"status": "ok"})

    @get("/v1/codexd/status", opt={OPT: "open"})
    async def status() -> Response[bytes]:
        told = msgspec.to_builtins(daemon.status())
        return _answer(told)

    @post("/v1/codexd/status/handover", opt={OPT: "drive"})
    async def announce_handover(request: Asked) -> Response[bytes]:
        asked = envelope.decode(await request.body(), AnnounceHandover)
        if daemon.loop.draining:
            raise Unavailable(Code.DRAINING, "codexd is stopping already. Ask the next one.")
        return _answer({"handover": daemon.handover.announce(asked.expires_in_ms)}, 202)

    return [healthz, status, announce_handover]


def _about_sessions(daemon: Daemon, policy: Policy) -> list[Any]:
    log, loop = daemon.log, daemon.loop

    @get("/v1/codexd/sessions", opt={OPT: "read"})
    async def list_sessions(request: Asked) -> Response[bytes]:
        query = _query(request, {"limit", "pageToken", "purpose"})
        limit = _integer(query, "limit", default=PAGE, low=1, high=PAGE_MAX)
        below = _integer(query, "pageToken", default=0, low=0, high=2**62) or None
        found, more = reading.sessions(log.reader(), limit=limit, below=below, purpose=query.get("purpose"))
        return _answer({"sessions": found, "nextPageToken": None if more is None else str(more)})

    @post("/v1/codexd/sessions", opt={OPT: "drive"})
    async def create_session(request: Asked) -> Response[bytes]:
        asked = envelope.decode(await request.body(), CreateSession)
        session_id = ids.new_id(ids.SESSION, daemon.clock.utc_ms())
        await loop.create_session(session_id, policy.settings(asked))
        return _answer({"session": reading.session(log.reader(), session_id)}, 201)

    @get("/v1/codexd/sessions/{session_id:str}", opt={OPT: "read"})
    async def read_session(session_id: FromPath[str]) -> Response[bytes]:
        found = reading.session(log.reader(), session_id) if ids.is_id(session_id, ids.SESSION) else None
        if found is None:
            raise Rejected(Code.SESSION_NOT_FOUND, "There is no such session. List them at /v1/codexd/sessions.")
        return _answer({"session": found})

    return [list_sessions, create_session, read_session]


def _about_turns(daemon: Daemon) -> list[Any]:
    log, loop = daemon.log, daemon.loop

    @post("/v1/codexd/turn", opt={OPT: "drive"})
    async def start_turn(request: Asked) -> Response[bytes]:
        body = await request.body()
        asked = envelope.decode(body, StartTurn)
        answer = await loop.start_turn(
            asked.session_id,
            ids.new_id(ids.TURN, daemon.clock.utc_ms()),
            TurnRequest(prompt=asked.prompt, model=asked.model, effort=asked.effort, metadata=asked.metadata),
            key=_idempotency_key(request),
            body_hash=hashlib.sha256(body).hexdigest(),
        )
        turn = reading.turn(log.reader(), answer.turn_id, ledger=False)
        return _answer({"turn": turn, "cursor": str(log.cursor(answer.seq))}, 202)

    @get("/v1/codexd/turn/{turn_id:str}", opt={OPT: "read"})
    async def read_turn(request: Asked, turn_id: FromPath[str]) -> Response[bytes]:
        wait_ms = _integer(_query(request, {"waitMs"}), "waitMs", default=0, low=0, high=WAIT_MAX_MS)
        if not ids.is_id(turn_id, ids.TURN):
            raise _no_such_turn()
        if wait_ms:
            await _wait_for_end(daemon, turn_id, wait_ms)
        return _answer({"turn": await asyncio.to_thread(_ledger, daemon, turn_id)})

    return [start_turn, read_turn]


def _ledger(daemon: Daemon, turn_id: str) -> ApiTurn:
    turn = reading.turn(daemon.log.reader(), turn_id, ledger=True)
    if turn is None:
        raise _no_such_turn()
    return turn


def _no_such_turn() -> Rejected:
    return Rejected(Code.TURN_NOT_FOUND, "There is no such turn. A session names its last one in `lastTurnId`.")


async def _wait_for_end(daemon: Daemon, turn_id: str, wait_ms: int) -> None:
    """Wait until the turn has ended, `wait_ms` at most. Raises Rejected (404)."""
    try:
        async with asyncio.timeout(wait_ms / 1000):
            while True:
                head = daemon.log.head
                turn = reading.turn(daemon.log.reader(), turn_id, ledger=False)
                if turn is None:
                    raise _no_such_turn()
                if turn.status in TURN_ENDED:
                    return
                await daemon.log.wait_past(head)
    except TimeoutError:
        return


def _events(daemon: Daemon, path: str) -> Any:
    @get(path, opt={OPT: "read"})
    async def read_events(request: Asked) -> Response[bytes]:
        log = daemon.log
        query = _query(request, None)
        asked = wanted(query, log, default=log.cursor(log.oldest - 1))
        limit = _integer(query, "limit", default=PAGE, low=1, high=PAGE_MAX)
        wait_ms = _integer(query, "waitMs", default=0, low=0, high=WAIT_MAX_MS)
        at = asked.after.seq
        page = await read_on(log, asked, at, limit)
        try:
            async with asyncio.timeout(wait_ms / 1000):
                while not page.bodies:
                    await log.wait_past(page.next)
                    page = await read_on(log, asked, page.next, limit)
        except TimeoutError:
            pass
        next_ = str(log.cursor(page.next)).encode()
        body = b'{"ok":true,"data":{"events":[%b],"next":"%b"}}' % (b",".join(page.bodies), next_)
        return Response(body, media_type="application/json")

    return read_events


def _idempotency_key(request: Asked) -> str | None:
    keys = request.headers.getall("idempotency-key", [])
    if not keys:
        return None
    if len(keys) > 1 or not 1 <= len(keys[0]) <= KEY_MAX or not keys[0].isascii() or not keys[0].isprintable():
        raise Rejected(Code.INVALID_REQUEST, f"Idempotency-Key is one header of 1 to {KEY_MAX} printable characters.")
    return keys[0]


def _query(request: Asked, known: set[str] | None) -> dict[str, str]:
    """The query's parameters, each once and none unknown. Raises Rejected (422)."""
    query: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name in query or (known is not None and name not in known):
            raise Rejected(Code.INVALID_REQUEST, "A parameter is unknown or given twice.", details={"name": name[:80]})
        query[name] = value
    return query


def _integer(query: dict[str, str], name: str, *, default: int, low: int, high: int) -> int:
    text = query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) < 20) or not low <= int(text) <= high:
        raise Rejected(Code.INVALID_REQUEST, f"`{name}` must be a number from {low} to {high}.")
    return int(text)


# --- what was raised becomes an answer


def _refused(_: Asked, error: BaaError) -> Response[bytes]:
    headers = envelope.failure_headers(error)
    return Response(envelope.failure(error), status_code=error.status, headers=headers, media_type="application/json")


def _not_routed(request: Asked, error: HTTPException) -> Response[bytes]:
    if error.status_code in (404, 405):  # the guard knows the routes; this is the second lock on the same door
        return _refused(request, Rejected(Code.UNKNOWN_ROUTE, "Unknown codexd route."))
    if error.status_code < 500:
        return _refused(request, Rejected(Code.INVALID_REQUEST, "The request cannot be read."))
    return _broken(request, error)


def _broken(request: Asked, error: Exception) -> Response[bytes]:
    _log.error("request.failed", method=request.method, path=request.scope["path"], exc_info=error)
    return _refused(request, BaaError(Code.INTERNAL_ERROR, "codexd failed at this request. Its log says how."))
