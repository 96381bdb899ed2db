"""A hand-over that was announced, one that expired, and what a dead codexd left ended without starting another."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

from baa.scripted import Hold, Say, ScriptedModel, when
from tests.support.keeper_client import alive
from tests.support.node import PATIENCE_SECONDS, Json, Node, until
from tests.support.oracle import Oracle, flaws_of, numbered

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the tests look at /proc"),
    pytest.mark.timeout(180),  # later than any wait of ours gives up, so that a test that fails cleans up
]

SCENARIOS = (
    when("plain", Say("Fine.")),
    when("held", (Say.numbered(50), Hold("held"), Say.numbered(50, start=50))),
)
HANDOVER = "/v1/codexd/status/handover"


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


async def announced(node: Node, **body: int) -> Json:
    answer = await node.post(HANDOVER, body)
    assert answer.status_code == 202, answer.text
    told: Json = answer.json()["data"]["handover"]
    return told


async def held_turn(house: House) -> str:
    turn_id = await house.node.turn(await house.node.session(), "held")
    await house.oracle.saw("item.delta", turn_id, count=50)
    return turn_id


def stops(oracle: Oracle) -> list[bool]:
    """Of each end of codexd that the log tells, whether it was a hand-over."""
    ends = [event["payload"] for event in oracle.events if event["type"] == "daemon.stopping"]
    return [payload.get("handover", False) for payload in ends]


# --- announced


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_running_turn_goes_on_through_a_hand_over(house: House, number: signal.Signals) -> None:
    node, model, oracle = house
    turn_id = await held_turn(house)
    child, keeper = await node.child(), node.keeper
    assert (await announced(node))["expiresInMs"] == 60_000
    node.signal(number)
    assert await node.ended() == 0
    assert (alive(child), alive(keeper)) == (True, True)
    assert not (node.home / "state" / "endpoint.json").exists()
    await node.start()
    await oracle.saw("child.adopted")
    assert (await node.child(), node.keeper) == (child, keeper)
    assert (await node.ledger(turn_id))["status"] == "in_progress"
    model.release("held")
    assert (await oracle.end_of(turn_id))["type"] == "turn.completed"
    assert oracle.deltas(turn_id) == numbered(100)
    turn = await node.ledger(turn_id)
    assert turn["finalMessage"] == "".join(numbered(100))
    assert (await node.play(turn["sessionId"], "plain"))["finalMessage"] == "Fine."
    assert stops(oracle) == [True]
    assert (await node.status())["child"]["generation"] == 1


async def test_a_second_signal_does_not_make_a_stop_of_it(house: House) -> None:
    node, model, oracle = house
    turn_id = await held_turn(house)
    child, keeper = await node.child(), node.keeper
    await announced(node)
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(node.get(f"/v1/codexd/turn/{turn_id}", waitMs=500))
        await oracle.caught_up()
        await node.get("/healthz")
        node.signal(signal.SIGTERM)
        await until(lambda: "daemon.stopping" in node.log)
        node.signal(signal.SIGTERM)
        assert (await waiting).json()["data"]["turn"]["status"] == "in_progress"  # an answer under way is given
    assert await node.ended() == 0
    assert (alive(child), alive(keeper)) == (True, True)
    await node.start()
    model.release("held")
    assert (await oracle.end_of(turn_id))["type"] == "turn.completed"
    assert stops(oracle) == [True]


async def test_an_idle_codexd_hands_its_child_over(house: House) -> None:
    node, _, oracle = house
    session_id = await node.session()
    assert (await node.play(session_id, "plain"))["status"] == "completed"
    child = await node.child()
    await announced(node, expiresInMs=600_000)
    assert await node.stop() == 0
    await node.start()
    assert await node.child() == child
    assert (await node.play(session_id, "plain"))["finalMessage"] == "Fine."
    assert stops(oracle) == [True]
    assert await node.stop() == 0  # an announcement is worth nothing to the next one
    assert node.left() == []
    await node.start()


async def test_a_codexd_without_a_child_hands_over_too(tmp_path: Path) -> None:
    async with Node(tmp_path, "http://127.0.0.1:1", server_command=str(tmp_path / "codex")) as node:
        await node.start()
        await node.child_is("unavailable")
        await announced(node)
        assert await node.stop() == 0
        await node.start()
        assert [event["type"] for event in await node.events()] == [
            *("daemon.started", "daemon.stopping", "daemon.started")
        ]


# --- not announced any more, or not to that codexd


async def test_after_it_expired_a_signal_is_a_stop(house: House) -> None:
    node, _, oracle = house
    turn_id = await held_turn(house)
    await announced(node, expiresInMs=1)
    assert (await node.ledger(turn_id, wait_ms=100))["status"] == "in_progress"
    assert await node.stop() == 0
    assert node.left() == []
    await node.start()
    assert (await oracle.end_of(turn_id))["type"] == "turn.interrupted"
    assert (await node.ledger(turn_id))["reason"] == "daemon_stopped"
    assert stops(oracle) == [False]


async def test_who_may_announce_it_and_what_is_asked(house: House) -> None:
    node, _, _ = house
    read = {"authorization": f"Bearer {node.token('read')}", "content_type": "application/json"}
    answer = await node.ask("POST", HANDOVER, **read)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "read_only_token")
    assert (await node.ask("POST", HANDOVER, content_type="application/json")).status_code == 401
    wrong: tuple[object, ...] = ({"expiresInMs": 0}, {"expiresInMs": 600_001}, {"expiresInMs": "1"}, {"expires": 1}, [])
    for body in wrong:
        answer = await node.post(HANDOVER, body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_request")
    assert await node.stop() == 0  # none of these announced anything
    assert node.left() == []
    await node.start()


async def test_a_codexd_that_stops_takes_no_announcement(house: House) -> None:
    node, _, oracle = house
    await node.stop()
    node.settings["drain_ms"] = "3600000"
    await node.start()
    turn_id = await held_turn(house)
    node.signal(signal.SIGTERM)
    await oracle.saw("daemon.stopping", count=2)
    answer = await node.post(HANDOVER, {})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "draining")
    node.signal(signal.SIGTERM)
    assert await node.ended() == 0
    assert node.left() == []
    node.settings["drain_ms"] = "0"
    await node.start()
    assert (await oracle.end_of(turn_id))["type"] == "turn.interrupted"


# --- python -m baa.codexd --end-leftovers


async def end_leftovers(node: Node) -> tuple[int, str, str]:
    """Its exit code, and what it said on stdout and stderr."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "baa.codexd", "--end-leftovers"),
        env=node.environment(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            said, complained = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, said.decode(), complained.decode()


@pytest.mark.parametrize("frozen", [False, True])
async def test_what_a_dead_codexd_left_is_ended_and_the_log_stays_true(house: House, frozen: bool) -> None:
    node, _, oracle = house
    turn_id = await held_turn(house)
    child, keeper = await node.child(), node.keeper
    await node.kill()
    if frozen:
        os.kill(keeper, signal.SIGSTOP)
    code, said, complained = await end_leftovers(node)
    assert (code, complained) == (0, "")
    assert str(keeper) in said
    assert str(child) in said
    assert node.left() == []
    assert await end_leftovers(node) == (0, "codexd: There was nothing to end.\n", "")
    await node.start()
    exited = await oracle.saw("child.exited")
    assert exited["seq"] < (await oracle.end_of(turn_id))["seq"]
    turn = await node.ledger(turn_id)
    assert (turn["status"], turn["reason"]) == ("interrupted", "child_exited")
    assert oracle.deltas(turn_id) == numbered(50)
    assert (await node.play(turn["sessionId"], "plain"))["finalMessage"] == "Fine."


async def test_nothing_of_a_codexd_that_runs_is_ended(house: House) -> None:
    node, model, oracle = house
    turn_id = await held_turn(house)
    code, said, complained = await end_leftovers(node)
    assert (code, said) == (75, "")
    assert "Stop it instead" in complained
    model.release("held")
    assert (await oracle.end_of(turn_id))["type"] == "turn.completed"


async def test_where_no_codexd_ever_ran_there_is_nothing_to_end(tmp_path: Path) -> None:
    async with Node(tmp_path, "http://127.0.0.1:1") as node:
        assert await end_leftovers(node) == (0, "codexd: There was nothing to end.\n", "")
