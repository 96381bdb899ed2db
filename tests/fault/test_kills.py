"""SIGKILL of codexd, of the keeper, of the child and of two of them at once, in mid-turn, on the real Codex.

An outside reader follows the event stream through all of it, and finds no gap and nothing twice.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
from codex_cli_bin import bundled_codex_path

from baa.scripted import Hold, Say, ScriptedModel, when
from tests.support.asking import retried
from tests.support.faults import saw
from tests.support.keeper_client import alive
from tests.support.node import Json, Node, end, moment, until
from tests.support.oracle import Oracle, flaws_of, numbered, of_turn, types

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the tests look at /proc"),
    pytest.mark.timeout(180),  # later than any wait of ours gives up, so that a test that fails cleans up
]

SCENARIOS = (
    when("plain", Say("Fine.")),
    when("held", (Say.numbered(50), Hold("held"), Say.numbered(50, start=50))),
    when("other", (Say.numbered(20, start=500), Hold("held"), Say.numbered(20, start=520))),
    when("steady", Say.numbered(150, pace_ms=10)),
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


async def held_turn(house: House, prompt: str = "held", said: int = 50) -> str:
    """A turn of which the reader has seen what was said before the gate."""
    turn_id = await house.node.turn(await house.node.session(), prompt)
    await house.oracle.saw("item.delta", turn_id, count=said)
    return turn_id


def told(oracle: Oracle, prefix: str) -> list[str]:
    return [event["type"] for event in oracle.events if event["type"].startswith(prefix)]


async def next_turn_works(node: Node, turn_id: str) -> None:
    """Another turn in the session of this one."""
    turn = await node.play((await node.ledger(turn_id))["sessionId"], "plain")
    assert (turn["status"], turn["finalMessage"]) == ("completed", "Fine.")


async def interrupted_and_told(house: House, turn_id: str) -> Json:
    """The end of a held turn whose child is gone: the ledger."""
    ended = await house.oracle.end_of(turn_id)
    exited = await house.oracle.saw("child.exited")
    assert exited["seq"] < ended["seq"]
    turn = await house.node.ledger(turn_id)
    assert (turn["status"], turn["reason"]) == ("interrupted", "child_exited")
    assert turn["evidence"] == {"history": "interrupted", "generation": 1}
    assert [(item["kind"], item["status"]) for item in turn["items"]] == [
        ("userMessage", "completed"),
        ("agentMessage", "abandoned"),
    ]
    assert turn["items"][1]["text"] == "".join(numbered(50))
    (abandoned,) = [event for event in of_turn(house.oracle.events, turn_id) if event["type"] == "item.abandoned"]
    assert abandoned["payload"]["text"] == "".join(numbered(50))
    assert house.oracle.deltas(turn_id) == numbered(50)
    return turn


# --- codexd


async def test_a_turn_goes_on_under_a_codexd_that_is_killed(house: House) -> None:
    node, model, oracle = house
    turn_id = await held_turn(house)
    child, keeper = await node.child(), node.keeper
    await node.kill()
    assert alive(child)
    await node.start()
    adopted = await oracle.saw("child.adopted")
    assert (adopted["payload"]["generation"], adopted["payload"]["pid"]) == (1, child)
    assert (await node.child(), node.keeper) == (child, keeper)
    assert (await node.ledger(turn_id))["status"] == "in_progress"
    model.release("held")
    await oracle.end_of(turn_id)
    assert oracle.deltas(turn_id) == numbered(100)
    turn = await node.ledger(turn_id)
    assert (turn["status"], turn["finalMessage"]) == ("completed", "".join(numbered(100)))
    await next_turn_works(node, turn_id)
    assert told(oracle, "child.") == ["child.started", "child.ready", "child.adopted"]
    assert (await node.status())["child"]["generation"] == 1


async def test_what_the_child_said_while_there_was_no_codexd_is_read_afterwards(house: House) -> None:
    node, model, oracle = house
    turn_id = await held_turn(house)
    await node.kill()
    model.release("held")
    await until(lambda: b'"turn/completed"' in node.spool)
    await node.start()
    ended = await oracle.end_of(turn_id)
    adopted = await oracle.saw("child.adopted")
    assert ended["type"] == "turn.completed"
    assert ended["seq"] < adopted["seq"]  # the backlog comes before anything new
    assert oracle.deltas(turn_id) == numbered(100)
    await next_turn_works(node, turn_id)


async def test_a_turn_that_was_answered_202_runs_though_codexd_dies_at_once(house: House) -> None:
    node, _, oracle = house
    session_id = await node.session()
    await node.child()
    turn_id = await node.turn(session_id, "plain")
    await node.kill()
    await node.start()
    assert (await oracle.end_of(turn_id))["type"] == "turn.completed"
    assert types(of_turn(oracle.events, turn_id)).count("turn.started") == 1
    assert (await node.ledger(turn_id))["finalMessage"] == "Fine."
    assert told(oracle, "child.exited") == []


async def test_a_turn_waits_through_deaths_for_the_first_child(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    slow = tmp_path / "slow-codex"
    slow.write_text(f'#!/bin/sh\nread -r _ <"{gate}"\nexec "{bundled_codex_path()}" "$@"\n')
    slow.chmod(0o700)
    async with ScriptedModel(SCENARIOS) as model, Node(tmp_path / "node", model.base_url) as node:
        node.settings["server_command"] = str(slow)
        await node.start()
        async with Oracle(node) as oracle:
            turn_id = await node.turn(await node.session(), "plain")
            assert (await node.ledger(turn_id))["status"] == "queued"
            for _ in range(2):
                await node.kill()
                await node.start()
            assert (await node.ledger(turn_id))["status"] == "queued"
            await oracle.saw("child.adopted")
            assert (await node.status())["child"]["state"] == "starting"
            await asyncio.to_thread(gate.write_text, "go\n")
            assert (await oracle.end_of(turn_id))["type"] == "turn.completed"
            assert (await node.status())["child"]["generation"] == 1
            assert flaws_of(oracle.events) == []


async def test_two_running_turns_and_a_queued_one_outlive_codexd(house: House) -> None:
    node, model, oracle = house
    first, second = await held_turn(house), await held_turn(house, "other", 20)
    child = await node.child()
    third_session = await node.session()
    os.kill(child, signal.SIGSTOP)  # it opens no thread, so the turn has to wait
    try:
        third = await node.turn(third_session, "plain")
        assert (await node.ledger(third))["status"] == "queued"
        await node.kill()
        await node.start()
        assert (await node.ledger(third))["status"] == "queued"
    finally:
        os.kill(child, signal.SIGCONT)
    model.release("held")
    ends = [(await oracle.end_of(turn_id))["type"] for turn_id in (first, second, third)]
    assert ends == ["turn.completed"] * 3
    assert oracle.deltas(first) == numbered(100)
    assert oracle.deltas(second) == numbered(40, start=500)
    assert oracle.deltas(third) == ["Fine."]
    assert [event["payload"]["fresh"] for event in oracle.events if event["type"] == "session.loaded"] == [True] * 3


# --- the child


async def test_the_death_of_the_child_ends_its_turn_and_is_told_before(house: House) -> None:
    node, _, oracle = house
    turn_id = await held_turn(house)
    keeper = node.keeper
    os.kill(await node.child(), signal.SIGKILL)
    await interrupted_and_told(house, turn_id)
    exited = (await oracle.saw("child.exited"))["payload"]
    assert (exited["generation"], exited["signal"], exited["reason"]) == (1, 9, "exited")
    saw("F05", exited["signal"] == signal.SIGKILL, "the child was killed in mid-turn")
    assert "code" not in exited
    await next_turn_works(node, turn_id)
    assert told(oracle, "child.") == [
        *("child.started", "child.ready", "child.exited", "child.backoff", "child.started", "child.ready")
    ]
    status = await node.status()
    assert (status["child"]["generation"], status["child"]["restarts"]) == (2, 1)
    assert status["child"]["lastExit"]["signal"] == 9
    assert not alive(keeper)


async def test_the_death_of_codexd_and_child_at_once_is_told_by_the_keeper(house: House) -> None:
    node, _, oracle = house
    turn_id = await held_turn(house)
    child = await node.child()
    await node.kill()
    os.kill(child, signal.SIGKILL)
    await until(lambda: not node.keepers())
    await node.start()
    await interrupted_and_told(house, turn_id)
    assert (await oracle.saw("child.exited"))["payload"]["signal"] == 9
    await next_turn_works(node, turn_id)
    assert "child.adopted" not in told(oracle, "child.")


# --- the keeper


async def test_the_death_of_the_keeper_ends_the_child_and_its_turn(house: House) -> None:
    node, _, oracle = house
    turn_id = await held_turn(house)
    child = await node.child()
    os.kill(node.keeper, signal.SIGKILL)
    await interrupted_and_told(house, turn_id)
    exited = (await oracle.saw("child.exited"))["payload"]
    assert exited["reason"] == "its keeper died"
    assert not {"signal", "code"} & set(exited)  # nobody saw how it ended
    assert not alive(child)
    await next_turn_works(node, turn_id)
    assert (await node.status())["child"]["generation"] == 2


async def test_the_death_of_codexd_and_keeper_at_once_is_told_from_codexs_history(house: House) -> None:
    node, _, oracle = house
    turn_id = await held_turn(house)
    child, keeper = await node.child(), node.keeper
    await node.kill()
    os.kill(keeper, signal.SIGKILL)
    await node.start()
    await interrupted_and_told(house, turn_id)
    assert (await oracle.saw("child.exited"))["payload"]["reason"] == "its keeper died"
    assert not alive(child)
    await next_turn_works(node, turn_id)


async def test_what_a_dead_keeper_had_spooled_counts(house: House) -> None:
    """The turn ended in the spool, codexd had not read it, the keeper died: nothing is lost and nothing in doubt."""
    node, model, oracle = house
    turn_id = await held_turn(house)
    node.signal(signal.SIGSTOP)
    try:
        model.release("held")
        await until(lambda: b'"turn/completed"' in node.spool)
        os.kill(node.keeper, signal.SIGKILL)
    finally:
        node.signal(signal.SIGCONT)
    ended = await oracle.end_of(turn_id)
    assert (ended["type"], ended["payload"].get("evidence")) == ("turn.completed", None)
    assert ended["seq"] < (await oracle.saw("child.exited"))["seq"]
    assert oracle.deltas(turn_id) == numbered(100)
    await next_turn_works(node, turn_id)


async def test_what_died_with_the_keeper_is_asked_of_codex(house: House) -> None:
    """The turn ended in the pipe between child and keeper, and the keeper died: Codex's history tells its end."""
    node, model, oracle = house
    turn_id = await held_turn(house)
    keeper = node.keeper
    os.kill(keeper, signal.SIGSTOP)
    model.release("held")
    await until(lambda: '"task_complete"' in node.rollouts)
    os.kill(keeper, signal.SIGKILL)
    ended = await oracle.end_of(turn_id)
    assert ended["type"] == "turn.completed"
    assert ended["payload"]["evidence"] == {"history": "completed", "generation": 1}
    turn = await node.ledger(turn_id)
    assert (turn["status"], turn["finalMessage"]) == ("completed", "".join(numbered(100)))
    assert oracle.deltas(turn_id) == numbered(50)  # the rest was in the pipe
    await next_turn_works(node, turn_id)


async def test_a_keeper_that_does_not_answer_is_ended(house: House) -> None:
    node, _, oracle = house
    turn_id = await held_turn(house)
    child, keeper = await node.child(), node.keeper
    os.kill(keeper, signal.SIGSTOP)
    await node.kill()
    await node.start()
    await interrupted_and_told(house, turn_id)
    assert not alive(keeper)
    assert not alive(child)
    await next_turn_works(node, turn_id)
    assert "child.adopted" not in told(oracle, "child.")


async def test_a_turn_that_codex_may_never_have_got_is_lost_and_not_sent_again(house: House) -> None:
    """The keeper dies with the line of the turn in its hands: nobody can say, and Codex's history does not know it."""
    node, _, oracle = house
    session_id = await node.session()
    assert (await node.play(session_id, "plain"))["status"] == "completed"
    keeper = node.keeper
    os.kill(keeper, signal.SIGSTOP)
    turn_id = await node.turn(session_id, "plain")
    await oracle.saw("turn.accepted", turn_id)
    os.kill(keeper, signal.SIGKILL)
    ended = await oracle.end_of(turn_id)
    assert (ended["type"], ended["payload"]["reason"]) == ("turn.lost", "keeper_died")
    assert ended["payload"]["evidence"] == {"generation": 1, "history": "the turn is not in it"}
    await next_turn_works(node, turn_id)


async def test_a_turn_that_no_keeper_took_is_queued_again(house: House) -> None:
    """The child dies while the keeper cannot take the line: the turn never began, so the next child gets it."""
    node, _, oracle = house
    session_id = await node.session()
    assert (await node.play(session_id, "plain"))["status"] == "completed"
    keeper, child = node.keeper, await node.child()
    os.kill(keeper, signal.SIGSTOP)
    turn_id = await node.turn(session_id, "plain")
    await oracle.saw("turn.accepted", turn_id)
    await node.kill()  # and with it the line that it had sent, if the keeper has not read it
    await end(child)
    os.kill(keeper, signal.SIGCONT)
    await node.start()
    ended = await oracle.end_of(turn_id)
    turn = await node.ledger(turn_id)
    assert (ended["type"], turn["finalMessage"]) == ("turn.completed", "Fine.")
    assert types(of_turn(oracle.events, turn_id))[:5] == [
        *("turn.queued", "turn.accepted", "turn.queued", "turn.accepted", "turn.started")
    ]


# --- twenty times codexd

KILLS = 20
SESSIONS = 4


async def work(house: House, number: int, enough: asyncio.Event) -> dict[str, str]:
    """One session, one turn after the other, whatever happens to codexd: the turns by the key they were asked with."""
    node, _, oracle = house
    session_id = await retried(node, node.session)
    turns: dict[str, str] = {}
    while not enough.is_set():
        key = f"session {number} turn {len(turns)}"
        ask = partial(node.turn, session_id, "steady", key=key)
        turns[key] = await retried(node, ask)
        await oracle.end_of(turns[key])
        assert await retried(node, ask) == turns[key]
    return turns


async def killed_at_random(house: House, rng: random.Random) -> None:
    """Twenty kills; some of them hit a codexd that has not come up yet."""
    node, left = house.node, KILLS
    while left:
        await moment(rng.uniform(0, 1))
        await node.kill()
        left -= 1
        while left and rng.random() < 0.3:
            await node.spawn()
            await moment(rng.uniform(0, 0.8))
            await node.kill()
            left -= 1
        await node.start()


@pytest.mark.timeout(300)
async def test_twenty_random_kills_of_codexd_lose_nothing_and_repeat_nothing(house: House) -> None:
    seed = int(os.environ.get("BAA_TEST_SEED") or random.randrange(2**32))
    print(f"BAA_TEST_SEED={seed}")
    node, _, oracle = house
    child, keeper = await node.child(), node.keeper
    enough = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        sessions = [group.create_task(work(house, n, enough), name=f"session {n}") for n in range(SESSIONS)]
        await oracle.saw("turn.started", count=SESSIONS)
        await killed_at_random(house, random.Random(seed))
        enough.set()
    await oracle.caught_up()
    saw("F01", node.starts > KILLS // 2, f"codexd was killed {KILLS} times while {SESSIONS} sessions worked")

    turns = {key: turn_id for session in sessions for key, turn_id in session.result().items()}
    queued = [event for event in oracle.events if event["type"] == "turn.queued"]
    assert {event["payload"]["idempotencyKey"]: event["turnId"] for event in queued} == turns
    assert len(queued) == len(turns) == len(set(turns.values()))
    for turn_id in turns.values():
        assert oracle.deltas(turn_id) == numbered(150)
        assert types(of_turn(oracle.events, turn_id)) == [
            *("turn.queued", "turn.accepted", "turn.started"),
            *("item.started", "item.completed", "item.started", "item.delta", "item.completed"),
            *("usage.updated", "turn.completed"),
        ]
    assert flaws_of(oracle.events) == []
    assert oracle.events == await node.events()
    assert set(told(oracle, "child.")) == {"child.started", "child.ready", "child.adopted"}
    assert {e["payload"]["generation"] for e in oracle.events if e["type"].startswith("child.")} == {1}
    assert (await node.child(), node.keeper) == (child, keeper)
    print(f"{len(turns)} turns, {len(oracle.events)} events, {oracle.connections} connections")
