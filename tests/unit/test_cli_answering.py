"""The screen of `baa watch` in which a question is answered, without a terminal: its keys, and the answer they make."""

from __future__ import annotations

from typing import Any

from textual.app import App
from textual.widgets import Input

from baa.api.interactions import AnswerInteraction, InteractionKind
from baa.cli.watch import Answering
from baa.cli.watching import OpenQuestion

SECRET = "correct-horse-battery"


def asked(kind: InteractionKind, request: dict[str, Any], *decisions: Any) -> OpenQuestion:
    return OpenQuestion("int_a", "ses_a", "trn_a", kind, request, decisions or ("accept", "decline"))


class Host(App[None]):
    """A screen with one question on it, and what was answered."""

    def __init__(self, question: OpenQuestion) -> None:
        super().__init__()
        self.question = question
        self.given: list[AnswerInteraction | None] = []

    async def on_mount(self) -> None:
        await self.push_screen(Answering(self.question), self.given.append)

    def shown(self) -> str:
        """All that is on the screen, as text."""
        strips = self.screen._compositor.render_strips()
        return "\n".join(strip.text.rstrip() for strip in strips)


async def test_a_secret_is_not_shown_while_it_is_typed() -> None:
    questions = [
        {"id": "key", "question": "Your key?", "isSecret": True},
        {"id": "name", "question": "Your name?"},
    ]
    host = Host(asked(InteractionKind.USER_INPUT, {"questions": questions}))
    async with host.run_test(size=(80, 24)) as pilot:
        await pilot.press("enter", *SECRET)
        await pilot.pause()
        assert host.screen.query_one("#words", Input).value == SECRET
        assert "•" * len(SECRET) in host.shown()
        assert SECRET not in host.shown()
        await pilot.press("enter", *"Bob")
        await pilot.pause()
        assert "Bob" in host.shown()
        assert SECRET not in host.shown()
        await pilot.press("enter")
    assert host.given == [AnswerInteraction(decision="accept", answers={"key": SECRET, "name": "Bob"})]
