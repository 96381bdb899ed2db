"""Connections to a server of ours that has proved, on this very connection, that it knows the token.

    GET /healthz?nonce=…  →  the proof (`baa.http.proof`)  →  only then anything that bears the token

So whoever took the port of a program that was killed gets no token, whatever it answers; nor does one that only passes
things on to the real one.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, NoReturn
from urllib.parse import urlsplit

import h11
import msgspec
from msgspec import Struct

from baa.client.discovery import START_IT, Location, Unreachable
from baa.http.proof import PATH, proves

OPEN_S: Final = 10.0
"""Seconds for a connection and its proof."""

READ_BYTES: Final = 256 * 1024
PROOF_BYTES_MAX: Final = 4096

IDLE_S: Final = 15.0
"""Seconds for which a connection is kept for the next request: half of what the servers keep it."""

Fields = Iterable[tuple[str, str]]


class NotProved(Unreachable):
    """Whoever listens at the address did not show that it knows the token; it was not told it."""


class Lost(Exception):
    """The connection ended before the answer; the request may have been heard."""


class _Proofs(Struct, frozen=True):
    proof: dict[str, str]


class _Proved(Struct, frozen=True):
    data: _Proofs


async def proven(location: Location) -> socket.socket:
    """A connected socket whose other end has proved that it knows the token of `location`; nothing is unread on it.

    Raises Unreachable when nobody listens, and NotProved.
    """
    where = f"{location.name} at {location.address}"
    try:
        async with asyncio.timeout(OPEN_S):
            sock = await connected(location.address)
            try:
                await _prove(sock, location)
            except BaseException:  # boundary: the caller gets it, and no socket is left behind
                sock.close()
                raise
    except TimeoutError as error:
        raise Unreachable(f"{where} takes too long to answer. {START_IT}") from error
    except OSError as error:
        raise Unreachable(f"{where} does not answer ({error.strerror or error}). {START_IT}") from error
    return sock


async def connected(address: str) -> socket.socket:
    """A socket that is connected to a base URL. Raises OSError."""
    parts = urlsplit(address)
    assert parts.hostname is not None
    family = socket.AF_INET6 if ":" in parts.hostname else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, (parts.hostname, parts.port or 80))
    except BaseException:  # boundary: the caller gets it, and no socket is left behind
        sock.close()
        raise
    return sock


async def _prove(sock: socket.socket, location: Location) -> None:
    host = urlsplit(location.address).netloc
    nonce = secrets.token_urlsafe(32)
    loop = asyncio.get_running_loop()
    peer = h11.Connection(h11.CLIENT)
    asked = h11.Request(method="GET", target=f"{PATH}?nonce={nonce}", headers=[("Host", host)])
    body = b""
    try:
        await loop.sock_sendall(sock, (peer.send(asked) or b"") + (peer.send(h11.EndOfMessage()) or b""))
        while not isinstance(event := peer.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                peer.receive_data(await loop.sock_recv(sock, PROOF_BYTES_MAX))
            elif isinstance(event, h11.Data):
                body += event.data
            elif event is h11.PAUSED or isinstance(event, h11.ConnectionClosed) or len(body) > PROOF_BYTES_MAX:
                _unproved(location)
        given = msgspec.json.decode(body, type=_Proved).data.proof.get(location.scope)
    except (h11.RemoteProtocolError, msgspec.DecodeError):
        _unproved(location)
    if not proves(given, location.token, host, nonce) or peer.our_state is not h11.DONE or peer.trailing_data[0]:
        _unproved(location)


def _unproved(location: Location) -> NoReturn:
    raise NotProved(
        f"What answers at {location.address} does not know this node's {location.scope} token, so it is not"
        f" {location.name}, or one of an older release; it was not told the token. `baa node check` says who holds the"
        f" port. {START_IT}"
    )


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, whole."""

    status: int
    body: bytes


class Connection:
    """One proven connection, for one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, location: Location) -> None:
        """Made by Connections."""
        self.location = location
        self.since = asyncio.get_running_loop().time()
        self._reader = reader
        self._writer = writer
        self._peer = h11.Connection(h11.CLIENT)

    @property
    def usable(self) -> bool:
        """Whether another request may be sent on it."""
        idle = asyncio.get_running_loop().time() - self.since
        return self._peer.our_state is h11.IDLE and not self._reader.at_eof() and idle < IDLE_S

    async def ask(self, method: str, target: str, fields: Fields, body: bytes, *, wait_s: float) -> Answer:
        """Send a request that bears the token. `wait_s`: seconds for each piece of the answer. Raises Lost."""
        token = ("Authorization", f"Bearer {self.location.token}")
        head = [("Host", urlsplit(self.location.address).netloc), token, *fields]
        if body or method != "GET":
            head += [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        sent = self._peer.send(h11.Request(method=method, target=target, headers=head)) or b""
        sent += (self._peer.send(h11.Data(data=body)) or b"") + (self._peer.send(h11.EndOfMessage()) or b"")
        try:
            async with asyncio.timeout(wait_s):
                self._writer.write(sent)
                await self._writer.drain()
            return await self._answer(wait_s)
        except (OSError, TimeoutError, h11.RemoteProtocolError) as error:
            raise Lost(type(error).__name__) from error

    async def _answer(self, wait_s: float) -> Answer:
        head = await self._next(wait_s)
        if not isinstance(head, h11.Response):
            raise Lost("it closed the connection")
        chunks: list[bytes] = []
        while isinstance(event := await self._next(wait_s), h11.Data):
            chunks.append(bytes(event.data))
        if self._peer.our_state is h11.DONE and self._peer.their_state is h11.DONE:
            self._peer.start_next_cycle()
            self.since = asyncio.get_running_loop().time()
        return Answer(head.status_code, b"".join(chunks))

    async def _next(self, wait_s: float) -> Any:
        while True:
            event = self._peer.next_event()
            if event is h11.NEED_DATA:
                async with asyncio.timeout(wait_s):
                    self._peer.receive_data(await self._reader.read(READ_BYTES))
            elif not isinstance(event, h11.InformationalResponse):
                return event

    def close(self) -> None:
        """Close it at once."""
        self._writer.close()

    async def closed(self) -> None:
        """Wait until it is closed. Raises OSError."""
        await self._writer.wait_closed()


class Connections:
    """Proven connections to where a program is now; idle ones are used again, for as long as it is the same."""

    def __init__(self) -> None:
        self._idle: deque[Connection] = deque()

    async def ask(
        self, location: Location, method: str, target: str, fields: Fields, body: bytes, *, wait_s: float
    ) -> Answer:
        """One request and its answer. Raises Unreachable if it was not sent, and Lost."""
        connection = self._take(location)
        if connection is None:
            reader, writer = await asyncio.open_connection(sock=await proven(location))
            connection = Connection(reader, writer, location)
        try:
            answer = await connection.ask(method, target, fields, body, wait_s=wait_s)
        except BaseException:  # boundary: the caller gets it, and no connection is left behind
            connection.close()
            raise
        if connection.usable:
            self._idle.append(connection)
        else:
            connection.close()
        return answer

    def _take(self, location: Location) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable and connection.location == location:
                return connection
            connection.close()
        return None

    async def close(self) -> None:
        """Close all that are idle."""
        while self._idle:
            connection = self._idle.pop()
            connection.close()
            with suppress(OSError):
                await connection.closed()
