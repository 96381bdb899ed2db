"""One client's HTTP/1.1 connection: h11 knows the protocol, this file moves the bytes.

No HTTP server framework: a script must be able to cut a response in the middle, and a held response must end at once
when the server does, neither of which may leave an error in anybody's log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

import h11

HEAD_BYTES_MAX = 64 * 1024  # Codex sends its turn metadata as a header, about 1 KiB.
BODY_BYTES_MAX = 256 * 1024 * 1024  # Every request carries the whole thread; only a runaway is larger.
READ_BYTES = 256 * 1024

Headers: TypeAlias = Iterable[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP request, whole. `target` has no query."""

    method: str
    target: str
    body: bytes


class Connection:
    """Whole requests in, whole or streamed responses out, one after the other.

    Every method raises ConnectionError when the client has gone, and h11.RemoteProtocolError when it speaks no HTTP.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES_MAX)

    async def next_call(self) -> Call | None:
        """The next request; None when the client has closed the connection, or it cannot be used again."""
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
        if self._http.our_state is not h11.IDLE:
            return None
        head: h11.Request | None = None
        body = bytearray()
        while True:
            match self._http.next_event():
                case h11.NEED_DATA:
                    self._http.receive_data(await self._reader.read(READ_BYTES))
                case h11.Request() as head:
                    pass
                case h11.Data(data=data):
                    body += data
                    if len(body) > BODY_BYTES_MAX:
                        raise h11.RemoteProtocolError("request body too large", error_status_hint=413)
                case h11.EndOfMessage():
                    assert head is not None
                    target = head.target.decode("ascii").partition("?")[0]
                    return Call(head.method.decode("ascii"), target, bytes(body))
                case _:
                    return None

    async def respond(self, status: int, body: bytes, headers: Headers = ()) -> None:
        """A whole response of JSON."""
        self._start(status, [("content-type", "application/json"), ("content-length", str(len(body))), *headers])
        await self.send(body)
        await self.end_stream()

    def start_stream(self, headers: Headers = ()) -> None:
        """A 200 response whose events follow, by `send` and `end_stream`."""
        self._start(200, [("content-type", "text/event-stream"), ("transfer-encoding", "chunked"), *headers])

    async def send(self, data: bytes) -> None:
        """The next bytes of the body; waits when the client does not read."""
        self._write(h11.Data(data=data))
        await self._writer.drain()

    async def end_stream(self) -> None:
        """The response is complete."""
        self._write(h11.EndOfMessage())
        await self._writer.drain()

    def close(self) -> None:
        """No more: what was sent still arrives, and a response that is not complete is seen to be cut."""
        self._writer.close()

    def abort(self) -> None:
        """No more, at once."""
        self._writer.transport.abort()

    def _start(self, status: int, headers: list[tuple[str, str]]) -> None:
        self._write(h11.Response(status_code=status, headers=headers))

    def _write(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if data:
            self._writer.write(data)
