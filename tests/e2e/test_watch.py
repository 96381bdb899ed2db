"""`baa watch` as a person sees it: a terminal of 80 by 24, the real Codex, and a codexd that is killed meanwhile."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from baa.scripted import Call, Hold, Patch, Run, Say, ScriptedModel, when
from tests.support import mcp_server
from tests.support.node import Json, Node
from tests.support.questions import House, accepted, question
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
SERVER = f'[mcp_servers.house]\ncommand = "{sys.executable}"\nargs = ["-I", "{mcp_server.__file__}"]\n'
SECRET = "correct-horse-battery"


def choice(id_: str, **more: object) -> Json:
    """A question of the model's with two answers to choose from."""
    options = [{"label": "Red", "description": "warm"}, {"label": "Blue", "description": f"cold {EVIL}"}]
    return {"id": id_, "header": "Colour", "question": f"The {id_}?", "options": options, **more}


ASKING = (
    when(
        "choose",
        Call("request_user_input", {"questions": [choice("colour"), choice("why"), choice("key", isSecret=True)]}),
        Say("I see."),
    ),
    *(when(name, Call("ask", {"q": "1"}, "mcp__house"), Say("Asked.")) for name in ("form", "elsewhere")),
    when("edit", Patch(EDIT), Say("Edited.")),
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
        for key in ("a Answer", "s Steer", "i Interrupt", "f Fold", "g Follow", "Tab List or stream", "q Quit"):
            assert key in text.split("\n")[-2 if text.endswith("\n") else -1], "the footer has every key"
        await screen.press("f")
        await screen.shows("  two")
        await screen.press("f")
        await screen.hides("  two")

        asking = await node.turn(session_id, "ask")
        await screen.shows("? the work: run /bin/bash -lc 'touch asked.txt' (May I?)", "1 open questions")
        await screen.press("a")
        await screen.shows("1  accept", "cancel", "$ touch asked.txt", "1-9 Choose")
        await screen.press("1")
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


async def a_choice_words_and_a_secret(house: House, screen: Screen, session_id: str) -> None:
    node, _ = house
    turn_id = await node.turn(session_id, "choose")
    await screen.shows("? the work: The colour?")
    await screen.press("a")
    await screen.shows("1  accept", "2  decline")
    await screen.press("1")
    text = await screen.shows("1 of 3: The colour?", "1  Red: warm", "2  Blue: cold Evil")
    assert r"\x1b]0;owned" in text
    await screen.press("2", "Enter")
    await screen.shows("2 of 3: The why?")
    await screen.type("It is mine")
    await screen.shows("It is mine")
    await screen.press("Enter")
    await screen.shows("3 of 3: The key?")
    await screen.press(*SECRET)
    await screen.shows("•" * len(SECRET))
    await screen.press("Enter")
    await screen.shows("I see.", "Codex asked: accept", "0 open questions")
    assert SECRET not in await screen.text(history=True)
    assert (await node.end_of_turn(turn_id))["status"] == "completed"
    told = json.loads(house.reports("choose"))["answers"]
    said = {"colour": "Blue", "why": "It is mine", "key": SECRET}
    assert told == {name: {"answers": [words]} for name, words in said.items()}


async def a_form(house: House, screen: Screen, session_id: str) -> None:
    node, _ = house
    turn_id = await node.turn(session_id, "form")
    await screen.shows("? the work: Who are you?")
    await screen.press("a")
    await screen.shows("3  cancel")
    await screen.press("1")
    await screen.shows("1 of 2:")
    for _ in range(2):
        field = "Name" if "2: Name" in await screen.text() else "age"
        await screen.press(*("Bob" if field == "Name" else "old"), "Enter")
        if field == "age":
            await screen.shows("A whole number.")
            await screen.press("BSpace", "BSpace", "BSpace")
            await screen.shows("type it")  # textual puts letters before keys that came at the same moment
            await screen.press("3", "Enter")
        await screen.until(lambda text: "2 of 2:" in text or "0 open" in text, "the next step")
    await screen.shows("0 open questions")
    assert (await node.end_of_turn(turn_id))["status"] == "completed"
    assert 'elicited {"action": "accept", "content": {"age": 3, "name": "Bob"}}' in house.reports("form")


async def test_a_question_a_form_and_an_edit_are_answered_by_keys(tmp_path: Path) -> None:
    features = ("default_mode_request_user_input",)
    async with (
        ScriptedModel(ASKING) as model,
        Node(tmp_path, model.base_url, codex=SERVER, features=features) as node,
    ):
        await node.start()
        house = House(node, model)
        session_id = await node.session(approvalPolicy="untrusted", purpose="the work")
        async with watching(node) as screen:
            await screen.shows("the work", "1 sessions")
            await a_choice_words_and_a_secret(house, screen, session_id)
            await a_form(house, screen, session_id)

            turn_id = await node.turn(session_id, "elsewhere")
            asked = await question(node, session_id, 3)
            await screen.shows("? the work: Who are you?")
            await screen.press("a")
            await screen.shows("3  cancel")
            await accepted(node, asked, "decline")
            await screen.shows("Nobody asks that any more", "0 open questions")
            await screen.hides("3  cancel")
            assert (await node.end_of_turn(turn_id))["status"] == "completed"

            turn_id = await node.turn(session_id, "edit")
            await screen.shows("? the work: change files")
            await screen.press("a")
            await screen.shows("made.txt", "+one line", "acceptForSession", "decline")
            await screen.press("3")
            await screen.shows("0 open questions", "Edited.")
            assert not (node.work / "made.txt").exists()
            assert (await node.end_of_turn(turn_id))["status"] == "completed"
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
