"""codexd over HTTP: the four nouns, what it says of itself, and nothing else. operations.py describes it.

Handlers read a request, ask the main loop or the log, and answer with what is committed. What is wrong is raised, and
becomes an answer in one place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import structlog
from litestar import Litestar, Response, get, post
from litestar.exceptions import HTTPException

from baa.api import events as e
from baa.api.errors import BaaError, Code, Rejected, Unavailable
from baa.api.events import EventType
from baa.api.sessions import NoFields
from baa.api.status import AnnounceHandover, MakeBackup, RestartChild
from baa.codexd import http_sessions, http_turns, metrics, openapi
from baa.codexd.attaching import Attaching
from baa.codexd.machines.inputs import NewEvent
from baa.codexd.policy import Policy
from baa.codexd.status import Daemon, without_paths
from baa.codexd.subscriptions import come_back, read_on, wanted
from baa.http import envelope, prometheus
from baa.http.guard import TRUSTED
from baa.http.limits import App, Receive, Scope, Send
from baa.http.request import PAGE, PAGE_MAX, WAIT_MAX_MS, Asked, answer, integer, optional_body, query_of
from baa.http.routes import OPT, RouteTable

_log = structlog.get_logger("http")


def application(
    daemon: Daemon, policy: Policy, attaching: Attaching, events_path: str, refused: Mapping[str, int]
) -> tuple[App, RouteTable]:
    """The ASGI application of codexd, and its routes for the guard. `refused`: what was refused before it, by code."""
    litestar = Litestar(
        route_handlers=[
            *_about_itself(daemon),
            *_described(daemon, events_path, refused),
            *http_sessions.routes(daemon, policy),
            http_sessions.attach(daemon, attaching),
            *http_turns.routes(daemon, policy),
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


def _about_itself(daemon: Daemon) -> list[Any]:
    @get("/healthz", opt={OPT: "open"})
    async def healthz() -> Response[bytes]:
        if not daemon.healthy():
            raise Unavailable(Code.STARTING, "codexd makes no progress. See its log.")
        return answer({"status": "ok"})

    @get("/v1/codexd/status", opt={OPT: "open"})
    async def status(request: Asked) -> Response[bytes]:
        told = daemon.status()
        return answer(msgspec.to_builtins(told if request.scope[TRUSTED] else without_paths(told)))  # type: ignore[typeddict-item]

    @post("/v1/codexd/status/handover", opt={OPT: "drive"})
    async def announce_handover(request: Asked) -> Response[bytes]:
        asked = envelope.decode(await request.body(), AnnounceHandover)
        if daemon.loop.draining:
            raise Unavailable(Code.DRAINING, "codexd is stopping already. Ask the next one.")
        return answer({"handover": daemon.handover.announce(asked.expires_in_ms)}, 202)

    @post("/v1/codexd/status/drain", opt={OPT: "drive"})
    async def drain(request: Asked) -> Response[bytes]:
        await optional_body(request, NoFields)
        payload = e.Daemon(daemon_id=daemon.daemon_id, pid=daemon.pid, version=daemon.version)
        await daemon.commands.drain(NewEvent(EventType.DAEMON_DRAINING, None, None, payload))
        return answer(msgspec.to_builtins(daemon.status()), 202)

    @post("/v1/codexd/status/child/restart", opt={OPT: "drive"})
    async def restart_child(request: Asked) -> Response[bytes]:
        asked = await optional_body(request, RestartChild)
        if daemon.loop.draining:
            raise Unavailable(Code.DRAINING, "codexd is stopping already: it ends its child.")
        await daemon.supervisor.restart(force=asked.force)
        return answer(msgspec.to_builtins(daemon.status()), 202)

    @post("/v1/codexd/status/backup", opt={OPT: "drive"})
    async def back_up(request: Asked) -> Response[bytes]:
        asked = await optional_body(request, MakeBackup)
        if daemon.loop.draining:
            raise Unavailable(Code.DRAINING, "codexd is stopping already. Ask the next one.")
        return answer({"backup": msgspec.to_builtins(await daemon.backups.make(asked))}, 201)

    return [healthz, status, announce_handover, drain, restart_child, back_up]


def _described(daemon: Daemon, events_path: str, refused: Mapping[str, int]) -> list[Any]:
    document = msgspec.json.encode(openapi.document(events_path))

    @get("/openapi.json", opt={OPT: "read"})
    async def describe() -> Response[bytes]:
        return Response(document, media_type="application/json")

    @get("/metrics", opt={OPT: "read"})
    async def measure() -> Response[bytes]:
        loop, waits = daemon.loop, daemon.patience.count
        told = metrics.metrics(
            daemon.status(), waiting=loop.waiting, waits=waits, counted=loop.counted, refused=refused
        )
        return Response(prometheus.text(told).encode(), media_type=prometheus.MEDIA_TYPE)

    return [describe, measure]


def _events(daemon: Daemon, path: str) -> Any:
    @get(path, opt={OPT: "read"})
    async def read_events(request: Asked) -> Response[bytes]:
        log = daemon.log
        query = query_of(request, None)
        come_back(query, request.scope)  # type: ignore[arg-type]
        asked = wanted(query, log, default=log.cursor(log.oldest - 1))
        limit = integer(query, "limit", default=PAGE, low=1, high=PAGE_MAX)
        wait_ms = integer(query, "waitMs", default=0, low=0, high=WAIT_MAX_MS)
        at = asked.after.seq
        page = await read_on(log, asked, at, limit)
        async with daemon.patience.wait(wait_ms):
            while not page.bodies:
                await log.wait_past(page.next)
                page = await read_on(log, asked, page.next, limit)
        next_ = str(log.cursor(page.next)).encode()
        body = b'{"ok":true,"data":{"events":[%b],"next":"%b"}}' % (b",".join(page.bodies), next_)
        return Response(body, media_type="application/json")

    return read_events


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
