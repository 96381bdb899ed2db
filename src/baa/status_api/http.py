"""status-api over HTTP: three routes, GET and HEAD, raw ASGI.

The page at `/` takes the node's read token, as a bearer token or as the password that a browser asks its user for.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Final

import structlog

from baa.api.errors import BaaError, Code, Rejected, Unavailable
from baa.http.envelope import JSON, send_failure, success
from baa.http.guard import bears
from baa.http.limits import App, Receive, Scope, Send
from baa.http.routes import RouteTable
from baa.status_api.page import POLICY, page
from baa.status_api.watch import Watch

PATHS: Final = ("/healthz", "/v1/status", "/")

_CHALLENGE: Final = (b"www-authenticate", b'Basic realm="baa-conductor", charset="UTF-8"')
_ASK: Final = b"The page takes the read token as its password; `baa token show read` tells it. Any user name will do.\n"

_log = structlog.get_logger("http")


def application(watch: Watch, healthy: Callable[[], bool]) -> tuple[App, RouteTable]:
    """The ASGI application of status-api, and its routes for the guard. What takes a token is decided in here."""
    routes = RouteTable()
    for path in PATHS:
        for method in ("GET", "HEAD"):
            routes.add("http", method, path, "open")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if scope["path"] == "/":
                if not _may_see_the_page(scope, watch):
                    await _send(send, b"text/plain; charset=utf-8", _ASK, status=401, more=(_CHALLENGE,))
                    return
                await _send(send, b"text/html; charset=utf-8", page(await watch.overview(with_detail=False)).encode())
            elif scope["path"] == "/v1/status":
                await _send(send, JSON, success(await watch.overview(with_detail=_asks_for_detail(scope, watch))))
            elif healthy():
                await _send(send, JSON, success({"status": "ok"}))
            else:
                raise Unavailable(Code.STARTING, "status-api makes no progress. See its log.")
        except BaaError as error:
            await send_failure(error, scope, send, close=False)
        except Exception as error:  # boundary: request. A mistake of ours is told to nobody but the log.
            _log.error("request.failed", path=scope["path"], exc_info=error)
            failed = BaaError(Code.INTERNAL_ERROR, "status-api failed at this request. Its log says how.")
            await send_failure(failed, scope, send, close=False)

    return app, routes


def _asks_for_detail(scope: Scope, watch: Watch) -> bool:
    """Whether the request bears the read token. With another one it is refused: it would get less than it thinks."""
    given = [value.decode("latin-1") for name, value in scope["headers"] if name == b"authorization"]
    if not given:
        return False
    token = watch.token()
    if token is None or not bears(given, token):
        raise Rejected(
            Code.UNAUTHORIZED,
            "This takes no token, or for the detail the node's read token, state/tokens/read below BAA_HOME.",
        )
    return True


def _may_see_the_page(scope: Scope, watch: Watch) -> bool:
    """Whether the request bears the read token, or has it as its password: no browser can be told to bear one."""
    token = watch.token()
    given = [value.decode("latin-1") for name, value in scope["headers"] if name == b"authorization"]
    return token is not None and bears([_borne(value) for value in given], token)


def _borne(authorization: str) -> str:
    """The same field, a password in the place of a bearer token (RFC 7617)."""
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return authorization
    try:
        return f"Bearer {base64.b64decode(encoded, validate=True).decode().partition(':')[2]}"
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return ""


async def _send(
    send: Send, content_type: bytes, body: bytes, *, status: int = 200, more: tuple[tuple[bytes, bytes], ...] = ()
) -> None:
    headers = [
        (b"content-type", content_type),
        (b"content-length", str(len(body)).encode()),
        (b"content-security-policy", POLICY.encode()),
        (b"referrer-policy", b"no-referrer"),
        *more,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
