"""Sub-agents that Codex starts by itself: their work is the parent turn's, and ends when that is interrupted."""

from __future__ import annotations

from pathlib import Path

from baa.scripted import Call, Hold, Run, Say, ScriptedModel, when
from tests.support.keeper_client import alive
from tests.support.node import Node, until
from tests.support.oracle import Oracle

WORK = "sleep 7801"
SCENARIOS = (
    when("dig", Run(WORK), Say("Dug.")),
    when(
        "lead",
        Call("spawn_agent", {"message": "dig", "agent_type": "worker"}, "multi_agent_v1"),
        (Say("I wait. "), Hold("never")),
    ),
    when("after", Say("Here.")),
)


async def test_a_sub_agents_work_belongs_to_its_parents_turn_and_ends_with_it(tmp_path: Path) -> None:
    async with ScriptedModel(SCENARIOS) as model, Node(tmp_path, model.base_url) as node:
        await node.start()
        session_id = await node.session()
        async with Oracle(node) as oracle:
            turn_id = await node.turn(session_id, "lead")
            await until(lambda: node.running("7801"))
            pids = node.running("7801")
            assert (await node.post(f"/v1/codexd/turn/{turn_id}/interrupt", {})).status_code == 202
            end = await oracle.end_of(turn_id)

        assert (end["type"], end["payload"]["reason"]) == ("turn.interrupted", "requested")
        assert [pid for pid in pids if alive(pid)] == []
        ledger = await node.ledger(turn_id)
        by_agents = {item["kind"] for item in ledger["items"] if item["agentThreadId"] is not None}
        own = {item["kind"] for item in ledger["items"] if item["agentThreadId"] is None}
        assert "userMessage" in by_agents
        assert {"userMessage", "collabAgentToolCall", "agentMessage"} <= own
        assert ledger["finalMessage"] is None, "what a sub-agent says is not the turn's answer"
        assert (await node.play(session_id, "after"))["finalMessage"] == "Here."
