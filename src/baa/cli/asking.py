"""A question of Codex's in a terminal: shown whole, its answer taken line by line. For `baa answer` and `baa run`."""

from __future__ import annotations

import asyncio
import os
import sys
import termios
from typing import Any, Final

import msgspec
from rich.console import Console

from baa.api.interactions import AnswerInteraction, Interaction, InteractionKind
from baa.cli.asked import OpenQuestion, rows_of
from baa.cli.questions import ACCEPT, Making, Unfit
from baa.cli.rows import text_of
from baa.client.codexd import Codexd

LINE_MAX: Final = 64 * 1024
"""Bytes of a line; a terminal gives no more than a few KiB."""


class Nothing(Exception):
    """The input ended: nothing was said."""


class Withdrawn(Exception):
    """What was asked is over meanwhile."""


class Typed:
    """Lines from the terminal, without a thread that would outlive the question."""

    def __init__(self) -> None:
        self._fd = sys.stdin.fileno()
        self._waiting: asyncio.Future[str] | None = None

    def forget(self) -> None:
        """Take nothing for an answer that was typed before the question was there."""
        termios.tcflush(self._fd, termios.TCIFLUSH)

    async def line(self, *, secret: bool = False) -> str:
        """The next line. Raises Nothing at the end of input, Withdrawn."""
        loop = asyncio.get_running_loop()
        came: asyncio.Future[str] = loop.create_future()
        self._waiting = came
        print("? ", end="", flush=True)
        shown = termios.tcgetattr(self._fd)
        if secret:
            termios.tcsetattr(self._fd, termios.TCSADRAIN, [*shown[:3], shown[3] & ~termios.ECHO, *shown[4:]])
        loop.add_reader(self._fd, self._read, came)
        try:
            return (await came).strip()
        finally:
            loop.remove_reader(self._fd)
            self._waiting = None
            if secret:
                termios.tcsetattr(self._fd, termios.TCSADRAIN, shown)
                print()

    def withdraw(self) -> None:
        """Nobody waits for the line any more: whoever reads it is told."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(Withdrawn())

    def _read(self, came: asyncio.Future[str]) -> None:
        if came.done():
            return
        try:
            data = os.read(self._fd, LINE_MAX)
        except OSError:  # the terminal is gone
            data = b""
        if data:
            came.set_result(data.decode("utf-8", "replace"))
        else:
            came.set_exception(Nothing())


async def changes_of(codexd: Codexd, asked: Interaction | OpenQuestion) -> list[dict[str, Any]]:
    """The file changes that an approval is about: they stand in the item, and not in what is asked."""
    if asked.kind is not InteractionKind.FILE_CHANGE or asked.turn_id is None or asked.item_id is None:
        return []
    turn = await codexd.turn(asked.turn_id)
    for item in turn.items or []:
        if item.item_id == asked.item_id:
            changes: list[dict[str, Any]] = msgspec.json.decode(item.item).get("changes") or []
            return changes
    return []


def show(asked: Interaction, changes: list[dict[str, Any]]) -> None:
    """All that a person has to know to decide."""
    console = Console(highlight=False, soft_wrap=True)
    for row in rows_of(asked.kind, asked.deadline_at, msgspec.json.decode(asked.request), changes):
        console.print(text_of([row]))


async def take(asked: Interaction, typed: Typed) -> AnswerInteraction:
    """What a person decides, by a number or a name, and then what a yes needs in words. Raises Nothing, Withdrawn."""
    making = _making(asked)
    _offer(making)
    typed.forget()
    return await _said(making, typed)


async def take_words(asked: Interaction, typed: Typed) -> AnswerInteraction:
    """What a yes needs in words, where that is decided. Raises Nothing, Withdrawn."""
    making = _making(asked)
    given = making.say(ACCEPT)
    if given is None:
        _offer(making)
        given = await _said(making, typed)
    return given


def _making(asked: Interaction) -> Making:
    return Making(asked.kind, asked.decisions, msgspec.json.decode(asked.request))


def _offer(making: Making) -> None:
    field = making.field
    if field is not None:
        hint = field.hint()
        print(field.words + (f" ({hint})" if hint else ""))
    for number, choice in enumerate(making.choices(), 1):
        print(f"  {number}  {choice}")


async def _said(making: Making, typed: Typed) -> AnswerInteraction:
    while True:
        field = making.field
        try:
            given = making.say(await typed.line(secret=field is not None and field.secret))
        except Unfit as unfit:
            print(unfit)
            continue
        if given is not None:
            return given
        _offer(making)


async def give(codexd: Codexd, asked: Interaction | OpenQuestion, given: AnswerInteraction) -> Interaction:
    """Answer it where it belongs: at its turn, or at its session."""
    if asked.turn_id is None:
        return await codexd.answer_in_session(asked.session_id, asked.interaction_id, given)
    return await codexd.answer_in_turn(asked.turn_id, asked.interaction_id, given)
