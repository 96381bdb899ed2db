"""The event stream as a client reads it: whole, in order, across lost connections and restarts."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Final, Generic, Self, TypeAlias, TypeVar
from urllib.parse import urlencode

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from baa.api.errors import BaaError, Code, Unavailable
from baa.api.events import Event, Events, Frame, Heartbeat, Hello
from baa.api.queue import QueueEvents, QueueFrame
from baa.api.tasks import QueueEvent
from baa.client.answers import failure
from baa.client.connection import NotProved, proven
from baa.client.discovery import START_IT, Location, Unreachable
from baa.client.pauses import pauses

QUIET_S: Final = 45.0
"""Seconds without a frame after which a connection is given up: three heartbeats."""

FRAME_BYTES_MAX: Final = 256 << 20
"""A frame holds at least one event, and an event a whole line of Codex's (32 MiB), escaped at worst."""

OPEN_S: Final = 10.0
CLOSE_S: Final = 1.0

E = TypeVar("E", Event, QueueEvent)

AnyFrame: TypeAlias = Hello | Events | QueueEvents | Heartbeat
Decode: TypeAlias = Callable[[bytes], AnyFrame]

CODEXD: Final[Decode] = msgspec.json.Decoder(Frame).decode
CONDUCTOR: Final[Decode] = msgspec.json.Decoder(QueueFrame).decode
"""How the frames of the two programs are read."""


class Gap(Exception):
    """A frame did not begin where the last one ended: events in between are missing, or come twice."""


class EventStream(Generic[E]):
    """`async with` it, then `async for event in` it: events after a cursor, and those to come, without an end.

    `cursor` is what to come back with: everything before it was handed out. A lost connection is opened again from
    there. Each frame must begin where the last one ended: if not, `gaps` counts it and Gap is raised; whoever goes on
    reading gets what that frame holds.
    """

    def __init__(
        self,
        locate: Callable[[], Location],
        path: str,
        query: dict[str, str],
        *,
        after: str | None,
        patience_s: float,
        met: bool,
        decode: Decode,
    ) -> None:
        """Made by `Codexd.events` and `Conductor.events`. `met`: its program has answered before."""
        self.cursor = after
        self.connections = 0
        self.frames = 0
        self.gaps = 0
        self._locate = locate
        self._path = path
        self._query = query
        self._patience_s = patience_s
        self._met = met
        self._socket: ClientConnection | None = None
        self._decode = decode
        self._ready: deque[E] = deque()
        self._epoch = ""
        self._next: str | None = None

    async def __aenter__(self) -> Self:
        """Opens the stream: what a script does next is after its first event, also with `after=None` (from now)."""
        self._socket = await self._connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._socket is not None:
            await self._socket.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> E:
        """The next event. Raises Gap; Unreachable when codexd stays away; Rejected when the cursor is of no use."""
        while not self._ready:
            frame = await self._receive()
            match frame:
                case Events() | QueueEvents():
                    self._take(frame)
                case Heartbeat() | Hello():
                    continue
        event = self._ready.popleft()
        self.cursor = f"{self._epoch}:{event.seq}" if self._ready else self._next
        return event

    def _take(self, frame: Events | QueueEvents) -> None:
        self.frames += 1
        expected, self._next = self._next, frame.next
        self._ready.extend(frame.events)  # type: ignore[arg-type]  # `decode` and E are given together
        if not frame.events:
            self.cursor = frame.next
        self._must_follow(expected, frame.from_)

    def _must_follow(self, expected: str | None, found: str) -> None:
        if expected != found:
            self.gaps += 1
            raise Gap(f"The stream goes on at {found}, and had come to {expected}.")

    async def _receive(self) -> AnyFrame:
        while True:
            if self._socket is None:
                self._socket = await self._connect()
            try:
                return await self._frame(self._socket, QUIET_S)
            except (ConnectionClosed, TimeoutError):
                lost, self._socket = self._socket, None
                await lost.close()

    async def _connect(self) -> ClientConnection:
        """A connection that said hello. A program that was never met is there or not; else there is patience."""
        now = asyncio.get_running_loop().time
        until = now() + (self._patience_s if self._met or self.connections else 0)
        for pause in pauses():
            try:
                return await self._open()
            except (Unreachable, Unavailable) as error:
                wait = max(pause, (error.retry_after_ms or 0) / 1000) if isinstance(error, Unavailable) else pause
                if now() + wait > until:
                    raise
            await asyncio.sleep(wait)
        raise AssertionError("pauses do not end")

    async def _open(self) -> ClientConnection:
        location = self._locate()
        query = self._query if self.cursor is None else self._query | {"after": self.cursor}
        uri = f"ws{location.address.removeprefix('http')}{self._path}?{urlencode(query)}"
        try:
            socket = await connect(
                uri,
                sock=await proven(location),
                additional_headers={"Authorization": f"Bearer {location.token}"},
                compression=None,
                ping_interval=None,  # there are heartbeats
                open_timeout=OPEN_S,
                close_timeout=CLOSE_S,
                max_size=FRAME_BYTES_MAX,
            )
        except InvalidStatus as refused:
            raise self._refused(refused, location) from None
        except (OSError, InvalidHandshake, TimeoutError, EOFError) as error:
            raise Unreachable(f"{location.name} does not answer at {location.address} ({error}). {START_IT}") from error
        try:
            self._greet(await self._frame(socket, OPEN_S))
        except (ConnectionClosed, TimeoutError) as error:
            await socket.close()
            raise Unreachable(f"{location.name} at {location.address} went away at once. {START_IT}") from error
        except BaseException:  # boundary: the caller gets it, and no connection is left behind
            await socket.close()
            raise
        return socket

    def _refused(self, refused: InvalidStatus, location: Location) -> BaaError | Unreachable:
        told = failure(refused.response.status_code, bytes(refused.response.body or b""))
        if told.code is Code.UNAUTHORIZED and self._locate().token != location.token:
            return NotProved("The token was changed while it was sent. Ask again.")
        return told

    def _greet(self, hello: AnyFrame) -> None:
        if not isinstance(hello, Hello):
            raise Unreachable("What answers there does not speak the event stream.")
        self.connections += 1
        if self.cursor in (None, "0"):
            self.cursor = hello.after
        self._epoch, self._next = hello.epoch, hello.after
        self._must_follow(self.cursor, hello.after)

    async def _frame(self, socket: ClientConnection, seconds: float) -> AnyFrame:
        async with asyncio.timeout(seconds):
            data = await socket.recv(decode=False)
        try:
            return self._decode(data)
        except msgspec.DecodeError as error:
            raise Unreachable(f"What answers there does not speak the event stream ({error}).") from None
