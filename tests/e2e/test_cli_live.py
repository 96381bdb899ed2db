"""The commands that speak to a codexd, on the real thing, in pipes and in terminals."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from baa.scripted import Hold, Patch, Run, Say, ScriptedModel, when
from tests.support.command_line import baa, started
from tests.support.node import Node, within

pytestmark = pytest.mark.timeout(150)

EVIL = "\x1b[2J\x1b]52;c;b3duZWQ=\x07\x9b2K\x90q\x9c\u202egnp.exe\u2066\u200b\x08\x7f\r\rx\x0b\x0c\u2028y"
ACTING = ("\x1b]52", "\x1b[2J", *"\x07\x08\x0b\x7f\x9b\x90\x9c\u200b\u2028\u202e\u2066")
SHOWS = (
    ("turn", "show"),
    ("turn", "show", "--markdown"),
    ("turn", "show", "--json"),
    ("events", "--json"),
    ("events",),
)
SCENARIOS = (
    when("hello", Say("Hello.")),
    when("hang", (Say("Working."), Hold("never"))),
    when("otherwise", Hold("never")),
    when("evil", Run("printf done", sandbox_permissions="require_escalated", justification=EVIL), Say(EVIL)),
    when("shell", Run(f"printf '%s' '{EVIL}'", sandbox_permissions="require_escalated"), Say("So.")),
    when("patch", Patch("*** Begin Patch\n*** Add File: new.txt\n+one\n*** End Patch"), Say("So.")),
)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with ScriptedModel(SCENARIOS) as model, Node(tmp_path, model.base_url) as node:
        await node.start()
        await node.child()
        yield node


async def ok(node: Node, *arguments: str) -> str:
    done = await baa(node, *arguments)
    assert (done.code, done.stderr) == (0, ""), done
    return done.stdout


async def test_sessions_are_made_listed_shown_forked_and_closed(node: Node) -> None:
    assert "No sessions" in await ok(node, "session", "list")
    session_id = (await ok(node, "session", "new", "--purpose", "p", "--sandbox", "read-only")).strip()
    told = json.loads(await ok(node, "session", "show", session_id, "--json"))["session"]
    assert (told["cwd"], told["purpose"], told["sandbox"]) == (str(node.work), "p", "read-only")
    fork = (await ok(node, "session", "fork", session_id)).strip()
    assert session_id in await ok(node, "session", "list", "--purpose", "p")
    await ok(node, "session", "close", session_id)
    listed = json.loads(await ok(node, "session", "list", "--json"))["sessions"]
    assert [each["sessionId"] for each in listed] == [fork]
    assert session_id in await ok(node, "session", "list", "--all")
    done = await baa(node, "session", "show", "ses_nobody")
    assert (done.code, done.stdout) == (66, "")
    assert done.stderr.startswith("baa: There is no such session.")


async def test_turns_are_shown_listed_steered_and_interrupted(node: Node) -> None:
    turn_id = (await ok(node, "run", "hello", "--detach")).strip()
    shown = await ok(node, "turn", "show", turn_id, "--wait")
    assert shown.splitlines()[0].startswith(f"{turn_id}  completed in ")
    assert "Hello." in shown
    assert (await ok(node, "turn", "show", turn_id, "--markdown")).startswith(f"# Turn {turn_id}")
    session_id = (await node.ledger(turn_id))["sessionId"]
    assert turn_id in await ok(node, "turn", "list", session_id)
    done = await baa(node, "turn", "interrupt", turn_id)
    assert (done.code, "has ended" in done.stderr) == (75, True), done
    running = (await ok(node, "run", "hang", "--detach", "--sandbox", "danger-full-access")).strip()
    async with asyncio.timeout(60):
        while not await node.events(types="item.delta"):
            pass
    assert running in await ok(node, "turn", "steer", running, "otherwise")
    assert running in await ok(node, "turn", "interrupt", running)
    told = json.loads(await ok(node, "turn", "show", running, "--wait", "--json"))["turn"]
    assert (told["status"], told["reason"]) == ("interrupted", "requested")


async def test_what_a_turn_changed_is_a_diff(node: Node) -> None:
    turn_id = (await ok(node, "run", "patch", "--detach", "--sandbox", "danger-full-access")).strip()
    await ok(node, "turn", "show", turn_id, "--wait")
    assert "+one" in await ok(node, "turn", "diff", turn_id)
    other = (await ok(node, "run", "hello", "--output", "turnId")).strip()
    done = await baa(node, "turn", "diff", other)
    assert (done.code, "changed no file" in done.stderr) == (66, True)


async def test_events_are_printed_and_followed_across_a_kill(node: Node) -> None:
    turn_id = (await ok(node, "run", "hello", "--output", "turnId")).strip()
    lines = [json.loads(line) for line in (await ok(node, "events", "--json")).splitlines()]
    assert [line["seq"] for line in lines] == list(range(1, len(lines) + 1))
    ends = await ok(node, "events", "--type", "turn.completed")
    assert turn_id in ends
    assert len(ends.splitlines()) == 1
    async with started(node, "events", "--follow", "--after", "0", "--json") as process:
        assert process.stdout is not None
        for number in range(len(lines)):
            assert json.loads(await within(process.stdout.readline()))["seq"] == number + 1
        await node.kill()
        await node.start()
        seq = len(lines)
        while True:
            event = json.loads(await within(process.stdout.readline()))
            seq += 1
            assert event["seq"] == seq
            if event["type"] == "child.adopted":
                break
    done = await baa(node, "events", "--type", "nonsense")
    assert (done.code, "turn.completed" in done.stderr) == (64, True)
    done = await baa(node, "events", "--after", "zzz:1", "--json")
    assert (done.code, json.loads(done.stdout)["error"]["code"]) == (66, "cursor_expired")


async def test_logs_are_printed_however_the_program_was_started(node: Node) -> None:
    assert "serving" in await ok(node, "logs", "--service", "codexd")
    assert json.loads((await ok(node, "logs", "--json")).splitlines()[0])["event"]


async def test_every_setting_says_where_it_came_from(node: Node) -> None:
    told = json.loads(await ok(node, "config", "show", "--json"))
    origins = {each["key"]: each["origin"] for each in told["settings"]}
    assert told["file"] == str(node.folder / "baa.toml")
    assert origins["codexd.local_api_base"] == "BAA_CODEXD_LOCAL_API_BASE"
    assert origins["ceiling.roots"] == str(node.folder / "baa.toml")
    assert origins["codexd.orphan_ms"] == "default"
    assert "BAA_HOME" in await ok(node, "config", "show")
