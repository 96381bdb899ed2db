"""Server-sent events of codexd: the same events and cursors as the page and the WebSocket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from baa.scripted import Say, ScriptedModel, when
from tests.support.node import PATIENCE_SECONDS, Json, Node
from tests.support.oracle import deltas, numbered

pytestmark = pytest.mark.timeout(150)

PATH = "/v1/codexd/events"


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    scenarios = (when("first", Say.numbered(30)), when("second", Say.numbered(30)))
    async with ScriptedModel(scenarios) as model, Node(tmp_path, model.base_url) as node:
        await node.start()
        yield node


@asynccontextmanager
async def reading(node: Node, query: str = "", **headers: str) -> AsyncIterator[AsyncIterator[tuple[str, str, Json]]]:
    """Messages as (id, event, data)."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    given |= {"authorization": f"Bearer {node.token('read')}", "accept": "text/event-stream"}
    async with (
        httpx2.AsyncClient(trust_env=False, timeout=PATIENCE_SECONDS) as http,
        http.stream("GET", f"{node.address}{PATH}{query}", headers=given) as answer,
    ):
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        yield messages(answer)


async def messages(answer: httpx2.Response) -> AsyncIterator[tuple[str, str, Json]]:
    fields: dict[str, str] = {}
    async for line in answer.aiter_lines():
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        else:
            yield fields["id"], fields["event"], json.loads(fields["data"])
            fields = {}


async def until_completed(stream: AsyncIterator[tuple[str, str, Json]], at: str) -> tuple[list[Json], str]:
    """The events up to the end of a turn, and the cursor of the last message; each must follow on the one before."""
    events: list[Json] = []
    async for id_, event, data in stream:
        if event != "events":
            continue
        assert (data["type"], data["from"], data["next"]) == ("events", at, id_)
        at = id_
        events += data["events"]
        if any(each["type"] == "turn.completed" for each in data["events"]):
            return events, at
    raise AssertionError("the stream ended")


async def test_it_has_the_events_of_the_page_and_goes_on_from_the_last_id(node: Node) -> None:
    session_id = await node.session()
    turn_id = await node.turn(session_id, "first")
    async with reading(node, "?after=0") as stream:
        id_, event, hello = await anext(stream)
        assert (event, hello["type"], hello["after"]) == ("hello", "hello", id_)
        events, cursor = await until_completed(stream, id_)
    assert deltas(events, turn_id) == numbered(30)
    assert events == (await node.events())[: len(events)]

    other = await node.turn(session_id, "second")
    async with reading(node, "?after=0", last_event_id=cursor) as stream:
        id_, _, hello = await anext(stream)
        assert (id_, hello["after"]) == (cursor, cursor), "Last-Event-ID wins"
        more, _ = await until_completed(stream, cursor)
    assert deltas(more, other) == numbered(30)
    assert [event["seq"] for event in events + more] == list(range(1, len(events + more) + 1))


async def test_filters_hold(node: Node) -> None:
    await node.play(await node.session(), "first")
    session_id = await node.session()
    turn = await node.play(session_id, "second")
    async with reading(node, f"?after=0&types=turn.queued,turn.completed&sessionId={session_id}") as stream:
        id_, *_ = await anext(stream)
        events, _ = await until_completed(stream, id_)
    assert [(event["type"], event["turnId"]) for event in events] == [
        ("turn.queued", turn["turnId"]),
        ("turn.completed", turn["turnId"]),
    ]


async def test_without_after_it_begins_now(node: Node) -> None:
    head = await node.head()
    async with reading(node) as stream:
        id_, _, hello = await anext(stream)
        assert hello["after"] == id_
        assert int(id_.rpartition(":")[2]) >= int(head.rpartition(":")[2])


@pytest.mark.parametrize(
    ("query", "headers", "status", "code"),
    [
        ("?after=zzzz:1", {}, 410, "cursor_expired"),
        ("?after=EPOCH:999999", {}, 409, "cursor_ahead"),
        ("?after=0", {"last_event_id": "zzzz:1"}, 410, "cursor_expired"),
        ("?after=nonsense", {}, 422, "invalid_request"),
        ("?types=nope", {}, 422, "invalid_request"),
    ],
)
async def test_what_is_wrong_is_told_as_json_before_the_stream(
    node: Node, query: str, headers: dict[str, str], status: int, code: str
) -> None:
    authorization = f"Bearer {node.token('read')}"
    query = query.replace("EPOCH", (await node.status())["log"]["epoch"])
    answer = await node.ask("GET", PATH + query, accept="text/event-stream", authorization=authorization, **headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert (await node.ask("GET", PATH, accept="text/event-stream")).status_code == 401


async def test_a_reader_that_leaves_is_noticed_while_all_is_quiet(node: Node) -> None:
    await node.child()
    async with reading(node) as stream:
        await anext(stream)
        assert (await node.status())["counts"]["subscribers"] == 1
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (await node.status())["counts"]["subscribers"]:
            pass
