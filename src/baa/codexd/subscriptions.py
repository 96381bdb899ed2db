"""Readers of the log: the live stream, over WebSocket or as server-sent events. A reader is a cursor and a wake-up.

Nothing is queued for a subscriber. Each one takes what follows its cursor when it can: from the tail in memory while it
keeps up, from the file when it fell behind. One that stops reading is closed, and comes back by its cursor.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qsl

import msgspec

from baa.api.errors import BaaError, Code, Rejected
from baa.api.events import Cursor, EventType, Heartbeat, Hello, expired, parse_cursor
from baa.api.ids import SESSION, is_id
from baa.codexd import reading
from baa.codexd.eventlog import EventLog, Stored
from baa.codexd.request import parameters
from baa.http.envelope import send_failure
from baa.http.limits import Receive, Scope, Send, cut_off

FRAME_EVENTS: Final = 1000
"""Events in one frame at most: far past where more of them make it cheaper."""

HEARTBEAT_S: Final = 15.0
"""Seconds of quiet after which a reader is told that the stream lives."""

FRAME_BYTES: Final = 1 << 20
"""Bytes of a page at most, if it has more than one event: a reader should not wait for megabytes to see a word."""

SCAN_SEQS: Final = 20_000
"""Seqs that a page of the file looks through at most: what is rare in a long log is looked for in many short reads."""

UNREAD_S: Final = 20.0
"""Seconds for a reader to make room for one frame. Later it is closed: the log keeps its events for it."""

CLOSED_SLOW: Final = 4408
"""The close code of a reader that stopped reading."""

CLOSED_EXPIRED: Final = 4410
"""The close code of a reader so far behind that the log let go of what it was to read next."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a reader asks for: the events after `after`, of one session and of some types if given."""

    after: Cursor
    session_id: str | None
    types: frozenset[str] | None

    def takes(self, event: Stored) -> bool:
        """Whether the reader wants this event."""
        if self.session_id is not None and event.session_id != self.session_id:
            return False
        return self.types is None or event.type in self.types


PARAMETERS: Final = frozenset({"after", "sessionId", "types", "limit", "waitMs"})


def wanted(query: dict[str, str], log: EventLog, *, default: Cursor) -> Wanted:
    """What the query of an events request asks for. Raises Rejected (409, 410, 422)."""
    unknown = sorted(query.keys() - PARAMETERS)
    if unknown:
        raise Rejected(
            Code.INVALID_REQUEST,
            f"Events are asked for by {', '.join(sorted(PARAMETERS))}.",
            details={"unknown": unknown[:5]},
        )
    after = default
    if "after" in query:
        after = parse_cursor(query["after"], epoch=log.epoch, oldest=log.oldest, head=log.head)
    session_id = query.get("sessionId")
    if session_id is not None and not is_id(session_id, SESSION):
        raise Rejected(Code.INVALID_REQUEST, "`sessionId` must be the id of a session, ses_…")
    return Wanted(after, session_id, _types(query.get("types")))


def come_back(query: dict[str, str], scope: Scope) -> None:
    """A browser's EventSource comes back by `Last-Event-ID`, which goes before `after`; so may any other reader."""
    for name, value in scope["headers"]:
        if name == b"last-event-id":
            query["after"] = value.decode("latin-1")


def _types(text: str | None) -> frozenset[str] | None:
    if text is None:
        return None
    types = frozenset(text.split(","))
    if not types <= {type_.value for type_ in EventType}:
        raise Rejected(Code.INVALID_REQUEST, "`types` is a list of event types, with commas between them.")
    return types


async def read_on(log: EventLog, asked: Wanted, after: int, limit: int = FRAME_EVENTS) -> reading.Page:
    """What follows seq `after`, committed by now: from memory if it is all there, else from the file.

    Raises Rejected (410) if the log let go of it.
    """
    tail = log.tail
    if tail and tail[0].seq <= after + 1:
        return _from_tail(tail, asked, after, limit)
    # What is committed but not told yet has no cursor that a reader could come back with.
    head = min(log.head, after + SCAN_SEQS)

    def read() -> reading.Page:
        return reading.events(
            log.reader(),
            after=after,
            head=head,
            limit=limit,
            size=FRAME_BYTES,
            session_id=asked.session_id,
            types=asked.types,
        )

    try:
        return await asyncio.to_thread(read)
    except reading.Cut:
        raise expired(epoch=log.epoch, oldest=log.oldest, head=log.head) from None


def _from_tail(tail: deque[Stored], asked: Wanted, after: int, limit: int) -> reading.Page:
    # Seqs in the tail have no gaps, so the place of the first wanted one can be computed.
    new: Iterable[Stored] = islice(tail, after + 1 - tail[0].seq, None)
    bodies: list[bytes] = []
    end, size = after, 0
    for event in new:
        end = event.seq
        if asked.takes(event):
            bodies.append(event.body)
            size += len(event.body)
            if len(bodies) == limit or size >= FRAME_BYTES:
                break
    return reading.Page(bodies, end)


def events_frame(log: EventLog, after: int, page: reading.Page) -> bytes:
    """The frame that carries a page."""
    return b'{"type":"events","from":"%b","next":"%b","events":[%b]}' % (
        str(log.cursor(after)).encode(),
        str(log.cursor(page.next)).encode(),
        b",".join(page.bodies),
    )


REASONS: Final = {CLOSED_SLOW: "not reading", CLOSED_EXPIRED: "cursor_expired"}

Tell: TypeAlias = Callable[[str, Cursor, bytes], Awaitable[None]]
"""Sends one frame: its type, the cursor that its reader has with it, and the frame itself."""


class Subscriptions:
    """The live side of the event stream."""

    def __init__(self, log: EventLog, *, heartbeat_s: float = HEARTBEAT_S, unread_s: float = UNREAD_S) -> None:
        """Serve readers of `log`."""
        self._log = log
        self._heartbeat_s = heartbeat_s
        self._unread_s = unread_s
        self.count = 0

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One WebSocket, from its handshake to its end (raw ASGI; the guard was here before)."""

        async def tell(_: str, __: Cursor, frame: bytes) -> None:
            await send({"type": "websocket.send", "text": frame.decode()})

        await receive()  # the handshake
        asked = await self._asked(scope, send)
        if asked is None:
            return
        await send({"type": "websocket.accept"})
        code = await self._follow(asked, receive, tell)
        if code is not None:
            await send({"type": "websocket.close", "code": code, "reason": REASONS[code]})

    async def serve_sse(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One reader of server-sent events: the WebSocket's frames, each with the cursor to come back with."""

        async def tell(type_: str, cursor: Cursor, frame: bytes) -> None:
            message = b"id: %b\nevent: %b\ndata: %b\n\n" % (str(cursor).encode(), type_.encode(), frame)
            await send({"type": "http.response.body", "body": message, "more_body": True})

        asked = await self._asked(scope, send)
        if asked is None:
            return
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        code = await self._follow(asked, receive, tell)
        end = {"type": "http.response.body", "body": b"", "more_body": False}
        with suppress(TimeoutError):
            async with asyncio.timeout(0 if code is CLOSED_SLOW else self._unread_s):
                await send(end)
                return
        cut_off(scope)  # there is no room for the end, either
        await send(end)

    async def _asked(self, scope: Scope, send: Send) -> Wanted | None:
        """What the reader wants; None if it was refused."""
        try:
            query = parameters(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True), None)
            if scope["type"] == "http":
                come_back(query, scope)
            return wanted(query, self._log, default=self._log.cursor(self._log.head))
        except BaaError as refused:
            await send_failure(refused, scope, send)
            return None

    async def _follow(self, asked: Wanted, receive: Receive, tell: Tell) -> int | None:
        """Tell the reader what it wants until it is gone (None), or must be closed: with which code."""
        self.count += 1
        try:
            async with asyncio.TaskGroup() as tasks:
                pump = tasks.create_task(self._pump(asked, tell), name="pump")
                # A socket that only sends never learns that its peer is gone: somebody has to listen.
                gone = tasks.create_task(_until_gone(receive), name="gone")
                await asyncio.wait((pump, gone), return_when=asyncio.FIRST_COMPLETED)
                code = pump.result() if pump.done() else None
                pump.cancel()
                gone.cancel()
            return code
        finally:
            self.count -= 1

    async def _pump(self, asked: Wanted, tell: Tell) -> int | None:
        """Tell what comes, until the reader must be closed (the code), or left while it was told something (None)."""
        log, at = self._log, asked.after.seq
        hello = Hello(
            epoch=log.epoch,
            head=str(log.cursor(log.head)),
            oldest=str(log.cursor(log.oldest - 1)),
            after=str(asked.after),
        )
        told = at  # the cursor that the reader has; what it did not want moves `at` alone
        now = asyncio.get_running_loop().time

        async def send(type_: str, frame: bytes) -> None:
            async with asyncio.timeout(self._unread_s):
                await tell(type_, log.cursor(told), frame)

        try:
            await send("hello", msgspec.json.encode(hello))
            quiet_until = now() + self._heartbeat_s
            while True:
                try:
                    async with asyncio.timeout_at(quiet_until):
                        await log.wait_past(at)
                        page = await read_on(log, asked, at)
                except TimeoutError:
                    page = reading.Page([], at)
                at = page.next
                if page.bodies or (now() >= quiet_until and at > told):
                    frame = events_frame(log, told, page)
                    told = at
                    await send("events", frame)
                    quiet_until = now() + self._heartbeat_s
                elif now() >= quiet_until:
                    await send("heartbeat", msgspec.json.encode(Heartbeat(head=str(log.cursor(log.head)))))
                    quiet_until = now() + self._heartbeat_s
        except TimeoutError:
            return CLOSED_SLOW
        except Rejected:
            return CLOSED_EXPIRED
        except OSError:
            return None


async def _until_gone(receive: Receive) -> None:
    while True:
        message: dict[str, Any] = await receive()
        if message["type"] in ("websocket.disconnect", "http.disconnect"):
            return
