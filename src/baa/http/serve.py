"""Sockets and uvicorn: bind to loopback or refuse, then serve one application until told to stop.

uvicorn's protocols are used as they are but for the gaps below, each of which a contract test holds open to view:

- it limits neither the size nor the number of header fields, and does not tell the application an absolute target;
- a WebSocket handshake that its second parser refuses gets no answer, or one that quotes the request;
- a subscriber that stops reading can be neither told nor cut off, and holds its connection for ever: a WebSocket's as
  much as a stream's in an answer.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import re
import socket
from functools import partial
from typing import Any, Final

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState

from baa.api.errors import EX_CONFIG, EX_UNAVAILABLE, CannotStart, Code, Rejected
from baa.config import PRIVATE
from baa.http.envelope import JSON, failure
from baa.http.frames import FRAME
from baa.http.guard import SECURITY_HEADERS
from baa.http.limits import (
    ABORT,
    MAX_HEAD_BYTES,
    MAX_HEAD_LINE_BYTES,
    MAX_HEADER_FIELDS,
    MAX_WS_MESSAGE_BYTES,
    App,
    Receive,
    Scope,
    Send,
)

BACKLOG: Final = 256
SEND_BUFFER_BYTES: Final = 256 * 1024  # Linux would let 4 MiB of old events pile up before a slow reader is felt.
GRACE_SECONDS: Final = 3.0  # For answers under way at a stop, and for a WebSocket's client to take its last frames.
IDLE_SECONDS: Final = 30  # Between two requests on one connection.
PING_SECONDS: Final = 20.0

_MALFORMED: Final = failure(
    Rejected(Code.MALFORMED_REQUEST, "This is not a request that can be answered. Send HTTP/1.1.")
)
_MALFORMED_ANSWER: Final = b"".join(
    [
        b"HTTP/1.1 400 Bad Request\r\n",
        *(name + b": " + value + b"\r\n" for name, value in SECURITY_HEADERS),
        b"content-type: " + JSON + b"\r\n",
        b"content-length: " + str(len(_MALFORMED)).encode() + b"\r\n",
        b"connection: close\r\n\r\n",
        _MALFORMED,
    ]
)
_WS_KEY: Final = re.compile(rb"[A-Za-z0-9+/]{22}==")


def bind(host: str, port: int, *, beyond_loopback: bool = False) -> socket.socket:
    """A listening socket on 127.0.0.1 or ::1 (`localhost` is the first); port 0 takes a free one.

    `beyond_loopback`: a private address of this machine's will do too. Raises CannotStart.
    """
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        address = None
    loopback = address in (ipaddress.IPv4Address("127.0.0.1"), ipaddress.IPv6Address("::1"))
    private = address is not None and any(address in network for network in PRIVATE)
    if address is None or not (loopback or (beyond_loopback and private)):
        raise CannotStart(
            f"{host} is not a loopback address. Use 127.0.0.1 or ::1; to be reached from elsewhere, put a proxy such "
            "as 'tailscale serve' in front and name its host in allowedHosts.",
            exit_code=EX_CONFIG,
        )
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    # The protocol is named because asyncio turns Nagle off only where it is: 40 ms an answer else.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        sock.bind((str(address), port))
        sock.listen(BACKLOG)
        bound = ipaddress.ip_address(sock.getsockname()[0])
        if bound != address:
            raise CannotStart(f"The system bound {bound}, which is not {address}. Refused.")
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise CannotStart(
                f"Port {port} on {address} is in use{_by_whom(str(address), port)}. Stop that program, or configure"
                " another port.",
                exit_code=EX_UNAVAILABLE,
            ) from None
        if error.errno == errno.EADDRNOTAVAIL:  # a network that may come up later, so another start may pass
            raise CannotStart(
                f"{address} is no address of this machine now. Bring its network up (for a tailnet: tailscale up), or"
                " configure another address.",
                exit_code=EX_UNAVAILABLE,
            ) from None
        raise CannotStart(f"Cannot listen on {address} port {port}: {error.strerror}.") from None
    except CannotStart:
        sock.close()
        raise
    return sock


def base_url(sock: socket.socket) -> str:
    """The address of a bound socket as clients write it."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _by_whom(host: str, port: int) -> str:
    """ " by NAME (pid N)" where the system tells: on macOS only root may ask."""
    from baa.http.ports import holder_of  # psutil, only for this message

    holder = holder_of(host, port)
    return "" if holder is None else f" by {holder.told}"


class HttpServer:
    """One application on one listening socket: `serve` runs until `stop`, and returns when all is closed."""

    def __init__(
        self,
        app: App,
        sock: socket.socket,
        *,
        grace_seconds: float = GRACE_SECONDS,
        ping_seconds: float = PING_SECONDS,
    ) -> None:
        self.started = asyncio.Event()
        self._stopping = asyncio.Event()
        self._app = app
        self._sock = sock
        self._grace_seconds = grace_seconds
        self._ping_seconds = ping_seconds
        self._state = ServerState()

    @property
    def connections(self) -> int:
        """How many are open, of both kinds."""
        return len(self._state.connections)

    def stop(self) -> None:
        """Take no more connections, tell WebSockets (1012), let answers end for a moment, then close everything."""
        self._stopping.set()

    async def serve(self) -> None:
        """Serve until `stop`, or until cancelled; nothing is open afterwards."""
        config = uvicorn.Config(
            self._run_app,
            http=_Http,
            ws=partial(_WebSocket, grace_seconds=self._grace_seconds),  # type: ignore[arg-type]
            ws_max_size=MAX_WS_MESSAGE_BYTES,
            ws_ping_interval=self._ping_seconds,
            ws_ping_timeout=self._ping_seconds,
            ws_per_message_deflate=False,
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=IDLE_SECONDS,
        )
        config.load()

        def connection() -> asyncio.Protocol:
            return _Http(config=config, server_state=self._state, app_state={})

        listener = await asyncio.get_running_loop().create_server(connection, sock=self._sock, backlog=BACKLOG)
        try:
            self.started.set()
            await self._stopping.wait()
        finally:
            listener.close()
            await self._close()

    async def _run_app(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except asyncio.CancelledError:
            if not self._stopping.is_set():
                raise  # At a stop this was the last of the task: uvicorn would log it as a failure.

    async def _close(self) -> None:
        self._stopping.set()
        for connection in list(self._state.connections):
            connection.shutdown()
        tasks = set(self._state.tasks)
        try:
            if tasks:
                await asyncio.wait(tasks, timeout=self._grace_seconds)
        finally:
            for connection in list(self._state.connections):
                connection.transport.abort()
            for task in self._state.tasks:
                task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=self._grace_seconds)


class _Http(HttpToolsProtocol):
    """One connection; counts its request heads before they can cost much, and refuses what no client of ours sends."""

    _in_head = True
    _unused_bytes = 0

    def data_received(self, data: bytes) -> None:
        """Uvicorn's, but what the parser keeps without telling (half a head, a trailer without end) is limited."""
        self._unused_bytes += len(data)
        super().data_received(data)
        if self._unused_bytes > MAX_HEAD_BYTES:
            self.send_400_response("")

    def on_message_begin(self) -> None:
        """Uvicorn's, and a way for the application to end the connection."""
        self._in_head = True
        super().on_message_begin()
        self.scope["extensions"] = {ABORT: {"now": self.transport.abort}}

    def on_header(self, name: bytes, value: bytes) -> None:
        """Uvicorn's, but it would add a trailer to the header fields of a request that runs already."""
        if not self._in_head:
            raise httptools.HttpParserError("trailer")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Uvicorn's, for a head that passes."""
        self._in_head = False
        self._unused_bytes = 0
        self._check_head()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Uvicorn's."""
        self._unused_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Uvicorn's."""
        self._unused_bytes = 0
        super().on_message_complete()

    def _check_head(self) -> None:
        """Raise through the parser, which makes it a 400."""
        lines = [len(self.url), *(len(name) + len(value) + 4 for name, value in self.headers)]
        if sum(lines) > MAX_HEAD_BYTES or max(lines) > MAX_HEAD_LINE_BYTES or len(self.headers) > MAX_HEADER_FIELDS:
            raise httptools.HttpParserError("head too large")
        fields: dict[bytes, list[bytes]] = {}
        for name, value in self.headers:
            fields.setdefault(name, []).append(value)
        if fields.get(b"transfer-encoding", [b"chunked"]) != [b"chunked"]:
            raise httptools.HttpParserError("transfer encoding")
        if self.parser.should_upgrade() and self._should_upgrade() and not self._is_handshake(fields):
            raise httptools.HttpParserError("handshake")
        if not self.url.startswith((b"/", b"*")):
            # RFC 9112 §3.2.2: the target's authority stands for Host. The guard is shown both, and refuses two.
            authority = self.url.partition(b"://")[2].partition(b"/")[0]
            if fields.get(b"host") != [authority]:
                self.headers.append((b"host", authority))

    def _is_handshake(self, fields: dict[bytes, list[bytes]]) -> bool:
        """What uvicorn's second parser, for WebSockets, takes too: a handshake that only the first takes would hang."""
        key = fields.get(b"sec-websocket-key", [])
        return (
            self.parser.get_method() == b"GET"
            and self.parser.get_http_version() == "1.1"
            and self.url.startswith(b"/")
            and fields.get(b"sec-websocket-version") == [b"13"]
            and len(key) == 1
            and _WS_KEY.fullmatch(key[0]) is not None
            and not fields.keys() & {b"content-length", b"transfer-encoding"}
        )

    def send_400_response(self, msg: str) -> None:
        """The answer to what cannot be read, in our envelope."""
        if not self.transport.is_closing():
            self.transport.write(_MALFORMED_ANSWER)
            self.transport.close()


class _WebSocket(WebSocketsSansIOProtocol):
    """One WebSocket that can be refused quietly, and cut off when its client does not read."""

    def __init__(self, *, grace_seconds: float, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self._grace_seconds = grace_seconds

    async def run_asgi(self) -> None:
        """Uvicorn's, but a client that does not take its last frames is not waited for without end."""
        await super().run_asgi()
        if not self.disconnected:
            self.loop.call_later(self._grace_seconds, self.transport.abort)

    async def send(self, message: Any) -> None:
        """Uvicorn's: it waits while more than 64 KiB are unsent, and only then writes. A close frame does not wait."""
        if message["type"] == "websocket.close":
            await self._send_close(message)
            return
        if FRAME in message:
            await self.writable.wait()
            if self.disconnected or self.close_sent:
                raise ClientDisconnected
            self.transport.write(message[FRAME])
            return
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and self.close_sent:
            self.handshake_complete = True  # Answered by a status: else uvicorn logs every refusal as a fault.

    async def _send_close(self, message: Any) -> None:
        """Queue the frame behind what waits: if nobody reads there is never room, yet who reads again must find it."""
        full = not self.writable.is_set()
        self.writable.set()
        try:
            await super().send(message)
        finally:
            if full and not self.disconnected:
                self.writable.clear()

    def keepalive_timeout(self) -> None:
        """No pong: the client is gone or reads nothing, so what is queued will never leave."""
        dead = not (self.close_sent or self.transport.is_closing())
        super().keepalive_timeout()
        if dead:
            self.transport.abort()
