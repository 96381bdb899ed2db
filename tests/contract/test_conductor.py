"""The conductor beside a real codexd: how it stands, and codexd through it, byte for byte."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import apsw
import httpx2
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from baa.scripted import Hold, Say, ScriptedModel, when
from tests.support.faults import saw
from tests.support.keeper_client import alive
from tests.support.node import PATIENCE_SECONDS, Json, Node, moment, within
from tests.support.oracle import deltas, numbered
from tests.support.programs import Program

pytestmark = pytest.mark.timeout(150)

ALONE = {"BAA_WORKER_EMBEDDED": "false"}
"""Without the worker that a conductor has in it by default: what it does is told elsewhere."""

SCENARIOS = (
    when("plain", Say("Fine.")),
    when("held", (Say.numbered(20), Hold("held"), Say.numbered(20, start=20))),
    when("flood", Say.numbered(20_000)),
)


class House(NamedTuple):
    """codexd and the conductor of one node."""

    node: Node
    conductor: Program
    model: ScriptedModel


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with ScriptedModel(SCENARIOS) as model, Node(tmp_path, model.base_url) as node:
        await node.start()
        async with Program("conductor", node.home, **ALONE) as conductor:
            yield House(node, conductor, model)


class Through(Node):
    """The same node, reached through its conductor."""


def through(house: House) -> Node:
    """`node`, but every request goes to the conductor."""
    other = Node.__new__(Through)
    other.__dict__.update(house.node.__dict__)
    other.address = house.conductor.address
    return other


async def websocket(address: str, query: str, token: str | None) -> ClientConnection:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    uri = f"{address.replace('http', 'ws', 1)}/v1/codexd/events{query}"
    return await connect(uri, additional_headers=headers, proxy=None, compression=None)


# --- how it stands


async def test_without_codexd_it_is_alive_and_not_ready_and_starts_none(tmp_path: Path) -> None:
    async with Program("conductor", tmp_path / "baa", **ALONE) as conductor:
        assert await conductor.get("/healthz") == {"status": "ok"}
        role = await conductor.get("/rolez")
        assert (role["role"], role["nodeId"], role["leaderId"], role["term"]) == ("leader", "here", "here", 1)
        answer = await conductor.ask("GET", "/readyz")
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (503, "not_ready")
        assert "baa service start --service codexd" in error["message"]
        assert (error["details"]["engine"]["ok"], error["details"]["codexd"]["ok"]) == (True, False)
        answer = await conductor.ask("GET", "/v1/codexd/status")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "codexd_unavailable")
        assert answer.headers["retry-after"] == "1"
        assert not (tmp_path / "baa" / "state" / "codexd").exists()
        assert await conductor.stop() == (0, "")


async def test_it_is_ready_once_codexd_is(house: House) -> None:
    node, conductor, _ = house
    await node.child()
    ready = await conductor.get("/readyz")
    assert ready["status"] == "ready"
    assert ready["codexd"]["message"].startswith("codexd is ready with Codex 0.")
    assert await node.stop() == 0
    assert (await conductor.ask("GET", "/readyz")).status_code == 503
    assert (await conductor.get("/healthz"))["status"] == "ok"
    await node.start()
    await conductor.becomes("/readyz", lambda data: data["status"] == "ready")


async def test_a_child_that_cannot_be_is_told(tmp_path: Path) -> None:
    async with (
        Node(tmp_path, "http://127.0.0.1:9", server_command=str(tmp_path / "none")) as node,
        Program("conductor", node.home, **ALONE) as conductor,
    ):
        await node.start()
        message = (await conductor.ask("GET", "/readyz")).json()["error"]["message"]
        assert "its child is unavailable" in message
        assert "BAA_CODEXD_SERVER_COMMAND" in message


async def test_nodes_take_a_token_and_unknown_routes_are_named(house: House) -> None:
    conductor = house.conductor
    assert (await conductor.ask("GET", "/v1/nodes")).status_code == 401
    assert await conductor.get("/v1/nodes", token=conductor.token()) == {"nodes": [], "nextPageToken": None}
    for method, path in (("GET", "/v1/tasks/x/y"), ("POST", "/healthz"), ("DELETE", "/rolez"), ("GET", "/v1/codexd")):
        answer = await conductor.ask(method, path, content_type="application/json")
        assert answer.status_code == 404
        assert answer.json()["error"]["message"] == f"Unknown conductor route {method} {path}."


async def test_its_own_door_refuses_pages_and_strange_hosts(house: House) -> None:
    conductor = house.conductor
    token = conductor.token("drive")
    for path in ("/rolez", "/v1/codexd/status", "/v1/codexd/sessions"):
        assert (await conductor.ask("GET", path, token=token, origin="http://127.0.0.1")).status_code == 403
        assert (await conductor.ask("GET", path, token=token, host="evil.example")).status_code == 421
    with pytest.raises(InvalidStatus) as refused:
        uri = f"{conductor.address.replace('http', 'ws', 1)}/v1/codexd/events"
        await connect(uri, origin="http://evil.example", proxy=None)  # type: ignore[arg-type]
    assert refused.value.response.status_code == 403


# --- codexd through it


async def test_a_whole_turn_through_the_conductor_is_the_turn_itself(house: House) -> None:
    node, far = house.node, through(house)
    session_id = await far.session()
    turn_id = await far.turn(session_id, "plain", key="once")
    assert await far.turn(session_id, "plain", key="once") == turn_id, "the key was passed on"
    turn = await far.end_of_turn(turn_id)
    assert (turn["status"], turn["finalMessage"]) == ("completed", "Fine.")
    for path in (f"/v1/codexd/turn/{turn_id}", "/v1/codexd/sessions?limit=1", "/v1/codexd/events?limit=5&after=0"):
        near, passed = await node.get(path), await far.get(path)
        assert passed.content == near.content
        assert passed.headers == near.headers


async def test_the_websocket_through_the_conductor_has_the_same_frames(house: House) -> None:
    node, conductor, model = house
    far = through(house)
    turn_id = await far.turn(await far.session(), "held")
    async with await websocket(conductor.address, "?after=0", node.token("read")) as far_socket:
        events: list[Json] = []
        hello = json.loads(await far_socket.recv())
        assert hello["type"] == "hello"
        at = hello["after"]
        while not any(event["type"] == "turn.completed" for event in events):
            frame = json.loads(await within(far_socket.recv()))
            assert frame["from"] == at
            at = frame["next"]
            events += frame["events"]
            if len(deltas(events, turn_id)) == 20:
                model.release("held")
    assert deltas(events, turn_id) == numbered(40)
    assert events == (await node.events())[: len(events)]


REQUESTS: tuple[tuple[str, str, str | None, dict[str, str]], ...] = (
    ("GET", "/v1/codexd/runs", None, {}),
    ("POST", "/v1/codexd/runs", "drive", {"content_type": "application/json"}),
    ("GET", "/v1/codexd/runs/run-legacy", "drive", {}),
    ("GET", "/v1/codexd/sessions", None, {}),
    ("GET", "/v1/codexd/sessions", "nonsense", {}),
    ("POST", "/v1/codexd/sessions", "read", {"content_type": "application/json"}),
    ("POST", "/v1/codexd/sessions", "drive", {"content_type": "application/json"}),
    ("PUT", "/v1/codexd/sessions", "drive", {"content_type": "application/json"}),
    ("DELETE", "/v1/codexd/turn/x", "drive", {}),
    ("OPTIONS", "/v1/codexd/status", None, {}),
    ("HEAD", "/v1/codexd/status", None, {}),
    ("GET", "/v1/codexd/turn/a%2Fb", "read", {}),
    ("GET", "/v1/codexd//status", "read", {}),
    ("GET", "/v1/codexd/%2e%2e/status", "read", {}),
    ("GET", "/v1/codexd/sessions?limit=0", "read", {}),
    ("GET", "/v1/codexd/sessions?limit=%31", "read", {}),
    ("GET", "/v1/codexd/events?after=zzzz:1", "read", {}),
    ("GET", "/v1/codexd/events?after=zzzz:1", "read", {"accept": "text/event-stream"}),
    ("GET", "/v1/codexd/events?after=nonsense&x=1", "read", {}),
)


@pytest.fixture(scope="module")
async def quiet(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    async with ScriptedModel(SCENARIOS) as model, Node(tmp_path_factory.mktemp("node"), model.base_url) as node:
        await node.start()
        await node.child()
        async with Program("conductor", node.home, **ALONE) as conductor:
            yield House(node, conductor, model)


@pytest.mark.parametrize(("method", "path", "scope", "headers"), REQUESTS)
async def test_what_codexd_answers_is_what_the_conductor_answers(
    quiet: House, method: str, path: str, scope: str | None, headers: dict[str, str]
) -> None:
    token = {None: None, "nonsense": "n" * 43}.get(scope, quiet.conductor.token(scope) if scope in TOKENS else None)
    answers = []
    async with httpx2.AsyncClient(trust_env=False) as http:
        for address in (quiet.node.address, quiet.conductor.address):
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            given |= {} if token is None else {"authorization": f"Bearer {token}"}
            answers.append(await http.request(method, address + path, headers=given))
    near, far = answers
    assert (far.status_code, far.content) == (near.status_code, near.content)
    names = {"content-type", "retry-after", "www-authenticate", "cache-control", "content-length"}
    assert {n: far.headers.get(n) for n in names} == {n: near.headers.get(n) for n in names}


TOKENS = ("read", "drive")


@pytest.mark.parametrize(
    ("query", "scope", "status"),
    [("", None, 401), ("?after=zzzz:1", "read", 410), ("?after=nonsense", "read", 422), ("?x=1", "read", 422)],
)
async def test_a_refused_handshake_comes_back_as_codexd_refused_it(
    quiet: House, query: str, scope: str | None, status: int
) -> None:
    refusals = []
    for address in (quiet.node.address, quiet.conductor.address):
        with pytest.raises(InvalidStatus) as refused:
            await websocket(address, query, None if scope is None else quiet.conductor.token(scope))
        refusals.append(refused.value.response)
    near, far = refusals
    assert (near.status_code, near.body) == (status, far.body)
    assert far.status_code == status


async def test_a_moved_event_stream_is_passed_on_too(tmp_path: Path) -> None:
    moved = {"BAA_CODEXD_EVENT_STREAM_PATH": "/stream"}
    async with (
        ScriptedModel(SCENARIOS) as model,
        Node(tmp_path, model.base_url, event_stream_path="/stream") as node,
        Program("conductor", node.home, **moved) as conductor,
    ):
        await node.start()
        token = node.token("read")
        page = await conductor.ask("GET", "/stream?after=0&limit=1", token=token)
        assert page.json()["data"]["events"][0]["type"] == "daemon.started"
        uri = f"{conductor.address.replace('http', 'ws', 1)}/stream"
        async with connect(uri, additional_headers={"Authorization": f"Bearer {token}"}, proxy=None) as socket:
            assert json.loads(await socket.recv())["type"] == "hello"


# --- when one end goes away


async def test_a_codexd_that_dies_ends_streams_and_is_met_again(house: House) -> None:
    node, conductor, _ = house
    token = node.token("read")
    socket = await websocket(conductor.address, "?after=0", token)
    assert json.loads(await socket.recv())["type"] == "hello"
    async with httpx2.AsyncClient(trust_env=False, timeout=60) as http:
        headers = {"Authorization": f"Bearer {token}", "Accept": "text/event-stream"}
        async with http.stream("GET", f"{conductor.address}/v1/codexd/events", headers=headers) as stream:
            lines = stream.aiter_lines()
            assert (await anext(lines)).startswith("id: ")
            await node.kill()
            assert [line async for line in lines]  # the rest of hello, and then the end
    with pytest.raises(ConnectionClosed) as closed:
        while True:
            await within(socket.recv())
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012
    assert (await conductor.ask("GET", "/v1/codexd/status")).status_code == 503
    await node.start()
    assert (await conductor.ask("GET", "/v1/codexd/status")).status_code == 200
    async with await websocket(conductor.address, "", token) as again:
        assert json.loads(await again.recv())["type"] == "hello"


async def test_a_codexd_that_is_frozen_does_not_hold_up_readyz(house: House) -> None:
    node, conductor, _ = house
    node.signal(signal.SIGSTOP)
    try:
        answer = await within(conductor.ask("GET", "/readyz"))
    finally:
        node.signal(signal.SIGCONT)
    assert answer.status_code == 503
    assert "codexd does not answer" in answer.json()["error"]["message"]


async def test_an_engine_that_hangs_holds_up_no_answer_and_costs_the_lead(house: House) -> None:
    """Another process holds the file's write lock, and does not let go of it."""
    node, conductor, _ = house
    await node.child()
    await conductor.becomes("/readyz", lambda data: data["status"] == "ready")
    outside = apsw.Connection(str(node.home / "state" / "engine.sqlite3"))
    outside.execute("BEGIN EXCLUSIVE")
    error = (await within(conductor.ask("GET", "/readyz"))).json()["error"]
    assert (error["details"]["engine"]["ok"], error["details"]["codexd"]["ok"]) == (False, True)
    assert "engine.sqlite3 cannot be written: it takes too long" in error["message"]
    answer = await within(conductor.ask("GET", "/v1/nodes", token=conductor.token()))
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")
    role = await conductor.becomes("/rolez", lambda data: data["role"] == "standby")
    assert role["leaderId"] is None
    outside.execute("ROLLBACK")
    outside.close()
    await conductor.becomes("/rolez", lambda data: data["role"] == "leader")
    assert (await conductor.get("/readyz"))["engine"]["ok"]


async def test_a_caller_that_is_cut_off_under_a_flood_is_no_fault_of_anybodys(house: House) -> None:
    """Both ends of the passthrough wait for room to write when the connection is reset."""
    node, conductor, _ = house
    await node.play(await node.session(), "flood")
    for address in (conductor.address, node.address):
        parts = urlsplit(address)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a close is a reset
        writer.write(handshake(parts.netloc, "/v1/codexd/events?after=0", node.token("read")))
        assert b"101 " in await within(reader.readline())
        await within(reader.readuntil(b'"hello"'))
        writer.transport.abort()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (await node.status())["counts"]["subscribers"]:
                pass
    for log in (conductor.log, node.log):
        assert "Exception in ASGI application" not in log


def handshake(host: str, path: str, token: str) -> bytes:
    fields = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", f"Host: {host}")
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
    return "\r\n".join((f"GET {path} HTTP/1.1", *fields, key, f"Authorization: Bearer {token}", "", "")).encode()


async def test_an_answer_that_codexd_died_under_is_none_at_all(house: House) -> None:
    node, conductor, model = house
    turn_id = await node.turn(await node.session(), "held")
    async with asyncio.TaskGroup() as tasks:
        path = f"/v1/codexd/turn/{turn_id}?waitMs=60000"
        asking = tasks.create_task(conductor.ask("GET", path, token=node.token("read")))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not deltas(await node.events(), turn_id):
                pass
        await node.kill()
    assert asking.result().status_code == 503
    assert asking.result().json()["error"]["code"] == "codexd_unavailable"
    await node.start()
    model.release("held")
    assert (await node.end_of_turn(turn_id))["status"] == "completed"


async def test_a_turn_that_is_asked_for_again_while_codexd_restarts_is_one(house: House) -> None:
    """Codexd is killed while the turn is asked for, and its caller asks again with the same key until it is told."""
    node, client = house.node, through(house)
    body, key = {"sessionId": await node.session(), "prompt": "plain"}, "the same"
    statuses: list[int] = []

    async def ask() -> str:
        while True:
            answer = await client.post("/v1/codexd/turn", body, key=key)
            statuses.append(answer.status_code)
            if answer.status_code == 202:
                turn_id: str = answer.json()["data"]["turn"]["turnId"]
                return turn_id
            assert answer.status_code == 503, answer.text
            await moment(0.02)

    async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as tasks:
        first = [tasks.create_task(ask(), name=f"caller {number}") for number in range(4)]
        await node.kill()
        assert (await client.post("/v1/codexd/turn", body, key=key)).status_code == 503
        await node.start()
    (turn_id,) = {task.result() for task in first}
    assert await ask() == turn_id
    assert (await node.end_of_turn(turn_id))["status"] == "completed"
    queued = [event for event in await node.events(types="turn.queued") if not event["payload"].get("requeued")]
    saw("F77", len(queued) == 1, f"codexd was killed and started while a turn was asked for {len(statuses)} times")


async def test_a_caller_that_leaves_frees_codexds_side(house: House) -> None:
    node, conductor, _ = house

    async def subscribers() -> int:
        count: int = (await node.status())["counts"]["subscribers"]
        return count

    socket = await websocket(conductor.address, "", node.token("read"))
    await socket.recv()
    assert await subscribers() == 1
    await socket.close()
    async with asyncio.timeout(30):
        while await subscribers():
            pass


async def test_a_stop_leaves_codexd_alone(house: House) -> None:
    node, conductor, _ = house
    conductor.signal(signal.SIGTERM)
    assert await conductor.ended() == (0, "")
    endpoint = json.loads((node.home / "state" / "endpoint.json").read_text())
    assert endpoint["conductor"] is None
    assert endpoint["codexd"]["pid"] == node.pid
    assert alive(node.pid)
