"""The scripted model against the real Codex: what each step makes a turn do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from baa.scripted import Drop, Hold, Patch, Reason, Refuse, Run, Say, Scenario, ScriptedModel, codex_config, when
from tests.support.appserver_stdio import AppServer

EDIT = """\
*** Begin Patch
*** Update File: poem.txt
@@
 roses
-are blue
+are red
*** Add File: new.txt
+new
*** End Patch
"""
KNOWN_MODEL = "gpt-6.1-sol"  # In Codex's own catalog, with quite other tools than a model that it does not know.


@asynccontextmanager
async def codex(
    home: Path, *scenarios: Scenario, model: str = "scripted", retries: int = 1
) -> AsyncIterator[tuple[AppServer, ScriptedModel]]:
    """A real app-server whose model plays these scenarios."""
    async with asyncio.timeout(60), ScriptedModel(scenarios) as scripted:
        config = codex_config(scripted.base_url, model=model, retries=retries)
        async with AppServer(home, config, arguments=("--strict-config",)) as server:
            yield server, scripted


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


async def test_codex_knows_every_key_of_our_config(tmp_path: Path) -> None:
    async with codex(tmp_path) as (server, _):
        config = (await server.request("config/read", {}))["config"]
    assert config["model_provider"] == "scripted"
    warnings = [message["params"]["summary"] for message in server.messages if message.get("method") == "configWarning"]
    assert [warning for warning in warnings if "bubblewrap" not in warning] == []


async def test_an_answer_streams_every_delta_once(tmp_path: Path, work: Path) -> None:
    async with codex(tmp_path, when("count", Say.numbered(2_000))) as (server, _):
        turn = await server.play(await server.start_thread(work), "count, please")
    assert (turn["status"], turn["error"]) == ("completed", None)
    assert server.deltas(turn["id"]) == [f"w{number} " for number in range(2_000)]
    (message,) = server.items(turn["id"], "agentMessage")
    assert message["text"] == "".join(f"w{number} " for number in range(2_000))


async def test_an_unscripted_prompt_is_answered_with_an_echo(tmp_path: Path, work: Path) -> None:
    async with codex(tmp_path) as (server, _):
        turn = await server.play(await server.start_thread(work), "dance")
    assert "".join(server.deltas(turn["id"])) == "Nothing is scripted for: dance"


async def test_codex_really_runs_the_command_and_reports_back(tmp_path: Path, work: Path) -> None:
    scenario = when("run", (Say("Looking."), Run("echo made > made.txt; cat made.txt; exit 3")), Say("It is made."))
    async with codex(tmp_path, scenario) as (server, model):
        turn = await server.play(await server.start_thread(work), "run it")
    assert turn["status"] == "completed"
    assert (work / "made.txt").read_text() == "made\n"
    (command,) = server.items(turn["id"], "commandExecution")
    assert (command["aggregatedOutput"], command["exitCode"]) == ("made\n", 3)
    assert [item["text"] for item in server.items(turn["id"], "agentMessage")] == ["Looking.", "It is made."]
    assert [request.outputs for request in model.requests] == [0, 1]


@pytest.mark.parametrize("model", ["scripted", KNOWN_MODEL])
async def test_codex_really_edits_the_file(tmp_path: Path, work: Path, model: str) -> None:
    (work / "poem.txt").write_text("roses\nare blue\n")
    async with codex(tmp_path, when("edit", Patch(EDIT), Say("Edited.")), model=model) as (server, _):
        turn = await server.play(await server.start_thread(work), "edit it")
    assert turn["status"] == "completed"
    assert (work / "poem.txt").read_text() == "roses\nare red\n"
    (edit,) = server.items(turn["id"], "fileChange")
    assert edit["status"] == "completed"
    assert {change["path"]: change["kind"]["type"] for change in edit["changes"]} == {
        str(work / "poem.txt"): "update",
        str(work / "new.txt"): "add",
    }
    assert server.items(turn["id"], "commandExecution") == []


async def test_two_calls_in_one_reply_are_answered_together(tmp_path: Path, work: Path) -> None:
    async with codex(tmp_path, when("both", (Run("echo a"), Run("echo b")), Say("Both ran."))) as (server, model):
        turn = await server.play(await server.start_thread(work), "both")
    outputs = sorted(item["aggregatedOutput"] for item in server.items(turn["id"], "commandExecution"))
    assert (turn["status"], outputs) == ("completed", ["a\n", "b\n"])
    assert [request.outputs for request in model.requests] == [0, 2]


async def test_a_command_outside_the_sandbox_is_asked_for(tmp_path: Path, work: Path) -> None:
    run = Run("echo out > out.txt", sandbox_permissions="require_escalated", justification="May I write?")
    async with codex(tmp_path, when("escape", run, Say("Written."))) as (server, _):
        thread_id = await server.start_thread(work, sandbox="read-only", approvalPolicy="on-request")
        turn_id = await server.start_turn(thread_id, "escape")
        question = await server.wait_for("item/commandExecution/requestApproval")
        assert question["params"]["reason"] == "May I write?"
        await server.respond(question, {"decision": "accept"})
        turn = await server.end_of_turn(turn_id)
    assert (turn["status"], (work / "out.txt").read_text()) == ("completed", "out\n")


async def test_reasoning_is_an_item_before_the_answer(tmp_path: Path, work: Path) -> None:
    async with codex(tmp_path, when("think", (Reason("First this, then that."), Say("Thought.")))) as (server, _):
        turn = await server.play(await server.start_thread(work), "think")
    (reasoning,) = server.items(turn["id"], "reasoning")
    assert reasoning["summary"] == ["First this, then that."]
    streamed = [params["delta"] for params in server.of_turn(turn["id"], "item/reasoning/summaryTextDelta")]
    assert "".join(streamed) == "First this, then that."
    assert "".join(server.deltas(turn["id"])) == "Thought."


async def test_a_held_answer_stands_in_mid_message_until_released(tmp_path: Path, work: Path) -> None:
    scenario = when("hold", (Say.numbered(10), Hold("middle"), Say.numbered(10, start=10)))
    async with codex(tmp_path, scenario) as (server, model):
        turn_id = await server.start_turn(await server.start_thread(work), "hold on")
        await model.held("middle")
        await server.wait_for(lambda message: len(server.deltas(turn_id)) == 10)
        assert server.items(turn_id, "agentMessage") == []
        model.release("middle")
        turn = await server.end_of_turn(turn_id)
    assert turn["status"] == "completed"
    assert server.deltas(turn_id) == [f"w{number} " for number in range(20)]
    assert len(server.items(turn_id, "agentMessage")) == 1


async def test_a_held_answer_ends_with_codex(tmp_path: Path, work: Path) -> None:
    async with codex(tmp_path, when("hold", (Say("a"), Hold("never")))) as (server, model):
        await server.start_turn(await server.start_thread(work), "hold on")
        await model.held("never")


async def test_sessions_at_once_do_not_disturb_one_another(tmp_path: Path, work: Path) -> None:
    names = ("ash", "birch", "cedar")
    scenarios = [when(name, Run(f"echo {name}"), (Say(f"{name} "), Hold(name), Say("done"))) for name in names]
    async with codex(tmp_path, *scenarios) as (server, model):
        turns = {name: await server.start_turn(await server.start_thread(work), name) for name in names}
        for name in names:
            await model.held(name)
        for name in reversed(names):
            model.release(name)
            assert (await server.end_of_turn(turns[name]))["status"] == "completed"
    assert {name: "".join(server.deltas(turns[name])) for name in names} == {name: f"{name} done" for name in names}
    outputs = {
        name: [item["aggregatedOutput"] for item in server.items(turns[name], "commandExecution")] for name in names
    }
    assert outputs == {name: [f"{name}\n"] for name in names}


async def test_a_refusal_is_retried_and_then_fails_the_turn(tmp_path: Path, work: Path) -> None:
    async with codex(tmp_path, when("fail", Refuse(500))) as (server, model):
        turn = await server.play(await server.start_thread(work), "fail")
    assert (turn["status"], turn["error"]["codexErrorInfo"]) == ("failed", "internalServerError")
    assert server.deltas(turn["id"]) == []
    assert len(model.requests) > 1


async def test_a_cut_answer_is_streamed_again_and_then_fails_the_turn(tmp_path: Path, work: Path) -> None:
    async with codex(tmp_path, when("cut", (Say.numbered(5), Drop()))) as (server, model):
        turn = await server.play(await server.start_thread(work), "cut")
    assert turn["status"] == "failed"
    first, last = server.of_turn(turn["id"], "error")
    assert (first["willRetry"], last["willRetry"]) == (True, False)
    assert "responseStreamDisconnected" in first["error"]["codexErrorInfo"]
    assert server.deltas(turn["id"]) == [f"w{number} " for number in range(5)] * 2
    assert len(model.requests) == 2


async def test_no_answer_is_so_long_that_codex_compacts_the_thread(tmp_path: Path, work: Path) -> None:
    async with codex(tmp_path, when("long", Say(("x" * 2_000_000,)))) as (server, model):
        thread_id = await server.start_thread(work)
        for prompt in ("long", "next", "last"):
            assert (await server.play(thread_id, prompt))["status"] == "completed"
    assert [request.prompt for request in model.requests] == ["long", "next", "last"]


async def test_a_turn_after_a_failed_one_gets_its_own_answer(tmp_path: Path, work: Path) -> None:
    async with codex(tmp_path, when("fail", Refuse(400)), when("go on", Say("Fine.")), retries=0) as (server, _):
        thread_id = await server.start_thread(work)
        assert (await server.play(thread_id, "fail"))["status"] == "failed"
        turn = await server.play(thread_id, "go on")
    assert (turn["status"], server.deltas(turn["id"])) == ("completed", ["Fine."])
