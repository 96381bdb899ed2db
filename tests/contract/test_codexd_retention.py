"""A codexd whose log may hold little, with the real Codex: what a reader and a ledger make of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from baa.scripted import Say, ScriptedModel, when
from tests.support.node import Json, Node, within
from tests.support.oracle import Oracle, numbered, refusal, seq_of, stream, types

pytestmark = pytest.mark.timeout(180)  # later than any wait of ours gives up, so that a test that fails cleans up

SCENARIOS = (when("long", Say.numbered(400)),)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with ScriptedModel(SCENARIOS) as model, Node(tmp_path, model.base_url) as node:
        yield node


async def a_while(node: Node) -> None:
    """What the log lets go of has no event: hence no longer than a moment for each look."""
    await node.get("/v1/codexd/events", after=await node.head(), waitMs=100)


async def kept_to(node: Node, size: int) -> Json:
    """What the status says of the log, once it has no more bytes than that."""
    while (log := (await node.status())["log"])["bytes"] is None or log["bytes"] > size:
        await a_while(node)
    found: Json = log
    return found


async def test_a_log_that_is_full_lets_go_of_its_beginning_and_its_ledgers_stay_whole(node: Node) -> None:
    node.settings |= {"log_bytes": "20000", "log_age_ms": "0"}
    await node.start()
    session_id = await node.session()
    async with Oracle(node) as reader:
        await reader.saw("session.registered")
        turn = await node.play(session_id, "long")
        await within(reader.end_of(turn["turnId"]))
        head = seq_of(await node.head())
        log = await within(kept_to(node, 20_000))
        assert 300 < log["oldest"] <= head
        assert reader.deltas(turn["turnId"]) == numbered(400)  # whoever keeps up notices nothing
        assert reader.connections == 1
    kept = await node.events()
    assert kept[0]["seq"] >= log["oldest"]
    assert "session.registered" not in types(kept)
    below = f"{log['epoch']}:{log['oldest'] - 2}"
    answer = await node.get("/v1/codexd/events", after=below)
    assert (answer.status_code, answer.json()["error"]["code"]) == (410, "cursor_expired")
    status, error = await refusal(stream(node, f"?after={below}"))
    assert (status, error["code"]) == (410, "cursor_expired")
    oldest = answer.json()["error"]["details"]["oldest"]
    assert (await node.get("/v1/codexd/events", after=oldest)).status_code == 200

    await node.kill()
    await node.start()
    assert (await node.status())["log"]["oldest"] >= log["oldest"]
    ledger = await node.ledger(turn["turnId"])
    assert ledger["finalMessage"] == "".join(numbered(400))
    assert ledger["items"] == turn["items"]
    assert (await node.play(session_id, "long"))["status"] == "completed"


async def test_old_deltas_go_once_their_turn_has_ended_and_old_events_stay(node: Node) -> None:
    node.settings |= {"log_delta_ms": "1000"}
    await node.start()
    session_id = await node.session()
    first = await node.play(session_id, "long")
    await within(kept_to(node, 20_000))
    await node.kill()  # the newest events are told from memory, the deltas among them
    await node.start()
    kept = await node.events()
    assert types(kept).count("item.delta") == 0
    assert types([event for event in kept if event["turnId"] == first["turnId"]])[-1] == "turn.completed"
    assert (await node.status())["log"]["oldest"] == 1
    assert (await node.ledger(first["turnId"]))["items"] == first["items"]
