"""The command `baa` as a user has it: in a pipe, and in a terminal of its own (a pty)."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import sys
import termios
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

from tests.support.node import Node, until, within

BAA = (sys.executable, "-m", "baa.cli")


class Done(NamedTuple):
    """How a command ended, and what it said."""

    code: int | None
    stdout: str
    stderr: str


async def baa(node: Node, *arguments: str, stdin: bytes = b"", **settings: str) -> Done:
    """Run a command to its end, on this node, in its work folder, with pipes."""
    async with started(node, *arguments, **settings) as process:
        out, err = await within(process.communicate(stdin))
    return Done(process.returncode, out.decode(), err.decode())


@asynccontextmanager
async def started(node: Node, *arguments: str, **settings: str) -> AsyncIterator[Process]:
    """A command while it runs, with pipes; it does not run afterwards."""
    process = await asyncio.create_subprocess_exec(
        *BAA, *arguments, cwd=node.work, env=node.environment() | settings, stdin=PIPE, stdout=PIPE, stderr=PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


class Terminal:
    """A command in a pty: `screen` is all that came out of it, byte by byte."""

    def __init__(self, process: Process, master: int) -> None:
        self.process = process
        self.screen = b""
        self._master = master

    def _came(self) -> None:
        try:
            self.screen += os.read(self._master, 65536)
        except OSError:  # its other end is closed
            asyncio.get_running_loop().remove_reader(self._master)

    async def shows(self, words: str) -> None:
        """Wait until these words came."""
        try:
            await until(lambda: words.encode() in self.screen)
        except AssertionError:
            raise AssertionError(f"the terminal never showed {words!r}:\n{self.screen!r}") from None

    def types(self, text: str) -> None:
        """Press keys."""
        os.write(self._master, text.encode())

    def interrupt(self) -> None:
        """Ctrl-C, as the terminal sends it to the command alone."""
        self.process.send_signal(signal.SIGINT)

    async def ended(self) -> int:
        """Its exit code."""
        return await within(self.process.wait())


@asynccontextmanager
async def terminal(node: Node, *arguments: str, **settings: str) -> AsyncIterator[Terminal]:
    """A command in a terminal of 100 by 30, while it runs; it does not run afterwards."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (30, 100))
    environment = node.environment() | {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8"} | settings
    process = await asyncio.create_subprocess_exec(
        *BAA,
        *arguments,
        cwd=node.work,
        env=environment,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    shown = Terminal(process, master)
    asyncio.get_running_loop().add_reader(master, shown._came)
    try:
        yield shown
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        asyncio.get_running_loop().remove_reader(master)
        os.close(master)
