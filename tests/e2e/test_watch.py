"""`baa watch` as a person sees it: a terminal of 80 by 24, the real Codex, and a codexd that is killed meanwhile."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from baa.scripted import Hold, Patch, Run, Say, ScriptedModel, when
from tests.support.node import Node
from tests.support.questions import House
from tests.support.screen import Screen, needs_tmux

pytestmark = [pytest.mark.timeout(180), needs_tmux]

EVIL = "Evil \x1b]0;owned\x07\x1b[31mred\x1b[2J \u202eback \x9b5m end."
HARMLESS = r"Evil \x1b]0;owned\x07\x1b[31mred\x1b[2J \u202eback \x9b5m end."
EDIT = "*** Begin Patch\n*** Add File: made.txt\n+one line\n*** End Patch"
SCENARIOS = (
    when("first", Run("printf 'one\\ntwo\\nthree\\n'"), Patch(EDIT), Say("Said at first.")),
    when(
        "ask", Run("touch asked.txt", sandbox_permissions="require_escalated", justification="May I?"), Say("Did it.")
    ),
    when("slow", (Say.numbered(20), Hold("slow"), Say.numbered(20, start=20))),
    when("more", Say("More it is.")),
    when("evil", Say((EVIL,))),
)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with ScriptedModel(SCENARIOS) as model, Node(tmp_path, model.base_url) as node:
        await node.start()
        yield House(node, model)


def watching(node: Node, *arguments: str) -> Screen:
    """`baa watch` on a node, in the smallest terminal that it is made for."""
    command = (sys.executable, "-m", "baa.cli", "watch", *arguments)
    return Screen(node.folder, command, node.environment(), size=(80, 24))


def stream_of(text: str) -> str:
    """The words of the right side, as if it were one line."""
    return " ".join(" ".join(line.partition("│")[2] for line in text.split("\n")).split())


async def test_the_stream_an_answer_a_steer_and_codexd_killed_meanwhile(house: House) -> None:
    node, model = house
    other = await node.session(sandbox="workspace-write", approvalPolicy="on-request", purpose="the other")
    session_id = await node.session(sandbox="workspace-write", approvalPolicy="on-request", purpose="the work")
    await node.play(session_id, "first")
    async with watching(node) as screen:
        text = await screen.shows(
            "the work", "the other", "Said at first.", "printf", "+one line", "completed", "2 sessions"
        )
        assert "  two" not in text  # folded
        await screen.press("f")
        await screen.shows("  two")
        await screen.press("f")
        await screen.hides("  two")

        asking = await node.turn(session_id, "ask")
        await screen.shows("? the work: run /bin/bash -lc 'touch asked.txt' (May I?)", "1 open questions")
        await screen.press("a")
        await screen.shows("accept", "cancel", "command:")
        await screen.press("Enter")
        await screen.shows("Did it.", "Codex asked: accept", "0 open questions")
        assert (await node.end_of_turn(asking))["status"] == "completed"
        assert (node.work / "asked.txt").exists()

        slow = await node.turn(session_id, "slow")
        await screen.shows("w0 ", "w19")
        await screen.press("s")
        await screen.shows("more input for the running turn")
        await screen.type("more")
        await screen.press("Enter")
        await screen.shows("> more", "More it is.")
        assert (await node.end_of_turn(slow))["status"] == "completed"

        stopped = await node.turn(session_id, "slow down")
        await screen.shows("> slow down", "w19")
        await screen.press("i")
        await screen.shows("interrupted, requested")
        assert (await node.end_of_turn(stopped))["status"] == "interrupted"

        slow = await node.turn(session_id, "slow")
        await screen.shows("w0 ", "w19")
        await node.kill()
        await screen.shows("codexd is away")
        model.release("slow")
        await node.start()
        await screen.shows("2 sessions", "w39")
        assert " ".join(f"w{number}" for number in range(40)) in stream_of(await screen.text())
        assert (await node.end_of_turn(slow))["status"] == "completed"

        await node.play(other, "evil")
        await screen.press("Down")
        await screen.until(lambda text: HARMLESS in stream_of(text), HARMLESS)
        await screen.press("q")
        assert await screen.left() == 0


async def test_five_hundred_sessions_on_a_small_screen(house: House) -> None:
    node, _ = house
    for number in range(499):
        await node.session(purpose=f"number {number}")
    session_id = await node.session(sandbox="workspace-write", approvalPolicy="on-request", purpose="the last")
    async with watching(node) as screen:
        await screen.shows("500 sessions", "the last", "number 498")
        await node.turn(session_id, "ask")
        await screen.shows("? the last", "May I?")
        await screen.press("End")
        await screen.shows("number 0")
        new = await node.session(purpose="a new one")
        await screen.shows("501 sessions")
        await screen.press("Home")
        await screen.shows("a new one", "? the last")
        await screen.press("a")
        await screen.shows("accept")
        await screen.press("Enter")
        await screen.shows("0 open questions")
        assert (await node.session_of(new))["status"] == "not_loaded"
