"""Deadlines, silence and leases of turns on the real Codex: each ends its turn as promised and leaves nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

from baa.scripted import Hold, Run, Say, ScriptedModel, when
from tests.support.asking import act, ask, refusal_of, refused, turn_of
from tests.support.node import Node, until, within
from tests.support.oracle import Oracle, flaws_of, of_turn, types

pytestmark = pytest.mark.timeout(180)  # later than any wait of ours gives up, so that a test that fails cleans up

LONG = 30_000
HOUR_MS = 3_600_000
SCENARIOS = (
    when("asleep", Run("setsid sleep 8101 & sleep 8102", yield_time_ms=LONG), Say("Done.")),
    when("leased", Run("setsid sleep 8201 & touch begun; sleep 8202", yield_time_ms=LONG), Say("Done.")),
    *(when(f"hold {gate}", (Say("One moment. "), Hold(gate), Say("Done."))) for gate in ("a", "b", "c", "d", "e", "f")),
    when("plain", Say("Fine.")),
)


class House(NamedTuple):
    """A node that serves, and the model behind its Codex."""

    node: Node
    model: ScriptedModel


@pytest.fixture(scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    async with ScriptedModel(SCENARIOS) as model, Node(tmp_path_factory.mktemp("times"), model.base_url) as node:
        await node.start()
        yield House(node, model)
        assert flaws_of(await node.events()) == []


async def test_a_running_turn_that_is_over_time_expires_with_its_commands(house: House) -> None:
    node, _ = house
    session_id = await node.session()
    turn_id = await turn_of(node, session_id, "asleep", deadlineMs=2000)
    turn = await node.end_of_turn(turn_id)
    assert (node.running("8101"), node.running("8102")) == ([], [])
    assert (turn["status"], turn["reason"], turn["deadlineMs"]) == ("expired", "deadline", 2000)
    assert (await node.session_of(session_id))["lastTurnStatus"] == "expired"
    assert (await node.play(session_id, "plain"))["status"] == "completed"


async def test_the_deadline_counts_while_a_turn_waits(house: House) -> None:
    node, model = house
    session_id = await node.session()
    first = await node.turn(session_id, "hold a")
    await within(model.held("a"))
    late = await turn_of(node, session_id, "plain late", onBusy="enqueue", deadlineMs=50)
    patient = await turn_of(node, session_id, "plain patient", onBusy="enqueue", deadlineMs=HOUR_MS)
    turn = await node.end_of_turn(late)
    assert (turn["status"], turn["reason"], turn["acceptedAt"], turn["items"]) == ("expired", "deadline", None, [])
    assert types(of_turn(await node.events(sessionId=session_id), late)) == ["turn.queued", "turn.expired"]
    assert (await node.running_turn(first))["status"] == "in_progress"
    model.release("a")
    assert (await node.end_of_turn(patient))["status"] == "completed"


async def test_a_turn_of_which_nothing_is_heard_expires(house: House) -> None:
    node, model = house
    session_id = await node.session()
    turn_id = await turn_of(node, session_id, "hold b", stallMs=1000)
    turn = await node.end_of_turn(turn_id)
    assert (turn["status"], turn["reason"], turn["stallMs"]) == ("expired", "stalled", 1000)
    assert (await node.play(session_id, "plain"))["status"] == "completed"

    waiting = await node.turn(session_id, "hold c")
    await within(model.held("c"))
    queued = await turn_of(node, session_id, "plain queued", onBusy="enqueue", stallMs=1)
    expired = await turn_of(node, await node.session(), "hold b2 hold f", stallMs=500)
    await node.end_of_turn(expired)
    assert (await node.ledger(queued))["status"] == "queued", "silence counts for what runs"
    assert (await act(node, queued, "interrupt")).status_code == 202
    model.release("c")
    await node.end_of_turn(waiting)


async def test_a_turn_that_nobody_renews_is_interrupted(house: House) -> None:
    node, _ = house
    start = await node.head()
    kept = await turn_of(node, await node.session(), "hold d", leaseMs=1000)
    answer = await act(node, kept, "renew", {"leaseMs": HOUR_MS})
    assert (answer.status_code, answer.json()["data"]["turn"]["turnId"]) == (202, kept)
    left = await turn_of(node, await node.session(), "asleep leased", leaseMs=1500)
    turn = await node.end_of_turn(left)
    assert (turn["status"], turn["reason"], turn["leaseMs"]) == ("interrupted", "lease_expired", 1500)
    assert (node.running("8101"), node.running("8102")) == ([], [])
    assert (await node.ledger(kept))["status"] in ("accepted", "in_progress"), "its lease began later and was renewed"
    assert (await act(node, kept, "renew", {"leaseMs": 1})).status_code == 202
    turn = await node.end_of_turn(kept)
    assert (turn["status"], turn["reason"]) == ("interrupted", "lease_expired")
    assert types(await node.events(start)).count("turn.interrupted") == 2


async def test_a_renewal_says_how_long_or_means_as_before(house: House) -> None:
    node, model = house
    session_id = await node.session()
    turn_id = await node.turn(session_id, "hold e")
    await within(model.held("e"))
    assert refusal_of(await act(node, turn_id, "renew")) == (422, "invalid_request"), "it has no lease"
    assert refusal_of(await act(node, turn_id, "renew", {"leaseMs": 0})) == (422, "invalid_request")
    leased = await turn_of(node, session_id, "plain e", onBusy="enqueue", leaseMs=HOUR_MS)
    assert (await act(node, leased, "renew")).status_code == 202
    model.release("e")
    assert (await node.end_of_turn(leased))["status"] == "completed"
    assert refusal_of(await act(node, "trn_00000000000000000000000000", "renew")) == (404, "turn_not_found")


@pytest.mark.parametrize("name", ["deadlineMs", "stallMs", "leaseMs"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "1000", 31 * 86_400_000 + 1])
async def test_a_time_that_cannot_be_is_refused(house: House, name: str, value: object) -> None:
    node, _ = house
    assert await refused(node, await node.session(), "plain", **{name: value}) == (422, "invalid_request")


# --- across deaths


@pytest.fixture
async def fresh(tmp_path: Path) -> AsyncIterator[House]:
    """For tests that kill something."""
    async with ScriptedModel(SCENARIOS) as model, Node(tmp_path, model.base_url) as node:
        await node.start()
        yield House(node, model)


async def test_a_deadline_and_a_silence_outlive_codexd(fresh: House) -> None:
    node, model = fresh
    async with Oracle(node) as oracle:
        over = await turn_of(node, await node.session(), "hold a", deadlineMs=2000)
        silent = await turn_of(node, await node.session(), "hold b", stallMs=2000)
        await within(model.held("a"))
        await within(model.held("b"))
        await node.kill()
        await node.start()
        for turn_id, reason in ((over, "deadline"), (silent, "stalled")):
            ended = await oracle.end_of(turn_id)
            assert (ended["type"], ended["payload"]["reason"]) == ("turn.expired", reason)
        assert flaws_of(oracle.events) == []


async def test_without_a_codexd_the_keeper_ends_a_turn_that_nobody_can_renew(fresh: House) -> None:
    node, _ = fresh
    async with Oracle(node) as oracle:
        session_id = await node.session()
        told = await ask(node, session_id, "leased", leaseMs=3000)
        turn_id = told["turn"]["turnId"]
        await until(lambda: node.running("8201") and node.running("8202"))
        await node.kill()
        await until(lambda: not node.left())
        await node.start()
        ended = await oracle.end_of(turn_id)
        exited = await oracle.saw("child.exited")
        assert ended["type"] == "turn.interrupted"
        assert "lease" in exited["payload"]["reason"]
        assert (await node.ledger(turn_id))["reason"] == "lease_expired"
        assert (await node.play(session_id, "plain"))["status"] == "completed"
        assert flaws_of(oracle.events) == []
