"""`baa attach`: Codex's own terminal UI on a session of codexd's.

The UI connects to a Unix socket of ours, which takes nobody but the UI that we started. For each of its connections we
get a ticket with the drive token, show it to codexd's private socket, and from then on pass bytes. A lost connection is
the UI's to make anew: it does so by itself, and gets a new ticket here.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import psutil

from baa import codex
from baa import config as configuration
from baa.api.answers import Attachment
from baa.api.errors import EX_UNAVAILABLE, BaaError, CannotStart, Unavailable
from baa.cli.remote import ask
from baa.client.codexd import Codexd
from baa.client.discovery import Unreachable
from baa.client.pauses import pauses
from baa.config import Config
from baa.unix import reachable

EX_NOINPUT: Final = 66
EX_USAGE: Final = 64

AWAY_S: Final = 30.0
"""Seconds for codexd, and its Codex, to come back before a connection of the UI's is given up."""

LEAVING_S: Final = 1.0
"""Seconds for the connections of a UI that is gone to end."""

HEAD_BYTES_MAX: Final = 16 * 1024
CHUNK: Final = 64 * 1024

_PEER: Final = struct.Struct("3i")
_SOL_LOCAL: Final = 0  # macOS
_LOCAL_PEERPID: Final = 2  # macOS


def run(session_id: str, *, config_file: Path | None = None, arguments: tuple[str, ...] = ()) -> int:
    """Show the session in Codex's UI until that is left; its exit code. Raises CannotStart."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise CannotStart("baa attach needs a terminal. In a script use codexd's API.", exit_code=EX_USAGE)
    config = configuration.load(config_file)
    try:
        program = codex.find(config.server_command)
    except codex.NoProgram as missing:
        raise CannotStart(str(missing), exit_code=EX_UNAVAILABLE) from None
    return asyncio.run(_attach(config, program, session_id, arguments))


def ticket(session_id: str, *, config_file: Path | None = None) -> int:
    """Print what a terminal UI would be let in with, once, as JSON; the exit code."""

    async def do(codexd: Codexd) -> Attachment:
        return await codexd.attach(session_id)

    return ask(do, lambda _: None, config=config_file, json=True, told=lambda given: {"attachment": given})


async def _attach(config: Config, program: Path, session_id: str, arguments: tuple[str, ...]) -> int:
    async with Codexd(config) as codexd:
        try:
            first = await codexd.attach(session_id)  # what cannot be attached is told before the screen changes
        except BaaError as refused:
            raise CannotStart(
                refused.message, exit_code=EX_NOINPUT if refused.status < 429 else EX_UNAVAILABLE
            ) from None
        except Unreachable as away:
            raise CannotStart(away.message, exit_code=away.exit_code) from None
        with tempfile.TemporaryDirectory(prefix="baa-", dir="/tmp") as folder:  # short, and for nobody else (0700)
            address = Path(folder) / "ui"
            door = _Door(codexd, session_id)
            async with await asyncio.start_unix_server(door.connected, address, limit=HEAD_BYTES_MAX):
                command = (os.fspath(program), "resume", first.thread_id, "--remote", f"unix://{address}", *arguments)
                with _ignoring(signal.SIGINT, signal.SIGQUIT):  # the terminal's keys are the UI's
                    ui = await asyncio.create_subprocess_exec(*command)
                    door.ui = ui.pid
                    door.started.set()
                    code = await _until_left(ui)
                await door.closed()
    if code and door.why:
        raise CannotStart(door.why, exit_code=EX_UNAVAILABLE)
    return code if code >= 0 else 128 - code


async def _until_left(ui: asyncio.subprocess.Process) -> int:
    loop = asyncio.get_running_loop()

    def leave() -> None:
        with suppress(ProcessLookupError):
            ui.terminate()

    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, leave)
    return await ui.wait()


@contextmanager
def _ignoring(*numbers: signal.Signals) -> Iterator[None]:
    """Not heard by us. The UI gets handlers of its own: what is ignored would be ignored there too."""
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Door:
    """Where the UI comes in. It may have more than one connection, each with a ticket of its own."""

    def __init__(self, codexd: Codexd, session_id: str) -> None:
        self._codexd = codexd
        self._session_id = session_id
        self._connections: set[asyncio.Task[None]] = set()
        self.ui = 0
        self.started = asyncio.Event()
        self.why: str | None = None

    async def closed(self) -> None:
        """The UI is gone, and so are its connections in a moment."""
        if self._connections:
            await asyncio.wait(self._connections, timeout=LEAVING_S)

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Somebody came: the UI is let through, anybody else is shown out."""
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await self.started.wait()
            if _is_of(peer_pid(writer.get_extra_info("socket")), self.ui):
                await self._serve(reader, writer)
        finally:
            self._connections.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, from its first line to its end."""
        try:
            request_line = await reader.readuntil(b"\r\n")
            ticket = await self._ticket()
            with reachable(Path(ticket.socket)) as address:
                its_reader, its_writer = await asyncio.open_unix_connection(address)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, BaaError, Unreachable) as error:
            self.why = getattr(error, "message", None) or f"codexd cannot be reached: {error}"
            return
        try:
            its_writer.write(request_line + f"Authorization: Bearer {ticket.ticket}\r\n".encode())
            async with asyncio.TaskGroup() as tasks:
                ways = (tasks.create_task(_pass(reader, its_writer)), tasks.create_task(_pass(its_reader, writer)))
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                for way in ways:
                    way.cancel()
        finally:
            its_writer.close()

    async def _ticket(self) -> Attachment:
        """A new ticket, once codexd is there to give one. Raises BaaError, Unreachable."""
        until = asyncio.get_running_loop().time() + AWAY_S
        for pause in pauses():
            try:
                return await self._codexd.attach(self._session_id)
            except Unavailable:
                if asyncio.get_running_loop().time() + pause > until:
                    raise
            await asyncio.sleep(pause)
        raise AssertionError("pauses never end")


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()


def peer_pid(sock: socket.socket) -> int:
    """The process at the other end of a Unix socket, as the system tells it."""
    if sys.platform == "darwin":
        return int(sock.getsockopt(_SOL_LOCAL, _LOCAL_PEERPID))
    pid: int = _PEER.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))[0]
    return pid


def _is_of(pid: int, ancestor: int) -> bool:
    """Whether a process is this one of ours, or comes of it."""
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        return pid == ancestor or any(parent.pid == ancestor for parent in process.parents())
    return False
