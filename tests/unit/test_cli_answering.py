"""The screen of `baa watch` in which a question is answered, without a terminal: its keys, and the answer they make."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from textual.app import App
from textual.pilot import Pilot
from textual.widgets import Input

from baa.api.interactions import AnswerInteraction, InteractionKind
from baa.cli.answering import ROWS_MAX, Answering
from baa.cli.asked import OpenQuestion

INPUT, FORM, COMMAND = InteractionKind.USER_INPUT, InteractionKind.ELICITATION, InteractionKind.COMMAND
SECRET = "correct-horse-battery"
EVIL = "\x1b]0;x\x07\u202e\x9b2J"
COLOURS = {
    "id": "colour",
    "question": "Which one?",
    "options": [{"label": "Red", "description": "warm"}, {"label": "Blue"}],
}
YES, NO = AnswerInteraction(decision="accept"), AnswerInteraction(decision="decline")


class Host(App[None]):
    """A screen with one question on it, and what was answered."""

    def __init__(self, question: OpenQuestion) -> None:
        super().__init__()
        self.answering = Answering(question, "/etc/baa.toml")
        self.given: list[AnswerInteraction | None] = []

    async def on_mount(self) -> None:
        await self.push_screen(self.answering, self.given.append)

    def shown(self) -> str:
        """All that is on the screen, as text."""
        return "\n".join(strip.text.rstrip() for strip in self.screen._compositor.render_strips())


class Keys:
    """What is pressed, and the screen after it."""

    def __init__(self, host: Host, pilot: Pilot[None]) -> None:
        self.host = host
        self._pilot = pilot

    async def press(self, *keys: str) -> str:
        await self._pilot.press(*keys)
        await self._pilot.pause()
        return self.host.shown()

    def given(self) -> AnswerInteraction | None:
        """The answer, of which there must be one."""
        (answer,) = self.host.given
        return answer


@asynccontextmanager
async def asking(
    kind: InteractionKind, request: dict[str, Any], *decisions: Any, size: tuple[int, int] = (80, 24)
) -> AsyncIterator[Keys]:
    decided = decisions or ("accept", "decline", "cancel")
    question = OpenQuestion("int_a", "ses_a", "trn_a", kind, request, decided, "item", "2026-01-02T03:04:05.000Z")
    host = Host(question)
    async with host.run_test(size=size) as pilot:
        await pilot.pause()
        yield Keys(host, pilot)


def form(*needed: str, **properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": list(needed)}
    return {"message": "Who are you?", "requestedSchema": schema}


async def test_a_secret_is_not_shown_while_it_is_typed() -> None:
    questions = [{"id": "key", "question": "Your key?", "isSecret": True}, {"id": "name", "question": "Your name?"}]
    async with asking(INPUT, {"questions": questions}) as keys:
        shown = await keys.press("enter", *SECRET)
        assert keys.host.screen.query_one("#words", Input).value == SECRET
        assert "•" * len(SECRET) in shown
        assert SECRET not in shown
        shown = await keys.press("enter", *"Bob")
        assert "Bob" in shown
        assert SECRET not in shown
        await keys.press("enter")
        assert keys.given() == AnswerInteraction(decision="accept", answers={"key": SECRET, "name": "Bob"})


@pytest.mark.parametrize(
    ("pressed", "answer"), [(["1"], YES), (["2"], NO), (["enter"], YES), (["down", "enter"], NO), (["escape"], None)]
)
async def test_a_decision_is_taken_by_its_number_or_under_the_cursor(
    pressed: list[str], answer: AnswerInteraction | None
) -> None:
    async with asking(COMMAND, {"command": "ls", "cwd": "/work"}) as keys:
        shown = await keys.press()
        for words in ("Codex asks (command), until 03:04:05 UTC:", "$ ls", "in /work", "1  accept", "2  decline"):
            assert words in shown
        for key in ("1-9 Choose", "PgDn More", "Esc Leave it open"):
            assert key in shown, "the keys are told"
        await keys.press(*pressed)
        assert keys.given() == answer


async def test_a_number_that_picks_nothing_is_told_and_decides_nothing() -> None:
    async with asking(COMMAND, {"command": "ls"}) as keys:
        shown = await keys.press("x", "0", "7")
        assert "One of these: 1 to 3." in shown
        assert keys.host.given == []


async def test_a_question_takes_the_number_of_a_choice_or_other_words_that_may_begin_with_one() -> None:
    names = ("number", "words", "cursor", "secret")
    questions: list[dict[str, Any]] = [{**COLOURS, "id": name, "isSecret": name == "secret"} for name in names]
    async with asking(INPUT, {"questions": questions}) as keys:
        shown = await keys.press("1")
        for words in ("1 of 4: Which one? (a number, or other words)", "1  Red: warm", "2  Blue"):
            assert words in shown
        assert "2 of 4" in await keys.press("2", "enter")
        assert "2 of them" in await keys.press("2", "space", *"of", "space", *"them")
        assert "3 of 4" in await keys.press("enter")
        assert "4 of 4" in await keys.press("down", "down", "enter")
        await keys.press(*"1secret", "enter")
        answers: dict[str, str | list[str]] = {"number": "Blue", "words": "2 of them", "cursor": "Blue"}
        assert keys.given() == AnswerInteraction(decision="accept", answers=answers | {"secret": "1secret"})


async def test_what_is_typed_while_the_cursor_is_in_the_choices_goes_to_the_line() -> None:
    async with asking(INPUT, {"questions": [COLOURS, COLOURS | {"id": "other"}]}) as keys:
        await keys.press("1", "shift+tab", *"It is mine".replace(" ", "_"))
        assert "2 of 2" in await keys.press("enter")
        await keys.press("shift+tab", "down", "enter")
        answers: dict[str, str | list[str]] = {"colour": "It_is_mine", "other": "Red"}
        assert keys.given() == AnswerInteraction(decision="accept", answers=answers)


async def test_a_form_is_filled_field_after_field_and_what_does_not_fit_is_asked_again() -> None:
    request = form(
        "name",
        name={"type": "string", "title": "Name"},
        age={"type": "integer"},
        size={"type": "string", "enum": ["s", "m"], "enumNames": ["Small", "Middle"]},
        likes={"type": "array", "items": {"enum": ["tea", "rye", "figs"]}},
        well={"type": "boolean"},
    )
    async with asking(FORM, request) as keys:
        assert "Who are you?" in await keys.press()
        assert "1 of 5: Name" in await keys.press("1")
        assert "This cannot be left empty." in await keys.press("enter")
        shown = await keys.press(*"Bob", "enter")
        assert "2 of 5: age (a whole number, may be left empty)" in shown
        assert "cannot be left empty" not in shown
        shown = await keys.press(*"old", "enter")
        assert "A whole number." in shown
        assert "old" in shown, "it is there to be mended"
        assert "1  Small" in await keys.press("backspace", "backspace", "backspace", "3", "enter")
        assert "One of these: 1 to 2." in await keys.press("3")
        assert "4 of 5: likes (numbers, with commas between" in await keys.press("2")
        await keys.press("1", ",")
        assert " 1, 3" in await keys.press("shift+tab", "end", "enter")
        assert "5 of 5: well (y or n" in await keys.press("tab", "enter")
        await keys.press("enter")
        content = {"name": "Bob", "age": 3, "size": "m", "likes": ["tea", "figs"]}
        assert keys.given() == AnswerInteraction(decision="accept", content=content)


async def test_of_more_choices_than_keys_the_number_is_typed() -> None:
    values = [f"v{number}" for number in range(1, 200)]
    async with asking(FORM, form(x={"enum": values})) as keys:
        shown = await keys.press("1")
        assert "1  v1" in shown
        assert "Esc Leave it open" in shown, "the footer is not pushed off the screen"
        assert "One of these: 1 to 199." in await keys.press(*"200", "enter")
        await keys.press("backspace", "backspace", "backspace", *"123", "enter")
        assert keys.given() == AnswerInteraction(decision="accept", content={"x": "v123"})


async def test_a_form_that_needs_json_names_the_command_that_takes_it_and_can_be_declined() -> None:
    async with asking(FORM, form(where={"type": "object"}), size=(160, 24)) as keys:
        shown = await keys.press()
        words = """baa answer int_a --decision accept --content '{"where":{}}' --config /etc/baa.toml"""
        assert words in " ".join(line.strip(" ▊▎") for line in shown.split("\n")).replace("  ", " ")
        assert "Not here: with the command above." in await keys.press("1")
        await keys.press("2")
        assert keys.given() == NO


async def test_what_needs_no_form_is_accepted_as_it_is() -> None:
    async with asking(FORM, {"message": "Run it?", "_meta": {"tool": "danger"}, "requestedSchema": {}}) as keys:
        assert '{"tool":"danger"}' in await keys.press()
        await keys.press("1")
        assert keys.given() == YES


async def test_a_tool_is_answered_in_words_and_the_command_for_more_than_a_line_is_named() -> None:
    async with asking(InteractionKind.TOOL_CALL, {"tool": "look", "arguments": {"q": "x"}}) as keys:
        shown = await keys.press()
        assert '"arguments":{"q":"x"}' in shown
        assert "More than a line: baa answer int_a" in shown
        assert "What look gives back, as text" in await keys.press("1")
        await keys.press(*"found", "enter")
        assert keys.given() == AnswerInteraction(decision="accept", content="found")


async def test_a_long_command_can_be_read_to_its_end_above_the_choices() -> None:
    lines = "\n".join(f"echo {number}" for number in range(100))
    async with asking(COMMAND, {"command": lines + "\nrm -rf end"}) as keys:
        shown = await keys.press()
        assert "echo 3" in shown
        assert "1  accept" in shown
        assert "rm -rf end" not in shown
        shown = await keys.press(*["pagedown"] * 20)
        assert "rm -rf end" in shown
        assert "1  accept" in shown
        assert "echo 3 " not in shown
        assert "$ echo 0" in await keys.press(*["pageup"] * 20)


async def test_the_changes_of_an_edit_are_shown_when_they_came_and_if_not_that_is_said() -> None:
    async with asking(InteractionKind.FILE_CHANGE, {"reason": "May I?"}) as keys:
        assert "The changes are being read." in await keys.press("1", "enter")
        assert keys.host.screen is keys.host.answering, "what was not shown yet is not decided on"
        keys.host.answering.changed([{"path": "a.txt", "kind": {"type": "add"}, "diff": "one\n"}])
        shown = await keys.press()
        assert "add a.txt" in shown
        assert "+one" in shown
        assert "being read" not in shown
        keys.host.answering.changed([], f"away {EVIL}")
        assert r"The changes cannot be shown: away \x1b]0;x" in await keys.press()
        many = "\n".join(["x"] * (ROWS_MAX + 5))
        keys.host.answering.changed([{"path": "a.txt", "kind": {"type": "add"}, "diff": many}])
        keys.host.answering.query_one("#detail").scroll_end(animate=False)
        assert "lines more: baa answer int_a" in await keys.press()


async def test_nothing_of_a_model_is_shown_as_it_came() -> None:
    options = [{"label": EVIL, "description": EVIL}]
    request = {
        "questions": [{"id": EVIL, "question": EVIL, "options": options}],
        "message": EVIL,
        **form(**{EVIL: {"title": EVIL, "enum": [EVIL], "default": EVIL}}),
        "tool": EVIL,
        "_meta": {"x": EVIL},
    }
    for kind in (INPUT, FORM):
        async with asking(kind, request, "accept", {EVIL: {"x": EVIL}}) as keys:
            for shown in (await keys.press(), await keys.press("9"), await keys.press("1")):
                assert all(each.isprintable() for each in shown.replace("\n", "")), shown
