"""The conductor over HTTP: how it stands, the queue, and codexd behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import httpx2
import msgspec
import structlog
from litestar import Litestar, Response, get
from litestar.exceptions import HTTPException

from baa.api.conductor import Checked, Readiness
from baa.api.errors import BaaError, Code, Rejected, Unavailable
from baa.api.status import ChildState, Status
from baa.client.discovery import address_of
from baa.conductor import http_events, http_system, http_tasks, metrics, openapi
from baa.conductor.asking import TOO_LONG, engine_away, soon
from baa.conductor.passthrough import Passthrough
from baa.engine.store import Counts, EngineFailed
from baa.http import envelope, prometheus
from baa.http.keyring import Keyring
from baa.http.limits import App, Receive, Scope, Send
from baa.http.request import Asked, answer
from baa.http.routes import OPT, RouteTable

if TYPE_CHECKING:
    from baa.conductor.daemon import Conductor

READY_S: Final = 2.0
"""Seconds in which `/readyz` is answered, whatever does not."""

CODEXD: Final = "/v1/codexd/"
START_CODEXD: Final = "Start it: `baa service start --service codexd`, or `baa up`."

_log = structlog.get_logger("http")


class _StatusAnswer(msgspec.Struct):
    data: Status


def application(conductor: Conductor, tokens: Keyring, refused: Mapping[str, int]) -> tuple[App, RouteTable]:
    """The ASGI application of the conductor, and its routes for the guard.

    `tokens`: the node's. `refused`: what was refused before it, by code.
    """
    litestar = Litestar(
        route_handlers=[
            *_about_itself(conductor),
            *_described(conductor, refused),
            *http_tasks.routes(conductor),
            *http_system.routes(conductor),
            *http_events.routes(conductor),
        ],
        exception_handlers={
            BaaError: _refused,
            EngineFailed: _engine_failed,
            TimeoutError: _engine_failed,
            HTTPException: _not_routed,
            Exception: _broken,
        },
        openapi_config=None,
        logging_config=None,
    )
    passthrough = Passthrough(lambda: address_of(conductor.config, "codexd"), tokens)
    events_path = conductor.config.event_stream_path
    routes = RouteTable()
    routes.add_application(litestar)
    routes.add_prefix(CODEXD, "passed")  # codexd's own guard decides
    routes.add("http", "GET", events_path, "passed")
    routes.add("websocket", "GET", events_path, "passed")
    routes.add("websocket", "GET", http_events.PATH, "read")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"].startswith(CODEXD) or scope["path"] == events_path:
            await passthrough(scope, receive, send)
        elif scope["type"] == "websocket":  # the guard has let no other through
            await conductor.events.serve(scope, receive, send)
        else:
            await litestar(scope, receive, send)  # type: ignore[arg-type]

    return app, routes


def _about_itself(conductor: Conductor) -> list[Any]:
    @get("/healthz", opt={OPT: "open"})
    async def healthz() -> Response[bytes]:
        if not conductor.healthy():
            raise Unavailable(Code.NOT_READY, "The conductor makes no progress. See its log.")
        return answer({"status": "ok"})

    @get("/readyz", opt={OPT: "open"})
    async def readyz() -> Response[bytes]:
        async with asyncio.TaskGroup() as tasks:
            engine = tasks.create_task(_check_engine(conductor), name="engine")
            codexd = tasks.create_task(_check_codexd(conductor), name="codexd")
        checks = (engine.result(), codexd.result())
        if not all(check.ok for check in checks):
            wrong = " ".join(check.message for check in checks if not check.ok)
            details = {"engine": checks[0], "codexd": checks[1]}
            raise Unavailable(Code.NOT_READY, wrong, details=details)
        return answer(msgspec.to_builtins(Readiness(status="ready", engine=checks[0], codexd=checks[1])))

    @get("/rolez", opt={OPT: "open"})
    async def rolez() -> Response[bytes]:
        return answer(msgspec.to_builtins(conductor.leader.role()))

    return [healthz, readyz, rolez]


def _described(conductor: Conductor, refused: Mapping[str, int]) -> list[Any]:
    document = msgspec.json.encode(openapi.document())

    @get("/openapi.json", opt={OPT: "read"})
    async def describe() -> Response[bytes]:
        return Response(document, media_type="application/json")

    @get("/metrics", opt={OPT: "read"})
    async def measure() -> Response[bytes]:
        counts: Counts | None = None
        with suppress(EngineFailed, TimeoutError):  # what is known without it is told all the same
            counts = await soon(conductor.engine.counts())
        told = metrics.metrics(
            conductor.leader.role(),
            counts,
            subscribers=conductor.events.count,
            waits=conductor.patience.count,
            refused=refused,
        )
        return Response(prometheus.text(told).encode(), media_type=prometheus.MEDIA_TYPE)

    return [describe, measure]


async def _check_engine(conductor: Conductor) -> Checked:
    try:
        async with asyncio.timeout(READY_S):
            await conductor.engine.probe(conductor.conductor_id)
    except (EngineFailed, TimeoutError) as error:
        why = str(error) or TOO_LONG
        message = f"{conductor.config.engine_place} cannot be written: {why}."
        return Checked(ok=False, message=message)
    return Checked(ok=True, message="The engine was written and read back.")


async def _check_codexd(conductor: Conductor) -> Checked:
    address = address_of(conductor.config, "codexd")
    if address is None:
        return Checked(ok=False, message=f"codexd does not run here. {START_CODEXD}")
    try:
        async with asyncio.timeout(READY_S), httpx2.AsyncClient(trust_env=False) as client:
            answer = await client.get(f"{address}/v1/codexd/status")
            child = msgspec.json.decode(answer.content, type=_StatusAnswer).data.child
    except (httpx2.HTTPError, TimeoutError):
        return Checked(ok=False, message=f"codexd does not answer at {address}. {START_CODEXD}")
    except msgspec.DecodeError:
        return Checked(ok=False, message=f"What answers at {address} is not codexd. See `baa node check`.")
    if child.state is not ChildState.READY:
        why = f": {child.problem}" if child.problem else "."
        return Checked(ok=False, message=f"codexd runs, and its child is {child.state}{why}")
    return Checked(ok=True, message=f"codexd is ready with Codex {child.codex_version}.")


def _refused(_: Asked, error: BaaError) -> Response[bytes]:
    headers = envelope.failure_headers(error)
    return Response(envelope.failure(error), status_code=error.status, headers=headers, media_type="application/json")


def _engine_failed(request: Asked, error: Exception) -> Response[bytes]:
    return _refused(request, engine_away(error))


def _not_routed(request: Asked, error: HTTPException) -> Response[bytes]:
    if error.status_code in (404, 405):  # the guard knows the routes; this is the second lock on the same door
        return _refused(request, Rejected(Code.UNKNOWN_ROUTE, "Unknown conductor route."))
    if error.status_code < 500:
        return _refused(request, Rejected(Code.INVALID_REQUEST, "The request cannot be read."))
    return _broken(request, error)


def _broken(request: Asked, error: Exception) -> Response[bytes]:
    _log.error("request.failed", method=request.method, path=request.scope["path"], exc_info=error)
    return _refused(request, BaaError(Code.INTERNAL_ERROR, "The conductor failed at this request. Its log says how."))
