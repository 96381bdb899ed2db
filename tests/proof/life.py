"""A node that lives in a thread of its own, for callers that do not run in an event loop."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import threading
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

from baa.scripted import Scenario, ScriptedModel
from tests.support.disk import MIB, Disk
from tests.support.node import PATIENCE_SECONDS, Node

T = TypeVar("T")


class Life:
    """codexd, the real Codex and its model from here on; `end` raises what they had to object to."""

    def __init__(self, scenarios: Sequence[Scenario]) -> None:
        """Start all of it, in a folder of its own, with codexd's state on a small disk."""
        self.folder = Path(tempfile.mkdtemp(prefix="baa-life-"))
        self.node: Node
        self.disk: Disk
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="life", daemon=True)
        self._thread.start()
        self._over = asyncio.Event()
        self._up = threading.Event()
        self._life = asyncio.run_coroutine_threadsafe(self._live(scenarios), self._loop)
        while not self._up.wait(0.05) and not self._life.done():
            pass
        if self._life.done():
            self._life.result()

    def do(self, what: Coroutine[Any, Any, T]) -> T:
        """What it gives, once it has been done in the thread of the node."""
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(2 * PATIENCE_SECONDS)

    def end(self) -> None:
        """Stop codexd, which must leave nothing behind."""
        try:
            self._loop.call_soon_threadsafe(self._over.set)
            self._life.result(2 * PATIENCE_SECONDS)
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
        shutil.rmtree(self.folder)

    async def _live(self, scenarios: Sequence[Scenario]) -> None:
        codex_home = self.folder / "codex-home"
        async with ScriptedModel(scenarios) as model:
            self.node = Node(self.folder / "node", model.base_url, codex_home=str(codex_home))
            self.node.codex_home = codex_home
            with Disk(self.node.state, size=64 * MIB) as self.disk:
                async with self.node:
                    await self.node.start()
                    self._up.set()
                    await self._over.wait()
