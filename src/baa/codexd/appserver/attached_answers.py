"""What Codex's own terminal UI answers to a question, as an answer of ours."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Raw

from baa.api.interactions import AnswerInteraction, InteractionKind, Scope
from baa.codexd.machines.interaction import ACCEPT, DECLINE, Question

NO: Final = AnswerInteraction(decision=DECLINE)


def answer_of(asked: Question, result: Raw | None) -> AnswerInteraction:
    """The UI's answer as one of ours; what cannot be read lets nothing happen."""
    if result is None:
        return NO
    try:
        value = msgspec.json.decode(result)
        return _answer(asked, value) if isinstance(value, dict) else NO
    except (msgspec.DecodeError, msgspec.ValidationError, ValueError):
        return NO


def _answer(asked: Question, value: dict[str, Any]) -> AnswerInteraction:
    match asked.kind:
        case InteractionKind.COMMAND | InteractionKind.FILE_CHANGE:
            decision = value.get("decision")
            return AnswerInteraction(decision=decision) if isinstance(decision, str | dict) else NO
        case InteractionKind.PERMISSIONS:
            granted = value.get("permissions")
            if not isinstance(granted, dict) or not any(granted.values()):
                return NO
            scope = Scope(value.get("scope") or Scope.TURN)
            return AnswerInteraction(decision=ACCEPT, content=granted, scope=scope)
        case InteractionKind.USER_INPUT:
            given = value.get("answers")
            answers: dict[str, str | list[str]] = {
                name: [str(text) for text in each.get("answers", [])]
                for name, each in (given.items() if isinstance(given, dict) else ())
                if isinstance(each, dict)
            }
            return AnswerInteraction(decision=ACCEPT, answers=answers) if answers else NO
        case InteractionKind.ELICITATION:
            action = value.get("action") or DECLINE
            content = value.get("content") if action == ACCEPT else None
            return AnswerInteraction(decision=action, content=content)
        case InteractionKind.TOOL_CALL:
            if value.get("success") is not True:
                return NO
            return AnswerInteraction(decision=ACCEPT, content=value.get("contentItems"))
