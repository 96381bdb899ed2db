"""The commands that speak to a codexd, on the real thing, in pipes and in terminals."""

from __future__ import annotations

import asyncio
import json
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from baa.scripted import Hold, Patch, Run, Say, ScriptedModel, when
from tests.support.command_line import baa, started, terminal
from tests.support.node import Node, within

pytestmark = pytest.mark.timeout(150)

EVIL = "\x1b[2J\x1b]52;c;b3duZWQ=\x07\x9b2K\x90q\x9c\u202egnp.exe\u2066\u200b\x08\x7f\r\rx\x0b\x0c\u2028y"
ACTING = ("\x1b]52", "\x1b[2J", *"\x07\x08\x0b\x7f\x9b\x90\x9c\u200b\u2028\u202e\u2066")
SHOWS = [("turn", "show"), ("turn", "show", "--markdown"), ("turn", "show", "--json"), ("events",)]
SCENARIOS = (
    when("hello", Say("Hello.")),
    when("hang", (Say("Working."), Hold("never"))),
    when("otherwise", Hold("never")),
    when("evil", Run("printf done", sandbox_permissions="require_escalated", justification=EVIL), Say(EVIL)),
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


async def _asked(node: Node) -> tuple[str, str]:
    """A turn that asks: its id, and its session's."""
    turn_id = (
        await ok(node, "run", "evil", "--detach", "--approval-policy", "on-request", "--sandbox", "read-only")
    ).strip()
    async with asyncio.timeout(60):
        while not (found := await node.events(types="interaction.requested")):
            pass
    return turn_id, found[-1]["sessionId"]


async def test_a_question_is_answered_by_a_flag(node: Node) -> None:
    turn_id, session_id = await _asked(node)
    assert session_id in await ok(node, "session", "list", "--needs-answer")
    done = await baa(node, "answer")
    assert done.code == 64
    assert "Give --decision: accept" in done.stderr
    assert not any(acting in done.stderr for acting in ACTING)
    told = json.loads(await ok(node, "answer", session_id, "--decision", "decline", "--json"))["interaction"]
    assert (told["status"], told["answer"]["decision"]) == ("resolved", "decline")
    await ok(node, "turn", "show", turn_id, "--wait")
    done = await baa(node, "answer", session_id)
    assert (done.code, "asks nothing" in done.stderr) == (66, True)


async def test_a_question_is_shown_in_a_terminal_and_answered_by_a_key_and_nothing_of_it_acts(node: Node) -> None:
    turn_id, _ = await _asked(node)
    async with terminal(node, "answer") as shown:
        await shown.shows("? ")
        shown.types("nonsense\n1\n")
        assert await shown.ended() == 0
        text = shown.screen.decode()
    assert "$ printf done" in text
    assert 'resolved: "accept"' in text
    assert "\\x1b[2J\\x1b]52;c;b3duZWQ=\\x07" in text
    for each in ACTING:
        assert each not in text, repr(each)
    assert (await node.end_of_turn(turn_id))["status"] == "completed"


@pytest.mark.parametrize("command", SHOWS)
async def test_nothing_that_came_from_a_model_acts_on_a_terminal(node: Node, command: tuple[str, ...]) -> None:
    turn_id, session_id = await _asked(node)
    await ok(node, "answer", session_id, "--decision", "accept")
    await node.end_of_turn(turn_id)
    arguments = (*command, turn_id) if command[0] == "turn" else (*command, "--json")
    async with terminal(node, *arguments) as shown:
        assert await shown.ended() == 0
        text = shown.screen.decode()
    assert "gnp.exe" in text
    for each in ACTING:
        assert each not in text, repr(each)


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


async def test_doctor_looks_at_all_of_it_and_its_bundle_has_no_secret(node: Node, tmp_path: Path) -> None:
    node.state.chmod(0o700)
    (node.codex_home / "auth.json").write_text(json.dumps({"OPENAI_API_KEY": "sk-" + "s" * 40}))
    with (node.home / "logs" / "codexd" / "codexd.jsonl").open("a") as log:
        log.write(json.dumps({"event": "x", "authorization": "Bearer hidden", "said": node.token()}) + "\n")
    await ok(node, "run", "hello", "--sandbox", "danger-full-access")
    bundle = tmp_path / "report.tar.gz"
    done = await baa(node, "doctor", "--json", "--bundle", str(bundle))
    told = json.loads(done.stdout)
    names = {line["name"]: line["level"] for line in told["lines"]}
    assert names | {"codexd": "ok", "configuration": "ok", "state folder": "ok", "codexd port": "ok"} == names
    assert (done.code == 0) == told["ok"]
    with tarfile.open(bundle) as archive:
        texts = {each.name: archive.extractfile(each).read().decode() for each in archive}  # type: ignore[union-attr]
    assert set(texts) == {f"baa-doctor/{name}" for name in ("about.json", "doctor.json", "codexd.jsonl")}
    whole = "".join(texts.values())
    for secret in (node.token("read"), node.token("drive"), "s" * 40, "Bearer hidden", "Hello."):
        assert secret not in whole
    assert "session.registered" in whole
    again = await baa(node, "doctor", "--bundle", str(bundle))
    assert (again.code, "cannot be written" in again.stderr) == (73, True)


async def test_doctor_without_codexd_makes_nothing_and_names_what_is_wrong(tmp_path: Path) -> None:
    async with Node(tmp_path, "http://127.0.0.1:9") as node:
        before = sorted(node.home.rglob("*"))
        node.state.chmod(0o755)
        done = await baa(node, "doctor", "--json")
        lines = {line["name"]: line for line in json.loads(done.stdout)["lines"]}
        assert done.code == 1
        assert (lines["state folder"]["level"], lines["codexd"]["level"]) == ("fail", "warn")
        assert "chmod 700" in lines["state folder"]["cure"]
        assert sorted(node.home.rglob("*")) == before
        done = await baa(node, "doctor", BAA_CODEXD_LOCAL_API_BASE="http://192.0.2.1:1")
        assert (done.code, "BAA_CODEXD_LOCAL_API_BASE" in done.stdout) == (1, True)
