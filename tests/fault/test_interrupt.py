"""`interrupted` is true: what the turn's commands started is dead before it is told, and nobody else's is."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from baa.scripted import Hold, Run, Say, ScriptedModel, when
from tests.support.asking import act, turn_of
from tests.support.faults import saw
from tests.support.keeper_client import alive
from tests.support.node import Json, Node, sandbox_works, until, within
from tests.support.oracle import Oracle, flaws_of, of_turn, types

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the tests look at /proc"),
    pytest.mark.timeout(180),  # later than any wait of ours gives up, so that a test that fails cleans up
]

LONG = 30_000  # Codex waits so long for a command before it goes on without its end
TREE = "sleep 7101 & (sleep 7102 &) & setsid sleep 7103 & touch tree; sleep 7104"
SHED = "env -i setsid sh -c 'echo $$ > shed.new; mv shed.new shed; exec sleep 7201' & sleep 7202"
BEHIND = "setsid sh -c 'touch behind; exec sleep 7301' & until [ -e behind ]; do :; done"
SCENARIOS = (
    when("tree", Run(TREE, yield_time_ms=LONG), Say("Done.")),
    when("shed", Run(SHED, yield_time_ms=LONG), Say("Done.")),
    when("behind", Run(BEHIND, yield_time_ms=LONG), (Say("Then. "), Hold("behind"))),
    when("other", Run("sleep 7401", yield_time_ms=LONG), Say("Done.")),
    when("plain", Say("Fine.")),
)


class House(NamedTuple):
    """A node that serves, the model behind its Codex, and a reader of its events."""

    node: Node
    model: ScriptedModel
    oracle: Oracle


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with ScriptedModel(SCENARIOS) as model, Node(tmp_path, model.base_url) as node:
        await node.start()
        async with Oracle(node) as oracle:
            yield House(node, model, oracle)
            await oracle.caught_up()
            assert flaws_of(oracle.events) == []


async def running(node: Node, *numbers: int) -> list[int]:
    """The processes that sleep so long, once there are all of them."""

    def found() -> list[int]:
        pids = [node.running(str(number)) for number in numbers]
        return [pid for each in pids for pid in each] if all(pids) else []

    await until(found)
    return found()


async def interrupted(house: House, turn_id: str, pids: list[int]) -> Json:
    """Interrupt a turn: the event that ends it, and that none of these processes lived when it came."""
    answer = await act(house.node, turn_id, "interrupt")
    assert answer.status_code == 202, answer.text
    ended = await house.oracle.end_of(turn_id)
    assert [pid for pid in pids if alive(pid)] == []
    assert (ended["type"], ended["payload"]["reason"]) == ("turn.interrupted", "requested")
    return ended


def commands(evidence: Json, what: str) -> list[str]:
    return [told["command"] for told in evidence.get(what, [])]


async def test_a_live_command_and_its_children_are_dead_before_it_is_told(house: House) -> None:
    node = house.node
    session_id = await node.session()
    turn_id = await node.turn(session_id, "tree")
    pids = await running(node, 7101, 7102, 7103, 7104)
    saw("F14", len(pids) >= 4, "a command with children behind it, double-forked and in a session of their own")
    ended = await interrupted(house, turn_id, pids)
    turn = await node.ledger(turn_id)
    assert turn["evidence"] == ended["payload"]["evidence"]
    assert commands(turn["evidence"], "ended") == ["sleep 7103"], "Codex's own cleaning misses a session of its own"
    assert turn["evidence"]["ended"][0]["pid"] in pids
    assert commands(turn["evidence"], "left") == []
    assert node.running("sleep") == []
    assert (await node.play(session_id, "plain"))["status"] == "completed"


@pytest.mark.skipif(not sandbox_works(), reason="Codex's sandbox needs user namespaces")
async def test_a_live_command_in_the_sandbox_is_dead_before_it_is_told(house: House) -> None:
    node = house.node
    turn_id = await node.turn(await node.session(sandbox="workspace-write"), "tree")
    pids = await running(node, 7101, 7102, 7103, 7104)
    await interrupted(house, turn_id, pids)
    assert commands((await node.ledger(turn_id))["evidence"], "left") == []


async def test_a_job_that_a_finished_command_left_is_dead_before_it_is_told(house: House) -> None:
    node = house.node
    turn_id = await node.turn(await node.session(), "behind")
    await within(house.model.held("behind"))
    pids = await running(node, 7301)
    await interrupted(house, turn_id, pids)
    turn = await node.ledger(turn_id)
    assert [item["text"] for item in turn["items"] if item["kind"] == "agentMessage"] == ["Then. "]


async def shed(node: Node) -> int:
    """The pid of the process that shed its environment and its session."""
    path = node.work / "shed"
    await until(path.exists)
    return int(path.read_text())


async def test_a_process_that_shed_its_environment_is_known_by_its_birth(house: House) -> None:
    node = house.node
    turn_id = await node.turn(await node.session(), "shed")
    pids = [await shed(node), *await running(node, 7202)]
    ended = await interrupted(house, turn_id, pids)
    assert commands(ended["payload"]["evidence"], "ended") == ["sleep 7201"]


async def test_what_may_be_another_turns_is_named_and_lives(house: House) -> None:
    node = house.node
    other = await node.turn(await node.session(), "other")
    (others,) = await running(node, 7401)
    turn_id = await node.turn(await node.session(), "shed")
    stray = await shed(node)
    try:
        ended = await interrupted(house, turn_id, await running(node, 7202))
        assert (alive(stray), alive(others)) == (True, True)
        evidence = ended["payload"]["evidence"]
        assert (commands(evidence, "left"), commands(evidence, "ended")) == (["sleep 7201"], [])
        assert evidence["left"][0]["pid"] == stray
    finally:
        with suppress(ProcessLookupError):
            os.kill(stray, signal.SIGKILL)
    assert (await node.ledger(other))["status"] == "in_progress"
    await interrupted(house, other, [others])


async def test_nobody_elses_process_is_touched(house: House) -> None:
    node = house.node
    mine = await asyncio.create_subprocess_exec("sleep", "7501", cwd=node.work, start_new_session=True)
    try:
        other = await node.turn(await node.session(), "other")
        (others,) = await running(node, 7401)
        turn_id = await node.turn(await node.session(), "tree")
        ended = await interrupted(house, turn_id, await running(node, 7101, 7102, 7103, 7104))
        assert (alive(mine.pid), alive(others)) == (True, True)
        told = commands(ended["payload"]["evidence"], "ended") + commands(ended["payload"]["evidence"], "left")
        assert told == ["sleep 7103"]
        await interrupted(house, other, [others])
        assert alive(mine.pid)
    finally:
        mine.kill()
        await mine.wait()


async def test_an_interrupt_that_codexd_did_not_live_to_end_is_ended_by_the_next(house: House) -> None:
    node, _, oracle = house
    session_id = await node.session()
    turn_id = await node.turn(session_id, "tree")
    pids = await running(node, 7101, 7102, 7103, 7104)
    waiting = await turn_of(node, session_id, "plain", onBusy="enqueue")
    child = await node.child()
    os.kill(child, signal.SIGSTOP)  # so that nothing of it can be done before codexd dies
    try:
        assert (await act(node, turn_id, "interrupt")).status_code == 202
        await node.kill()
    finally:
        os.kill(child, signal.SIGCONT)
    await node.start()
    ended = await oracle.end_of(turn_id)
    assert [pid for pid in pids if alive(pid)] == []
    assert (ended["type"], ended["payload"]["reason"]) == ("turn.interrupted", "requested")
    assert (await oracle.end_of(waiting))["type"] == "turn.completed"
    events = of_turn(oracle.events, turn_id)
    assert [type_ for type_ in types(events) if type_.startswith("turn.")] == [
        *("turn.queued", "turn.accepted", "turn.started", "turn.interrupted")
    ]
    assert await node.child() == child


async def test_an_interrupt_whose_cleaning_was_cut_off_is_cleaned_by_the_next(house: House) -> None:
    """Codex said that the turn is interrupted, and codexd died before it looked."""
    node, _, oracle = house
    turn_id = await node.turn(await node.session(), "tree")
    pids = await running(node, 7101, 7102, 7103, 7104)
    assert (await act(node, turn_id, "interrupt")).status_code == 202
    await node.kill()
    await until(lambda: b'"turn/completed"' in node.spool or not pids)
    await node.start()
    ended = await oracle.end_of(turn_id)
    assert [pid for pid in pids if alive(pid)] == []
    assert (ended["type"], ended["payload"]["reason"]) == ("turn.interrupted", "requested")


async def test_a_child_that_dies_of_an_interrupt_ends_the_turn_all_the_same(house: House) -> None:
    node, _, oracle = house
    session_id = await node.session()
    turn_id = await node.turn(session_id, "tree")
    await running(node, 7101, 7102, 7103, 7104)
    child = await node.child()
    os.kill(child, signal.SIGSTOP)
    assert (await act(node, turn_id, "interrupt")).status_code == 202
    os.kill(child, signal.SIGKILL)
    ended = await oracle.end_of(turn_id)
    assert ended["type"] == "turn.interrupted"
    assert (await node.play(session_id, "plain"))["status"] == "completed"
    assert node.running("sleep") == []
