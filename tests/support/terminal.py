"""What Codex's own terminal UI says to codexd, said by a test: JSON-RPC in WebSocket frames, over codexd's socket."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from itertools import count
from types import TracebackType
from typing import Self

from websockets.asyncio.client import ClientConnection, unix_connect
from websockets.exceptions import ConnectionClosed

from tests.support.node import PATIENCE_SECONDS, Json, Node


async def ticket_of(node: Node, session_id: str) -> Json:
    """A one-time ticket for a session."""
    answer = await node.post(f"/v1/codexd/sessions/{session_id}/attach", {})
    assert answer.status_code == 201, answer.text
    ticket: Json = answer.json()["data"]["attachment"]
    return ticket


async def knock(ticket: Json, **headers: str) -> ClientConnection:
    """A connection that shows a ticket; `headers` are more of them."""
    shown = {"Authorization": f"Bearer {ticket['ticket']}", **headers}
    return await unix_connect(ticket["socket"], "ws://localhost/", additional_headers=shown, compression=None)


class Terminal:
    """An async context manager: attached, greeted, and with the session's thread resumed."""

    def __init__(self, ticket: Json) -> None:
        self.thread_id: str = ticket["threadId"]
        self.notes: list[Json] = []
        self._ticket = ticket
        self._numbers = count(1)
        self._answers: dict[object, asyncio.Future[Json]] = {}
        self._changed = asyncio.Event()
        self._tasks = asyncio.TaskGroup()
        self._socket: ClientConnection

    async def __aenter__(self) -> Self:
        self._socket = await knock(self._ticket)
        await self._tasks.__aenter__()
        self._tasks.create_task(self._read(), name="terminal")
        await self.asks("initialize", clientInfo={"name": "test", "version": "1"}, capabilities={})
        await self.say({"method": "initialized"})
        await self.asks("thread/resume", threadId=self.thread_id, excludeTurns=True)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._socket.close()
        await self._tasks.__aexit__(None, None, None)

    async def _read(self) -> None:
        with suppress(ConnectionClosed):  # async for ends by itself only where the end was announced as usual
            async for frame in self._socket:
                message = json.loads(frame)
                if "method" in message:
                    self.notes.append(message)
                    self._changed.set()
                else:
                    self._answers.pop(message["id"]).set_result(message)

    async def say(self, message: Json) -> None:
        """A message as it is."""
        await self._socket.send(json.dumps(message))

    async def request(self, method: str, **params: object) -> Json:
        """The whole answer to a request."""
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self.say({"id": number, "method": method, "params": params})
        async with asyncio.timeout(PATIENCE_SECONDS):
            told: Json = await answer
        return told

    async def asks(self, method: str, **params: object) -> Json:
        """The result of a request."""
        answer = await self.request(method, **params)
        assert "result" in answer, answer
        result: Json = answer["result"]
        return result

    async def refused(self, method: str, **params: object) -> str:
        """What a request is refused with."""
        answer = await self.request(method, **params)
        assert "error" in answer, answer
        message: str = answer["error"]["message"]
        return message

    async def types(self, text: str, **more: object) -> Json:
        """A turn, as it is typed."""
        return await self.asks("turn/start", threadId=self.thread_id, input=[{"type": "text", "text": text}], **more)

    async def told(self, method: str, count: int = 1) -> Json:
        """The `count`-th message of this method that it got, which may be still to come."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                self._changed.clear()
                found = [note for note in self.notes if note["method"] == method]
                if len(found) >= count:
                    return found[count - 1]
                await self._changed.wait()

    async def gone(self) -> None:
        """Wait until codexd has let it go."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self._socket.wait_closed()
