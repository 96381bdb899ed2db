"""A child that leaves without a word, and one that says what is right at the wrong time, twice, or to nobody."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from baa.scripted import Hold, Say, when
from tests.support.faults import saw
from tests.support.node import Json
from tests.support.noisy import House, noisy_house
from tests.support.oracle import ENDS, numbered

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the tests look at /proc"),
    pytest.mark.timeout(180),  # later than any wait of ours gives up, so that a test that fails cleans up
]

SCENARIOS = (
    when("plain", Say("Fine.")),
    when("held", (Say.numbered(50), Hold("held"), Say.numbered(50, start=50))),
)
QUESTIONS = 1000
OPEN_MAX = 256


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with noisy_house(tmp_path, SCENARIOS) as house:
        yield house


async def held_turn(house: House) -> str:
    turn_id = await house.node.turn(await house.node.session(), "held")
    await house.oracle.saw("item.delta", turn_id, count=50)
    return turn_id


async def who(house: House) -> Json:
    """How Codex names the thread and the turn."""
    loaded, started = [(await house.oracle.saw(type_))["payload"] for type_ in ("session.loaded", "turn.started")]
    return {"threadId": loaded["threadId"], "turnId": started["codexTurnId"]}


async def test_a_child_that_leaves_with_0_in_mid_turn_has_not_completed_it(house: House) -> None:
    turn_id = await held_turn(house)
    await house.child_writes(b"", verb="leave")
    exited = (await house.oracle.saw("child.exited"))["payload"]
    saw("F06", exited["code"] == 0, "the child exited with 0 in mid-turn")
    ended = await house.oracle.end_of(turn_id)
    assert (ended["type"], ended["payload"]["reason"]) == ("turn.interrupted", "child_exited")
    assert house.oracle.deltas(turn_id) == numbered(50)


async def test_answers_that_come_again_or_to_nobody_change_nothing(house: House) -> None:
    node = house.node
    turn_id = await held_turn(house)
    answers = [line for line in node.spool.split(b"\n") if b'"result"' in line[:200] or b'"error"' in line[:200]]
    others = [json.dumps(json.loads(line) | {"id": number}).encode() for number, line in enumerate(answers)]
    nobody = [
        json.dumps({"id": id_, "result": {}}).encode() for id_ in ("trn_x:start:9", "ses_x:open:9", "", 2**63 - 1)
    ]
    spooled = len(node.spool)
    await house.child_writes(b"\n".join([*answers, *others, *nobody]) + b"\n")
    house.model.release("held")
    assert (await house.oracle.end_of(turn_id))["type"] == "turn.completed"
    await house.child_writes(b"\n".join(answers) + b"\n")
    turn = await node.play((await node.ledger(turn_id))["sessionId"], "plain")
    again = node.spool[spooled:].count(answers[0])
    saw("F11", again == 2, f"{len(answers)} answers twice again, with ids of another type, and to nobody")
    assert (turn["finalMessage"], house.oracle.deltas(turn_id)) == ("Fine.", numbered(100))
    assert (await node.status())["child"]["generation"] == 1


async def test_an_end_that_comes_again_is_no_end(house: House) -> None:
    node = house.node
    turn_id = await held_turn(house)
    house.model.release("held")
    await house.oracle.end_of(turn_id)
    (end,) = [line for line in node.spool.split(b"\n") if b'"turn/completed"' in line]
    await house.child_writes(end + b"\n" + end.replace(b'"completed"', b'"interrupted"') + b"\n")
    turn = await node.play((await node.ledger(turn_id))["sessionId"], "plain")
    saw("F12", node.spool.count(b'"turn/completed"') == 4, "turn/completed came twice again, once as interrupted")
    assert turn["finalMessage"] == "Fine."
    ends = [event["type"] for event in house.oracle.events if event["turnId"] == turn_id and event["type"] in ENDS]
    assert ends == ["turn.completed"]
    assert (await node.ledger(turn_id))["status"] == "completed"


async def test_a_flood_of_questions_has_an_end_and_strange_ones_are_refused_at_once(house: House) -> None:
    turn_id = await held_turn(house)
    about = {**await who(house), "itemId": "item", "command": "ls", "cwd": "/"}
    approval = "item/commandExecution/requestApproval"
    asked = [{"method": approval, "id": f"flood {number}", "params": about} for number in range(QUESTIONS)]
    asked += [{"method": "new/question", "id": f"strange {number}", "params": about} for number in range(QUESTIONS)]
    await house.child_writes(b"".join(json.dumps(each).encode() + b"\n" for each in asked))
    strange = "codex.notification"
    await house.oracle.saw(strange, count=QUESTIONS, where=lambda event: event["payload"]["method"] == "new/question")
    waiting = [event for event in house.oracle.events if event["type"] == "interaction.requested"]
    saw("F29", house.node.spool.count(b'"flood ') == QUESTIONS, f"{QUESTIONS} approvals, {QUESTIONS} strange questions")
    assert len(waiting) == OPEN_MAX
    house.model.release("held")
    assert (await house.oracle.end_of(turn_id))["type"] == "turn.completed"
    assert house.oracle.deltas(turn_id) == numbered(100)
    ended = [event for event in house.oracle.events if event["type"] in ("interaction.resolved", "interaction.expired")]
    assert len(ended) == OPEN_MAX
