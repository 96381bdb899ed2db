"""A small application behind the guard on a real socket, and raw bytes to and from it."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from baa.http.guard import SECURITY_HEADERS, Access, Guard, loopback_hosts
from baa.http.keyring import Keyring
from baa.http.limits import ALLOWED, Allowance, Receive, Scope, Send
from baa.http.serve import HttpServer, bind
from baa.http.tokens import Tokens

TOKENS = Tokens(read="r" * 43, drive="d" * 43)
READ = b"Authorization: Bearer " + TOKENS.read.encode() + b"\r\n"
DRIVE = b"Authorization: Bearer " + TOKENS.drive.encode() + b"\r\n"
JSON_TYPE = b"Content-Type: application/json\r\n"
UPGRADE = (
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: " + base64.b64encode(bytes(16)) + b"\r\n"
)
ROUTES: dict[tuple[str, str, str], Access] = {
    ("http", "GET", "/healthz"): "open",
    ("http", "HEAD", "/healthz"): "open",
    ("http", "GET", "/open"): "open",
    ("http", "GET", "/poll"): "open",
    ("http", "GET", "/read"): "read",
    ("http", "POST", "/drive"): "drive",
    ("websocket", "GET", "/live"): "read",
}


@dataclass
class House:
    """A served application, and what reached it."""

    sock: socket.socket
    on_websocket: Callable[[Receive, Send], Awaitable[None]] | None = None
    ping_seconds: float = 20
    allowance: Allowance = ALLOWED
    reached: list[str] = field(default_factory=list)
    polling: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.port: int = self.sock.getsockname()[1]
        self.host = f"Host: 127.0.0.1:{self.port}\r\n".encode()
        self.guard = Guard(
            self.app,
            program="codexd",
            allowed_hosts=loopback_hosts(self.port),
            routes=lambda kind, method, path: ROUTES.get((kind, method, path)),
            tokens=Keyring({"read": TOKENS.read, "drive": TOKENS.drive}),
        )
        self.server = HttpServer(
            self.guard,
            self.sock,
            grace_seconds=0.2,
            ping_seconds=self.ping_seconds,
            allowance=self.allowance,
            refused=self.guard.refused,
        )

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.reached.append(scope["path"])
        if scope["type"] == "websocket":
            assert self.on_websocket is not None
            assert (await receive())["type"] == "websocket.connect"
            await send({"type": "websocket.accept"})
            await self.on_websocket(receive, send)
            return
        body = (await receive())["body"]
        if scope["path"] == "/poll":
            self.polling.set()
            await asyncio.Event().wait()
        answer = b"%d" % len(body)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": answer})

    def filled(self, head: bytes) -> bytes:
        """`head` with its {fields} filled in."""
        fields = {"host": self.host, "read": READ, "drive": DRIVE, "json": JSON_TYPE, "upgrade": UPGRADE}
        for name, value in {**fields, "token": TOKENS.read.encode()}.items():
            head = head.replace(b"{" + name.encode() + b"}", value)
        return head

    async def exchange(self, *raw: bytes) -> bytes:
        """All that comes back for `raw`, until the server closes; nothing, if it closes hard."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            async with asyncio.timeout(5):
                writer.writelines(raw)
                await writer.drain()
                return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.close()

    async def upgrade(self, **options: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A WebSocket whose handshake went through."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, **options)
        writer.write(b"GET /live HTTP/1.1\r\n" + self.host + READ + UPGRADE + b"\r\n")
        async with asyncio.timeout(5):
            head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        return reader, writer


@asynccontextmanager
async def serving(
    on_websocket: Callable[[Receive, Send], Awaitable[None]] | None = None,
    *,
    ping_seconds: float = 20,
    allowance: Allowance = ALLOWED,
) -> AsyncIterator[House]:
    house = House(bind("127.0.0.1", 0), on_websocket, ping_seconds, allowance)
    async with asyncio.TaskGroup() as group:
        group.create_task(house.server.serve(), name="server")
        async with asyncio.timeout(5):
            await house.server.started.wait()
        try:
            yield house
        finally:
            house.server.stop()


def run(scenario: Callable[[House], Awaitable[None]]) -> None:
    async def main() -> None:
        async with serving() as house:
            await scenario(house)

    asyncio.run(main())


async def until(fact: Callable[[], bool]) -> None:
    """Wait, turn by turn of the loop, for something that the server does by itself."""
    while not fact():  # noqa: ASYNC110  (what uvicorn does by itself sets no event)
        await asyncio.sleep(0)


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer else 0


def code(answer: bytes) -> str:
    head, _, body = answer.partition(b"\r\n\r\n")
    for name, value in SECURITY_HEADERS:
        assert name + b": " + value in head.lower()
    assert b"access-control" not in head.lower()
    error = json.loads(body)["error"]
    assert isinstance(error["code"], str)
    return str(error["code"])


def numbered(rows: list[tuple[bytes, int, str]]) -> list[str]:
    return [f"{number}-{word}" for number, (_, _, word) in enumerate(rows)]
