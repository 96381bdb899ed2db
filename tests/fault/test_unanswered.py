"""A real Codex that never gets one of the requests: after the time for it, the truth is told, and the node goes on."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest
from codex_cli_bin import bundled_codex_path

from baa.scripted import Hold, Say, ScriptedModel, when
from tests.support import mute
from tests.support.faults import saw
from tests.support.node import Node
from tests.support.oracle import Oracle, flaws_of

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the tests look at /proc"),
    pytest.mark.timeout(180),  # later than any wait of ours gives up, so that a test that fails cleans up
]

SCENARIOS = (when("plain", Say("Fine.")), when("held", (Say.numbered(50), Hold("held"), Say("the end"))))


class House(NamedTuple):
    """A node that serves, a reader of its events, and the file that says which method its Codex does not hear."""

    node: Node
    oracle: Oracle
    muted: Path


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    codex = tmp_path / "codex"
    real = f'"{bundled_codex_path()}" "{tmp_path}" "$@"'
    codex.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "{mute.__file__}" {real}\n')
    codex.chmod(0o700)
    async with (
        ScriptedModel(SCENARIOS) as model,
        Node(tmp_path, model.base_url, server_command=str(codex), answer_ms="700") as node,
    ):
        await node.start()
        async with Oracle(node) as oracle:
            await node.child()
            yield House(node, oracle, tmp_path / "muted")
            await oracle.caught_up()
            assert flaws_of(oracle.events) == []


@pytest.mark.parametrize(("method", "status"), [("thread/start", "failed"), ("turn/start", "lost")])
async def test_a_request_that_is_not_answered_ends_its_turn_and_no_other(
    house: House, method: str, status: str
) -> None:
    node, oracle, muted = house
    beside = await node.turn(await node.session(), "held")
    await oracle.saw("item.delta", beside, count=50)
    muted.write_text(method)
    session_id = await node.session()
    turn = await node.end_of_turn(await node.turn(session_id, "plain"))
    assert (turn["status"], turn["reason"]) == (status, "no_answer")
    if method == "turn/start":
        saw("F10", '"plain"' not in node.rollouts, "the child never answered turn/start")
    muted.unlink()
    assert (await node.play(session_id, "plain"))["finalMessage"] == "Fine."
    assert (await node.ledger(beside))["status"] == "in_progress"
    await node.post(f"/v1/codexd/turn/{beside}/interrupt", {})
    assert (await node.end_of_turn(beside))["reason"] == "requested"
    assert (await node.status())["child"]["generation"] == 1


async def test_a_child_that_never_answers_the_handshake_is_ended_and_the_next_one_tried(house: House) -> None:
    node, oracle, muted = house
    muted.write_text("initialize")
    os.kill(await node.child(), signal.SIGKILL)
    exited = (await oracle.saw("child.exited", count=2))["payload"]
    saw("F09", "did not answer the handshake" in exited["reason"], f"the second child: {exited['reason']}")
    muted.unlink()
    await oracle.saw("child.ready", count=2)
    assert (await node.play(await node.session(), "plain"))["finalMessage"] == "Fine."


async def test_a_child_that_does_not_interrupt_a_turn_is_ended(house: House) -> None:
    node, oracle, muted = house
    session_id = await node.session()
    turn_id = await node.turn(session_id, "held")
    await oracle.saw("item.delta", turn_id, count=50)
    muted.write_text("turn/interrupt")
    await node.post(f"/v1/codexd/turn/{turn_id}/interrupt", {})
    turn = await node.end_of_turn(turn_id)
    assert (turn["status"], turn["reason"]) == ("interrupted", "child_exited")
    (end,) = [event["payload"] for event in oracle.events if event["type"] == "child.exited"]
    assert end["reason"] == f"it did not end turn {turn_id} when it was told to"
    assert (await node.play(session_id, "plain"))["finalMessage"] == "Fine."
