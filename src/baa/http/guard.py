"""The guard: raw ASGI before the application, on HTTP and on the WebSocket handshake.

Raw, because a framework's guards never see an unknown WebSocket path or an OPTIONS. The order is the contract:

    Host → Origin, Sec-Fetch-Site, Referer → route → token → scope of the token → content → size → the application

What is refused never reaches the application; refusals are constant (but for the path that a 404 names), counted by
code, and end the connection. No answer carries a CORS header, so no page can read one.

Here too a server proves that it knows its tokens (`GET /healthz?nonce=`), and streams end whose token is taken back.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Final, Literal, TypeAlias
from urllib.parse import quote

from baa.api.errors import Code, Rejected
from baa.http import limits
from baa.http.envelope import JSON, send_failure, success
from baa.http.keyring import Keyring
from baa.http.limits import App, Message, Receive, Scope, Send
from baa.http.proof import nonce_of, proofs

Access: TypeAlias = Literal["open", "passed", "read", "drive"]
"""Who may use a route: anybody on this machine, whoever the guard behind it lets in, a holder of a token, a holder of
the drive token. What is `passed` on without a token of ours has no body: nothing open takes one, and it would be ours
to keep."""

Routes: TypeAlias = Callable[[Literal["http", "websocket"], str, str], Access | None]
"""The application's own route table: what (type, method, path) asks for; None = there is no such route."""

SECURITY_HEADERS: Final = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"))
BODY_METHODS: Final = frozenset({"POST", "PUT", "PATCH"})
SHOWN_PATH_CHARS: Final = 200
LINGER_SECONDS: Final = 1.0  # How long a refused client may go on sending, so that it reads the answer
LINGER_BYTES: Final = 8 * limits.MAX_BODY_BYTES  # and not a reset; and how much.

TRUSTED: Final = "baa.trusted"
"""The key of a scope that says whether it came with a token of ours, for open routes that tell its holder more."""

CLOSED_TOKEN: Final = 4401
"""The close code of a WebSocket whose token is none any more."""


def loopback_hosts(port: int) -> frozenset[str]:
    """The Host values by which a client on this machine reaches `port`."""
    return frozenset({f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}"})


class Guard:
    """`app` behind the checks. Made after the bind, for `allowed_hosts` name the real port.

    `refused` counts refusals by code, together with others that count there.
    """

    def __init__(
        self,
        app: App,
        *,
        program: str,
        allowed_hosts: Iterable[str],
        routes: Routes,
        tokens: Keyring,
        has_pages: bool = False,
        refused: Counter[str] | None = None,
    ) -> None:
        """Without a token in `tokens`, only open routes can be used. `has_pages`: our page may be looked at again."""
        self.refused: Counter[str] = Counter() if refused is None else refused
        self._app = app
        self._program = program
        self._hosts = frozenset(host.lower() for host in allowed_hosts)
        self._routes = routes
        self._tokens = tokens
        self._fetch_sites = frozenset({"none", "same-origin"} if has_pages else {"none"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, one handshake, or the lifespan."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        send = _with_security_headers(send)
        try:
            held, keeps_body = self._admit(scope)
            nonce, body = None, b""
            if scope["type"] == "http":
                nonce = nonce_of(scope["path"], scope["method"], scope.get("query_string", b""))
                whole = await limits.read_body(receive, keep=keeps_body)
                if whole is None:
                    return
                body = whole
        except Rejected as refusal:
            self.refused[refusal.code] += 1
            await _refuse(refusal, scope, receive, send)
            return
        if nonce is not None:
            await self._prove(nonce, scope, send)
            return
        leave = _Leave(self._tokens, held, receive, scope["type"])
        if held is not None:
            receive = leave.receive
        if scope["type"] == "http":
            receive = limits.replay(body, receive)
            if held is not None and scope["method"] == "GET":
                send = self._while_held(held, scope, send)
        await self._app(scope, receive, send)
        if leave.taken and scope["type"] == "websocket":
            with suppress(OSError):
                await send({"type": "websocket.close", "code": CLOSED_TOKEN, "reason": "token changed"})

    def _while_held(self, held: str, scope: Scope, send: Send) -> Send:
        """`send`, for a read that waits: whoever's token was taken back meanwhile is told nothing any more.

        What a POST did is told all the same: a refusal would be a lie.
        """
        since, taken = self._tokens.changed, False

        async def send_while_held(message: Message) -> None:
            nonlocal taken
            changed = message["type"] == "http.response.start" and self._tokens.changed is not since
            if changed and held not in self._tokens.now().values():
                taken = True
                refusal = _unauthorized()
                self.refused[refusal.code] += 1
                await send_failure(refusal, scope, send)
            if not taken:
                await send(message)

        return send_while_held

    async def _prove(self, nonce: str, scope: Scope, send: Send) -> None:
        """Answer with what only a holder of the tokens knows; it does not say how the program is."""
        (host,) = (value.decode("latin-1") for name, value in scope["headers"] if name.lower() == b"host")
        body = success({"proof": proofs(self._tokens.now(), host, nonce)})
        headers = [(b"content-type", JSON), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _admit(self, scope: Scope) -> tuple[str | None, bool]:
        """Everything that can be said before the body; raises what is wrong first.

        The token that it came with, where one is needed, and whether its body may be of use.
        """
        headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        self._check_host(headers)
        self._check_origin(headers)
        access = self._access(scope)
        held = None if access in ("open", "passed") else self._check_token(headers, access)
        if scope["type"] == "http":
            _check_content(headers, scope["method"], of_any_type=access == "passed")
        scope[TRUSTED] = bool(self._held(headers))
        return held, access != "passed" or scope[TRUSTED]

    def _check_host(self, headers: dict[str, list[str]]) -> None:
        hosts = headers.get("host", [])
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            raise Rejected(
                Code.WRONG_HOST,
                f"This Host is not one that {self._program} answers to. Use its loopback address with the port, "
                "or name the proxy's host in allowedHosts.",
            )

    def _check_origin(self, headers: dict[str, list[str]]) -> None:
        """No web page has business here. One rebound to our address sends no Origin on a GET: hence the others."""
        strange = any(value.lower() not in self._fetch_sites for value in headers.get("sec-fetch-site", []))
        if "origin" in headers or "referer" in headers or strange:
            raise Rejected(
                Code.ORIGIN_REFUSED,
                "Requests from web pages are refused. Use a program, or the dashboard of status-api.",
            )

    def _access(self, scope: Scope) -> Access:
        kind: Literal["http", "websocket"] = "websocket" if scope["type"] == "websocket" else "http"
        method: str = scope.get("method", "GET")
        access = self._routes(kind, method, scope["path"])
        if access is None:
            asked = "WS" if kind == "websocket" else quote(method[:20], safe="")
            raise Rejected(Code.UNKNOWN_ROUTE, f"Unknown {self._program} route {asked} {_shown_path(scope)}.")
        return access

    def _check_token(self, headers: dict[str, list[str]], access: Access) -> str:
        """The token that was given, one of ours."""
        held = self._held(headers)
        if not held:
            raise _unauthorized()
        if access == "drive" and "drive" not in held:
            raise Rejected(Code.READ_ONLY_TOKEN, "The read token may only look. Use the drive token for this.")
        return next(iter(held.values()))

    def _held(self, headers: dict[str, list[str]]) -> dict[str, str]:
        """Those of our tokens that were given."""
        given = headers.get("authorization", [])
        return {scope: token for scope, token in self._tokens.now().items() if bears(given, token)}


class _Leave:
    """The `receive` of a request that came with a token. Once that is none any more, its client is as good as gone.

    What only answers asks for no more; a stream listens for the end of its reader, and so ends.
    """

    def __init__(self, tokens: Keyring, held: str | None, receive: Receive, kind: str) -> None:
        self.taken = False
        self._tokens = tokens
        self._held = held
        self._receive = receive
        self._gone: Message = {"type": f"{kind}.disconnect", "code": CLOSED_TOKEN}

    async def receive(self) -> Message:
        """What the client sends, or that it is gone."""
        while True:
            changed = self._tokens.changed
            if self._held not in self._tokens.now().values():
                self.taken = True
                return self._gone
            async with asyncio.TaskGroup() as tasks:
                theirs = tasks.create_task(_awaited(self._receive()), name="receive")
                other = tasks.create_task(changed.wait(), name="tokens")
                await asyncio.wait((theirs, other), return_when=asyncio.FIRST_COMPLETED)
                other.cancel()
                if not theirs.done():
                    theirs.cancel()
            if not theirs.cancelled():
                return theirs.result()


async def _awaited(message: Awaitable[Message]) -> Message:
    return await message


def bears(authorization: list[str], token: str) -> bool:
    """Whether the Authorization fields of a request are one, and bear `token`; compared in constant time."""
    scheme, _, given = authorization[0].partition(" ") if len(authorization) == 1 else ("", "", "")
    return hmac.compare_digest(_digest(given), _digest(token)) and scheme.lower() == "bearer"


def _unauthorized() -> Rejected:
    return Rejected(
        Code.UNAUTHORIZED,
        "Send 'Authorization: Bearer TOKEN'. The tokens are the files read and drive in the folder state/tokens below "
        "BAA_HOME.",
    )


def _check_content(headers: dict[str, list[str]], method: str, *, of_any_type: bool) -> None:
    if not of_any_type and method in BODY_METHODS and not _is_json(headers.get("content-type", [])):
        raise Rejected(Code.UNSUPPORTED_MEDIA_TYPE, "Send the body with 'Content-Type: application/json'.")
    if any(value.lower() != "identity" for value in headers.get("content-encoding", [])):
        raise Rejected(Code.UNSUPPORTED_MEDIA_TYPE, "Send the body without a Content-Encoding.")
    for value in headers.get("content-length", []):
        limits.check_announced(value)


def _is_json(content_types: list[str]) -> bool:
    """Exactly one, and no form that a page may send without asking first."""
    if len(content_types) != 1:
        return False
    media_type, *parameters = (part.strip().lower() for part in content_types[0].split(";"))
    return media_type == "application/json" and all(
        parameter in ("", "charset=utf-8", 'charset="utf-8"') for parameter in parameters
    )


def _shown_path(scope: Scope) -> str:
    """The path as it came, in characters that mean nothing to a page, a terminal or a log."""
    raw: bytes | None = scope.get("raw_path")
    path = quote(scope["path"]) if raw is None else quote(raw.partition(b"?")[0], safe="/%:@~!$()*+,;=")
    return path if len(path) <= SHOWN_PATH_CHARS else path[:SHOWN_PATH_CHARS] + "..."


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _with_security_headers(send: Send) -> Send:
    async def send_sealed(message: Message) -> None:
        if message["type"] in ("http.response.start", "websocket.http.response.start"):
            theirs = list(message.get("headers", []))
            names = {name.lower() for name, _ in theirs}
            ours = [(name, value) for name, value in SECURITY_HEADERS if name not in names]
            message = {**message, "headers": theirs + ours}
        await send(message)

    return send_sealed


async def _refuse(refusal: Rejected, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()  # The handshake itself; the specification wants it taken before it is answered.
        await send_failure(refusal, scope, send)
        return
    await send_failure(refusal, scope, send, more=True)
    if _sends_body(scope):
        await _linger(receive)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _sends_body(scope: Scope) -> bool:
    """Whether more of the request is to come: a client that waits for our leave (Expect) sends nothing once refused."""
    names = {name for name, value in scope["headers"] if (name, value) != (b"content-length", b"0")}
    return bool(names & {b"content-length", b"transfer-encoding"}) and b"expect" not in names


async def _linger(receive: Receive) -> None:
    """Read and drop what a refused client still sends: closing at once would reset it before it reads the answer."""
    left = LINGER_BYTES
    try:
        async with asyncio.timeout(LINGER_SECONDS):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if not message.get("more_body", False):
                    return
    except TimeoutError:
        return
