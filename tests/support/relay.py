"""A network between a program and its database that can be cut, without a word to either, and healed."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self


class Relay:
    """An async context manager: a port on loopback that leads to another one. While it is cut, bytes wait."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._whole = asyncio.Event()
        self._whole.set()
        self._server: asyncio.Server
        self._serving: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for each in self._serving:
            each.cancel()
        if self._serving:
            await asyncio.wait(self._serving)

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def cut(self) -> None:
        """From now on nothing passes, in either direction."""
        self._whole.clear()

    def heal(self) -> None:
        """What waited arrives."""
        self._whole.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            await self._whole.wait()
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._to)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass(reader, far_writer), name="there")
                both.create_task(self._pass(far_reader, writer), name="back")
        except* (OSError, asyncio.CancelledError):
            pass  # one side is gone, or the test has ended
        finally:
            writer.close()
            self._serving.discard(task)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while taken := await reader.read(65_536):
                await self._whole.wait()
                writer.write(taken)
                await writer.drain()
        finally:
            writer.close()
