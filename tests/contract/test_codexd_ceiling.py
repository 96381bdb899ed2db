"""The ceiling on the real Codex: network, approval policies, models, also for sessions of a higher one."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from baa.scripted import Run, Say, ScriptedModel, when
from tests.support.asking import TURN, Bodies, ask, refusal_of
from tests.support.node import Json, Node, sandbox_works

pytestmark = pytest.mark.timeout(180)

SESSIONS = "/v1/codexd/sessions"
TRIES = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1])), 20)"


async def refused(node: Node, path: str, **asked: object) -> tuple[int, str, str]:
    answer = await node.post(path, asked)
    return *refusal_of(answer), answer.json()["error"]["details"]["field"]


async def session(node: Node, **asked: object) -> Json:
    answer = await node.post(SESSIONS, {"cwd": str(node.work), **asked})
    assert answer.status_code == 201, answer.text
    told: Json = answer.json()["data"]["session"]
    return told


async def test_a_network_is_had_where_it_is_asked_for_and_the_ceiling_has_one(tmp_path: Path) -> None:
    if not sandbox_works():
        pytest.skip("Codex cannot confine a command here")
    with socket.create_server(("127.0.0.1", 0)) as there:
        reach = f'{sys.executable} -I -c "{TRIES}" {there.getsockname()[1]} && echo REACHED'
        scenarios, bodies = (when("reach", Run(reach, yield_time_ms=30_000), Say("Tried.")),), Bodies()
        async with (
            ScriptedModel(scenarios, on_body=bodies) as model,
            Node(tmp_path, model.base_url, ceiling="workspace-write") as node,
        ):
            node.ceil(network=True)
            await node.start()

            async def reached(session_id: str, **asked: object) -> bool:
                turn = await node.end_of_turn(
                    (await ask(node, session_id, "reach", key=None, **asked))["turn"]["turnId"]
                )
                assert turn["status"] == "completed"
                outputs = [item["output"] for item in bodies.all[-1]["input"] if item["type"] == "function_call_output"]
                told = str(outputs[-1])  # a command that its sandbox denied is no item of the turn
                assert ("REACHED" in told) != ("not permitted" in told), told
                return "REACHED" in told

            without, with_one = await session(node), await session(node, networkAccess=True)
            assert (without["networkAccess"], with_one["networkAccess"]) == (False, True)
            assert not await reached(without["sessionId"])
            assert await reached(without["sessionId"], networkAccess=True)
            assert not await reached(without["sessionId"])  # what one turn asks for is no longer so in the next
            assert await reached(with_one["sessionId"])
            assert not await reached(with_one["sessionId"], networkAccess=False)

            assert await node.stop() == 0
            node.ceil()
            await node.start()
            above = (403, "policy_ceiling", "networkAccess")
            assert await refused(node, SESSIONS, cwd=str(node.work), networkAccess=True) == above
            assert await refused(node, TURN, sessionId=without["sessionId"], prompt="x", networkAccess=True) == above
            assert await refused(node, TURN, sessionId=with_one["sessionId"], prompt="x") == above
            assert await refused(node, f"{SESSIONS}/{with_one['sessionId']}/fork") == above
            assert not await reached(with_one["sessionId"], networkAccess=False)


async def test_policies_and_models_are_those_of_the_ceiling_also_after_it_was_lowered(tmp_path: Path) -> None:
    bodies = Bodies()
    async with (
        ScriptedModel(on_body=bodies) as model,
        Node(tmp_path, model.base_url, ceiling="workspace-write") as node,
    ):
        await node.start()
        before = await session(node)
        assert (before["approvalPolicy"], before["model"]) == ("never", None)
        await node.play(before["sessionId"], "before")
        assert await node.stop() == 0

        node.ceil(approval=["untrusted", "on-request"], models=["small", "large"])
        await node.start()
        head, asked = await node.head(), len(bodies.all)
        policy, named = (403, "policy_ceiling", "approvalPolicy"), (403, "policy_ceiling", "model")
        cwd, old = str(node.work), before["sessionId"]
        assert await refused(node, SESSIONS, cwd=cwd, approvalPolicy="never") == policy
        assert await refused(node, SESSIONS, cwd=cwd, model="other") == named
        assert await refused(node, TURN, sessionId=old, prompt="x") == policy
        assert await refused(node, TURN, sessionId=old, prompt="x", approvalPolicy="untrusted", model="other") == named
        assert await refused(node, f"{SESSIONS}/{old}/fork") == policy
        assert [event for event in await node.events(head) if event.get("turnId")] == []
        assert len(bodies.all) == asked

        usual = await session(node)
        assert (usual["approvalPolicy"], usual["model"]) == ("untrusted", "small")
        await node.play(usual["sessionId"], "usual")
        again = await ask(node, old, "again", key=None, approvalPolicy="untrusted")
        assert (await node.end_of_turn(again["turn"]["turnId"]))["status"] == "completed"
        larger = await ask(node, old, "larger", key=None, approvalPolicy="untrusted", model="large")
        assert (await node.end_of_turn(larger["turn"]["turnId"]))["status"] == "completed"
        assert [body["model"] for body in bodies.all[asked:]] == ["small", "small", "large"]


async def test_a_fork_of_a_session_without_a_model_has_the_first_one_of_the_ceiling(tmp_path: Path) -> None:
    bodies = Bodies()
    async with (
        ScriptedModel(on_body=bodies) as model,
        Node(tmp_path, model.base_url, ceiling="workspace-write") as node,
    ):
        await node.start()
        before = await session(node)
        await node.play(before["sessionId"], "before")
        assert await node.stop() == 0
        node.ceil(models=["small"])
        await node.start()
        answer = await node.post(f"{SESSIONS}/{before['sessionId']}/fork", {})
        assert answer.status_code == 201, answer.text
        fork = answer.json()["data"]["session"]
        assert fork["model"] == "small"
        await node.play(fork["sessionId"], "after")
        assert bodies.all[-1]["model"] == "small"
