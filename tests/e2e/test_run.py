"""`baa run` and `baa login` on a real codexd with the real Codex: in a pipe, in a terminal, and interrupted."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from baa.scripted import Call, Hold, Patch, Refuse, Run, Say, ScriptedModel, when
from tests.support import mcp_server
from tests.support.command_line import baa, started, terminal
from tests.support.node import Node, within

pytestmark = pytest.mark.timeout(150)

EVIL = "a\x1b]0;owned\x07b\x9b31mc\u202ed\x7fe\x08f"
SCENARIOS = (
    when("hello", Say("Hello,\nWorld.")),
    when("refused", Refuse(400)),
    when("evil", Run(f"printf '%s' '{EVIL}'"), Say(EVIL)),
    when("hang", (Say("Working."), Hold("never"))),
    when("port", Say('{"port": 4319}')),
    when("edit", Patch(f"*** Begin Patch\n*** Add File: new.txt\n+{EVIL}\n*** End Patch"), Say("So.")),
    when("ask", Run("touch made", sandbox_permissions="require_escalated", justification="May I?"), Say("So.")),
)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with ScriptedModel(SCENARIOS) as model, Node(tmp_path, model.base_url) as node:
        await node.start()
        await node.child()
        yield node


async def test_into_a_pipe_goes_only_the_answer(node: Node) -> None:
    assert await baa(node, "run", "hello", "--sandbox", "danger-full-access") == (0, "Hello,\nWorld.\n", "")
    first = (await baa(node, "run", "hello", "--output", "sessionId")).stdout.strip()
    again = await baa(node, "run", "--continue", "--output", "sessionId", stdin=b"hello")
    assert again == (0, f"{first}\n", ""), "the last session of this folder"
    elsewhere = node.work / "elsewhere"
    elsewhere.mkdir()
    done = await baa(node, "run", "hello", "--continue", "--cwd", str(elsewhere))
    assert (done.code, done.stdout) == (66, "")
    assert "Leave --continue out" in done.stderr
    failed = await baa(node, "run", "refused", "--sandbox", "danger-full-access")
    assert (failed.code, failed.stdout) == (1, "")
    assert " is failed: " in failed.stderr


async def test_a_program_gets_fields_and_json(node: Node, tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    properties = {"port": {"type": "integer"}}
    schema.write_text(
        json.dumps({"type": "object", "properties": properties, "required": ["port"], "additionalProperties": False})
    )
    done = await baa(node, "run", "port", "--output-schema", str(schema), "--output", "output")
    assert done == (0, '{"port":4319}\n', "")
    told = json.loads((await baa(node, "run", "hello", "--json")).stdout)
    assert (told["ok"], told["turn"]["status"], told["turn"]["finalMessage"]) == (True, "completed", "Hello,\nWorld.")
    done = await baa(node, "run", "hello", "--output", "nonsense")
    assert done.code == 64
    assert "finalMessage" in done.stderr
    done = await baa(node, "run", "hello", "--cwd", "/nowhere", "--json")
    assert (done.code, json.loads(done.stdout)["error"]["code"], done.stderr) == (65, "invalid_request", "")


async def test_detached_it_prints_the_turn_and_leaves_it(node: Node) -> None:
    done = await baa(node, "run", "hello", "--detach")
    turn = await node.end_of_turn(done.stdout.strip())
    assert (done.code, turn["status"]) == (0, "completed")


async def test_ctrl_c_interrupts_the_turn_and_its_exit_code_says_so(node: Node) -> None:
    async with started(node, "run", "hang", "--json") as process:
        turn_id = await _running(node)
        process.send_signal(signal.SIGINT)
        out, err = await within(process.communicate())
    told = json.loads(out)
    assert (process.returncode, told["ok"], told["turn"]["turnId"]) == (130, False, turn_id)
    assert (told["turn"]["status"], told["turn"]["reason"]) == ("interrupted", "requested")
    assert b"Interrupting the turn" in err


async def test_ctrl_c_twice_leaves_at_once_and_says_that_the_turn_may_run_on(node: Node) -> None:
    async with started(node, "run", "hang") as process:
        turn_id = await _running(node)
        await asyncio.to_thread(_stop, node.pid)
        try:
            process.send_signal(signal.SIGINT)
            assert process.stderr is not None
            await within(process.stderr.readuntil(b"leaves it alone.\n"))
            process.send_signal(signal.SIGINT)
            out, err = await within(process.communicate())
        finally:
            node.signal(signal.SIGCONT)
    assert (process.returncode, out) == (130, b"")
    assert f"The turn may run on: baa turn show {turn_id}" in err.decode()
    assert (await node.end_of_turn(turn_id))["status"] == "interrupted"


def _stop(pid: int) -> None:
    import os

    os.kill(pid, signal.SIGSTOP)


async def _running(node: Node) -> str:
    """The id of the one turn, once Codex says something in it."""
    async with asyncio.timeout(60):
        while True:
            found = await node.events(types="item.started")
            spoken = [event["turnId"] for event in found if event["payload"]["kind"] == "agentMessage"]
            if spoken:
                return str(spoken[0])


async def test_a_codexd_that_is_killed_meanwhile_costs_nothing(tmp_path: Path) -> None:
    scenario = when("count", (Say.numbered(30), Hold("dead"), Say.numbered(30, start=30)))
    async with ScriptedModel((scenario,)) as model, Node(tmp_path, model.base_url) as node:
        await node.start()
        async with started(node, "run", "count") as process:
            await model.held("dead")
            await node.kill()
            model.release("dead")
            await node.start()
            out, err = await within(process.communicate())
        assert (process.returncode, err) == (0, b"")
        assert out.decode().split() == [f"w{number}" for number in range(60)]


async def test_in_a_terminal_it_streams_and_nothing_of_the_model_acts_there(node: Node) -> None:
    async with terminal(node, "run", "evil", "--approval-policy", "never", "--sandbox", "danger-full-access") as shown:
        assert await shown.ended() == 0
        text = shown.screen.decode()
    for acting in ("\x1b]0;", "\x07", "\x9b", "\u202e", "\x7f", "\x08"):
        assert acting not in text, repr(acting)
    assert text.count("\\x1b]0;owned\\x07b\\x9b31mc\\u202ed\\x7fe\\x08f") >= 2, "the output and the answer"
    assert "completed in" in text


async def test_a_question_is_told_with_the_command_that_answers_it(node: Node) -> None:
    async with started(node, "run", "ask", "--approval-policy", "on-request", "--sandbox", "read-only") as process:
        assert process.stderr is not None
        line = (await within(process.stderr.readline())).decode()
        assert "Codex asks: " in line
        assert "touch made" in line
        assert "baa answer ses_" in line


ASKING = ("--approval-policy", "on-request", "--sandbox", "read-only")


async def test_in_a_terminal_what_codex_asks_is_asked_there_and_a_key_answers(node: Node) -> None:
    async with terminal(node, "run", "ask", *ASKING) as shown:
        await shown.shows("? ")
        shown.types("nonsense\n1\n")
        assert await shown.ended() == 0
        text = shown.screen.decode()
    assert "Codex asks (command), until " in text
    assert "$ touch made" in text
    assert "  1  accept" in text
    assert "baa answer" not in text
    assert "completed in" in text
    assert (node.work / "made").exists()


async def test_an_edit_is_shown_before_it_is_decided_and_nothing_of_it_acts(node: Node) -> None:
    async with terminal(node, "run", "edit", *ASKING) as shown:
        await shown.shows("? ")
        text = shown.screen.decode()
        shown.types("decline\n")
        assert await shown.ended() == 0
    assert "+a\\x1b]0;owned\\x07b" in text
    assert "\x1b]0;" not in shown.screen.decode()
    assert not (node.work / "new.txt").exists()


async def test_questions_and_forms_are_answered_in_words(tmp_path: Path) -> None:
    server = f'[mcp_servers.house]\ncommand = "{sys.executable}"\nargs = ["-I", "{mcp_server.__file__}"]\n'
    options = [{"label": "Red", "description": "warm"}, {"label": "Blue", "description": "cold"}]
    questions = [
        {"id": "colour", "header": "Colour", "question": "Which one?", "options": options},
        {"id": "why", "header": "Why", "question": "And why?", "options": options},
    ]
    scenarios = (
        when("choose", Call("request_user_input", {"questions": questions}), Say("I see.")),
        when("form", Call("ask", {"q": "1"}, "mcp__house"), Say("Asked.")),
    )
    features = ("default_mode_request_user_input",)
    async with (
        ScriptedModel(scenarios) as model,
        Node(tmp_path, model.base_url, codex=server, features=features) as node,
    ):
        await node.start()
        await node.child()
        async with terminal(node, "run", "choose", "--approval-policy", "on-request") as shown:
            await shown.shows("decline\r\n? ")
            shown.types("1\n")
            await shown.shows("Which one? (a number, or other words)")
            shown.types("2\n")
            await shown.shows("And why?")
            shown.types("It is mine\n")
            assert await shown.ended() == 0
        async with terminal(node, "run", "form", "--approval-policy", "on-request") as shown:
            await shown.shows("cancel\r\n? ")
            shown.types("accept\n")
            await shown.shows("age (a whole number, may be left empty)\r\n? ")
            shown.types("old\n3\n")
            await shown.shows("Name\r\n? ")
            shown.types("\nBob\n")
            assert await shown.ended() == 0
        assert "Who are you?" in shown.screen.decode()
        assert "A whole number." in shown.screen.decode()
        assert "This cannot be left empty." in shown.screen.decode()
        reports = "\n".join(report for request in model.requests for report in request.reports)
    assert '"colour":{"answers":["Blue"]}' in reports.replace(" ", "").replace("\\", "")
    assert "It is mine" in reports
    assert '{"action": "accept", "content": {"age": 3, "name": "Bob"}}' in reports


async def test_the_first_answer_wins_wherever_it_is_given_and_the_end_of_input_gives_none(node: Node) -> None:
    async with terminal(node, "run", "ask", *ASKING) as shown:
        await shown.shows("? ")
        shown.types("half")
        session_id = (await node.events(types="interaction.requested"))[-1]["sessionId"]
        assert (await baa(node, "answer", session_id, "--decision", "decline")).code == 0
        await shown.shows('Answered elsewhere: "decline"')
        assert await shown.ended() == 0
        assert "completed in" in shown.screen.decode()
    assert not (node.work / "made").exists()
    async with terminal(node, "run", "ask", *ASKING) as shown:
        await shown.shows("? ")
        shown.types("\x04")
        await shown.shows("It waits on. Answer it elsewhere: baa answer int_")
        shown.interrupt()
        assert await shown.ended() == 130


async def test_a_turn_that_is_interrupted_asks_nothing_any_more(node: Node) -> None:
    async with terminal(node, "run", "ask", *ASKING) as shown:
        await shown.shows("? ")
        shown.interrupt()
        await shown.shows("Nobody asks that any more (turn_ended).")
        assert await shown.ended() == 130


async def test_without_a_login_it_says_which_command_logs_in(tmp_path: Path) -> None:
    async with Node(tmp_path, "http://127.0.0.1:9") as node:
        (node.codex_home / "config.toml").write_text("")
        await node.start()
        await node.child()
        done = await baa(node, "run", "hello")
        assert (done.code, done.stdout, done.stderr) == (
            77,
            "",
            "baa: Codex is not logged in. On the machine of codexd, run: baa login\n",
        )
        theirs = node.folder / "user" / ".codex"
        theirs.mkdir()
        for name in ("config.toml", "AGENTS.md", "auth.json"):
            (theirs / name).write_text(f"# {name}\n")
        refused = await baa(node, "login", "--import", "--with-api-key", stdin=b"sk-test")
        assert (refused.code, "is there already" in refused.stderr) == (73, True)
        (node.codex_home / "config.toml").unlink()
        generation = (await node.status())["child"]["generation"]
        done = await baa(node, "login", "--import", "--with-api-key", "--json", stdin=b"sk-test-000\n")
        told = json.loads(done.stdout)
        assert (done.code, told["ok"], told["imported"]) == (0, True, ["config.toml", "AGENTS.md"])
        assert (node.codex_home / "auth.json").stat().st_mode & 0o077 == 0
        assert "sk-test" in (node.codex_home / "auth.json").read_text()
        async with asyncio.timeout(60):
            while (status := await node.status())["child"]["generation"] == generation or status["codex"][
                "loggedIn"
            ] is not True:
                await node.get("/v1/codexd/events", after=await node.head(), waitMs=100)


async def test_without_codexd_it_says_how_to_start_one(tmp_path: Path) -> None:
    async with Node(tmp_path, "http://127.0.0.1:9") as node:
        done = await baa(node, "run", "hello")
        assert (done.code, done.stdout) == (69, "")
        assert "baa up --service codexd" in done.stderr
