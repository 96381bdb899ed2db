"""Turns that wait, in several sessions, across kill -9 of codexd: listed, in order, cancellable, each run exactly once.

What ran is counted where it cannot be embellished: in what the model was asked.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from baa.scripted import Hold, Say, ScriptedModel, when
from tests.support.asking import act, ask, refusal_of, refused, retried, turn_of, turns_of
from tests.support.node import Json, Node, moment, until, within
from tests.support.oracle import Oracle, flaws_of, of_turn, types

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the tests look at /proc"),
    pytest.mark.timeout(240),  # later than any wait of ours gives up, so that a test that fails cleans up
]

SESSIONS = 3
WAITING = 5
SCENARIOS = (
    *(when(f"hold {n} ", (Say("One moment. "), Hold(f"{n}"), Say("Done."))) for n in range(SESSIONS)),
    when("job", Say("Fine.")),
)


class House(NamedTuple):
    """A node that serves, the model behind its Codex, and a reader of its events."""

    node: Node
    model: ScriptedModel
    oracle: Oracle


class Line(NamedTuple):
    """A session whose first turn is held, and the turns after it, by their prompts in the order of asking."""

    session_id: str
    held: str
    turns: dict[str, str]


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with ScriptedModel(SCENARIOS) as model, Node(tmp_path, model.base_url) as node:
        await node.start()
        async with Oracle(node) as oracle:
            yield House(node, model, oracle)
            await oracle.caught_up()
            assert flaws_of(oracle.events) == []


def body_of(session_id: str, prompt: str) -> Json:
    return {"sessionId": session_id, "prompt": prompt, "onBusy": "enqueue"}


async def line(house: House, number: int, count: int = WAITING) -> Line:
    node = house.node
    session_id = await node.session()
    held = await node.turn(session_id, f"hold {number} ")
    await within(house.model.held(f"{number}"))
    prompts = [f"job {number}-{n}." for n in range(count)]
    turns = {prompt: await turn_of(node, session_id, prompt, key=prompt, onBusy="enqueue") for prompt in prompts}
    return Line(session_id, held, turns)


async def waits(house: House, line: Line, left: list[str]) -> None:
    """Exactly these wait, in this order, and the held one runs."""
    node = house.node
    session = await node.session_of(line.session_id)
    assert (session["currentTurnId"], session["queuedTurns"], session["status"]) == (line.held, len(left), "active")
    listed = await turns_of(node, line.session_id)
    assert [turn["turnId"] for turn in listed] == [*reversed(line.turns.values()), line.held], "newest first"
    assert [turn["turnId"] for turn in reversed(listed) if turn["status"] == "queued"] == left
    assert refusal_of(await act(node, left[0], "steer", {"prompt": "x"})) == (409, "turn_not_running")


def ran(house: House) -> Counter[str]:
    """How often the model was asked with each prompt."""
    return Counter(request.prompt for request in house.model.requests)


async def ran_in_order(house: House, line: Line, wanted: list[str]) -> None:
    """Of this line these ended well, one after the other, each asked of the model once."""
    for turn_id in wanted:
        assert (await house.oracle.end_of(turn_id))["type"] == "turn.completed"
        assert (await house.node.ledger(turn_id))["finalMessage"] == "Fine."
    prompts = {turn_id: prompt for prompt, turn_id in line.turns.items()}
    asked = [request.prompt for request in house.model.requests if request.prompt in line.turns]
    assert asked == [prompts[turn_id] for turn_id in wanted]
    events = await house.node.events(sessionId=line.session_id)
    steps = [
        (event["turnId"], event["type"])
        for event in events
        if event["type"] in ("turn.started", "turn.completed") and event["turnId"] != line.held
    ]
    assert steps == [(turn_id, type_) for turn_id in wanted for type_ in ("turn.started", "turn.completed")]


# --- killed at a moment of the first line's way


@pytest.mark.parametrize("blow", ["turn.accepted", "turn.started", "item.delta", "turn.completed"])
async def test_lines_outlive_a_codexd_that_is_killed_while_they_wait_and_while_they_move(
    house: House, blow: str
) -> None:
    node, model, oracle = house
    lines = [await line(house, n) for n in range(SESSIONS)]
    child = await node.child()
    await node.kill()
    await node.start()
    for each in lines:
        await waits(house, each, list(each.turns.values()))

    canceled = [list(each.turns.values())[1] for each in lines]
    for turn_id in canceled:
        assert (await act(node, turn_id, "interrupt")).status_code == 202
    await node.kill()
    await node.start()
    left = [[turn_id for turn_id in each.turns.values() if turn_id not in canceled] for each in lines]
    for each, still in zip(lines, left, strict=True):
        await waits(house, each, still)

    for n in range(SESSIONS):
        model.release(f"{n}")
    for turn_id in left[0][:-1]:
        await oracle.saw(blow, turn_id)
        await node.kill()
        await node.start()
    for each, still in zip(lines, left, strict=True):
        await ran_in_order(house, each, still)
        assert (await oracle.end_of(each.held))["type"] == "turn.completed"
        for prompt, turn_id in each.turns.items():
            again = await ask(node, each.session_id, prompt, key=prompt, onBusy="enqueue")
            assert again["turn"]["turnId"] == turn_id
    for turn_id in canceled:
        turn = await node.ledger(turn_id)
        assert (turn["status"], turn["reason"], turn["items"]) == ("interrupted", "canceled_before_start", [])
        assert types(of_turn(oracle.events, turn_id)) == ["turn.queued", "turn.interrupted"]
    assert set(ran(house).values()) == {1}
    assert await node.child() == child


async def test_a_line_is_asked_for_while_codexd_is_killed_and_each_key_makes_one_turn(house: House) -> None:
    seed = int(os.environ.get("BAA_TEST_SEED") or random.randrange(2**32))
    print(f"BAA_TEST_SEED={seed}")
    rng = random.Random(seed)
    node, model, _ = house
    lines = [await line(house, n, count=0) for n in range(SESSIONS)]

    async def fill(each: Line, number: int) -> None:
        for n in range(2 * WAITING):
            prompt = f"job {number}-{n}."
            asking = partial(turn_of, node, each.session_id, prompt, key=prompt, onBusy="enqueue")
            each.turns[prompt] = await retried(node, asking)
            assert await retried(node, asking) == each.turns[prompt]

    async with asyncio.TaskGroup() as group:
        for number, each in enumerate(lines):
            group.create_task(fill(each, number), name=f"line {number}")
        for _ in range(4):
            await moment(rng.uniform(0, 0.2))
            await node.kill()
            await node.start()
    for each in lines:
        await waits(house, each, list(each.turns.values()))
    for n in range(SESSIONS):
        model.release(f"{n}")
    for each in lines:
        await ran_in_order(house, each, list(each.turns.values()))
    assert set(ran(house).values()) == {1}


# --- what ends while nobody looks


@pytest.mark.parametrize(
    ("wish", "status", "reason", "evidence"),
    [
        ({"deadlineMs": 1500}, "expired", "deadline", {}),
        ({"leaseMs": 1500}, "interrupted", "canceled_before_start", {"why": "lease_expired"}),
    ],
)
async def test_the_time_of_a_waiting_turn_runs_out_though_codexd_is_dead(
    house: House, wish: Json, status: str, reason: str, evidence: Json
) -> None:
    node, model, oracle = house
    each = await line(house, 0, count=1)
    late = await turn_of(node, each.session_id, "job late.", onBusy="enqueue", **wish)
    after = await turn_of(node, each.session_id, "job after.", onBusy="enqueue")
    over = datetime.fromisoformat((await node.ledger(late))["queuedAt"]).timestamp() + 1.6
    await node.kill()
    await until(lambda: time.time() > over)
    await node.start()
    await oracle.end_of(late)
    turn = await node.ledger(late)
    assert (turn["status"], turn["reason"], turn["evidence"]) == (status, reason, evidence)
    assert (await node.running_turn(each.held))["status"] == "in_progress"
    model.release("0")
    for turn_id in (*each.turns.values(), after):
        assert (await oracle.end_of(turn_id))["type"] == "turn.completed"
    assert ran(house)["job late."] == 0


async def test_a_turn_in_place_of_another_waits_for_that_ones_end_across_a_kill(house: House) -> None:
    node, _, oracle = house
    each = await line(house, 0, count=1)
    instead = await turn_of(node, each.session_id, "job instead.", onBusy="interrupt")
    await node.kill()
    await node.start()
    for turn_id in (*each.turns.values(), instead):
        assert (await oracle.end_of(turn_id))["type"] == "turn.completed"
    held = await node.ledger(each.held)
    assert (held["status"], held["reason"]) == ("interrupted", "replaced")
    ends = [e["turnId"] for e in oracle.events if e["type"] in ("turn.interrupted", "turn.completed")]
    assert ends == [each.held, *each.turns.values(), instead]
    assert [request.prompt for request in house.model.requests] == ["hold 0 ", *each.turns, "job instead."]


async def test_a_line_has_an_end(house: House) -> None:
    """A thousand wait; one more is told to come again later, and the thousand are still there after a kill."""
    node, _, _ = house
    each = await line(house, 0, count=0)
    for _ in range(20):
        async with asyncio.TaskGroup() as group:
            for _ in range(50):
                group.create_task(turn_of(node, each.session_id, "job.", onBusy="enqueue"))
    answer = await node.post("/v1/codexd/turn", body_of(each.session_id, "one more"))
    assert (refusal_of(answer), answer.headers["retry-after"]) == ((429, "overloaded"), "1")
    await node.kill()
    await node.start()
    assert (await node.session_of(each.session_id))["queuedTurns"] == 1000
    assert await refused(node, each.session_id, "one more", onBusy="enqueue") == (429, "overloaded")
    assert (await node.post(f"/v1/codexd/sessions/{each.session_id}/close", {})).status_code == 202
    assert (await node.end_of_turn(each.held))["reason"] == "session_closed"
    assert (await node.status())["counts"]["turnsEnded"] == 1001
    assert ran(house) == {"hold 0 ": 1}
