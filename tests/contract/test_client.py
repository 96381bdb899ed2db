"""The client against a real codexd with a real Codex, and against peers that break their word."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from msgspec import UNSET

from baa import config
from baa.api.endpoint import Endpoint, Program
from baa.api.errors import BaaError, Code, Rejected, Unavailable
from baa.api.events import TURN_ENDS, Event, EventType
from baa.api.sessions import CreateSession, Sandbox, SessionStatus, StartTurn, TurnStatus
from baa.client.codexd import Codexd
from baa.client.discovery import Unreachable
from baa.client.events import EventStream, Gap
from baa.config import Config
from baa.http.tokens import ensure_tokens
from baa.scripted import Hold, Say, ScriptedModel, when
from tests.support.node import Node
from tests.support.peers import a_server, a_stream, http

COUNT = Say.numbered(40, 5)
SCENARIOS = (
    when("count", (COUNT, Hold("dead"), Say.numbered(40, 5, start=40), Hold("back"), Say.numbered(40, 5, start=80))),
    when("wait", (Hold("wait"), Say("Waited."))),
)
NUMBERS = [f"w{number} " for number in range(120)]
GONE = "baa up --service codexd"


@asynccontextmanager
async def a_node(folder: Path) -> AsyncIterator[tuple[Node, ScriptedModel]]:
    async with asyncio.timeout(60), ScriptedModel(SCENARIOS) as model, Node(folder, model.base_url) as node:
        await node.start()
        yield node, model


def config_of(node: Node) -> Config:
    return config.load(environ=node.environment())


def session_in(node: Node) -> CreateSession:
    return CreateSession(cwd=str(node.work), sandbox=Sandbox.DANGER_FULL_ACCESS)


async def test_every_route_answers_with_its_type(tmp_path: Path) -> None:
    async with a_node(tmp_path) as (node, _), Codexd(config_of(node)) as codexd:
        assert await codexd.health() == "ok"
        session = await codexd.create_session(session_in(node))
        assert (session.cwd, session.status) == (str(node.work), SessionStatus.NOT_LOADED)
        asked = StartTurn(session_id=session.session_id, prompt="hello")
        started = await codexd.start_turn(asked, idempotency_key="once")
        assert (await codexd.start_turn(asked, idempotency_key="once")).turn.turn_id == started.turn.turn_id
        turn = await codexd.turn(started.turn.turn_id, wait_ms=30_000)
        assert (turn.status, turn.final_message) == (TurnStatus.COMPLETED, "Nothing is scripted for: hello")
        session = await codexd.session(session.session_id)
        assert session.last_turn_id == turn.turn_id
        page = await codexd.sessions(limit=1)
        listed = msgspec.structs.replace(session, interactions=UNSET)  # those are told of one session alone
        assert (page.sessions, page.next_page_token) == ([listed], None)
        status = await codexd.status()
        assert (status.daemon.pid, status.counts.turns_ended) == (node.pid, 1)


async def test_what_codexd_refuses_is_raised_with_its_code(tmp_path: Path) -> None:
    async with a_node(tmp_path) as (node, model), Codexd(config_of(node)) as codexd:
        with pytest.raises(Rejected) as missing:
            await codexd.session("ses_00000000000000000000000000")
        assert (missing.value.code, missing.value.status) == (Code.SESSION_NOT_FOUND, 404)
        session_id = (await codexd.create_session(session_in(node))).session_id
        started = await codexd.start_turn(StartTurn(session_id=session_id, prompt="wait"), idempotency_key="k")
        with pytest.raises(Rejected, match="Idempotency-Key") as other:
            await codexd.start_turn(StartTurn(session_id=session_id, prompt="no"), idempotency_key="k")
        assert other.value.code is Code.IDEMPOTENCY_MISMATCH
        with pytest.raises(Rejected) as busy:
            await codexd.start_turn(StartTurn(session_id=session_id, prompt="no"))
        assert busy.value.code is Code.TURN_IN_PROGRESS
        model.release("wait")
        await codexd.turn(started.turn.turn_id, wait_ms=30_000)


async def read_to_end(stream: EventStream[Event], turn_id: str) -> list[Event]:
    events = []
    async for event in stream:
        events.append(event)
        if event.turn_id == turn_id and event.type in TURN_ENDS:
            break
    return events


async def test_events_go_on_across_a_kill_of_codexd(tmp_path: Path) -> None:
    async with a_node(tmp_path) as (node, model), Codexd(config_of(node)) as codexd:
        session_id = (await codexd.create_session(session_in(node))).session_id
        async with codexd.events(after="0") as stream, asyncio.TaskGroup() as tasks:
            turn_id = (await codexd.start_turn(StartTurn(session_id=session_id, prompt="count"))).turn.turn_id
            reading = tasks.create_task(read_to_end(stream, turn_id))
            await model.held("dead")
            await node.kill()
            model.release("dead")
            await node.start()
            model.release("back")
            events = await reading
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        assert [event.payload["delta"] for event in events if event.type == EventType.ITEM_DELTA] == NUMBERS
        assert (stream.gaps, stream.connections) == (0, 2)
        assert (await codexd.turn(turn_id)).status is TurnStatus.COMPLETED


async def test_a_reader_comes_back_by_its_cursor_from_the_middle_of_a_frame(tmp_path: Path) -> None:
    async with a_node(tmp_path) as (node, _), Codexd(config_of(node)) as codexd:
        session_id = (await codexd.create_session(session_in(node))).session_id
        started = await codexd.start_turn(StartTurn(session_id=session_id, prompt="hello"))
        await codexd.turn(started.turn.turn_id, wait_ms=30_000)
        seqs = []
        cursor = "0"
        for _ in range(5):
            async with codexd.events(after=cursor) as stream:
                seqs.append((await anext(stream)).seq)
                assert stream.cursor is not None
                cursor = stream.cursor
        assert seqs == [1, 2, 3, 4, 5]


async def test_a_stream_waits_for_a_codexd_that_died_after_it_was_met(tmp_path: Path) -> None:
    async with a_node(tmp_path) as (node, _), Codexd(config_of(node)) as codexd:
        await codexd.status()
        await node.kill()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(node.start(), name="start")
            async with codexd.events(after="0") as stream:
                assert (await anext(stream)).type == EventType.DAEMON_STARTED


async def test_a_filtered_stream_is_whole_and_begins_where_it_was_opened(tmp_path: Path) -> None:
    async with a_node(tmp_path) as (node, _), Codexd(config_of(node)) as codexd:
        session_id = (await codexd.create_session(session_in(node))).session_id
        async with codexd.events(after=None, session_id=session_id, types=TURN_ENDS) as stream:
            ends = []
            for prompt in ("one", "two"):
                await codexd.start_turn(StartTurn(session_id=session_id, prompt=prompt))
                ends.append((await anext(stream)).type)
        assert (ends, stream.gaps) == ([EventType.TURN_COMPLETED] * 2, 0)


async def test_a_cursor_that_is_of_no_use_is_refused_at_once(tmp_path: Path) -> None:
    async with a_node(tmp_path) as (node, _), Codexd(config_of(node)) as codexd:
        epoch = (await codexd.status()).log.epoch
        for cursor, code in (("nonsense:1", Code.CURSOR_EXPIRED), (f"{epoch}:99999", Code.CURSOR_AHEAD)):
            with pytest.raises(Rejected) as refused:
                async with codexd.events(after=cursor):
                    raise AssertionError("it was let in")
            assert refused.value.code is code


async def test_a_codexd_that_does_not_run_is_told_with_what_to_do(tmp_path: Path) -> None:
    async with a_node(tmp_path) as (node, _):
        found = config_of(node)
        await node.kill()  # endpoint.json is still there
        async with Codexd(found) as codexd:
            with pytest.raises(Unreachable, match=GONE):
                await codexd.status()
            with pytest.raises(Unreachable, match=GONE):
                async with codexd.events():
                    raise AssertionError("there is nobody")
        await node.start()
        assert await node.stop() == 0
        async with Codexd(found) as codexd:
            with pytest.raises(Unreachable, match=GONE):
                await codexd.status()
        await node.start()


async def test_a_turn_with_a_key_is_asked_for_again_by_the_next_codexd(tmp_path: Path) -> None:
    async with a_node(tmp_path) as (node, _), Codexd(config_of(node)) as codexd, asyncio.TaskGroup() as tasks:
        session_id = (await codexd.create_session(session_in(node))).session_id
        await node.kill()
        asked = StartTurn(session_id=session_id, prompt="hello")
        starting = tasks.create_task(codexd.start_turn(asked, idempotency_key="k"))
        await node.start()
        turn = await codexd.turn((await starting).turn.turn_id, wait_ms=30_000)
        assert turn.status is TurnStatus.COMPLETED


# --- peers that are no codexd


def a_home(folder: Path, address: str) -> Config:
    """A node on which somebody listens at this address."""
    found = config.load(environ={"BAA_HOME": str(folder), "BAA_CONFIG": str(empty(folder / "baa.toml"))})
    ensure_tokens(found.tokens_dir)
    told = Endpoint(codexd=Program(address, 1, "dmn_x", "2026-01-01T00:00:00.000Z"))
    found.endpoint_file.write_bytes(msgspec.json.encode(told))
    return found


def empty(path: Path) -> Path:
    path.write_text("")
    return path


def event(seq: int) -> dict[str, object]:
    return {"seq": seq, "at": "", "type": "x", "sessionId": None, "turnId": None, "payload": {}}


def frame(start: int, end: int) -> str:
    events = [event(seq) for seq in range(start + 1, end + 1)]
    return json.dumps({"type": "events", "from": f"e:{start}", "next": f"e:{end}", "events": events})


HELLO = json.dumps({"type": "hello", "epoch": "e", "head": "e:9", "oldest": "e:0", "after": "e:0"})


async def test_a_gap_is_raised_and_counted_and_what_follows_it_is_still_told(tmp_path: Path) -> None:
    async with (
        a_stream(tmp_path, HELLO, frame(0, 2), frame(3, 5)) as (address, _),
        Codexd(a_home(tmp_path, address)) as codexd,
        codexd.events() as stream,
    ):
        assert [(await anext(stream)).seq, (await anext(stream)).seq] == [1, 2]
        with pytest.raises(Gap, match="e:3"):
            await anext(stream)
        assert (stream.gaps, (await anext(stream)).seq) == (1, 4)


async def test_a_repeated_frame_is_a_gap_too(tmp_path: Path) -> None:
    async with (
        a_stream(tmp_path, HELLO, frame(0, 2), frame(0, 2)) as (address, _),
        Codexd(a_home(tmp_path, address)) as codexd,
        codexd.events() as stream,
    ):
        await anext(stream)
        await anext(stream)
        with pytest.raises(Gap):
            await anext(stream)


async def test_the_handshake_carries_the_token_and_no_origin_and_takes_no_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "ws_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with (
        a_stream(tmp_path, HELLO, frame(0, 1)) as (address, came),
        Codexd(a_home(tmp_path, address)) as codexd,
        codexd.events() as stream,
    ):
        await anext(stream)
    (request,) = came
    token = (tmp_path / "state" / "tokens" / "drive").read_text().strip()
    headers = dict(request["headers"])
    assert headers[b"authorization"] == f"Bearer {token}".encode()
    assert b"origin" not in headers
    assert (request["path"], request["query_string"]) == ("/v1/codexd/events", b"after=0")


async def test_a_peer_that_speaks_something_else_is_no_codexd(tmp_path: Path) -> None:
    async with a_stream(tmp_path, "good morning") as (address, _), Codexd(a_home(tmp_path, address)) as codexd:
        with pytest.raises(Unreachable, match="does not speak"):
            async with codexd.events():
                raise AssertionError("it was let in")


OK = http(200, {"ok": True, "data": {"status": "ok"}})
TURN = StartTurn(session_id="ses_x", prompt="x")


async def test_a_read_is_asked_again_when_its_answer_is_lost(tmp_path: Path) -> None:
    async with (
        a_server(tmp_path, OK, b"", b"HTTP/1.1 200 X\r\nContent-Le", OK) as (address, asked),
        Codexd(a_home(tmp_path, address)) as codexd,
    ):
        assert [await codexd.health(), await codexd.health()] == ["ok", "ok"]
    assert len(asked) == 4


@pytest.mark.parametrize("key", [None, "k"])
async def test_a_turn_is_asked_for_again_with_the_same_key(tmp_path: Path, key: str | None) -> None:
    full = http(507, {"ok": False, "error": {"code": "storage_full", "message": "Full.", "details": {}}})
    async with a_server(tmp_path, OK, b"", full) as (address, asked), Codexd(a_home(tmp_path, address)) as codexd:
        await codexd.health()
        with pytest.raises(Unavailable):
            await codexd.start_turn(TURN, idempotency_key=key)
    keys = [re.findall(rb"Idempotency-Key: (.+)\r", request) for request in asked[1:]]
    assert keys[0] == keys[1]
    assert keys[0] == [b"k"] if key else len(keys[0][0]) == 32


async def test_what_may_have_been_done_is_not_asked_again(tmp_path: Path) -> None:
    async with a_server(tmp_path, OK, b"") as (address, asked), Codexd(a_home(tmp_path, address)) as codexd:
        await codexd.health()
        with pytest.raises(Unreachable, match="it may have done it, or not"):
            await codexd.create_session(CreateSession(cwd="/x"))
    assert len(asked) == 2


async def test_an_error_that_this_release_does_not_know_keeps_its_words(tmp_path: Path) -> None:
    new = http(409, {"ok": False, "error": {"code": "brand_new", "message": "Do this.", "details": {"x": 1}}})
    async with a_server(tmp_path, new) as (address, _), Codexd(a_home(tmp_path, address)) as codexd:
        with pytest.raises(BaaError, match="Do this") as raised:
            await codexd.status()
    assert (type(raised.value), dict(raised.value.details)) == (Rejected, {"x": 1, "code": "brand_new"})


async def test_a_page_of_somebody_else_is_no_answer_of_codexd(tmp_path: Path) -> None:
    async with (
        a_server(tmp_path, http(200, "hi"), http(502, "<html>")) as (address, _),
        Codexd(a_home(tmp_path, address)) as codexd,
    ):
        for _ in range(2):
            with pytest.raises(Unreachable, match="is not codexd"):
                await codexd.status()


async def test_a_lost_codexd_is_given_up_in_the_end(tmp_path: Path) -> None:
    async with a_server(tmp_path, OK) as (address, _), Codexd(a_home(tmp_path, address), patience_s=0.2) as codexd:
        await codexd.health()
        with pytest.raises(Unreachable, match="went away"):
            await codexd.health()


async def test_a_stream_whose_codexd_stays_away_ends(tmp_path: Path) -> None:
    leave = asyncio.Event()
    async with a_stream(tmp_path, HELLO, leave=leave) as (address, _):
        found = a_home(tmp_path, address)
        async with Codexd(found, patience_s=0.2) as codexd, codexd.events() as stream:
            found.endpoint_file.unlink()
            leave.set()
            with pytest.raises(Unreachable, match=GONE):
                await anext(stream)
