"""Readers of the log: the live stream, over WebSocket or as server-sent events. A reader is a cursor and a wake-up.

Nothing is queued for a subscriber. Each one takes what follows its cursor when it can: from the tail in memory while it
keeps up, from the file when it fell behind. One that stops reading is closed, and comes back by its cursor.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable
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
from baa.codexd.eventlog import EventLog
from baa.codexd.stored import Stored
from baa.http.envelope import send_failure
from baa.http.frames import FRAME, text_frame
from baa.http.limits import Receive, Scope, Send, cut_off
from baa.http.request import parameters

FRAME_EVENTS: Final = 1000
"""Events in one frame at most: far past where more of them make it cheaper."""

HEARTBEAT_S: Final = 15.0
"""Seconds of quiet after which a reader is told that the stream lives."""

FRAME_BYTES: Final = 1 << 20
"""Bytes of a page at most, if it has more than one event: a reader should not wait for megabytes to see a word."""

SCAN_SEQS: Final = 20_000
"""Seqs that a page of the file looks through at most: what is rare in a long log is looked for in many short reads."""

FEW: Final = 4
"""So many readers are told whatever there is at once."""

REST: Final = 2.0
REST_S: Final = 0.03
"""With more, they all rest after they were told something: this many times as long as the telling took, and so many
seconds at most. Many readers cost least by fewer, larger frames."""

FRAMES: Final = 16
"""How many frames are kept for readers that come to the same place."""

STEP: Final = FRAME_EVENTS
"""With several readers, a frame goes no further than to the next seq that this divides: so those who have fallen
behind, each at its own place, come to the same places again, and one frame does for all of them."""

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


async def read_on(
    log: EventLog, asked: Wanted, after: int, limit: int = FRAME_EVENTS, *, upto: int | None = None
) -> reading.Page:
    """What follows seq `after`, committed by now, and not after `upto`: from memory if it is all there, else the file.

    Raises Rejected (410) if the log let go of it.
    """
    tail = log.tail
    if tail and tail[0].seq <= after + 1:
        return _from_tail(tail, asked, after, limit, upto)
    # What is committed but not told yet has no cursor that a reader could come back with.
    head = min(log.head, after + SCAN_SEQS, log.head if upto is None else upto)

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


def _from_tail(tail: deque[Stored], asked: Wanted, after: int, limit: int, upto: int | None) -> reading.Page:
    # Seqs in the tail have no gaps, so the place of the first wanted one can be computed; a deque is walked to it from
    # its nearer end, and who keeps up wants the last few of thousands.
    new: Iterable[Stored]
    count = tail[-1].seq - after
    if count * 2 < len(tail):
        new = reversed(list(islice(reversed(tail), count)))
    else:
        new = islice(tail, after + 1 - tail[0].seq, None)
    if upto is not None:
        new = islice(new, upto - after)
    bodies: list[bytes] = []
    end, size = after, 0
    all_of_them = asked.session_id is None and asked.types is None
    for event in new:
        end = event.seq
        if all_of_them or asked.takes(event):
            body = event.body
            bodies.append(body)
            size += len(body)
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

_Asked: TypeAlias = tuple[str, int, int, str | None, frozenset[str] | None]


@dataclass(slots=True)
class _Frame:
    """A frame of events, and the seq that its reader goes on from. An empty one moves the cursor alone."""

    next: int
    text: bytes
    empty: bool
    _framed: bytes = b""

    @property
    def framed(self) -> bytes:
        """The text as a WebSocket's frame, made once for all who are told it."""
        self._framed = self._framed or text_frame(self.text)
        return self._framed


class _Rounds:
    """When readers are told: all at once, when there is something new and the pause after the last round is over."""

    def __init__(self, log: EventLog) -> None:
        """Of the readers of `log`, which calls from here on when there is something new."""
        self._log = log
        self._until = 0.0
        self._next = asyncio.Event()
        self._due: asyncio.TimerHandle | None = None
        self.together = False
        log.on_news = self._news

    async def past(self, seq: int) -> None:
        """Wait for the round in which there is an event after `seq`."""
        coming = self._next  # looked up first: the pause may end between two looks at the time, and the round begin
        if self._log.head > seq:
            if not self._resting():
                return
            self._news()
        while True:
            await coming.wait()
            if self._log.head > seq:
                return
            coming = self._next

    def _resting(self) -> bool:
        return self.together and asyncio.get_running_loop().time() < self._until

    def _news(self) -> None:
        if self._due is not None:
            return
        if self._resting():
            self._due = asyncio.get_running_loop().call_at(self._until, self._begin)
        else:
            self._begin()

    def _begin(self) -> None:
        self._due = None
        now, self._next = self._next, asyncio.Event()
        now.set()
        if self.together:
            loop = asyncio.get_running_loop()
            loop.call_soon(self._told, loop.time())  # behind all readers that were woken just now

    def _told(self, began: float) -> None:
        now = asyncio.get_running_loop().time()
        self._until = now + min(REST * (now - began), REST_S)


Tell: TypeAlias = Callable[[str, Cursor, _Frame], Coroutine[Any, Any, None]]
"""Sends one frame: its type, the cursor that its reader has with it, and the frame itself."""


class Subscriptions:
    """The live side of the event stream."""

    def __init__(self, log: EventLog, *, heartbeat_s: float = HEARTBEAT_S, unread_s: float = UNREAD_S) -> None:
        """Serve readers of `log`."""
        self._log = log
        self._heartbeat_s = heartbeat_s
        self._unread_s = unread_s
        self.count = 0
        self._rounds = _Rounds(log)
        self._frames: dict[_Asked, _Frame] = {}

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One WebSocket, from its handshake to its end (raw ASGI; the guard was here before)."""

        async def tell(_: str, __: Cursor, frame: _Frame) -> None:
            await send({"type": "websocket.send", FRAME: frame.framed})

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

        async def tell(type_: str, cursor: Cursor, frame: _Frame) -> None:
            message = b"id: %b\nevent: %b\ndata: %b\n\n" % (str(cursor).encode(), type_.encode(), frame.text)
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
        self._rounds.together = self.count > FEW
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
            self._rounds.together = self.count > FEW

    async def _read(self, asked: Wanted, at: int, told: int) -> _Frame:
        """The next frame for a reader.

        Readers that ask for the same from the same place share it, also those that come there a little later: they
        then go on from the same place again.
        """
        key = (self._log.epoch, at, told, asked.session_id, asked.types)
        frame = self._frames.get(key)
        if frame is None:
            upto = (at // STEP + 1) * STEP if self.count > 1 else None
            page = await read_on(self._log, asked, at, upto=upto)
            frame = _Frame(page.next, events_frame(self._log, told, page), empty=not page.bodies)
            if self.count > 1:
                self._frames[key] = frame
                while len(self._frames) > FRAMES:
                    del self._frames[next(iter(self._frames))]
        return frame

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

        async def send(type_: str, text: bytes) -> None:
            waiting = begun(tell(type_, log.cursor(told), _Frame(at, text, empty=True)))
            if waiting is not None:
                await self._in_time(waiting)

        try:
            await send("hello", msgspec.json.encode(hello))
            spoke = now()
            while True:
                try:
                    # One timer for many frames: when it is over it is seen whether there was quiet, and it is set anew.
                    async with asyncio.timeout_at(spoke + self._heartbeat_s) as quiet:
                        while True:
                            await self._rounds.past(at)
                            found = await self._read(asked, at, told)
                            at = found.next
                            if found.empty:
                                continue
                            told = at
                            waiting = begun(tell("events", log.cursor(told), found))
                            if waiting is not None:
                                quiet.reschedule(None)
                                await self._in_time(waiting)
                                spoke = now()
                                break
                            spoke = now()
                except TimeoutError:
                    if now() < spoke + self._heartbeat_s:
                        continue
                    if at > told:
                        moved = events_frame(log, told, reading.Page([], at))
                        told = at
                        await send("events", moved)
                    else:
                        await send("heartbeat", msgspec.json.encode(Heartbeat(head=str(log.cursor(log.head)))))
                    spoke = now()
        except _Unread:
            return CLOSED_SLOW
        except Rejected:
            return CLOSED_EXPIRED
        except OSError:
            return None

    async def _in_time(self, waiting: Awaitable[None]) -> None:
        """Wait until there is room for a frame. Raises _Unread if that takes too long."""
        try:
            async with asyncio.timeout(self._unread_s):
                await waiting
        except TimeoutError:
            raise _Unread from None


class _Unread(Exception):
    """The reader takes nothing."""


def begun(call: Coroutine[Any, Any, None]) -> Awaitable[None] | None:
    """Do what the call does before it has to wait. None if that was all, as it nearly always is; else the rest."""
    try:
        return _Begun(call, call.send(None))
    except StopIteration:
        return None


class _Begun:
    """The rest of a call that has to wait."""

    def __init__(self, call: Coroutine[Any, Any, None], waits_for: Any) -> None:
        self._call = call
        self._waits_for = waits_for

    def __await__(self) -> Generator[Any, Any, None]:
        with suppress(StopIteration):
            while True:
                try:
                    given = yield self._waits_for
                except BaseException as error:  # boundary: coroutine. It is raised where the call waits.
                    self._waits_for = self._call.throw(error)
                else:
                    self._waits_for = self._call.send(given)


async def _until_gone(receive: Receive) -> None:
    while True:
        message: dict[str, Any] = await receive()
        if message["type"] in ("websocket.disconnect", "http.disconnect"):
            return
