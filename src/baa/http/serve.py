"""Sockets and uvicorn: bind to loopback or refuse, then serve one application until told to stop."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
from collections import Counter
from functools import partial
from typing import Final

import uvicorn
from uvicorn.server import ServerState

from baa.api.errors import EX_CONFIG, EX_UNAVAILABLE, CannotStart
from baa.config import PRIVATE
from baa.http.connections import Http, WebSocket
from baa.http.limits import ALLOWED, MAX_WS_MESSAGE_BYTES, Allowance, App, Receive, Scope, Send

BACKLOG: Final = 256
SEND_BUFFER_BYTES: Final = 256 * 1024  # Linux would let 4 MiB of old events pile up before a slow reader is felt.
GRACE_SECONDS: Final = 3.0  # For answers under way at a stop, and for a WebSocket's client to take its last frames.
PING_SECONDS: Final = 20.0


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
        allowance: Allowance = ALLOWED,
        refused: Counter[str] | None = None,
    ) -> None:
        """`refused`: where what is refused before the application is counted, by its code."""
        self.started = asyncio.Event()
        self._stopping = asyncio.Event()
        self._app = app
        self._sock = sock
        self._grace_seconds = grace_seconds
        self._ping_seconds = ping_seconds
        self._allowance = allowance
        self._refused: Counter[str] = Counter() if refused is None else refused
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
        allowance = self._allowance
        websocket = partial(WebSocket, grace_seconds=self._grace_seconds, handshake_seconds=allowance.handshake_s)
        config = uvicorn.Config(
            self._run_app,
            http=Http,
            ws=websocket,  # type: ignore[arg-type]
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
            timeout_keep_alive=allowance.idle_s,  # type: ignore[arg-type]
        )
        config.load()

        def connection() -> asyncio.Protocol:
            return Http(
                allowance=allowance,
                refused=self._refused,
                config=config,
                server_state=self._state,
                app_state={},
            )

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
