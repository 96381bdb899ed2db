"""What a person says to a question of Codex's beside yes and no: the answers, a form, what a tool gave. Pure.

`baa answer` and `baa run` ask for it line by line, `baa watch` in its screen. All words given out are escaped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from baa.api.interactions import AnswerInteraction, InteractionKind
from baa.cli.plain import plain

ACCEPT: Final = "accept"
YES: Final = frozenset({"y", "yes", "true"})
NO: Final = frozenset({"n", "no", "false"})


@dataclass(frozen=True, slots=True)
class Field:
    """A thing to be said in words. `type` is that of JSON Schema; `options` are the values to choose from, each with
    its words; `free` takes other words than these; what is not `needed` may be left empty.
    """

    name: str
    words: str
    type: str = "string"
    options: tuple[tuple[Any, str], ...] = ()
    free: bool = True
    needed: bool = True
    secret: bool = False

    def hint(self) -> str:
        """What can be typed, where the words do not say it; "" where anything can."""
        told = {"integer": "a whole number", "number": "a number", "boolean": "y or n"}.get(self.type, "")
        if self.type == "array":
            told = "numbers, with commas between" if self.options else "with commas between"
        elif self.options:
            told = "a number, or other words" if self.free else "a number"
        return ", ".join(each for each in (told, "" if self.needed else "may be left empty") if each)


class Unfit(ValueError):
    """What was typed does not fit; says what would."""


def names_of(decisions: Iterable[Any]) -> list[str]:
    """The names of what can be decided: those of Codex's objects are their only key. Not escaped."""
    return [str(next(iter(each), "")) if isinstance(each, dict) else str(each) for each in decisions]


def fields_of(kind: InteractionKind, request: Any) -> list[Field]:
    """What a yes to this needs in words, in order."""
    told = request if isinstance(request, dict) else {}
    match kind:
        case InteractionKind.USER_INPUT:
            return [_question(each) for each in _dicts(told.get("questions"))]
        case InteractionKind.ELICITATION:
            schema = told.get("requestedSchema")
            properties = schema.get("properties") if isinstance(schema, dict) else None
            if not isinstance(schema, dict) or not isinstance(properties, dict):
                return []
            needed = schema.get("required")
            return [
                _property(name, each, needed=isinstance(needed, list) and name in needed)
                for name, each in properties.items()
                if isinstance(each, dict)
            ]
        case InteractionKind.TOOL_CALL:
            return [Field("content", plain(f"What {told.get('tool', 'the tool')} gives back, as text"))]
        case _:
            return []


def answer_of(kind: InteractionKind, decision: Any, said: dict[str, Any]) -> AnswerInteraction:
    """The answer: the decision, and what was said to each field (None = left empty)."""
    given = {name: value for name, value in said.items() if value is not None}
    if decision != ACCEPT or not said:
        return AnswerInteraction(decision=decision)
    match kind:
        case InteractionKind.USER_INPUT:
            return AnswerInteraction(decision=decision, answers=given)
        case InteractionKind.ELICITATION:
            return AnswerInteraction(decision=decision, content=given)
        case _:
            return AnswerInteraction(decision=decision, content=given.get("content", ""))


def value_of(field: Field, typed: str) -> Any:
    """What was typed as the field has it; None if it is left empty. Raises Unfit."""
    words = typed.strip()
    if not words:
        if field.needed:
            raise Unfit("This cannot be left empty.")
        return None
    if field.type == "array":
        return [_one(field, each.strip()) for each in words.split(",") if each.strip()]
    return _one(field, words)


def _one(field: Field, words: str) -> Any:
    if field.options:
        if words.isdecimal() and 1 <= int(words) <= len(field.options):
            return field.options[int(words) - 1][0]
        for value, label in field.options:
            if words in (value, label):
                return value
        if not field.free:
            raise Unfit(f"One of these: 1 to {len(field.options)}.")
    match field.type:
        case "boolean":
            if words.lower() not in YES | NO:
                raise Unfit("y or n.")
            return words.lower() in YES
        case "integer" | "number":
            return _number(field.type, words)
        case _:
            return words


def _number(type_: str, words: str) -> int | float:
    try:
        number = int(words) if type_ == "integer" else float(words)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise Unfit("A whole number." if type_ == "integer" else "A number.")
    return number


def _question(asked: dict[str, Any]) -> Field:
    labels = [str(each.get("label")) for each in _dicts(asked.get("options"))]
    return Field(
        str(asked.get("id")),
        plain(str(asked.get("question", ""))),
        options=tuple((label, plain(label)) for label in labels),
        secret=asked.get("isSecret") is True,
    )


def _property(name: str, told: dict[str, Any], *, needed: bool) -> Field:
    words = str(told.get("title") or name)
    if told.get("description"):
        words = f"{words}: {told['description']}"
    items = told.get("items")
    options = _options(items if isinstance(items, dict) else told)
    return Field(name, plain(words), str(told.get("type", "string")), options, free=not options, needed=needed)


def _options(told: dict[str, Any]) -> tuple[tuple[Any, str], ...]:
    """The values of an enumeration, in each way that an MCP form may tell it."""
    titled = _dicts(told.get("oneOf")) or _dicts(told.get("anyOf"))
    if titled:
        return tuple((each.get("const"), plain(str(each.get("title", each.get("const"))))) for each in titled)
    values = told.get("enum")
    if not isinstance(values, list):
        return ()
    names = told.get("enumNames")
    labels = names if isinstance(names, list) and len(names) == len(values) else values
    return tuple((value, plain(str(label))) for value, label in zip(values, labels, strict=True))


def _dicts(given: Any) -> list[dict[str, Any]]:
    return [each for each in given if isinstance(each, dict)] if isinstance(given, list) else []
