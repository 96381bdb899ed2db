"""`baa node check --attack` against real programs, which refuse everything, and against a server without a guard."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from baa.http.limits import Receive, Scope, Send
from baa.http.serve import HttpServer, base_url, bind
from baa.http.tokens import ensure_tokens
from baa.runtime.attack import READS, attack, attempts
from tests.support.node import Json, Node, within
from tests.support.programs import Program

pytestmark = pytest.mark.timeout(180)

PROGRAMS = ("codexd", "conductor", "status-api")


async def attacked(node: Node, *arguments: str) -> tuple[int, str]:
    """What the command says of the node, and its exit code."""
    command = (sys.executable, "-m", "baa.cli", "node", "check", "--attack", *arguments)
    environment = node.environment() | {
        "BAA_CONDUCTOR_LOCAL_API_BASE": "http://127.0.0.1:0",
        "BAA_STATUS_API_BASE": "http://127.0.0.1:0",
    }
    process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=asyncio.subprocess.PIPE)
    said, _ = await within(process.communicate(), 120)
    assert process.returncode is not None
    return process.returncode, said.decode()


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with Node(tmp_path, "http://127.0.0.1:9") as node:
        await node.start()
        await node.child()
        yield node


async def test_a_node_refuses_every_attempt_and_nothing_of_it_changes(node: Node) -> None:
    async with Program("conductor", node.home), Program("status-api", node.home):
        head = await node.head()
        code, said = await attacked(node, "--json")
        told: Json = json.loads(said)
        assert [line for line in told["lines"] if line["level"] != "ok"] == []
        assert (code, told["ok"]) == (0, True)
        for program in PROGRAMS:
            tried = [line["name"] for line in told["lines"] if line["name"].startswith(f"{program}: ")]
            assert len(tried) == len(attempts(program, "127.0.0.1:1", read="r" * 43)) > 15
        assert await node.head() == head
        assert json.loads((await node.get("/v1/codexd/sessions")).text)["data"]["sessions"] == []

        code, said = await attacked(node, "--service", "codexd")
        assert code == 0
        assert "codexd: rebinding, with a token" in said
        assert "refused: 421" in said
        assert "conductor" not in said


async def test_a_program_that_does_not_run_was_not_tried(node: Node) -> None:
    code, said = await attacked(node, "--json", "--service", "codexd", "--service", "conductor")
    assert code == 1
    failed = [line for line in json.loads(said)["lines"] if line["level"] == "fail"]
    assert [line["name"] for line in failed] == ["conductor: attempts"]
    assert "not tried" in failed[0]["evidence"]


class Unguarded:
    """A server that lets everything in, and keeps what it was told."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.heard.append(f"{scope['path']} {scope['query_string']!r} {scope['headers']}")
        await receive()
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
            return
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"{}"})


async def test_a_server_without_a_guard_is_told_of_at_every_line_and_not_told_the_token(tmp_path: Path) -> None:
    tokens = ensure_tokens(tmp_path / "tokens")
    server_of: Any = Unguarded()
    sock = bind("127.0.0.1", 0)
    server = HttpServer(server_of.app, sock, grace_seconds=0.1)
    async with AsyncExitStack() as stack:
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        tasks.create_task(server.serve(), name="server")
        lines = await attack([(program, base_url(sock)) for program in PROGRAMS], read=tokens.read)
        server.stop()
    proofs = [line for line in lines if line.name.endswith(": proof")]
    assert [line.level for line in proofs] == ["fail"] * 3
    got_in = [line for line in lines if line not in proofs]
    assert {line.level for line in got_in} == {"fail"}
    assert {line.evidence for line in got_in} == {"got in: 200", "got in: 101"}
    assert len(got_in) == sum(len(attempts(program, "x:1", read="r")) for program in READS)
    assert all(line.cure for line in lines)
    assert len(server_of.heard) > len(got_in)
    assert not any(tokens.read in each for each in server_of.heard)


async def test_nobody_there_is_no_success() -> None:
    with bind("127.0.0.1", 0) as sock:
        address = base_url(sock)
    lines = await attack([("codexd", address)], read="r" * 43)
    assert {line.level for line in lines} == {"fail"}
