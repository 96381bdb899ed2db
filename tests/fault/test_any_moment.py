"""Interrupt, steer, deadline and kill -9 at every boundary of a turn's life: one end each, and a true one."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import httpx2
import pytest

from baa.scripted import Run, Say, ScriptedModel, when
from tests.support.asking import act, refusal_of, turn_of
from tests.support.node import Json, Node, moment
from tests.support.oracle import Oracle, flaws_of

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the tests look at /proc"),
    pytest.mark.timeout(180),  # later than any wait of ours gives up, so that a test that fails cleans up
]

SCENARIOS = (
    when("work", Run("echo one; sleep 0.05; echo two"), Say.numbered(15, pace_ms=4)),
    when("plain", Say("Fine.")),
)
BOUNDARIES = (
    *("turn.queued", "turn.accepted", "turn.started", "item.started", "item.completed", "item.delta", "usage.updated"),
    *("turn.completed",),
)
VERBS = ("interrupt", "steer")
REFUSED = {(409, "turn_ended"), (409, "turn_not_running")}
DEADLINES = 12


class House(NamedTuple):
    """A node that serves, and a reader of its events."""

    node: Node
    oracle: Oracle

    async def ends_once(self, turn_id: str, *allowed: tuple[str, str | None]) -> Json:
        """The turn's ledger, which agrees with its one end."""
        ended = await self.oracle.end_of(turn_id)
        turn = await self.node.ledger(turn_id)
        assert f"turn.{turn['status']}" == ended["type"]
        assert (turn["status"], turn.get("reason")) in allowed
        return turn


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with ScriptedModel(SCENARIOS) as model, Node(tmp_path, model.base_url) as node:
        await node.start()
        async with Oracle(node) as oracle:
            yield House(node, oracle)
            await oracle.caught_up()
            assert flaws_of(oracle.events) == []


async def verb_at(house: House, turn_id: str, verb: str, boundary: str) -> bool:
    """Do it once the reader has seen this; whether it was taken."""
    await house.oracle.saw(boundary, turn_id)
    answer = await act(house.node, turn_id, verb, {"prompt": "and this"} if verb == "steer" else None)
    assert answer.status_code == 202 or refusal_of(answer) in REFUSED, answer.text
    return answer.status_code == 202


def allowed(verb: str) -> tuple[tuple[str, str | None], ...]:
    stopped = (("interrupted", "requested"), ("interrupted", "canceled_before_start"))
    return (("completed", None), *(stopped if verb == "interrupt" else ()))


@pytest.mark.parametrize("verb", VERBS)
async def test_at_every_boundary_of_a_turn_it_has_one_end(house: House, verb: str) -> None:
    session_id = await house.node.session()
    taken = []
    for boundary in BOUNDARIES:
        turn_id = await house.node.turn(session_id, "work")
        taken.append(await verb_at(house, turn_id, verb, boundary))
        await house.ends_once(turn_id, *allowed(verb))
    assert taken[-1] is False, "its end is the end"
    assert any(taken)
    assert (await house.node.play(session_id, "plain"))["status"] == "completed"


@pytest.mark.parametrize("verb", VERBS)
async def test_at_every_boundary_with_codexd_killed_right_after_it_has_one_end(house: House, verb: str) -> None:
    node = house.node
    session_id = await node.session()
    for boundary in BOUNDARIES[:-1]:
        turn_id = await node.turn(session_id, "work")
        await verb_at(house, turn_id, verb, boundary)
        await node.kill()
        await node.start()
        await house.ends_once(turn_id, *allowed(verb))
    assert (await node.play(session_id, "plain"))["status"] == "completed"
    assert (await node.status())["child"]["generation"] == 1


async def test_a_deadline_at_any_moment_is_one_end(house: House) -> None:
    seed = int(os.environ.get("BAA_TEST_SEED") or random.randrange(2**32))
    print(f"BAA_TEST_SEED={seed}")
    rng, node = random.Random(seed), house.node
    session_id = await node.session()
    for number in range(DEADLINES):
        turn_id = await turn_of(node, session_id, "work", deadlineMs=rng.randint(1, 400))
        if number % 2:
            await moment(rng.uniform(0, 0.3))
            with suppress(httpx2.TransportError):
                await node.kill()
            await node.start()
        await house.ends_once(turn_id, ("completed", None), ("expired", "deadline"))
    assert (await node.play(session_id, "plain"))["status"] == "completed"
