"""A terminal for a test: a command in tmux, with a server of its own, and what is on its screen."""

from __future__ import annotations

import asyncio
import shlex
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.support.node import PATIENCE_SECONDS, moment, until

LOOK_S = 0.05
"""Between two looks at a screen: nothing tells of its change."""

needs_tmux = pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux")


class Screen:
    """An async context manager: at its end the command and its terminal are gone."""

    def __init__(
        self,
        folder: Path,
        command: tuple[str, ...],
        environment: Mapping[str, str],
        *,
        size: tuple[int, int] = (100, 30),
    ) -> None:
        self._folder = folder
        self._command = command
        self._environment = dict(environment)
        self._size = size
        self._server = f"baa-{uuid.uuid4().hex[:12]}"
        self._left = folder / f"{self._server}.left"

    async def __aenter__(self) -> Self:
        columns, lines = self._size
        # The code is written when the command has ended; the pane stays, so that its last words can be read.
        script = f"{shlex.join(self._command)}; echo $? > {shlex.quote(str(self._left))}"
        environment = [f"{name}={value}" for name, value in self._environment.items()]
        shell = ("env", "-i", *environment, "TERM=screen-256color", "LANG=C.UTF-8", "/bin/sh", "-c", script)
        await self._tmux("-f", "/dev/null", "new-session", "-d", "-x", str(columns), "-y", str(lines), "cat")
        await self._tmux("set-option", "-g", "remain-on-exit", "on")
        await self._tmux("respawn-pane", "-k", shlex.join(shell))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._tmux("kill-server")

    async def text(self, *, history: bool = False) -> str:
        """What is on the screen; with `history`, also what scrolled off it."""
        return await self._tmux("capture-pane", "-p", "-J", *(("-S", "-") if history else ()))

    async def raw(self) -> str:
        """What is on the screen, with the escapes that colour it."""
        return await self._tmux("capture-pane", "-p", "-e")

    async def shows(self, *words: str, history: bool = False) -> str:
        """The screen once it shows all of these."""
        return await self.until(lambda text: all(word in text for word in words), f"{words}", history=history)

    async def hides(self, *words: str) -> str:
        """The screen once it shows none of these."""
        return await self.until(lambda text: not any(word in text for word in words), f"none of {words}")

    async def until(self, fact: Callable[[str], bool], what: str = "", *, history: bool = False) -> str:
        """The screen once this holds of it. Nothing tells of a screen's change, so it is looked at."""
        text = ""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not fact(text := await self.text(history=history)):
                    await moment(LOOK_S)
        except TimeoutError:
            pytest.fail(f"the screen never showed {what}:\n{text}")
        return text

    async def type(self, text: str) -> None:
        """Text, all at once and marked as such: what comes faster than fingers Codex would take for a paste."""
        await self._tmux("set-buffer", "--", text)
        await self._tmux("paste-buffer", "-p", "-d")

    async def press(self, *keys: str) -> None:
        """Keys by their names in tmux: `Enter`, `Escape`, `C-c`."""
        await self._tmux("send-keys", *keys)

    async def press_until(self, key: str, fact: Callable[[str], bool], what: str) -> str:
        """Press a key until that shows: Codex takes no key in the first moments of a question, lest it was meant for
        what stood there before.
        """
        text = ""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while True:
                    await self.press(key)
                    for _ in range(20):
                        if fact(text := await self.text()):
                            return text
                        await moment(LOOK_S)
        except TimeoutError:
            pytest.fail(f"{key} never led to {what}:\n{text}")

    async def left(self) -> int:
        """The exit code of the command, once it has ended."""
        await until(lambda: self._left.exists() and self._left.read_text(), PATIENCE_SECONDS)
        return int(self._left.read_text())

    async def _tmux(self, *arguments: str) -> str:
        process = await asyncio.create_subprocess_exec(
            *("tmux", "-L", self._server, *arguments),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={
                "PATH": "/usr/bin:/bin:/usr/local/bin:/opt/homebrew/bin",
                "LANG": "C.UTF-8",
                "HOME": str(self._folder),
            },
        )
        said, complaint = await process.communicate()
        assert process.returncode == 0, complaint.decode()
        return said.decode()
