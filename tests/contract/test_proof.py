"""No token for strangers: whoever takes codexd's port after a kill -9 is asked for a proof, and hears no more."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from baa import config
from baa.api.endpoint import Endpoint, Program
from baa.api.errors import BaaError, Code, Rejected
from baa.api.sessions import CreateSession, Sandbox, StartTurn
from baa.client.codexd import Codexd
from baa.client.connection import NotProved
from baa.http import published
from baa.http.tokens import rotate_tokens
from baa.scripted import Hold, Say, ScriptedModel, when
from tests.support import programs
from tests.support.node import Node, within
from tests.support.peers import HEAD_END, http

pytestmark = pytest.mark.timeout(120)

COUNT = Say.numbered(40)
SCENARIOS = (when("count", (COUNT, Hold("rest"), Say.numbered(40, start=40))),)
NUMBERS = [f"w{number} " for number in range(80)]

Answer = Callable[[bytes], Awaitable[bytes]]


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[tuple[Node, ScriptedModel]]:
    async with ScriptedModel(SCENARIOS) as model, Node(tmp_path, model.base_url) as node:
        await node.start()
        yield node, model


def client(node: Node) -> Codexd:
    return Codexd(config.load(environ=node.environment()), patience_s=0.3)


class Stranger:
    """Somebody on codexd's port, who keeps all that is said to it."""

    def __init__(self, answer: Answer) -> None:
        self.heard = b""
        self._answer = answer

    async def meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(HEAD_END):
                self.heard += head
                writer.write(await self._answer(head))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.heard += await reader.read()
            writer.close()

    def knows(self, node: Node) -> bool:
        return any(node.token(name).encode() in self.heard for name in ("read", "drive"))


@asynccontextmanager
async def a_stranger(port: int, answer: Answer) -> AsyncIterator[Stranger]:
    stranger = Stranger(answer)
    server = await asyncio.start_server(stranger.meet, "127.0.0.1", port)
    async with server:
        yield stranger


async def says_ok(_: bytes) -> bytes:
    return http(200, {"ok": True, "data": {"status": "ok"}}).replace(b"Connection: close\r\n", b"")


async def repeats(head: bytes) -> bytes:
    nonce = head.split(b"nonce=")[-1].split(b" ")[0].decode()
    return http(200, {"ok": True, "data": {"proof": {"read": nonce, "drive": nonce}}})


async def says_nothing_of_use(_: bytes) -> bytes:
    return b"220 mail.example ESMTP\r\n\r\n"


async def asks_for_more(_: bytes) -> bytes:
    return b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer\r\nContent-Length: 0\r\n\r\n"


async def test_whoever_took_the_port_gets_no_token(node: tuple[Node, ScriptedModel]) -> None:
    codexd_node, _ = node
    port = urlsplit(codexd_node.address).port
    assert port is not None
    async with client(codexd_node) as codexd:
        session = await codexd.create_session(
            CreateSession(cwd=str(codexd_node.work), sandbox=Sandbox.DANGER_FULL_ACCESS)
        )
        await codexd_node.kill()
        asked = StartTurn(session_id=session.session_id, prompt="count")
        for answer in (says_ok, repeats, says_nothing_of_use, asks_for_more):
            async with a_stranger(port, answer) as stranger:
                for ask in (codexd.status(), codexd.start_turn(asked), codexd.create_session(CreateSession(cwd="/x"))):
                    with pytest.raises(NotProved, match="was not told the token"):
                        await ask
                with pytest.raises(NotProved):
                    async with codexd.events():
                        raise AssertionError("it was believed")
                assert stranger.heard.startswith(b"GET /healthz?nonce=")
                assert not stranger.knows(codexd_node)
                assert b"count" not in stranger.heard
        await codexd_node.start()
        assert (await codexd.status()).daemon.pid == codexd_node.pid


async def test_whoever_passes_the_question_on_to_the_real_one_gets_no_token(node: tuple[Node, ScriptedModel]) -> None:
    codexd_node, _ = node
    there = urlsplit(codexd_node.address)

    async def passes_on(head: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(there.hostname, there.port)
        host = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"host:"))
        writer.write(head.replace(host, f"Host: {there.netloc}".encode()))
        answer = await reader.readuntil(HEAD_END)
        answer += await reader.read(4096)
        writer.close()
        assert b'"proof"' in answer
        return answer

    async with a_stranger(0, passes_on) as stranger:
        pass
    server = await asyncio.start_server(stranger.meet, "127.0.0.1", 0)
    async with server, client(codexd_node) as codexd:
        address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        file = codexd_node.home / "state" / "endpoint.json"
        published.publish(file, "codexd", Program(address, 1, "dmn_x", "2026-01-01T00:00:00.000Z"))
        with pytest.raises(NotProved):
            await codexd.status()
        assert not stranger.knows(codexd_node)
        published.publish(file, "codexd", Program(codexd_node.address, codexd_node.pid, "dmn_x", ""))
        assert (await codexd.status()).daemon.pid == codexd_node.pid


async def test_the_conductor_passes_no_token_on_to_a_stranger(node: tuple[Node, ScriptedModel]) -> None:
    codexd_node, _ = node
    port = urlsplit(codexd_node.address).port
    assert port is not None
    async with programs.Program("conductor", codexd_node.home) as conductor:
        token = conductor.token("drive")
        assert (await conductor.ask("GET", "/v1/codexd/sessions", token=token)).status_code == 200
        await codexd_node.kill()
        async with a_stranger(port, says_ok) as stranger:
            answer = await conductor.ask("GET", "/v1/codexd/sessions", token=token)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "codexd_unavailable")
            assert "does not know this node's tokens" in answer.json()["error"]["message"]
            with pytest.raises(Exception, match="503"):
                await connect(
                    f"{conductor.address.replace('http', 'ws', 1)}/v1/codexd/events",
                    additional_headers={"Authorization": f"Bearer {token}"},
                    proxy=None,
                )
            assert not stranger.knows(codexd_node)
        await codexd_node.start()


# --- other tokens while it runs


async def test_new_tokens_end_old_streams_and_clients_go_on(node: tuple[Node, ScriptedModel]) -> None:
    codexd_node, model = node
    old = codexd_node.token()
    async with client(codexd_node) as codexd:
        session = await codexd.create_session(
            CreateSession(cwd=str(codexd_node.work), sandbox=Sandbox.DANGER_FULL_ACCESS)
        )
        uri = f"{codexd_node.address.replace('http', 'ws', 1)}/v1/codexd/events"
        headers = {"Authorization": f"Bearer {old}"}
        async with connect(uri, additional_headers=headers, proxy=None) as socket, codexd.events() as stream:
            started = await codexd.start_turn(StartTurn(session_id=session.session_id, prompt="count"))
            await model.held("rest")
            rotate_tokens(codexd_node.home / "state" / "tokens")
            assert codexd_node.token() != old
            with pytest.raises(ConnectionClosed) as closed:
                while True:
                    await within(socket.recv())
            assert (closed.value.rcvd and closed.value.rcvd.code) == 4401
            refused = await codexd_node.ask("GET", "/v1/codexd/sessions", authorization=f"Bearer {old}")
            assert refused.status_code == 401
            model.release("rest")
            events = []
            async for event in stream:
                events.append(event)
                if event.turn_id == started.turn.turn_id and event.type == "turn.completed":
                    break
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        assert [event.payload["delta"] for event in events if event.type == "item.delta"] == NUMBERS
        assert (stream.gaps, stream.connections) == (0, 2)
        assert (await codexd.status()).counts.turns_ended == 1


async def test_a_stream_of_server_sent_events_ends_with_its_token(node: tuple[Node, ScriptedModel]) -> None:
    codexd_node, _ = node
    parts = urlsplit(codexd_node.address)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    head = f"GET /v1/codexd/events HTTP/1.1\r\nHost: {parts.netloc}\r\nAccept: text/event-stream\r\n"
    writer.write(f"{head}Authorization: Bearer {codexd_node.token('read')}\r\n\r\n".encode())
    assert b"event: hello" in await within(reader.readuntil(b"event: hello"))
    rotate_tokens(codexd_node.home / "state" / "tokens", ("drive",))
    answer = await codexd_node.get("/v1/codexd/sessions")
    assert answer.status_code == 200, "the new one is taken at once"
    rotate_tokens(codexd_node.home / "state" / "tokens", ("read",))
    assert (await within(reader.readuntil(b"0\r\n\r\n"))).endswith(b"0\r\n\r\n")
    writer.close()


async def test_a_kept_connection_is_worth_nothing_without_its_token(node: tuple[Node, ScriptedModel]) -> None:
    codexd_node, _ = node
    parts = urlsplit(codexd_node.address)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    bearer = f"Host: {parts.netloc}\r\nAuthorization: Bearer {codexd_node.token('read')}\r\n\r\n"
    for wanted in (b"HTTP/1.1 200 ", b"HTTP/1.1 401 "):
        writer.write(f"GET /v1/codexd/sessions HTTP/1.1\r\n{bearer}".encode())
        assert (await within(reader.readuntil(HEAD_END))).startswith(wanted)
        if b"200" in wanted:
            await within(reader.readuntil(b"}}"))
            rotate_tokens(codexd_node.home / "state" / "tokens")
    await within(reader.read())  # to its end
    writer.close()


async def test_a_read_that_waited_past_its_token_tells_nothing(node: tuple[Node, ScriptedModel]) -> None:
    codexd_node, _ = node
    await codexd_node.child()
    async with httpx2.AsyncClient(trust_env=False, timeout=60) as http_, asyncio.TaskGroup() as tasks:
        headers = {"authorization": f"Bearer {codexd_node.token('read')}"}
        query = {"after": await codexd_node.head(), "types": "session.registered", "waitMs": "50000"}
        address = f"{codexd_node.address}/v1/codexd/events"
        waiting = tasks.create_task(http_.get(address, params=query, headers=headers), name="waits")
        while "codexd_waits 1\n" not in (await codexd_node.get("/metrics")).text:
            pass
        rotate_tokens(codexd_node.home / "state" / "tokens")
        await codexd_node.session()
    answer = waiting.result()
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")


async def test_the_read_token_stays_when_the_drive_token_goes(node: tuple[Node, ScriptedModel]) -> None:
    codexd_node, _ = node
    config_of = config.load(environ=codexd_node.environment())
    async with Codexd(config_of, scope="read") as reading, client(codexd_node) as driving:
        before = codexd_node.token("read")
        rotate_tokens(codexd_node.home / "state" / "tokens", ("drive",))
        assert codexd_node.token("read") == before
        assert (await reading.sessions()).sessions == []
        with pytest.raises(Rejected) as refused:
            await reading.create_session(CreateSession(cwd=str(codexd_node.work)))
        assert refused.value.code is Code.READ_ONLY_TOKEN
        assert (await driving.sessions()).sessions == []
        with pytest.raises(BaaError):
            await driving.session("ses_x")


def test_what_is_published_is_not_a_secret() -> None:
    assert "token" not in json.dumps([*Endpoint.__struct_fields__, *Program.__struct_fields__])
