"""The scripted model server: answers POST /v1/responses from a script, on loopback, in the caller's event loop.

Beside the model's routes it has two more, for when it runs in a process of its own: POST /control/release/GATE, and
GET /control/held/GATE, which answers once a response has come to that gate. Everything else is 404.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self
from uuid import uuid4

import h11
import msgspec

from baa.scripted.connection import Call, Connection
from baa.scripted.request import Request, read_request
from baa.scripted.script import Drop, Hold, Refuse, Reply, Scenario, choose, limits_of
from baa.scripted.stream import Pause, stream

HOST = "127.0.0.1"
BACKLOG = 1024  # A benchmark starts hundreds of turns at once; a refused connection would cost one of Codex's retries.
RELEASE = "/control/release/"
HELD = "/control/held/"


class ScriptedModel:
    """An async context manager: inside it, the server listens. Leaving it cuts what is still being answered.

    `port` 0 takes a free one; OSError if the port is taken. `requests` are all that were answered, oldest first;
    `on_body` is given each of them as it came.
    """

    def __init__(
        self,
        scenarios: Iterable[Scenario] = (),
        *,
        port: int = 0,
        on_body: Callable[[bytes], None] | None = None,
    ) -> None:
        self.requests: list[Request] = []
        self._scenarios = tuple(scenarios)
        self._port = port
        self._on_body = on_body
        self._gates: defaultdict[str, _Gate] = defaultdict(_Gate)
        self._group = asyncio.TaskGroup()
        self._conversations: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        self._server = await asyncio.start_server(self._accept, HOST, self._port, backlog=BACKLOG)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for conversation in self._conversations:
            conversation.cancel()
        # Not given the caller's exception, which the group would wrap; a crash in a conversation still comes out here.
        await self._group.__aexit__(None, None, None)

    @property
    def base_url(self) -> str:
        """What Codex takes as the provider's base_url."""
        return f"http://{HOST}:{self._port}/v1"

    def release(self, gate: str) -> None:
        """Lets go on what is held at the gate, now and later."""
        self._gates[gate].open.set()

    async def held(self, gate: str, count: int = 1) -> None:
        """Returns when `count` responses in all have come to the gate, as one does again after a retry."""
        reached = self._gates[gate]
        async with reached.arrived:
            await reached.arrived.wait_for(lambda: reached.arrivals >= count)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(reader, writer)
        if not self._server.is_serving():
            connection.abort()
            return
        conversation = self._group.create_task(self._converse(connection), name="scripted-conversation")
        self._conversations.add(conversation)
        conversation.add_done_callback(self._conversations.discard)

    async def _converse(self, connection: Connection) -> None:
        try:
            while call := await connection.next_call():
                await self._answer(call, connection)
            connection.close()
        except (ConnectionError, h11.RemoteProtocolError):
            connection.abort()
        except asyncio.CancelledError:
            connection.abort()
            raise

    async def _answer(self, call: Call, connection: Connection) -> None:
        match call.method, call.target:
            case "POST", "/v1/responses":
                await self._respond(call.body, connection)
            case "GET", "/v1/models":
                await connection.respond(200, b'{"models":[]}')
            case "POST", target if target.startswith(RELEASE):
                self.release(target.removeprefix(RELEASE))
                await connection.respond(200, b'{"ok":true}')
            case "GET", target if target.startswith(HELD):
                await self.held(target.removeprefix(HELD))
                await connection.respond(200, b'{"ok":true}')
            case _:
                await connection.respond(404, b"")

    async def _respond(self, body: bytes, connection: Connection) -> None:
        try:
            request = read_request(body)
        except msgspec.DecodeError as invalid:
            await connection.respond(400, msgspec.json.encode({"error": {"message": str(invalid)}}))
            return
        self.requests.append(request)
        if self._on_body is not None:
            self._on_body(body)
        reply = choose(self._scenarios, request)
        headers = [header for limits in limits_of(reply) for header in limits.headers]
        match reply[-1]:
            case Refuse() as refusal:
                for step in reply[:-1]:
                    if isinstance(step, Hold):
                        await self._gates[step.gate].pass_through()
                await connection.respond(refusal.status, refusal.body.encode(), headers)
            case _:
                connection.start_stream(headers)
                await self._stream(reply, len(body), connection)

    async def _stream(self, reply: Reply, input_chars: int, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        for part in stream(reply, response_id=uuid4().hex, input_chars=input_chars):
            match part:
                case bytes():
                    await connection.send(part)
                case Pause(seconds=seconds):
                    due += seconds
                    await asyncio.sleep(due - loop.time())
                case Hold(gate=gate):
                    await self._gates[gate].pass_through()
                    due = loop.time()
                case Drop():
                    connection.close()
                    return
        await connection.end_stream()


class _Gate:
    """Where responses wait, and where somebody waits for them to arrive."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.arrived = asyncio.Condition()
        self.arrivals = 0

    async def pass_through(self) -> None:
        async with self.arrived:
            self.arrivals += 1
            self.arrived.notify_all()
        await self.open.wait()
