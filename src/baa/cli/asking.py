"""A question of Codex's in a terminal: shown whole, its answer taken line by line. For `baa answer` and `baa run`."""

from __future__ import annotations

import asyncio
import os
import sys
import termios
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.text import Text

from baa.api.interactions import AnswerInteraction, Interaction, InteractionKind
from baa.cli.demo_show import DIFF_STYLES, command
from baa.cli.plain import json_line, plain
from baa.cli.questions import ACCEPT, Field, Unfit, answer_of, fields_of, names_of, value_of
from baa.cli.watching import diff_of
from baa.client.codexd import Codexd

LINE_MAX: Final = 64 * 1024
"""Bytes of a line; a terminal gives no more than a few KiB."""

WHOLE: Final = frozenset({InteractionKind.PERMISSIONS, InteractionKind.TOOL_CALL})
"""Kinds of which a person is shown Codex's own object: it is what is decided on."""


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


async def changes_of(codexd: Codexd, asked: Interaction) -> list[dict[str, Any]]:
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
    request: dict[str, Any] = msgspec.json.decode(asked.request)
    console.print(Text(plain(f"Codex asks ({asked.kind.value}), until {asked.deadline_at[11:19]} UTC:"), style="bold"))
    for name in ("reason", "message", "url"):
        if request.get(name):
            console.print(Text(plain(str(request[name]))))
    for field in fields_of(asked.kind, request):
        console.print(Text(f"  - {field.words}"))
    if request.get("command"):
        console.print(Text(plain(f"$ {command(str(request['command']))}"), style="bold"))
        console.print(Text(plain(f"  in {request.get('cwd', '')}"), style="dim"))
    for change in changes:
        console.print(Text(plain(f"{change['kind']['type']} {change['path']}"), style="bold"))
        for line in diff_of(change).split("\n"):
            console.print(Text(plain(f"  {line}"), style=DIFF_STYLES.get(line[:1], "dim")))
    if asked.kind in WHOLE or request.get("_meta"):
        console.print(Text(json_line(request.get("_meta") or request), style="dim"))


async def take(asked: Interaction, typed: Typed) -> AnswerInteraction:
    """What a person decides, by a number or a name, and then what a yes needs in words. Raises Nothing, Withdrawn."""
    names = names_of(asked.decisions)
    for number, name in enumerate(names, 1):
        print(plain(f"  {number}  {name}"))
    typed.forget()
    while True:
        said = await typed.line()
        if said.isdecimal() and 1 <= int(said) <= len(names):
            said = names[int(said) - 1]
        if said in names:
            break
    decision = asked.decisions[names.index(said)]
    return answer_of(asked.kind, decision, await said_to(asked, typed) if decision == ACCEPT else {})


async def said_to(asked: Interaction, typed: Typed) -> dict[str, Any]:
    """What is said to each field of a question."""
    return {
        field.name: await _said(field, typed) for field in fields_of(asked.kind, msgspec.json.decode(asked.request))
    }


async def _said(field: Field, typed: Typed) -> Any:
    hint = field.hint()
    print(field.words + (f" ({hint})" if hint else ""))
    for number, (_, label) in enumerate(field.options, 1):
        print(f"  {number}  {label}")
    while True:
        try:
            return value_of(field, await typed.line(secret=field.secret))
        except Unfit as unfit:
            print(unfit)


async def give(codexd: Codexd, asked: Interaction, given: AnswerInteraction) -> Interaction:
    """Answer it where it belongs: at its turn, or at its session."""
    if asked.turn_id is None:
        return await codexd.answer_in_session(asked.session_id, asked.interaction_id, given)
    return await codexd.answer_in_turn(asked.turn_id, asked.interaction_id, given)
