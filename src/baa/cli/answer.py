"""`baa answer`: what Codex asks, shown whole, and the decision, by a key or by a flag."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final, NoReturn

import msgspec

from baa.api.errors import CannotStart
from baa.api.interactions import AnswerInteraction, Interaction
from baa.cli import asking
from baa.cli.plain import json_line, plain
from baa.cli.questions import ACCEPT, names_of
from baa.cli.remote import EX_NOINPUT, ask
from baa.client.codexd import Codexd

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
    """Show what is asked, take the decision, and give it; the exit code. Words without a decision are a yes."""
    told = AnswerInteraction(
        decision=decision or ACCEPT, answers=_answers(answers), content=None if content is None else _decoded(content)
    )
    by_flags = decision is not None or bool(answers) or content is not None
    person = sys.stdin.isatty() and sys.stdout.isatty() and not json

    async def do(codexd: Codexd) -> Interaction:
        asked = await _asked(codexd, which)
        given = told
        try:
            if not by_flags:
                given = await _by_a_person(codexd, asked) if person else _nobody(asked)
            elif person and decision == ACCEPT and not answers and content is None:
                given = await asking.take_words(asked, asking.Typed())
        except asking.Nothing:
            raise CannotStart("Nothing was answered: the question waits on.", exit_code=EX_USAGE) from None
        return await asking.give(codexd, asked, given)

    def show(done: Interaction) -> None:
        given = "" if done.answer is None else f": {json_line(done.answer.decision)}"
        print(plain(f"{done.interaction_id} {done.status.value}{given}"))

    return ask(do, show, config=config, json=json, told=lambda done: {"interaction": done})


async def _by_a_person(codexd: Codexd, asked: Interaction) -> AnswerInteraction:
    asking.show(asked, await asking.changes_of(codexd, asked))
    return await asking.take(asked, asking.Typed())


def _nobody(asked: Interaction) -> NoReturn:
    names = ", ".join(names_of(asked.decisions))
    raise CannotStart(f"Give --decision: {names}. What is asked: {_short(asked)}", exit_code=EX_USAGE)


async def _asked(codexd: Codexd, which: str | None) -> Interaction:
    """The open interaction that is meant: by its id, the one of a session or turn, or the only one there is."""
    if which is not None and which.startswith("ses_"):
        found = list((await codexd.session(which)).interactions or [])
    else:
        page = await codexd.sessions(needs_answer=True, limit=1000)
        found = [
            each
            for session in page.sessions
            for each in (await codexd.session(session.session_id)).interactions or []
            if which is None or which in (each.interaction_id, each.turn_id)
        ]
    if not found:
        where = "" if which is None else f" in {which}"
        raise CannotStart(f"Codex asks nothing{where} now. See: baa session list", exit_code=EX_NOINPUT)
    if len(found) > 1:
        told = "; ".join(f"{each.interaction_id} ({_short(each)})" for each in found[:10])
        raise CannotStart(f"Codex asks {len(found)} things. Name one: {told}", exit_code=EX_USAGE)
    return found[0]


def _short(asked: Interaction) -> str:
    request = msgspec.json.decode(asked.request)
    what = request.get("command") or request.get("reason") or request.get("message") or ""
    return f"{asked.kind.value} {' '.join(str(what).split())[:80]}".strip()


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
