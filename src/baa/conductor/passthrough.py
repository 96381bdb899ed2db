"""codexd behind the conductor: requests, streams and WebSockets go on as they came, and answers come back as they are.

Each request has a connection of its own: a codexd that was started again is met at once, and nothing is sent twice.
Path and query are not touched, and codexd's guard judges route, token and scope. The conductor adds no token, and it
passes a caller's on only to a codexd that has proved that it knows the node's.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import h11
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from baa.api.errors import BaaError, Code, Rejected, Unavailable
from baa.client.connection import NotProved, connected, proven
from baa.client.discovery import Location, Unreachable
from baa.http.envelope import send_failure
from baa.http.keyring import Keyring
from baa.http.limits import Message, Receive, Scope, Send, cut_off
from baa.http.tokens import Name

CONNECT_S: Final = 2.0
UNREAD_S: Final = 20.0
"""Seconds for a caller to make room for more of its answer, as codexd has it; a WebSocket's must answer pings."""

READ_BYTES: Final = 64 * 1024
GONE: Final = 1012
"""What a WebSocket is closed with when codexd's end of it broke: come back by your cursor."""

REQUEST_FIELDS: Final = frozenset({b"accept", b"authorization", b"content-type", b"idempotency-key", b"last-event-id"})
ANSWER_FIELDS: Final = frozenset(
    {b"cache-control", b"content-type", b"retry-after", b"www-authenticate", b"x-accel-buffering"}
)

Field = tuple[bytes, bytes]


class Passthrough:
    """An ASGI application that is the codexd at `address()`, which is asked anew for each request."""

    def __init__(self, address: Callable[[], str | None], tokens: Keyring, *, unread_s: float = UNREAD_S) -> None:
        """`tokens`: the node's."""
        self._address = address
        self._tokens = tokens
        self._unread_s = unread_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or one WebSocket."""
        try:
            address = self._address()
            if address is None:
                raise _away()
            bears = any(name == b"authorization" for name, _ in scope["headers"])
            codexd = _Codexd(address, self._tokens.now() if bears else None)
            if scope["type"] == "websocket":
                await _websocket(codexd, scope, receive, send)
            else:
                await _request(codexd, scope, receive, _bounded(send, scope, self._unread_s))
        except BaaError as error:
            await send_failure(error, scope, send, close=False)


def _bounded(send: Send, scope: Scope, seconds: float) -> Send:
    """`send`, for a caller that is cut off if it takes nothing for so long: it would hold two connections for ever."""

    async def bounded(message: Message) -> None:
        try:
            async with asyncio.timeout(seconds):
                await send(message)
        except TimeoutError:
            cut_off(scope)
            await send(message)

    return bounded


@dataclass(frozen=True, slots=True)
class _Codexd:
    """Where codexd listens, and what it must prove that it knows; None: what is passed on bears no token."""

    address: str
    tokens: Mapping[Name, str] | None

    @property
    def host(self) -> str:
        return urlsplit(self.address).netloc

    async def connected(self) -> socket.socket:
        """A connection to it. Raises Unavailable."""
        try:
            async with asyncio.timeout(CONNECT_S):
                if self.tokens is None:
                    return await connected(self.address)
                return await proven(Location(self.address, 0, self.tokens["drive"]))
        except (NotProved, KeyError):
            raise Unavailable(
                Code.CODEXD_UNAVAILABLE,
                f"What answers at {self.address} does not know this node's tokens, so it is not told the one that came"
                " with this request. `baa node check` says who it is.",
            ) from None
        except (OSError, TimeoutError, Unreachable) as error:
            raise _away() from error


def _away() -> Unavailable:
    return Unavailable(
        Code.CODEXD_UNAVAILABLE,
        "codexd does not answer. Start it: `baa service start --service codexd`, or `baa up`.",
    )


def _kept(fields: Iterable[Field], kept: frozenset[bytes]) -> list[Field]:
    return [(name, value) for name, value in fields if name.lower() in kept]


def _target(scope: Scope) -> bytes:
    """The path and the query, byte for byte."""
    path: bytes = scope["raw_path"].partition(b"?")[0]
    query: bytes = scope["query_string"]
    return path + b"?" + query if query else path


# --- requests


async def _request(codexd: _Codexd, scope: Scope, receive: Receive, send: Send) -> None:
    body: bytes = (await receive()).get("body", b"")  # whole: the guard has read it
    async with asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(_ask(codexd, scope, body, send), name="codexd")
        gone = tasks.create_task(_until_gone(receive), name="caller")
        await asyncio.wait((asking, gone), return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        if not asking.done():
            asking.cancel()  # nobody is left to be answered
    if not asking.cancelled() and (error := asking.result()) is not None:
        raise error


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _ask(codexd: _Codexd, scope: Scope, body: bytes, send: Send) -> BaaError | None:
    """Ask codexd and pass its answer on; what the caller must be told instead, if codexd gave none."""
    fields = [(b"host", codexd.host.encode()), *_kept(scope["headers"], REQUEST_FIELDS), (b"connection", b"close")]
    if body or scope["method"] in ("POST", "PUT", "PATCH"):
        fields.append((b"content-length", str(len(body)).encode()))
    peer = h11.Connection(h11.CLIENT, max_incomplete_event_size=READ_BYTES)
    try:
        head = peer.send(h11.Request(method=scope["method"], target=_target(scope), headers=fields))
        message = (head or b"") + (peer.send(h11.Data(data=body)) or b"") + (peer.send(h11.EndOfMessage()) or b"")
    except h11.LocalProtocolError:
        return Rejected(Code.MALFORMED_REQUEST, "This is not a request that can be passed on to codexd.")
    try:
        reader, writer = await asyncio.open_connection(sock=await codexd.connected())
    except Unavailable as away:
        return away
    try:
        writer.write(message)
        await writer.drain()
        return await _answer(peer, reader, send)
    except (OSError, h11.RemoteProtocolError):
        return _away()
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def _answer(peer: h11.Connection, reader: asyncio.StreamReader, send: Send) -> BaaError | None:
    """Pass the answer on: an event stream as it comes; anything else whole, so that a torn answer is none at all."""
    head = await _next_event(peer, reader)
    assert isinstance(head, h11.Response)
    start = {"type": "http.response.start", "status": head.status_code}
    fields = _kept(head.headers, ANSWER_FIELDS)
    if dict(head.headers).get(b"content-type", b"").startswith(b"text/event-stream"):
        await send({**start, "headers": fields})
        with suppress(OSError, h11.RemoteProtocolError):  # then the stream ends: its reader comes back by its cursor
            while isinstance(event := await _next_event(peer, reader), h11.Data):
                await send({"type": "http.response.body", "body": bytes(event.data), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        return None
    chunks: list[bytes] = []
    while isinstance(event := await _next_event(peer, reader), h11.Data):
        chunks.append(bytes(event.data))
    body = b"".join(chunks)
    fields.append((b"content-length", dict(head.headers).get(b"content-length", str(len(body)).encode())))
    await send({**start, "headers": fields})
    await send({"type": "http.response.body", "body": body, "more_body": False})
    return None


async def _next_event(peer: h11.Connection, reader: asyncio.StreamReader) -> h11.Event | type[h11.PAUSED]:
    while True:
        event = peer.next_event()
        if event is h11.NEED_DATA:
            peer.receive_data(await reader.read(READ_BYTES))
        elif not isinstance(event, h11.InformationalResponse):
            return event  # type: ignore[return-value]


# --- WebSockets


async def _websocket(codexd: _Codexd, scope: Scope, receive: Receive, send: Send) -> None:
    await receive()  # the handshake
    fields = {name.decode(): value.decode("latin-1") for name, value in _kept(scope["headers"], REQUEST_FIELDS)}
    uri = f"ws://{codexd.host}{_target(scope).decode('latin-1')}"
    try:
        # codexd's own pings tell whether the other end lives: one side of a connection is enough for that.
        upstream = await connect(
            uri,
            sock=await codexd.connected(),
            additional_headers=fields,
            compression=None,
            max_size=None,
            open_timeout=CONNECT_S,
            close_timeout=CONNECT_S,
            ping_interval=None,
            user_agent_header=None,
        )
    except InvalidStatus as refused:
        await _refuse_alike(refused, send)
        return
    except (OSError, TimeoutError, InvalidHandshake, EOFError) as error:
        raise _away() from error
    try:
        await send({"type": "websocket.accept"})
        async with asyncio.TaskGroup() as tasks:
            down = tasks.create_task(_pass_down(upstream, send), name="down")
            up = tasks.create_task(_pass_up(upstream, receive), name="up")
            await asyncio.wait((down, up), return_when=asyncio.FIRST_COMPLETED)
            down.cancel()
            up.cancel()
    finally:
        await upstream.close()


async def _refuse_alike(refused: InvalidStatus, send: Send) -> None:
    """The caller's handshake is refused as codexd refused ours."""
    answer = refused.response
    body = bytes(answer.body or b"")
    fields = _kept(((name.encode(), value.encode()) for name, value in answer.headers.raw_items()), ANSWER_FIELDS)
    fields = [(name.lower(), value) for name, value in fields] + [(b"content-length", str(len(body)).encode())]
    await send({"type": "websocket.http.response.start", "status": answer.status_code, "headers": fields})
    await send({"type": "websocket.http.response.body", "body": body, "more_body": False})


async def _pass_down(upstream: ClientConnection, send: Send) -> None:
    try:
        while True:
            frame = await upstream.recv()
            key = "text" if isinstance(frame, str) else "bytes"
            await send({"type": "websocket.send", key: frame})
    except ConnectionClosed:
        pass
    except OSError:  # the caller left while it was told something
        return
    code = upstream.close_code
    known = code is not None and (1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999)
    with suppress(OSError):
        await send({"type": "websocket.close", "code": code if known else GONE, "reason": upstream.close_reason or ""})


async def _pass_up(upstream: ClientConnection, receive: Receive) -> None:
    with suppress(ConnectionClosed):
        while (message := await receive())["type"] != "websocket.disconnect":
            text: str | None = message.get("text")
            await upstream.send(message.get("bytes") or b"" if text is None else text)
        return
    await asyncio.Event().wait()  # codexd closed: the other direction says so to the caller
