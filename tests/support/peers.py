"""Peers that know a node's tokens, so that a client believes them, and then do not do as codexd does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from baa.http.guard import Guard, loopback_hosts
from baa.http.keyring import TokenFiles
from baa.http.limits import Receive, Scope, Send
from baa.http.proof import nonce_of, proofs
from baa.http.serve import HttpServer, base_url, bind
from baa.http.tokens import Tokens, ensure_tokens

HEAD_END = b"\r\n\r\n"


def http(status: int, body: object) -> bytes:
    """A whole answer, which ends the connection."""
    content = json.dumps(body).encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(content)}\r\nConnection: close\r\n\r\n"
    return head.encode() + content


def proof_of(head: bytes, tokens: Tokens) -> bytes | None:
    """The answer that proves, if that is what is asked for; it leaves the connection open."""
    target, _, query = head.split(b" ", 2)[1].partition(b"?")
    nonce = nonce_of(target.decode(), "GET", query)
    if nonce is None:
        return None
    host = next(line[6:] for line in head.decode().split("\r\n") if line.lower().startswith("host: "))
    told = proofs({"read": tokens.read, "drive": tokens.drive}, host, nonce)
    return http(200, {"ok": True, "data": {"proof": told}}).replace(b"Connection: close\r\n", b"")


@asynccontextmanager
async def a_server(home: Path, *answers: bytes) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server that gives each request in turn one of these answers and hangs up; its address, and the requests."""
    tokens = ensure_tokens(home / "state" / "tokens")
    asked: list[bytes] = []
    left = list(answers)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(HEAD_END)
        proof = proof_of(head, tokens)
        if proof is not None:
            writer.write(proof)
            head = await reader.readuntil(HEAD_END)
        asked.append(head)
        writer.write(left.pop(0) if left else b"")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked


@asynccontextmanager
async def a_stream(
    home: Path, *frames: str, leave: asyncio.Event | None = None
) -> AsyncIterator[tuple[str, list[dict[str, Any]]]]:
    """A server that says these frames to everyone, and then nothing until it leaves; its address, and who came."""
    ensure_tokens(home / "state" / "tokens")
    sock = bind("127.0.0.1", 0)
    came: list[dict[str, Any]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        came.append(scope)
        await receive()
        await send({"type": "websocket.accept"})
        for said in frames:
            await send({"type": "websocket.send", "text": said})
        if leave is None:
            while (await receive())["type"] != "websocket.disconnect":
                pass
        else:
            await leave.wait()

    guard = Guard(
        app,
        program="codexd",
        allowed_hosts=loopback_hosts(sock.getsockname()[1]),
        routes=lambda kind, method, path: "read" if kind == "websocket" else "open",
        tokens=TokenFiles(home / "state" / "tokens"),
    )
    server = HttpServer(guard, sock, grace_seconds=0.2)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(server.serve(), name="server")
        await server.started.wait()
        try:
            yield base_url(sock), came
        finally:
            server.stop()
