"""A codexd that is stopped for longer than everything that it waits for, and goes on: nothing of it is ended."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from baa.scripted import Hold, Patch, Say, ScriptedModel, when
from tests.support.asking import turn_of
from tests.support.faults import saw
from tests.support.keeper_client import alive
from tests.support.node import Node, moment, until
from tests.support.oracle import Oracle, flaws_of, types
from tests.support.questions import accepted, question

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the tests look at /proc"),
    pytest.mark.timeout(180),  # later than any wait of ours gives up, so that a test that fails cleans up
]

EDIT = "*** Begin Patch\n*** Add File: made.txt\n+new\n*** End Patch"
SCENARIOS = (
    when("held", (Say.numbered(50), Hold("held"), Say("the end"))),
    when("silent", (Say("One moment. "), Hold("silent"), Say("the end"))),
    when("edit", Patch(EDIT), Say("Edited.")),
)
PERIODS = {"watch_ms": "300", "answer_ms": "1000", "interaction_deadline_ms": "3500"}
ASLEEP_S = 4.0  # longer than each of them, and than what the turns below ask for


async def test_nothing_is_ended_by_time_in_which_codexd_was_stopped(tmp_path: Path) -> None:
    async with ScriptedModel(SCENARIOS) as model, Node(tmp_path, model.base_url) as node:
        node.settings |= PERIODS
        await node.start()
        async with Oracle(node) as oracle:
            child = await node.child()
            leased = await turn_of(node, await node.session(), "held", leaseMs=3000)
            stalling = await turn_of(node, await node.session(), "silent", stallMs=3000)
            asking = await node.session(approvalPolicy="untrusted", sandbox="workspace-write")
            edit = await node.turn(asking, "edit")
            asked = await question(node, asking)
            await oracle.saw("item.delta", leased, count=50)
            node.signal(signal.SIGSTOP)
            await moment(ASLEEP_S)
            model.release("held")
            await until(lambda: b"the end" in node.spool)
            node.signal(signal.SIGCONT)
            await accepted(node, asked)
            model.release("silent")
            ends = [await node.end_of_turn(turn_id) for turn_id in (leased, stalling, edit)]
            assert [(end["status"], end["reason"]) for end in ends] == [("completed", None)] * 3
            assert alive(child)
            assert (await node.status())["child"]["restarts"] == 0
            saw("F03", "loop.slept" in node.log, f"codexd was stopped for {ASLEEP_S} s")
            saw("F56", "loop.slept" in node.log, f"nothing of it ran for {ASLEEP_S} s")
            await oracle.caught_up()
            assert flaws_of(oracle.events) == []
            assert "interaction.expired" not in types(oracle.events)
