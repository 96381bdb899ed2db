"""A node as somebody at its machine has it: everything runs by `baa up`, and is asked by the commands."""

from __future__ import annotations

import asyncio
import signal
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import psutil

from tests.support.command_line import BAA, Done, baa
from tests.support.node import Node, until, within

PROGRAMS = ("codexd", "conductor", "status-api")


class UpNode:
    """`node` gives the folders and settings, and cleans up; it starts no codexd itself."""

    def __init__(self, node: Node, name: str, **settings: str) -> None:
        self.node = node
        self.name = name
        self.settings = {
            "BAA_NODE_ID": name,
            "BAA_CONDUCTOR_LOCAL_API_BASE": "http://127.0.0.1:0",
            "BAA_STATUS_API_BASE": "http://127.0.0.1:0",
            **settings,
        }
        self._printed = node.folder / "up"
        self._process: Process

    @asynccontextmanager
    async def up(self, *arguments: str) -> AsyncIterator[None]:
        """Inside, `baa up` runs and all its programs serve, until they are killed; at the end it is stopped."""
        with self._printed.open("wb") as printed:
            self._process = await asyncio.create_subprocess_exec(
                *BAA, "up", *arguments, cwd=self.node.work, env=self.node.environment() | self.settings, stdout=printed
            )
        try:
            await until(lambda: not self._waiting())
            yield
            if self._process.returncode is None:
                self._process.send_signal(signal.SIGINT)
                assert await within(self._process.wait()) == 0
        finally:
            await self.kill()

    def _waiting(self) -> set[str]:
        """The programs that have not said yet that they serve."""
        return set(PROGRAMS) - {line.partition(" http://")[0] for line in self._printed.read_text().splitlines()}

    async def baa(self, *arguments: str) -> Done:
        """A command on this node."""
        return await baa(self.node, *arguments, stdin=b"", **self.settings)

    async def kill(self) -> None:
        """SIGKILL to everything on it, as when its power is gone."""

        def gone() -> bool:
            left = self._left()
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            return not left

        await until(gone)
        await within(self._process.wait())

    def _left(self) -> list[psutil.Process]:
        """Every process with the folder of this node in its environment: `baa up` and all that it started."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                ours = any(str(self.node.folder) in value for value in process.environ().values())
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found
