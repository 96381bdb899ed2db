"""One connection: uvicorn's protocols, but for the gaps below, each of which a contract test holds open to view.

- They limit neither the size nor the number of header fields, and do not tell the application an absolute target;
- they give a client all the time that it likes, as long as a byte comes now and then, and hold a connection for ever
  whose client takes nothing of its answer;
- they limit the number of connections by refusing whoever comes next, `/healthz` too: here that is always answered,
  and who has kept us waiting longest goes;
- they answer what calls itself HTTP/2.0 or HTTP/0.9 as if it were HTTP/1.1;
- a WebSocket that they close themselves, for what its client sent, is logged as a fault of ours;
- a WebSocket handshake that the second parser refuses gets no answer, or one that quotes the request;
- a WebSocket's subscriber that stops reading can be neither told nor cut off, and holds its connection for ever.

What is refused here is refused before the guard: by a constant answer, counted by its code like the guard's.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from http import HTTPStatus
from typing import Any, Final, TypeAlias

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from baa.api.errors import BaaError, Code, Rejected, Unavailable
from baa.http.envelope import JSON, failure, failure_headers
from baa.http.frames import FRAME
from baa.http.guard import SECURITY_HEADERS
from baa.http.limits import ABORT, MAX_HEAD_BYTES, MAX_HEAD_LINE_BYTES, MAX_HEADER_FIELDS, Allowance

Counted: TypeAlias = Counter[str]

ALWAYS_ANSWERED: Final = b"/healthz"
"""What is answered however many connections there are: whoever asks it decides whether we are restarted."""

MALFORMED: Final = Rejected(Code.MALFORMED_REQUEST, "This is not a request that can be answered. Send HTTP/1.1.")
TOO_SLOW: Final = Rejected(Code.REQUEST_TIMEOUT, "The request took too long to come. Send it again, whole.")
CROWDED: Final = Unavailable(
    Code.TOO_MANY_CONNECTIONS, "Too many connections are open. Close those that are not needed, and try again."
)

_WS_KEY: Final = re.compile(rb"[A-Za-z0-9+/]{22}==")


def _whole(error: BaaError) -> bytes:
    """The answer to an HTTP request as it goes over the wire."""
    body = failure(error)
    fields = [*SECURITY_HEADERS, (b"content-type", JSON), (b"content-length", str(len(body)).encode())]
    fields += [(name.encode(), value.encode()) for name, value in failure_headers(error).items()]
    head = b"HTTP/1.1 %d %b\r\n" % (error.status, HTTPStatus(error.status).phrase.encode())
    return head + b"".join(b"%b: %b\r\n" % field for field in fields) + b"connection: close\r\n\r\n" + body


_ANSWERS: Final = {error.code: _whole(error) for error in (MALFORMED, TOO_SLOW, CROWDED)}


class Http(HttpToolsProtocol):
    """One connection; measures its request heads before they can cost much, and refuses what no client of ours sends.

    `waits_since`: when it began to wait for its client, by the loop's clock; None while the client waits for us.
    """

    waits_since: float | None = None
    _in_head = True
    _unused_bytes = 0
    _too_many = False
    _deadline: asyncio.TimerHandle | None = None
    _refusal: BaaError = MALFORMED

    def __init__(self, *, allowance: Allowance, refused: Counted, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self._allowance = allowance
        self._refused = refused

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Uvicorn's, and the head of the first request must come in its time; somebody may have to go."""
        super().connection_made(transport)
        self.waits_since = self.loop.time()
        self._must_come(self._allowance.head_s)
        allowed = self._allowance.connections
        if len(self.connections) <= allowed:
            return
        there = [each for each in self.connections if not each.transport.is_closing()]
        self._too_many = len(there) > allowed
        if len(there) > allowed + self._allowance.spare:
            self._make_room(there)

    def _make_room(self, there: list[Any]) -> None:
        """End the connection that has kept us waiting longest; this one, if all others are at work."""
        waiting = [
            (each.waits_since, each)
            for each in there
            if each is not self and isinstance(each, Http) and each.waits_since is not None
        ]
        if waiting:
            self._refused[Code.TOO_MANY_CONNECTIONS] += 1
            min(waiting, key=lambda pair: pair[0])[1].transport.abort()
        else:
            self._refuse(CROWDED)

    def connection_lost(self, exc: Exception | None) -> None:
        """Uvicorn's."""
        self._has_come()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Uvicorn's, but what the parser keeps without telling (half a head, a trailer without end) is limited."""
        if self.transport.is_closing():
            return
        if self._deadline is None and not self._answering:
            self._must_come(self._allowance.head_s)  # whatever it is: uvicorn has just stopped to wait for it
        self._unused_bytes += len(data)
        super().data_received(data)
        if self._unused_bytes > MAX_HEAD_BYTES:
            self._refuse(MALFORMED)

    def on_message_begin(self) -> None:
        """Uvicorn's, and a way for the application to end the connection."""
        self._in_head = True
        if self._deadline is None:
            self._must_come(self._allowance.head_s)
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
        self._must_come(self._allowance.body_s)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Uvicorn's."""
        self._unused_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Uvicorn's."""
        self._unused_bytes = 0
        self._has_come()
        self.waits_since = None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Uvicorn's, and what was answered must be taken."""
        super().on_response_complete()
        if self.cycle.response_complete:
            self.waits_since = self.loop.time()
        self._must_be_taken()

    def handle_websocket_upgrade(self) -> None:
        """Uvicorn's."""
        self._has_come()
        super().handle_websocket_upgrade()

    @property
    def _answering(self) -> bool:
        cycle: Any = self.cycle  # None before the first request
        return cycle is not None and not cycle.response_complete

    def _must_come(self, seconds: float) -> None:
        """Within this time, however it trickles."""
        self._has_come()
        self._deadline = self.loop.call_later(seconds, self._too_late, seconds)

    def _has_come(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_late(self, seconds: float) -> None:
        self._deadline = None
        if self.flow.read_paused:  # it is we who do not read: its turn comes after the one before it
            self._must_come(seconds)
            return
        if not (self._in_head or self._answering):
            self.transport.abort()  # the rest of a body that was answered already
            return
        unanswered = not self._in_head and not self.cycle.response_started
        answered_next = not self.pipeline and (not self._answering or unanswered)
        if not answered_next:
            self.transport.abort()  # words in the middle of another answer would be taken for a part of it
        elif self._in_head and self._unused_bytes == 0:
            self.transport.close()  # nothing was asked
        else:
            self._refuse(TOO_SLOW)

    def _must_be_taken(self, unsent: int | None = None) -> None:
        """End the connection of a client that has taken nothing of what is `unsent` since the last look."""
        left = self.transport.get_write_buffer_size()
        if left and (unsent is None or left < unsent):
            self.loop.call_later(self._allowance.idle_s, self._must_be_taken, left)
        elif left:
            self.transport.abort()

    def _check_head(self) -> None:
        """Raise through the parser, which makes it a 400, or what was noted."""
        lines = [len(self.url), *(len(name) + len(value) + 4 for name, value in self.headers)]
        if sum(lines) > MAX_HEAD_BYTES or max(lines) > MAX_HEAD_LINE_BYTES or len(self.headers) > MAX_HEADER_FIELDS:
            raise httptools.HttpParserError("head too large")
        if self._too_many and len(self.connections) > self._allowance.connections and not self._asks_for_health():
            self._refusal = CROWDED
            raise httptools.HttpParserError("crowded")
        if self.parser.get_http_version() not in ("1.0", "1.1"):
            raise httptools.HttpParserError("version")
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

    def _asks_for_health(self) -> bool:
        return self.parser.get_method() == b"GET" and self.url.partition(b"?")[0] == ALWAYS_ANSWERED

    def send_400_response(self, msg: str) -> None:
        """The answer to what cannot be read, or was refused while it was read, in our envelope."""
        self._refuse(self._refusal)

    def _refuse(self, error: BaaError) -> None:
        if not self.transport.is_closing():
            self._refused[error.code] += 1
            self.transport.write(_ANSWERS[error.code])
            self.transport.close()
            self._must_be_taken()


class WebSocket(WebSocketsSansIOProtocol):
    """One WebSocket that can be refused quietly, and cut off when its client does not read."""

    def __init__(self, *, grace_seconds: float, handshake_seconds: float, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self._grace_seconds = grace_seconds
        self._handshake = self.loop.call_later(handshake_seconds, self._handshake_late)
        self._closed_by_app = False

    def connection_lost(self, exc: Exception | None) -> None:
        """Uvicorn's."""
        self._handshake.cancel()
        super().connection_lost(exc)

    def _handshake_late(self) -> None:
        """Neither taken nor refused: the application behind it hangs."""
        if not self.handshake_complete:
            self.transport.abort()

    def send_receive_event_to_app(self) -> None:
        """Uvicorn's, but text that is no UTF-8 is no fault of ours, and it logs a traceback for each."""
        if self.curr_msg_data_type == "text" and not self.close_sent:
            try:
                b"".join(self.frames).decode()
            except UnicodeDecodeError:
                self.frames = []
                self.conn.send_close(1007)
                self.handle_parser_exception()
                return
        super().send_receive_event_to_app()

    async def run_asgi(self) -> None:
        """Uvicorn's, but a client that does not take its last frames is not waited for without end."""
        await super().run_asgi()
        if not self.disconnected:
            self.loop.call_later(self._grace_seconds, self.transport.abort)

    async def send(self, message: Any) -> None:
        """Uvicorn's: it waits while more than 64 KiB are unsent, and only then writes. A close frame does not wait."""
        if message["type"] != "websocket.close":
            await self.writable.wait()
        if self.close_sent and not self._closed_by_app:
            raise ClientDisconnected  # Closed for what its client sent, which the application cannot know yet.
        if message["type"] == "websocket.close":
            self._closed_by_app = True
            await self._send_close(message)
            return
        if FRAME in message:
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
