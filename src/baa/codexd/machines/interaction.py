"""What Codex waits for: the table of an interaction, which answers fit a question, and what is told of one."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import msgspec
from msgspec import Raw

from baa.api.interactions import AnswerInteraction, InteractionKind, InteractionStatus


class InteractionChange(StrEnum):
    """What can happen to an interaction."""

    ANSWERED = "answered"  # by a client; the first one counts
    WITHDRAWN = "withdrawn"  # Codex, the turn or the child no longer waits
    TIMED_OUT = "timed_out"  # its deadline declined it


INTERACTION_TABLE: Final[dict[InteractionStatus, dict[InteractionChange, InteractionStatus]]] = {
    InteractionStatus.OPEN: {
        InteractionChange.ANSWERED: InteractionStatus.RESOLVED,
        InteractionChange.WITHDRAWN: InteractionStatus.RESOLVED,
        InteractionChange.TIMED_OUT: InteractionStatus.EXPIRED,
    },
    InteractionStatus.RESOLVED: {},
    InteractionStatus.EXPIRED: {},
}

ACCEPT: Final = "accept"
DECLINE: Final = "decline"
CANCEL: Final = "cancel"

USUAL: Final[dict[InteractionKind, tuple[str, ...]]] = {
    InteractionKind.COMMAND: (ACCEPT, "acceptForSession", DECLINE, CANCEL),
    InteractionKind.FILE_CHANGE: (ACCEPT, "acceptForSession", DECLINE, CANCEL),
    InteractionKind.PERMISSIONS: (ACCEPT, DECLINE),
    InteractionKind.USER_INPUT: (ACCEPT, DECLINE),
    InteractionKind.ELICITATION: (ACCEPT, DECLINE, CANCEL),
    InteractionKind.TOOL_CALL: (ACCEPT, DECLINE),
}
"""The decisions that fit each kind, where Codex does not say which it offers."""


@dataclass(frozen=True, slots=True)
class Question:
    """An interaction that is open. `request` is what Codex asked, `decisions` what it offers and we add."""

    interaction_id: str
    generation: int
    request_id: str | int
    kind: InteractionKind
    turn_id: str | None
    decisions: tuple[Any, ...]
    request: Raw


def decisions_of(kind: InteractionKind, offered: list[Any] | None) -> tuple[Any, ...]:
    """What may be decided: what Codex offers, and always the two ways of saying no that it takes without offering."""
    if not offered:
        return USUAL[kind]
    return (*offered, *(no for no in (DECLINE, CANCEL) if no in USUAL[kind] and no not in offered))


def decided(question: Question, answer: AnswerInteraction) -> Any | None:
    """The decision as Codex offered it; None if it is none of them. An object may be named by its key alone."""
    for offered in question.decisions:
        if answer.decision == offered:
            return offered
        if isinstance(offered, dict) and isinstance(answer.decision, str) and answer.decision in offered:
            return offered
    return None


def misfit(question: Question, answer: AnswerInteraction) -> str | None:
    """What is wrong with an answer, for its sender to mend; None if it fits."""
    if decided(question, answer) is None:
        names = ", ".join(next(iter(each)) if isinstance(each, dict) else str(each) for each in question.decisions)
        return f"`decision` must be one of: {names}."
    if answer.answers is not None and question.kind is not InteractionKind.USER_INPUT:
        return "`answers` belongs to questions of kind user_input."
    if question.kind is InteractionKind.USER_INPUT and answer.decision == ACCEPT and not answer.answers:
        return "`answers` is needed: the id of each question, and its answer."
    if answer.scope is not None and question.kind is not InteractionKind.PERMISSIONS:
        return "`scope` belongs to questions of kind permissions."
    taking = (InteractionKind.ELICITATION, InteractionKind.TOOL_CALL, InteractionKind.PERMISSIONS)
    if answer.content is not None and question.kind not in taking:
        return "`content` belongs to elicitations, tool calls and permissions."
    if answer.content is not None and answer.decision != ACCEPT:
        return "`content` goes with `accept` only."
    return _unfit_content(question.kind, answer.content)


def _unfit_content(kind: InteractionKind, content: Any) -> str | None:
    """Codex would take what it cannot read for a no, and the answer would say yes."""
    if content is None:
        return None
    if kind is InteractionKind.TOOL_CALL:
        items = isinstance(content, list) and all(isinstance(item, dict) for item in content)
        return None if items or isinstance(content, str) else "`content` of a tool call is a text, or a list of items."
    return None if isinstance(content, dict) else "`content` must be an object."


UNTOLD: Final = "[redacted]"
"""What stands for a secret, as everywhere in the log."""


def told(kind: InteractionKind, request: Raw, answer: AnswerInteraction) -> AnswerInteraction:
    """The answer as anybody is told it: without what Codex asked for as a secret."""
    names = secrets_of(kind, request)
    if not names:
        return answer
    content = _without(names, answer.content) if isinstance(answer.content, dict) else answer.content
    return msgspec.structs.replace(answer, answers=answer.answers and _without(names, answer.answers), content=content)


def secrets_of(kind: InteractionKind, request: Raw) -> frozenset[str]:
    """The questions, or the fields of a form, whose answers are meant to be seen by nobody."""
    asked = msgspec.json.decode(request)
    match kind, asked:
        case InteractionKind.USER_INPUT, {"questions": [*questions]}:
            return frozenset(str(each.get("id")) for each in questions if _is(each, isSecret=True))
        case InteractionKind.ELICITATION, {"requestedSchema": {"properties": {**fields}}}:
            hidden = [
                name for name, each in fields.items() if _is(each, format="password") or _is(each, writeOnly=True)
            ]
            return frozenset(map(str, hidden))
        case _:
            return frozenset()


def _is(given: Any, **wanted: Any) -> bool:
    return isinstance(given, dict) and all(given.get(name) == value for name, value in wanted.items())


def _without(names: frozenset[str], said: dict[str, Any]) -> dict[str, Any]:
    return {name: UNTOLD if name in names else value for name, value in said.items()}
