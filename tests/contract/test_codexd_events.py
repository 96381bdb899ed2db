"""The event stream and the door of codexd, as an outsider meets them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import NamedTuple

import pytest
from websockets.exceptions import ConnectionClosed

from baa.scripted import Hold, Say, ScriptedModel, when
from tests.support.node import Json, Node, within
from tests.support.oracle import Oracle, frame_of, numbered, refusal, seq_of, stream, types

pytestmark = pytest.mark.timeout(180)  # later than any wait of ours gives up, so that a test that fails cleans up

SCENARIOS = (
    when("first", Say.numbered(150)),
    when("second", Say.numbered(20)),
    when("later", (Hold("later"), Say("Here."))),
    when("unseen", (Hold("unseen"), Say.numbered(2500))),
)
PATH = "/v1/codexd/events"
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "TRACE", "PROPFIND")
KNOWN = {
    "/healthz": {"GET"},
    "/v1/codexd/status": {"GET"},
    "/v1/codexd/status/handover": {"POST"},
    "/v1/codexd/sessions": {"GET", "POST"},
    "/v1/codexd/sessions/ses_00000000000000000000000000": {"GET"},
    "/v1/codexd/turn": {"POST"},
    "/v1/codexd/turn/trn_00000000000000000000000000": {"GET"},
    PATH: {"GET"},
}
UNKNOWN = (
    *("/", "/v1", "/v1/codexd", "/v1/codexd/", "/v1/codexd/runs", "/v1/codexd/runs/1", "/v1/codexd/exec"),
    *("/v1/codexd/status/", "/v1/codexd/turns", "/v1/codexd/Status", "//v1/codexd/status", "/v1/codexd/turn/a/b"),
    *("/v1/tasks", "/docs", "/schema", "/v2/codexd/status", "/v1/codexd/sessions/x/y/z", "/favicon.ico"),
)


class House(NamedTuple):
    """A node in whose log stand two sessions with a turn each."""

    node: Node
    model: ScriptedModel
    sessions: list[str]
    turns: list[str]


@pytest.fixture(scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    async with ScriptedModel(SCENARIOS) as model, Node(tmp_path_factory.mktemp("events"), model.base_url) as node:
        await node.start()
        sessions = [await node.session(purpose="secret purpose") for _ in range(2)]
        turns = [
            (await node.play(session_id, prompt))["turnId"]
            for session_id, prompt in zip(sessions, ("first", "second"), strict=True)
        ]
        yield House(node, model, sessions, turns)


async def page(node: Node, **query: str | int) -> Json:
    answer = await node.get(PATH, **query)
    assert answer.status_code == 200, answer.text
    data: Json = answer.json()["data"]
    assert set(data) == {"events", "next"}
    return data


def seqs(page: Json) -> list[int]:
    return [event["seq"] for event in page["events"]]


# --- pages


async def test_pages_join_without_a_gap(house: House) -> None:
    node = house.node
    head = seq_of(await node.head())
    first = await page(node, limit=7)
    assert (seqs(first), seq_of(first["next"])) == (list(range(1, 8)), 7)
    assert await page(node, limit=7, after=0) == first
    found, after = [], "0"
    while seq_of(after) < head if ":" in after else True:
        part = await page(node, limit=13, after=after)
        found += seqs(part)
        assert seq_of(part["next"]) == found[-1]
        after = part["next"]
    assert found == list(range(1, len(found) + 1))
    assert len(seqs(await page(node))) == 100


async def test_a_page_begins_where_last_event_id_says(house: House) -> None:
    node = house.node
    first = await page(node, limit=7)
    headers = {"authorization": f"Bearer {node.token('read')}"}
    answer = await node.ask("GET", f"{PATH}?after=0&limit=7", last_event_id=first["next"], **headers)
    assert seqs(answer.json()["data"]) == list(range(8, 15))
    refused = await node.ask("GET", PATH, last_event_id="nonsense", **headers)
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "invalid_request")


async def test_an_event_has_the_promised_fields(house: House) -> None:
    (event,) = (await page(house.node, types="turn.queued", limit=1))["events"]
    assert set(event) == {"seq", "at", "type", "sessionId", "turnId", "payload"}
    assert (event["sessionId"], event["turnId"]) == (house.sessions[0], house.turns[0])
    assert len(event["at"]) == len("2026-01-01T00:00:00.000Z")
    assert event["at"].endswith("Z")


async def test_next_moves_past_what_the_filter_leaves_out(house: House) -> None:
    node, (_, second) = house.node, house.sessions
    head = await node.head()
    ends = await page(node, types="turn.completed,turn.failed")
    assert [event["turnId"] for event in ends["events"][:2]] == house.turns
    assert seq_of(ends["next"]) >= seq_of(head)
    one = await page(node, types="turn.completed", limit=1)
    assert seq_of(one["next"]) == one["events"][0]["seq"]
    nothing = await page(node, types="child.crash_loop")
    assert (nothing["events"], seq_of(nothing["next"]) >= seq_of(head)) == ([], True)
    of_second = (await page(node, sessionId=second, limit=1000))["events"]
    assert {event["sessionId"] for event in of_second} == {second}
    assert types(of_second)[:3] == ["session.registered", "turn.queued", "session.loaded"]
    answer = [event["payload"]["delta"] for event in of_second if event["type"] == "item.delta"]
    assert answer == numbered(20)


async def test_a_long_poll_answers_when_there_is_something(house: House) -> None:
    node, model = house.node, house.model
    turn_id = await node.turn(house.sessions[0], "later")
    await within(model.held("later"))
    after = await node.head()
    async with asyncio.TaskGroup() as group:
        poll = group.create_task(page(node, after=after, types="turn.completed", waitMs=60_000), name="poll")
        model.release("later")
    assert [event["turnId"] for event in poll.result()["events"]] == [turn_id]


async def test_a_long_poll_ends_empty_when_its_time_is_over(house: House) -> None:
    after = await house.node.head()
    nothing = await page(house.node, after=after, types="child.crash_loop", waitMs=50)
    assert (nothing["events"], nothing["next"]) == ([], after)


# --- cursors


async def test_a_cursor_of_another_log_is_refused_before_the_upgrade(house: House) -> None:
    node = house.node
    for after, status, code in (
        ("0000000000:5", 410, "cursor_expired"),
        (f"{(await node.status())['log']['epoch']}:999999", 409, "cursor_ahead"),
        ("5", 422, "invalid_request"),
        ("", 422, "invalid_request"),
        ("x:-1", 422, "invalid_request"),
    ):
        answer = await node.get(PATH, after=after)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        refused, error = await refusal(stream(node, f"?after={after}"))
        assert (refused, error) == (status, answer.json()["error"])
        if status != 422:
            oldest, head = error["details"]["oldest"], error["details"]["head"]
            assert (seq_of(oldest), seq_of(head) >= 180) == (0, True)


@pytest.mark.parametrize("query", ["?limit=0", "?limit=1001", "?waitMs=-1"])
async def test_a_page_that_cannot_be_is_refused(house: House, query: str) -> None:
    answer = await house.node.get(PATH + query)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_request")


@pytest.mark.parametrize(
    "query",
    [
        *("?types=turn.began", "?types=", "?sessionId=x", "?afer=0", "?after=", "?after=x"),
        *("?after=0&after=0", "?types=turn.queued&types=turn.completed", "?after=0&%61fter=1"),
    ],
)
async def test_a_query_that_cannot_be_is_refused_alike_on_all_three_ways(house: House, query: str) -> None:
    node = house.node
    told = await node.get(PATH + query)
    assert (told.status_code, told.json()["error"]["code"]) == (422, "invalid_request")
    authorization = f"Bearer {node.token('read')}"
    streamed = await node.ask("GET", PATH + query, accept="text/event-stream", authorization=authorization)
    assert (streamed.status_code, streamed.json()) == (422, told.json())
    assert await refusal(stream(node, query)) == (422, told.json()["error"])


# --- the live stream


async def test_the_stream_begins_with_where_the_log_stands(house: House) -> None:
    node = house.node
    head = await node.head()
    epoch = head.partition(":")[0]
    for query, after in (("", head), ("?after=0", f"{epoch}:0"), (f"?after={epoch}:9", f"{epoch}:9")):
        async with stream(node, query) as socket:
            assert await frame_of(socket) == {
                "type": "hello",
                "epoch": epoch,
                "head": head,
                "oldest": f"{epoch}:0",
                "after": after,
            }


async def test_the_stream_replays_the_log_whole(house: House) -> None:
    async with Oracle(house.node) as oracle:
        await oracle.caught_up()
    assert oracle.events == await house.node.events()
    assert oracle.deltas(house.turns[0]) == numbered(150)


async def test_a_stream_from_a_cursor_begins_just_after_it(house: House) -> None:
    node = house.node
    epoch = (await node.head()).partition(":")[0]
    async with stream(node, f"?after={epoch}:9") as socket:
        await frame_of(socket)
        frame = await frame_of(socket)
    assert (frame["type"], frame["from"], frame["events"][0]["seq"]) == ("events", f"{epoch}:9", 10)


async def test_a_filtered_stream_tells_how_far_it_has_come(house: House) -> None:
    node = house.node
    async with stream(node, f"?after=0&sessionId={house.sessions[1]}&types=turn.queued,turn.completed") as socket:
        at = (await frame_of(socket))["after"]
        found: list[Json] = []
        while len(found) < 2:
            frame = await frame_of(socket)
            assert frame["from"] == at
            found += frame["events"]
            at = frame["next"]
    assert [(event["type"], event["turnId"]) for event in found] == [
        ("turn.queued", house.turns[1]),
        ("turn.completed", house.turns[1]),
    ]
    assert seq_of(at) >= found[-1]["seq"]


async def test_a_stream_from_now_tells_what_comes_and_nothing_before(house: House) -> None:
    node, model = house.node, house.model
    async with stream(node) as socket:
        at = (await frame_of(socket))["after"]
        turn_id = await node.turn(house.sessions[1], "unseen")
        await within(model.held("unseen"))
        model.release("unseen")
        found: list[Json] = []
        while not found or found[-1]["type"] != "turn.completed":
            frame = await frame_of(socket)
            assert frame["from"] == at
            at = frame["next"]
            found += frame["events"]
    first = seq_of(await node.head()) - len(found) + 1
    assert seqs({"events": found}) == list(range(first, first + len(found)))
    assert found[0]["type"] == "turn.queued"
    assert [event["payload"]["delta"] for event in found if event["type"] == "item.delta"] == numbered(2500)
    assert {event["turnId"] for event in found} == {turn_id}


async def test_readers_are_counted_while_they_read(house: House) -> None:
    node = house.node
    async with stream(node) as one, stream(node) as two:
        await frame_of(one)
        await frame_of(two)
        assert (await node.status())["counts"]["subscribers"] == 2


async def test_what_a_reader_sends_is_not_listened_to(house: House) -> None:
    async with stream(house.node, "?after=0&types=turn.completed") as socket:
        await socket.send('{"method":"thread/shellCommand"}')
        await socket.send(b"\0\1")
        assert (await frame_of(socket))["type"] == "hello"
        assert (await frame_of(socket))["type"] == "events"


# --- the door


async def test_there_are_no_other_routes(house: House) -> None:
    """Whatever the method, and with the best token: never 405, never an answer about something else."""
    node = house.node
    wrong = [(method, path) for path, known in KNOWN.items() for method in METHODS if method not in known]
    refused = [*wrong, *itertools.product(METHODS, UNKNOWN)]
    for method, path in refused:
        answer = await node.ask(method, path, authorization=f"Bearer {node.token()}", content_type="application/json")
        assert answer.status_code == 404, (method, path)
        if method != "HEAD":
            assert answer.json()["error"] == {
                "code": "unknown_route",
                "message": f"Unknown codexd route {method} {path}.",
                "details": {},
            }
    assert len(refused) > 200


async def test_unknown_routes_need_no_token_to_be_unknown(house: House) -> None:
    answer = await house.node.ask("POST", "/v1/codexd/runs")
    assert answer.json()["error"]["message"] == "Unknown codexd route POST /v1/codexd/runs."
    status, error = await refusal(stream(house.node, "/more", headers={}))
    assert (status, error["message"]) == (404, "Unknown codexd route WS /v1/codexd/events/more.")


async def test_without_a_token_nothing_is_told(house: House) -> None:
    node = house.node
    for headers in ({}, {"authorization": "Bearer x"}, {"authorization": node.token()}):
        for method, path in (("GET", "/v1/codexd/sessions"), ("GET", PATH), ("POST", "/v1/codexd/turn")):
            answer = await node.ask(method, path, **headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")
            assert answer.headers["www-authenticate"] == "Bearer"
        status, error = await refusal(stream(node, headers=headers))
        assert (status, error["code"]) == (401, "unauthorized")


async def test_the_read_token_only_reads(house: House) -> None:
    node = house.node
    reading = {"authorization": f"Bearer {node.token('read')}", "content_type": "application/json"}
    for path in ("/v1/codexd/sessions", "/v1/codexd/turn"):
        answer = await node.ask("POST", path, **reading)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "read_only_token")
    assert (await node.ask("GET", "/v1/codexd/sessions", **reading)).status_code == 200


async def test_another_host_is_refused(house: House) -> None:
    node = house.node
    port = node.address.rpartition(":")[2]
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", "127.0.0.1:1"):
        for path in ("/healthz", "/v1/codexd/status", PATH):
            answer = await node.ask("GET", path, host=host, authorization=f"Bearer {node.token()}")
            assert (answer.status_code, answer.json()["error"]["code"]) == (421, "wrong_host")
    rebound = stream(node, address=f"http://evil.example:{port}", host="127.0.0.1")
    status, error = await refusal(rebound)
    assert (status, error["code"]) == (421, "wrong_host")


async def test_web_pages_are_refused(house: House) -> None:
    node = house.node
    for headers in ({"origin": node.address}, {"origin": "null"}, {"sec_fetch_site": "same-origin"}):
        for path in ("/healthz", "/v1/codexd/status", PATH):
            answer = await node.ask("GET", path, authorization=f"Bearer {node.token()}", **headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "origin_refused")
            assert not [name for name in answer.headers if name.startswith("access-control")]
    bearer = {"Authorization": f"Bearer {node.token()}"}
    status, error = await refusal(stream(node, headers={**bearer, "Origin": node.address}))
    assert (status, error["code"]) == (403, "origin_refused")


async def test_the_open_routes_carry_no_content(house: House) -> None:
    node = house.node
    health = await node.ask("GET", "/healthz")
    assert health.json() == {"ok": True, "data": {"status": "ok"}}
    told = await node.ask("GET", "/v1/codexd/status")
    status = told.json()["data"]
    assert set(status) == {"daemon", "child", "counts", "log", "recentEvents", "codex"}
    assert status["daemon"]["state"] == "running"
    assert status["child"]["state"] == "ready"
    assert status["counts"]["sessions"] >= 2
    assert {key for event in status["recentEvents"] for key in event} == {"seq", "at", "type"}
    assert 1 <= len(status["recentEvents"]) <= 50
    private = [str(node.folder), "secret purpose", "first", "w1 ", *house.sessions, *house.turns]
    private += [(await node.session_of(session_id))["threadId"] for session_id in house.sessions]
    assert [word for word in private if word in told.text] == []


async def test_a_stop_ends_every_stream(tmp_path_factory: pytest.TempPathFactory) -> None:
    async with Node(tmp_path_factory.mktemp("stop"), "http://127.0.0.1:1", server_command="no-codex") as node:
        await node.start()
        async with stream(node, "?after=0") as socket:
            assert (await frame_of(socket))["type"] == "hello"
            assert await node.stop() == 0
            with pytest.raises(ConnectionClosed):
                while True:
                    await socket.recv()
