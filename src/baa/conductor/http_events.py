"""The events of the fleet over HTTP: pages, long polls and the live stream, all read from the engine's table.

A reader is a cursor and a wake-up, as at codexd; what it is told was committed before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl

import msgspec
from litestar import Response, get

from baa.api import ids
from baa.api.errors import BaaError, Code, Rejected
from baa.api.events import Cursor, EventType, Heartbeat, Hello, parse_cursor
from baa.api.tasks import QueueEventType
from baa.conductor.asking import engine_away, soon
from baa.engine.store import Engine, EngineFailed
from baa.http.envelope import send_failure
from baa.http.limits import Receive, Scope, Send
from baa.http.patience import Patience
from baa.http.request import PAGE, PAGE_MAX, WAIT_MAX_MS, Asked, integer, parameters, query_of
from baa.http.routes import OPT

if TYPE_CHECKING:
    from baa.conductor.daemon import Conductor

PATH: Final = "/v1/events"

READ_EVENTS: Final = 100
"""Events that are read from the table at once: some hold all that a command said."""

PAGE_BYTES: Final = 1 << 20
"""Bytes of a page or a frame, at most, if it has more than one event."""

HEARTBEAT_S: Final = 15.0
"""Seconds of quiet after which a reader is told that the stream lives."""

UNREAD_S: Final = 20.0
"""Seconds for a reader to make room for one frame. Later it is closed: the table keeps its events for it."""

AWAY_S: Final = 1.0
"""Seconds after which a database that is away is asked again for a reader who stays."""

CLOSED_SLOW: Final = 4408
CLOSED_EXPIRED: Final = 4410
REASONS: Final = {CLOSED_SLOW: "not reading", CLOSED_EXPIRED: "cursor_expired"}

TYPES: Final = frozenset(QueueEventType) | (frozenset(EventType) - {EventType.ITEM_DELTA})
"""What there is to ask for: the engine's own events, and those of the nodes' codexds, without deltas."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a reader asks for: the events after `after`, of one task and of some types if given."""

    after: Cursor
    task_id: str | None
    types: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Page:
    """Events as they go out, and the seq after which the next page begins."""

    bodies: list[bytes]
    next: int


class Events:
    """The events of an engine, for readers. `count` readers follow the live stream."""

    def __init__(
        self, engine: Engine, patience: Patience, *, heartbeat_s: float = HEARTBEAT_S, unread_s: float = UNREAD_S
    ) -> None:
        """`patience`: the long polls of the program."""
        self.count = 0
        self._engine = engine
        self._patience = patience
        self._heartbeat_s = heartbeat_s
        self._unread_s = unread_s

    async def page(self, request: Asked) -> Response[bytes]:
        """The answer to a request for a page. Raises Rejected, EngineFailed and TimeoutError."""
        query = query_of(request, {"after", "limit", "taskId", "types", "waitMs"})
        asked = await soon(self._wanted(query, from_now=False))
        limit = integer(query, "limit", default=PAGE, low=1, high=PAGE_MAX)
        wait_ms = integer(query, "waitMs", default=0, low=0, high=WAIT_MAX_MS)
        page = await soon(self._read(asked, asked.after.seq, limit))
        async with self._patience.wait(wait_ms):
            while not page.bodies:
                await self._engine.wait(page.next)
                page = await self._read(asked, page.next, limit)
        next_ = str(Cursor(asked.after.epoch, page.next)).encode()
        body = b'{"ok":true,"data":{"events":[%b],"next":"%b"}}' % (b",".join(page.bodies), next_)
        return Response(body, media_type="application/json")

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One WebSocket, from its handshake to its end (raw ASGI; the guard was here before)."""
        await receive()  # the handshake
        try:
            given = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
            asked = await soon(self._wanted(parameters(given, {"after", "taskId", "types"}), from_now=True))
            hello = await soon(self._hello(asked))
        except BaaError as refused:
            await send_failure(refused, scope, send)
            return
        except (EngineFailed, TimeoutError) as error:
            await send_failure(engine_away(error), scope, send)
            return
        await send({"type": "websocket.accept"})

        async def tell(frame: bytes) -> None:
            async with asyncio.timeout(self._unread_s):
                await send({"type": "websocket.send", "text": frame.decode()})

        self.count += 1
        try:
            async with asyncio.TaskGroup() as tasks:
                pump = tasks.create_task(self._pump(asked, hello, tell), name="pump")
                # A socket that only sends never learns that its peer is gone: somebody has to listen.
                gone = tasks.create_task(_until_gone(receive), name="gone")
                await asyncio.wait((pump, gone), return_when=asyncio.FIRST_COMPLETED)
                code = pump.result() if pump.done() else None
                pump.cancel()
                gone.cancel()
        finally:
            self.count -= 1
        if code is not None:
            await send({"type": "websocket.close", "code": code, "reason": REASONS[code]})

    async def _wanted(self, query: dict[str, str], *, from_now: bool) -> Wanted:
        """What the query asks for. Raises Rejected (409, 410, 422)."""
        task_id = query.get("taskId")
        if task_id is not None and not ids.is_id(task_id, ids.TASK):
            raise Rejected(Code.INVALID_REQUEST, "`taskId` must be the id of a task, tsk_…")
        types = None if "types" not in query else tuple(sorted(set(query["types"].split(","))))
        if types is not None and not TYPES.issuperset(types):
            raise Rejected(Code.INVALID_REQUEST, "`types` is a list of event types, with commas between them.")
        stands = await self._engine.head()
        if "after" in query:
            after = parse_cursor(query["after"], epoch=stands.epoch, oldest=stands.oldest, head=stands.head)
        else:
            after = Cursor(stands.epoch, stands.head if from_now else stands.oldest - 1)
        return Wanted(after, task_id, types)

    async def _hello(self, asked: Wanted) -> bytes:
        stands, epoch = await self._engine.head(), asked.after.epoch
        return msgspec.json.encode(
            Hello(
                epoch=epoch,
                head=str(Cursor(epoch, stands.head)),
                oldest=str(Cursor(epoch, stands.oldest - 1)),
                after=str(asked.after),
            )
        )

    async def _read(self, asked: Wanted, after: int, limit: int) -> Page:
        """What follows seq `after`. Raises Rejected (410) if the table let go of it, and EngineFailed."""
        bodies: list[bytes] = []
        size = 0
        while True:
            wants = min(READ_EVENTS, limit - len(bodies))
            found, next_ = await self._engine.events(after, wants, types=asked.types, task_id=asked.task_id)
            for event in found:
                bodies.append(msgspec.json.encode(event))
                size += len(bodies[-1])
                after = event.seq
                if size >= PAGE_BYTES:
                    return Page(bodies, after)
            after = next_
            if len(found) < wants or len(bodies) == limit:
                return Page(bodies, after)

    async def _pump(self, asked: Wanted, hello: bytes, tell: Callable[[bytes], Awaitable[None]]) -> int | None:
        """Tell what comes, until the reader must be closed (the code), or left while it was told something (None)."""
        epoch, at = asked.after.epoch, asked.after.seq
        told = at  # the cursor that the reader has; what it did not want moves `at` alone
        now = asyncio.get_running_loop().time
        try:
            await tell(hello)
            quiet_until = now() + self._heartbeat_s
            while True:
                page = await self._next(asked, at, quiet_until)
                at = page.next
                if page.bodies or (now() >= quiet_until and at > told):
                    frame = b'{"type":"events","from":"%b","next":"%b","events":[%b]}' % (
                        str(Cursor(epoch, told)).encode(),
                        str(Cursor(epoch, at)).encode(),
                        b",".join(page.bodies),
                    )
                    told = at
                    await tell(frame)
                    quiet_until = now() + self._heartbeat_s
                elif now() >= quiet_until:
                    await tell(msgspec.json.encode(Heartbeat(head=str(Cursor(epoch, at)))))
                    quiet_until = now() + self._heartbeat_s
        except TimeoutError:
            return CLOSED_SLOW
        except Rejected:
            return CLOSED_EXPIRED
        except OSError:
            return None

    async def _next(self, asked: Wanted, at: int, until: float) -> Page:
        """What follows `at`, once there is something, or nothing at `until`. A database that is away is waited for."""
        try:
            async with asyncio.timeout_at(until):
                while True:
                    try:
                        await self._engine.wait(at)
                        return await self._read(asked, at, READ_EVENTS)
                    except EngineFailed:
                        await asyncio.sleep(AWAY_S)
        except TimeoutError:
            return Page([], at)


def routes(conductor: Conductor) -> list[Any]:
    """The handler of pages and long polls."""

    @get(PATH, opt={OPT: "read"})
    async def read_events(request: Asked) -> Response[bytes]:
        return await conductor.events.page(request)

    return [read_events]


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "websocket.disconnect":
        pass
