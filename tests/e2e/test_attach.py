"""`baa attach` as a person sees it: Codex's own terminal UI in a terminal, on a session of a codexd that may die."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from baa.scripted import Hold, Run, Say, ScriptedModel, when
from tests.support.node import Json, Node, end, until, within
from tests.support.questions import House, answer, question, told
from tests.support.screen import Screen, needs_tmux

pytestmark = [pytest.mark.timeout(180), needs_tmux]

SCENARIOS = (
    when("first", Say("Said before anybody looked.")),
    when("typed", Say("Answered to what was typed.")),
    when("again", Say("Answered again.")),
    when("CHECKPOINT COMPACTION", (Say("We said "), Hold("summary"), Say("little."))),
    when("growing", (Say("One.\n\n"), Hold("one"), Say("Two.\n\n"), Hold("two"), Say("Three."))),
    when("slow", (Say("Begins."), Hold("slow"), Say(" Ends."))),
    when("ask-a", Run("touch a.txt", sandbox_permissions="require_escalated", justification="May I a?"), Say("Did a.")),
    when("ask-b", Run("touch b.txt", sandbox_permissions="require_escalated", justification="May I b?"), Say("Did b.")),
)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with ScriptedModel(SCENARIOS) as model, Node(tmp_path, model.base_url) as node:
        await node.start()
        yield House(node, model)


WIDE = (220, 30)
"""For what stands in the bottom line behind the folder, whose name is as long as it is."""


def attached(node: Node, session_id: str, *, size: tuple[int, int] = (100, 30)) -> Screen:
    """Codex's UI on a session. It has a home of its own, as a person has."""
    home = node.folder / "person"
    (home / ".codex").mkdir(parents=True, exist_ok=True)
    settings = "check_for_update_on_startup = false\n[features]\nplugins = false\n[analytics]\nenabled = false\n"
    (home / ".codex" / "config.toml").write_text(settings)
    environment = {**node.environment(), "HOME": str(home)}
    return Screen(node.folder, (sys.executable, "-m", "baa.cli", "attach", session_id), environment, size=size)


async def turns_of(node: Node, session_id: str) -> list[Json]:
    """The turns of a session, oldest first."""
    turns: list[Json] = (await node.get(f"/v1/codexd/sessions/{session_id}/turns")).json()["data"]["turns"]
    return turns[::-1]


async def test_history_a_typed_turn_and_a_turn_that_others_start(house: House) -> None:
    node, model = house
    session_id = await node.session(sandbox="workspace-write", approvalPolicy="on-request")
    await node.play(session_id, "first")
    async with attached(node, session_id) as screen:
        await screen.shows("Said before anybody looked.", "Ask Codex")
        await screen.type("typed")
        await screen.press("Enter")
        await screen.shows("Answered to what was typed.")
        (_, typed) = await turns_of(node, session_id)
        assert (typed["origin"], typed["prompt"]) == ("attached", "typed")
        assert (await node.end_of_turn(typed["turnId"]))["status"] == "completed"
        await node.turn(session_id, "slow")
        await screen.shows("Begins.")
        assert "Ends." not in await screen.text()
        model.release("slow")
        await screen.shows("Begins. Ends.")


async def test_a_question_is_answered_in_either_place(house: House) -> None:
    node, _ = house
    session_id = await node.session(sandbox="workspace-write", approvalPolicy="on-request")
    await node.play(session_id, "first")
    async with attached(node, session_id) as screen:
        await screen.shows("Said before", "Ask Codex")
        turn_id = await node.turn(session_id, "ask-a")
        await screen.shows("May I a?")
        asked = await question(node, session_id)
        assert asked["turnId"] == turn_id
        await screen.press_until("y", lambda text: "Did a." in text, "an answer")
        resolved = await told(node, session_id, "interaction.resolved")
        assert resolved["payload"]["resolvedBy"] == "client"
        assert resolved["payload"]["interactionId"] == asked["interactionId"]
        assert (node.work / "a.txt").exists()

        await node.turn(session_id, "ask-b")
        await screen.shows("May I b?")
        asked = await question(node, session_id, 2)
        assert (await answer(node, asked)).status_code == 200
        await screen.shows("Did b.")
        await screen.hides("Press enter to confirm")
        assert (node.work / "b.txt").exists()


async def test_an_interrupt_by_key_ends_the_turn(house: House) -> None:
    node, _ = house
    session_id = await node.session(sandbox="workspace-write", approvalPolicy="on-request")
    await node.play(session_id, "first")
    async with attached(node, session_id) as screen:
        await screen.shows("Said before", "Ask Codex")
        await screen.type("slow")
        await screen.press("Enter")
        await screen.shows("Begins.")
        await screen.type("typed meanwhile")
        await screen.press("Enter")
        await screen.shows("Answered to what was typed.")
        (_, slow) = await turns_of(node, session_id)
        steered = await told(node, session_id, "turn.steered")
        assert (steered["turnId"], steered["payload"]["input"][0]["text"]) == (slow["turnId"], "typed meanwhile")
        assert (await node.end_of_turn(slow["turnId"]))["status"] == "completed"
        turn_id = await node.turn(session_id, "slow 2")
        await screen.shows("slow 2", "Begins.")
        await screen.press_until("Escape", lambda text: "interrupted" in text, "an interrupt")
    ended = await node.end_of_turn(turn_id)
    assert (ended["status"], ended["reason"]) == ("interrupted", "requested")


async def test_compact_shortens_the_history_in_a_turn_and_what_is_typed_meanwhile_waits(house: House) -> None:
    node, model = house
    session_id = await node.session(sandbox="workspace-write", approvalPolicy="on-request")
    await node.play(session_id, "first")
    async with attached(node, session_id) as screen:
        await screen.shows("Said before", "Ask Codex")
        await screen.type("/compact")
        await screen.press_until("Enter", lambda text: "Compacting context" in text, "a compaction")
        await model.held("summary")
        await screen.type("typed")
        await screen.press("Enter")
        await screen.shows("submitted at end of turn")
        model.release("summary")
        await screen.shows("Context compacted", "Answered to what was typed.")
    (_, compact, typed) = await turns_of(node, session_id)
    assert (compact["origin"], compact["prompt"], compact["status"]) == ("attached", "/compact", "completed")
    assert (typed["origin"], typed["prompt"]) == ("attached", "typed")


async def test_it_comes_back_after_codexd_and_after_the_child(house: House) -> None:
    node, model = house
    session_id = await node.session(sandbox="workspace-write", approvalPolicy="on-request")
    await node.play(session_id, "first")
    async with attached(node, session_id) as screen:
        await screen.shows("Said before", "Ask Codex")
        await screen.type("slow")
        await screen.press("Enter")
        await screen.shows("Begins.")
        await node.kill()
        await node.start()
        await until(lambda: node.log.count("terminal.attached") == 2)
        model.release("slow")
        await screen.shows("Ends.")
        (_, slow) = await turns_of(node, session_id)
        assert (slow["origin"], (await node.end_of_turn(slow["turnId"]))["status"]) == ("attached", "completed")
        await screen.type("typed")
        await screen.press("Enter")
        await screen.shows("Answered to what was typed.")
        assert (await node.end_of_turn((await turns_of(node, session_id))[-1]["turnId"]))["status"] == "completed"
        child = (await node.status())["child"]["pid"]
        await end(child)
        await until(lambda: node.log.count("terminal.attached") == 3)
        await screen.type("again")  # the UI takes no turn before it has its thread again
        await screen.press_until("Enter", lambda text: "Answered again." in text, "an answer")
        (*_, again) = await turns_of(node, session_id)
        assert (again["origin"], (await node.end_of_turn(again["turnId"]))["status"]) == ("attached", "completed")


async def test_what_a_message_said_while_nobody_looked_is_shown_to_who_comes(house: House) -> None:
    node, model = house
    session_id = await node.session(sandbox="workspace-write", approvalPolicy="on-request")
    turn_id = await node.turn(session_id, "growing")
    await told(node, session_id, "item.delta")
    async with attached(node, session_id) as screen:
        await screen.shows("One.")
        await node.kill()
        model.release("one")
        await node.start()
        await screen.shows("One.", "Two.")
        model.release("two")
        await screen.shows("Three.")
        assert (await node.end_of_turn(turn_id))["status"] == "completed"
        text = await screen.shows("Worked for")
        assert [text.count(word) for word in ("One.", "Two.", "Three.")] == [1, 1, 1]


@pytest.mark.timeout(400)  # one UI, ten commands
async def test_what_is_not_available_is_told_with_what_to_do_instead_and_the_ui_goes_on(house: House) -> None:
    node, _ = house
    session_id = await node.session(sandbox="workspace-write", approvalPolicy="on-request")
    await node.play(session_id, "first")
    async with attached(node, session_id) as screen:
        await screen.shows("Said before", "Ask Codex")
        for command, words in (
            ("/fork", f"baa session fork {session_id}"),
            ("/new", "begin another session there: baa run PROMPT"),
            ("!touch by-shell.txt", "Ask Codex to run it, or run it in a terminal of your own."),
            ("/logout", "Logout failed"),
            ("/goal ship it", "Failed to set thread goal"),
            ("/mcp", "Failed to load MCP inventory"),
        ):
            await screen.type(command)
            await screen.shows(command.lstrip("!"))
            await screen.press_until("Enter", lambda text, words=words: words in flat(text), words)  # type: ignore[misc]
        await screen.type("/review")
        await screen.press_until("Enter", lambda text: "Select a review preset" in text, "what to review")
        await screen.press("2")
        await screen.until(lambda text: "Ask for it in words, as in: Review what is not" in flat(text), "a refusal")
        await screen.type("/model")
        kept = "What you chose holds for what you type here, until you leave."
        await screen.press_until("Enter", lambda text: kept in flat(text), kept)
        await screen.type("typed")
        await screen.press("Enter")
        await screen.shows("Answered to what was typed.")
        await screen.type("/plan do it")
        await screen.press_until("Enter", lambda text: "The mode 'plan' is not available" in flat(text), "a refusal")
    (first, typed) = await turns_of(node, session_id)
    assert (first["prompt"], typed["prompt"], typed["model"] != first["model"]) == ("first", "typed", True)
    assert not (node.work / "by-shell.txt").exists()


async def test_a_name_stays_with_the_session(house: House) -> None:
    node, _ = house
    session_id = await node.session(sandbox="workspace-write", approvalPolicy="on-request")
    await node.play(session_id, "first")
    async with attached(node, session_id, size=WIDE) as screen:
        await screen.shows("Said before", "Ask Codex")
        await screen.type("/rename Tabs")
        await screen.press_until("Enter", lambda text: "· Tabs" in text, "the name")
    async with attached(node, session_id, size=WIDE) as screen:
        await screen.shows("Said before", "· Tabs")


def flat(text: str) -> str:
    """A screen's words, wherever its lines end."""
    return " ".join(text.split())


async def test_the_door_of_the_ui_is_the_uis_alone(house: House) -> None:
    node, _ = house
    session_id = await node.session(sandbox="workspace-write", approvalPolicy="on-request")
    await node.play(session_id, "first")
    async with attached(node, session_id) as screen:
        await screen.shows("Said before", "Ask Codex")
        thread_id = (await node.session_of(session_id))["threadId"]
        lines = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
        (door,) = {line[-1] for line in lines if thread_id in line and line[-1].startswith("unix:///tmp/baa-")}
        reader, writer = await asyncio.open_unix_connection(door.removeprefix("unix://"))
        assert await within(reader.read()) == b""
        writer.close()
        await screen.type("typed")
        await screen.press("Enter")
        await screen.shows("Answered to what was typed.")


async def test_leaving_it_leaves_the_turn_running(house: House) -> None:
    node, model = house
    session_id = await node.session(sandbox="workspace-write", approvalPolicy="on-request")
    await node.play(session_id, "first")
    async with attached(node, session_id) as screen:
        await screen.shows("Said before", "Ask Codex")
        await screen.type("slow")
        await screen.press("Enter")
        await screen.shows("Begins.")
        await screen.press("C-d")
        assert await screen.left() == 0
    (_, slow) = await turns_of(node, session_id)
    assert slow["status"] == "in_progress"
    model.release("slow")
    assert (await node.end_of_turn(slow["turnId"]))["finalMessage"] == "Begins. Ends."
