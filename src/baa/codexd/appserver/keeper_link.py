"""The way to the child, through its keeper: lines and words over the keeper's socket.

The protocol is the keeper's (see its module docstring); this is codexd's side of it. Version 1 had the same words,
and a spool of one file.
"""

from __future__ import annotations

import asyncio
import os
import struct
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from msgspec import Struct

from baa.unix import reachable

VERSION: Final = 2
_HEAD: Final = struct.Struct(">cQI")
_FRAME_MAX: Final = 1 << 20


class KeeperGone(Exception):
    """The keeper cannot be reached, or went away while it was spoken to."""


class KeeperRefused(Exception):
    """The keeper will not speak to this codexd: it says why."""


class KeeperNewer(Exception):
    """The keeper is of a later release than this codexd: it is left alone."""


@dataclass(frozen=True, slots=True)
class Hello:
    """What the keeper said of itself when we met."""

    state: str
    child_pid: int | None
    taken: int
    spool: int
    pid: int


@dataclass(frozen=True, slots=True)
class Exit:
    """How a child ended, as its keeper wrote it down; or that the keeper died first and nobody knows."""

    keeper_died: bool
    code: int | None = None
    signal: int | None = None
    reason: str | None = None
    stderr_tail: str | None = None
    taken: int | None = None


class Started(Struct, frozen=True):
    """The child runs."""

    child_pid: int


class Taken(Struct, frozen=True):
    """The keeper has all lines up to this number."""

    number: int


class Ended(Struct, frozen=True):
    """The child is dead, and all that it wrote is in the spool."""

    told: Exit


Word = Started | Taken | Ended
"""What the keeper says, but for its rings, each time that the spool has grown: they are most of it."""


class Wire(asyncio.Protocol):
    """Frames over the keeper's socket. A ring is passed on at once: no task has to wake for it.

    What waits to be taken is bounded by what a keeper ever says: one ring and one acknowledgement at a time.
    """

    def __init__(self) -> None:
        """Made by the connection."""
        self.rung: Callable[[], None] = lambda: None
        self.closed = asyncio.Event()
        self._transport: asyncio.Transport
        self._read = bytearray()
        self._frames: deque[tuple[bytes, int, bytes]] = deque()
        self._news = asyncio.Event()
        self._gone: str | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The transport's."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """The transport's: whole frames are taken, of a part of one the rest is waited for."""
        read = self._read
        read += data
        rung, at = False, 0
        while len(read) - at >= _HEAD.size:
            kind, number, length = _HEAD.unpack_from(read, at)
            if length > _FRAME_MAX:
                self._gone = self._gone or f"the keeper sent a frame of {length} bytes"
                self._transport.close()
                break
            begin, end = at + _HEAD.size, at + _HEAD.size + length
            if end > len(read):
                break
            if kind == b"r":
                rung = True
            else:
                self._frames.append((kind, number, bytes(read[begin:end])))
            at = end
        del read[:at]
        if self._frames or self._gone:
            self._news.set()
        if rung:
            self.rung()

    def connection_lost(self, _: Exception | None) -> None:
        """The transport's."""
        self._gone = self._gone or "the keeper closed the connection"
        self._news.set()
        self.closed.set()

    async def frame(self) -> tuple[bytes, int, bytes]:
        """The next frame that is no ring. Raises KeeperGone behind the last."""
        while not self._frames:
            if self._gone is not None:
                raise KeeperGone(self._gone)
            self._news.clear()
            await self._news.wait()
        return self._frames.popleft()

    def write(self, kind: bytes, number: int, payload: bytes) -> None:
        """Say something, unless nobody hears it any more."""
        if not self._transport.is_closing():
            self._transport.write(_HEAD.pack(kind, number, len(payload)) + payload)

    def close(self) -> None:
        """Say no more. `closed` is set once all that was said has left, or cannot."""
        self._transport.close()


class KeeperLink:
    """A connection to a keeper that has taken us for its codexd."""

    def __init__(self, wire: Wire, hello: Hello) -> None:
        """Use `connect`."""
        self._wire = wire
        self.hello = hello

    @classmethod
    async def connect(cls, folder: Path, keeper_id: str) -> Self:
        """Meet the keeper of `folder`, in its own version if that is an earlier one.

        Raises KeeperGone if nobody answers there, KeeperRefused if the keeper will not have us, KeeperNewer if it is
        of a later release.
        """
        met = await cls._greet(folder, keeper_id, VERSION)
        if isinstance(met, int):
            met = await cls._greet(folder, keeper_id, met)
        if isinstance(met, int):
            raise KeeperRefused(f"the keeper of {folder.name} does not speak its own version, {met}")
        return met

    @classmethod
    async def _greet(cls, folder: Path, keeper_id: str, version: int) -> Self | int:
        """The link, or the earlier version that the keeper wants to be spoken to in."""
        try:
            wire = await _open(folder)
        except (FileNotFoundError, ConnectionError) as error:  # all else is our own trouble, and no reason to end it
            raise KeeperGone(f"no keeper in {folder.name}: {error}") from error
        try:
            payload = f"keeperId={keeper_id}\npid={os.getpid()}\n".encode()
            wire.write(b"H", version, payload)
            kind, spoken, told = await wire.frame()
            if kind in (b"h", b"e") and spoken > VERSION:
                raise KeeperNewer(f"the keeper of {folder.name} speaks version {spoken}, this codexd {VERSION}")
            if kind == b"e" and 0 < spoken < version:
                wire.close()
                return spoken
            if kind == b"e":
                raise KeeperRefused(told.decode("utf-8", "replace"))
            if kind != b"h":
                raise KeeperGone(f"the keeper began with {kind!r} instead of its hello")
            return cls(wire, _hello(_fields(told)))
        except BaseException:  # boundary: connection. It is closed whatever went wrong, and passed on.
            wire.close()
            raise

    def listen(self, rung: Callable[[], None]) -> None:
        """Have `rung` called whenever the spool is longer than it was; also now, for what was said before."""
        self._wire.rung = rung
        rung()

    async def words(self) -> AsyncIterator[Word]:
        """What the keeper says, until it or the connection ends. Raises KeeperRefused."""
        while True:
            try:
                kind, number, payload = await self._wire.frame()
            except KeeperGone:
                return
            match kind:
                case b"s":
                    yield Started(int(_fields(payload)["childPid"]))
                case b"a":
                    yield Taken(number)
                case b"x":
                    yield Ended(_exit(payload))
                case b"e":
                    raise KeeperRefused(payload.decode("utf-8", "replace"))
                case _:
                    continue  # a word of a later keeper that this codexd can do without

    def start(self) -> None:
        """Let the keeper start the child."""
        self._say(b"S", 0)

    def line(self, number: int, data: bytes) -> None:
        """Give the keeper line `number` for the child."""
        self._say(b"L", number, data)

    def orphan_ms(self, milliseconds: int) -> None:
        """How long the keeper goes on without a codexd."""
        self._say(b"O", milliseconds)

    def lease_ends_in(self, milliseconds: int) -> None:
        """When the earliest lease of a turn ends, for a keeper that is alone by then; 0 = there is no lease."""
        self._say(b"E", milliseconds)

    def end_child(self, *, at_once: bool = False) -> None:
        """Have the child ended, by the ladder or at once."""
        self._say(b"T", 1 if at_once else 0)

    async def close(self) -> None:
        """Leave the keeper to itself."""
        self._wire.close()
        await self._wire.closed.wait()

    def _say(self, kind: bytes, number: int, payload: bytes = b"") -> None:
        self._wire.write(kind, number, payload)


def read_exit(folder: Path) -> Exit | None:
    """What the keeper of `folder` wrote about its child's end; None if it wrote nothing."""
    try:
        return _exit((folder / "exit").read_bytes())
    except FileNotFoundError:
        return None


def _exit(record: bytes) -> Exit:
    head, _, stderr = record.partition(b"\nstderr=")
    fields = _fields(head)
    return Exit(
        keeper_died=False,
        code=_unless(fields.get("code"), -1),
        signal=_unless(fields.get("signal"), 0),
        reason=fields.get("reason"),
        stderr_tail=stderr.decode("utf-8", "replace") or None,
        taken=_number(fields.get("taken")),
    )


def _fields(text: bytes) -> dict[str, str]:
    pairs = (line.partition("=") for line in text.decode("utf-8", "replace").splitlines())
    return {name: value for name, _, value in pairs if name}


def _unless(text: str | None, nothing: int) -> int | None:
    number = _number(text)
    return None if number == nothing else number


def _number(text: str | None) -> int | None:
    return int(text) if text else None


def _hello(fields: dict[str, str]) -> Hello:
    return Hello(
        state=fields["state"],
        child_pid=_unless(fields.get("childPid"), 0),
        taken=int(fields["taken"]),
        spool=int(fields["spool"]),
        pid=int(fields["pid"]),
    )


async def _open(folder: Path) -> Wire:
    with reachable(folder / "socket") as address:
        _, wire = await asyncio.get_running_loop().create_unix_connection(Wire, str(address))
        return wire
