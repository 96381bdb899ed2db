"""codexd goes while turns run, questions are open and a turn waits, and comes back: all goes on, and ends once.

A stop is the one way of going that ends what runs, and it leaves nothing.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

from baa.scripted import Hold, Patch, Run, Say, ScriptedModel, when
from tests.support.asking import turn_of
from tests.support.keeper_client import alive
from tests.support.node import Json, Node, until
from tests.support.oracle import Oracle, flaws_of
from tests.support.questions import accepted, question

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the tests look at /proc"),
    pytest.mark.timeout(180),  # later than any wait of ours gives up, so that a test that fails cleans up
]

EDIT = "*** Begin Patch\n*** Add File: edited.txt\n+new\n*** End Patch"
RUNNING = 4
SCENARIOS = (
    when("held", (Say.numbered(50), Hold("held"), Say("the end"))),
    when("edit", Patch(EDIT), Say("Edited.")),
    when("command", Run("touch commanded.txt"), Say("Done.")),
    when("waits", Say("At last.")),
)


class Open(NamedTuple):
    """What is open: the turns that run, one that waits behind the first, and two that ask, with their questions."""

    running: list[str]
    waiting: str
    asking: list[str]
    asked: list[Json]

    @property
    def all(self) -> list[str]:
        return [*self.running, self.waiting, *self.asking]


class House(NamedTuple):
    """A node that serves, the model behind its Codex, a reader of its events, and what is open."""

    node: Node
    model: ScriptedModel
    oracle: Oracle
    open: Open


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with ScriptedModel(SCENARIOS) as model, Node(tmp_path, model.base_url) as node:
        await node.start()
        async with Oracle(node) as oracle:
            first = await node.session()
            sessions = [first, *[await node.session() for _ in range(RUNNING - 1)]]
            running = [await node.turn(session_id, "held") for session_id in sessions]
            waiting = await turn_of(node, first, "waits", onBusy="enqueue")
            askers = [await node.session(approvalPolicy="untrusted") for _ in range(2)]
            asking = [await node.turn(askers[0], "edit"), await node.turn(askers[1], "command")]
            asked = [await question(node, session_id) for session_id in askers]
            for turn_id in running:
                await oracle.saw("item.delta", turn_id, count=50)
            yield House(node, model, oracle, Open(running, waiting, asking, asked))
            await oracle.caught_up()
            assert flaws_of(oracle.events) == []


async def killed(node: Node) -> None:
    await node.kill()


async def announced(node: Node) -> None:
    assert (await node.post("/v1/codexd/status/handover", {})).status_code == 202
    assert await node.stop() == 0


@pytest.mark.parametrize("goes", [killed, announced])
async def test_all_goes_on_under_the_next_codexd(house: House, goes: object) -> None:
    node, model, oracle, open_ = house
    child, keeper = await node.child(), node.keeper
    assert callable(goes)
    for _ in range(2):  # the second one comes back to what the first one left
        await goes(node)
        assert (alive(child), alive(keeper)) == (True, True)
        await node.start()
    status = await node.status()
    assert (status["child"]["pid"], status["child"]["restarts"]) == (child, 0)
    assert (status["counts"]["openInteractions"], status["counts"]["turnsRunning"]) == (2, RUNNING + 2)
    for each in open_.asked:
        await accepted(node, each)
    model.release("held")
    ends = [await node.end_of_turn(turn_id) for turn_id in open_.all]
    assert [end["status"] for end in ends] == ["completed"] * len(ends)
    assert [end["finalMessage"].endswith("the end") for end in ends[:RUNNING]] == [True] * RUNNING
    assert (node.work / "edited.txt").exists()
    assert (node.work / "commanded.txt").exists()
    await oracle.caught_up()
    asked = Counter(event["payload"]["interactionId"] for event in of(oracle, "interaction.requested"))
    assert asked == Counter(each["interactionId"] for each in open_.asked)
    assert len(of(oracle, "turn.completed")) == len(open_.all)
    prompts = Counter(request.prompt for request in model.requests)
    assert (prompts["held"], prompts["waits"]) == (RUNNING, 1)
    assert of(oracle, "child.exited") == []


async def test_a_stop_ends_what_runs_leaves_nothing_and_the_line_goes_on(house: House) -> None:
    node, model, oracle, open_ = house
    assert await node.stop() == 0
    await until(lambda: not node.left())
    model.release("held")
    await node.start()
    for turn_id in (*open_.running, *open_.asking):
        turn = await node.end_of_turn(turn_id)
        assert (turn["status"], turn["reason"]) == ("interrupted", "daemon_stopped")
    assert (await node.end_of_turn(open_.waiting))["finalMessage"] == "At last."
    assert not (node.work / "edited.txt").exists()
    assert not (node.work / "commanded.txt").exists()
    await oracle.caught_up()
    ended = [event["payload"]["interactionId"] for event in of(oracle, "interaction.resolved")]
    assert sorted(ended) == sorted(each["interactionId"] for each in open_.asked)


def of(oracle: Oracle, type_: str) -> list[Json]:
    return [event for event in oracle.events if event["type"] == type_]
