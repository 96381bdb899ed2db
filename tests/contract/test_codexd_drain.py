"""Draining: what was accepted is finished, and nothing new is taken until codexd is restarted."""

from __future__ import annotations

from pathlib import Path

from baa.scripted import Hold, Say, ScriptedModel, when
from tests.support.node import Node

SCENARIOS = (when("long", (Say("I am "), Hold("long"), Say("done."))), when("next", Say("Here.")))


async def test_a_drained_codexd_finishes_what_it_accepted_and_takes_nothing_new(tmp_path: Path) -> None:
    async with ScriptedModel(SCENARIOS) as model, Node(tmp_path, model.base_url) as node:
        await node.start()
        session_id = await node.session()
        running = await node.turn(session_id, "long")
        body = {"sessionId": session_id, "prompt": "next", "onBusy": "enqueue"}
        waiting = (await node.post("/v1/codexd/turn", body)).json()["data"]["turn"]["turnId"]

        for _ in range(2):  # again is no mistake
            answer = await node.post("/v1/codexd/status/drain", {})
            assert (answer.status_code, answer.json()["data"]["daemon"]["state"]) == (202, "draining")
        assert [event["type"] for event in await node.events(types="daemon.draining")] == ["daemon.draining"]
        for path, asked in (("/v1/codexd/turn", body), ("/v1/codexd/sessions", {"cwd": str(node.work)})):
            refused = await node.post(path, asked)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
            assert "retry-after" in refused.headers

        model.release("long")
        assert (await node.end_of_turn(running))["status"] == "completed"
        assert (await node.end_of_turn(waiting))["status"] == "completed"
        await node.stop()
        await node.start()
        assert (await node.status())["daemon"]["state"] == "running"
        assert (await node.play(session_id, "next"))["status"] == "completed"
