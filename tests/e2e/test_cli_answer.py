"""`baa answer` and what a model wrote on its way to a terminal, and `baa doctor`, on a real codexd."""

from __future__ import annotations

import asyncio
import json
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from baa.scripted import Hold, Patch, Run, Say, ScriptedModel, when
from tests.support.command_line import baa, terminal
from tests.support.node import Node
from tests.support.terminal import knock

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


async def _asked(node: Node, prompt: str = "evil") -> tuple[str, str]:
    """A turn that asks: its id, and its session's."""
    turn_id = (
        await ok(node, "run", prompt, "--detach", "--approval-policy", "on-request", "--sandbox", "read-only")
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


async def test_programs_get_what_the_screens_would_show(node: Node) -> None:
    turn_id, session_id = await _asked(node)
    other = await node.session(purpose="the other")
    told = json.loads(await ok(node, "watch", "--json"))
    assert [each["sessionId"] for each in told["sessions"]] == [other, session_id]
    assert [(each["turnId"], each["status"]) for each in told["interactions"]] == [(turn_id, "open")]
    assert told["turn"] is None, "of the newest session"
    told = json.loads(await ok(node, "watch", session_id, "--json"))
    assert told["turn"]["turnId"] == turn_id
    told = json.loads((await baa(node, "watch", "ses_none", "--json")).stdout)
    assert (told["ok"], told["error"]["code"]) == (False, "session_not_found")

    given = json.loads(await ok(node, "attach", session_id, "--json"))["attachment"]
    socket = await knock(given)
    await socket.close()
    assert given["sessionId"] == session_id
    done = await baa(node, "attach", "ses_none", "--json")
    assert (done.code, json.loads(done.stdout)["error"]["code"]) == (66, "session_not_found")


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


async def test_a_command_that_would_act_is_written_out_where_it_is_asked_for_and_nothing_typed_answers_nothing(
    node: Node,
) -> None:
    turn_id, session_id = await _asked(node, "shell")
    async with terminal(node, "answer") as shown:
        await shown.shows("? ")
        shown.types("\x04")
        assert await shown.ended() == 64
    async with terminal(node, "answer", "int_none") as other:
        assert await other.ended() == 66
    done = await baa(node, "answer", turn_id)
    assert done.code == 64
    told = done.stderr + shown.screen.decode()
    assert told.count("\\x1b[2J") >= 2
    assert not any(acting in told for acting in ACTING)
    await ok(node, "answer", session_id, "--decision", "decline")
    await node.end_of_turn(turn_id)


async def test_nothing_that_came_from_a_model_acts_on_a_terminal(node: Node) -> None:
    turn_id, session_id = await _asked(node)
    await ok(node, "answer", session_id, "--decision", "accept")
    await node.end_of_turn(turn_id)
    seen = ""
    for command in SHOWS:
        async with terminal(node, *command, *([turn_id] if command[0] == "turn" else [])) as shown:
            assert await shown.ended() == 0
            seen += shown.screen.decode()
    assert seen.count("gnp.exe") >= len(SHOWS) - 1, "events without --json are cut"
    for each in ACTING:
        assert each not in seen, repr(each)


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


async def test_doctor_tells_what_a_codexd_that_was_killed_left_running(node: Node) -> None:
    keeper = node.keeper
    await node.kill()
    lines = {line["name"]: line for line in json.loads((await baa(node, "doctor", "--json")).stdout)["lines"]}
    assert (lines["codexd"]["level"], lines["leftovers"]["level"]) == ("warn", "warn")
    assert f"keeper {keeper}" in lines["leftovers"]["evidence"]
    await node.start()
    assert node.keeper == keeper, "it was looked at, and left alone"


async def test_doctor_without_codexd_makes_nothing_and_names_what_is_wrong(tmp_path: Path) -> None:
    async with Node(tmp_path, "http://127.0.0.1:9") as node:
        before = sorted(node.home.rglob("*"))
        node.state.chmod(0o755)
        done = await baa(node, "doctor", "--json")
        lines = {line["name"]: line for line in json.loads(done.stdout)["lines"]}
        assert done.code == 1
        assert (lines["state folder"]["level"], lines["codexd"]["level"]) == ("fail", "warn")
        assert "chmod 700" in lines["state folder"]["cure"]
        assert lines["leftovers"]["level"] == "ok"
        assert sorted(node.home.rglob("*")) == before
        done = await baa(node, "doctor", BAA_CODEXD_LOCAL_API_BASE="http://192.0.2.1:1")
        assert (done.code, "BAA_CODEXD_LOCAL_API_BASE" in done.stdout) == (1, True)
