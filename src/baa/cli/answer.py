"""`baa answer`: what Codex asks, shown whole, and the decision, by a key or by a flag."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.text import Text

from baa import config as configuration
from baa.api.errors import CannotStart
from baa.api.interactions import AnswerInteraction, Interaction, InteractionKind
from baa.cli.demo_show import DIFF_STYLES, command
from baa.cli.plain import json_line, plain
from baa.cli.remote import EX_NOINPUT, guarded
from baa.client.sync import Codexd

EX_USAGE: Final = 64


def answer(
    which: str | None,
    *,
    decision: str | None,
    answers: tuple[str, ...],
    content: str | None,
    config: Path | None,
    json: bool,
) -> int:
    """Show what is asked, take the decision, and give it; the exit code."""

    def do() -> Interaction:
        with Codexd(configuration.load(config)) as codexd:
            return _answered(codexd)

    def _answered(codexd: Codexd) -> Interaction:
        asked = _asked(codexd, which)
        names = decisions(asked)
        if decision is None and not (sys.stdin.isatty() and sys.stdout.isatty()):
            raise CannotStart(
                f"Give --decision: {', '.join(names)}. What is asked: {_short(asked)}", exit_code=EX_USAGE
            )
        if decision is None:
            _show(_with_changes(codexd, asked), asked)
        chosen = _key(names) if decision is None else decision
        given = AnswerInteraction(
            decision=chosen, answers=_answers(answers), content=None if content is None else _decoded(content)
        )
        if given.answers is None and asked.kind is InteractionKind.USER_INPUT and sys.stdin.isatty():
            given = msgspec.structs.replace(given, answers=_questions(asked))
        if asked.turn_id is None:
            return codexd.answer_in_session(asked.session_id, asked.interaction_id, given)
        return codexd.answer_in_turn(asked.turn_id, asked.interaction_id, given)

    def show(done: Interaction) -> None:
        given = "" if done.answer is None else f": {json_line(done.answer.decision)}"
        print(plain(f"{done.interaction_id} {done.status.value}{given}"))

    return guarded(do, show, json=json, told=lambda done: {"interaction": done})


def decisions(asked: Interaction) -> list[str]:
    """The names of what can be decided: those of Codex's objects are their only key."""
    return [each if isinstance(each, str) else next(iter(each), "") for each in asked.decisions]


def _asked(codexd: Codexd, which: str | None) -> Interaction:
    """The open interaction that is meant: by its id, the one of a session or turn, or the only one there is."""
    if which is not None and which.startswith("ses_"):
        found = list((codexd.session(which)).interactions or [])
    else:
        page = codexd.sessions(needs_answer=True, limit=1000)
        found = [each for it in page.sessions for each in (codexd.session(it.session_id)).interactions or []]
        if which is not None:
            found = [each for each in found if which in (each.interaction_id, each.turn_id)]
    if not found:
        where = "" if which is None else f" in {which}"
        raise CannotStart(f"Codex asks nothing{where} now. See: baa session list", exit_code=EX_NOINPUT)
    if len(found) > 1:
        told = "; ".join(f"{each.interaction_id} ({_short(each)})" for each in found[:10])
        raise CannotStart(f"Codex asks {len(found)} things. Name one: {told}", exit_code=EX_USAGE)
    return found[0]


def _with_changes(codexd: Codexd, asked: Interaction) -> list[dict[str, Any]]:
    """The file changes that an approval is about: they stand in the item, and not in what is asked."""
    if asked.turn_id is None or asked.item_id is None:
        return []
    turn = codexd.turn(asked.turn_id)
    for item in turn.items or []:
        if item.item_id == asked.item_id:
            changes: list[dict[str, Any]] = msgspec.json.decode(item.item).get("changes") or []
            return changes
    return []


def _short(asked: Interaction) -> str:
    request = msgspec.json.decode(asked.request)
    what = request.get("command") or request.get("reason") or request.get("message") or ""
    return f"{asked.kind.value} {' '.join(str(what).split())[:80]}".strip()


def _show(changes: list[dict[str, Any]], asked: Interaction) -> None:
    console = Console(highlight=False, soft_wrap=True)
    request: dict[str, Any] = msgspec.json.decode(asked.request)
    console.print(Text(plain(f"Codex asks ({asked.kind.value}), until {asked.deadline_at[11:19]} UTC:"), style="bold"))
    if request.get("reason"):
        console.print(Text(plain(str(request["reason"]))))
    if request.get("command"):
        console.print(Text(plain(f"$ {command(str(request['command']))}"), style="bold"))
        console.print(Text(plain(f"  in {request.get('cwd', '')}"), style="dim"))
    for change in changes:
        console.print(Text(plain(f"{change['kind']['type']} {change['path']}"), style="bold"))
        for line in str(change.get("diff", "")).splitlines():
            console.print(Text(plain(f"  {line}"), style=DIFF_STYLES.get(line[:1], "dim")))
    if not request.get("command") and not changes:
        console.print(Text(json_line(request)))


def _key(names: list[str]) -> str:
    """The decision that a person takes, by its number or its name."""
    for number, name in enumerate(names, 1):
        print(plain(f"  {number}  {name}"))
    while True:
        said = _line()
        if said.isdecimal() and 1 <= int(said) <= len(names):
            return names[int(said) - 1]
        if said in names:
            return said


def _line() -> str:
    try:
        return input("? ").strip()
    except EOFError:
        raise CannotStart("Nothing was answered: the question waits on.", exit_code=EX_USAGE) from None


def _questions(asked: Interaction) -> dict[str, str | list[str]]:
    """A line for each question."""
    told: dict[str, str | list[str]] = {}
    for question in msgspec.json.decode(asked.request).get("questions", []):
        print(plain(str(question.get("question", question.get("id")))))
        for option in question.get("options") or []:
            print(plain(f"  - {option.get('label', option)}"))
        told[str(question["id"])] = _line()
    return told


def _answers(given: tuple[str, ...]) -> dict[str, str | list[str]] | None:
    if not given:
        return None
    pairs = [each.partition("=") for each in given]
    if not all(equals for _, equals, _ in pairs):
        raise CannotStart("Give each answer as --answer QUESTION=ANSWER.", exit_code=EX_USAGE)
    return {name: value for name, _, value in pairs}


def _decoded(content: str) -> Any:
    try:
        return msgspec.json.decode(content)
    except msgspec.DecodeError as error:
        raise CannotStart(f"--content is not JSON: {error}", exit_code=EX_USAGE) from None
