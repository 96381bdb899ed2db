"""What a person says to a question of Codex's: the decision, and what a yes needs beside it. Pure.

`baa answer` and `baa run` ask for it line by line, `baa watch` on its screen. All words given out are escaped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from baa.api.interactions import AnswerInteraction, InteractionKind
from baa.cli.plain import json_line, plain

ACCEPT: Final = "accept"
YES: Final = frozenset({"y", "yes", "true"})
NO: Final = frozenset({"n", "no", "false"})
INT_MAX: Final = 2**63 - 1
DIGITS_MAX: Final = 6
"""Of the number of a choice."""

SIMPLE: Final = ("string", "integer", "number", "boolean", "array", "null")
HINTS: Final = {"integer": "a whole number", "number": "a number", "boolean": "y or n", "json": "JSON"}
EXAMPLES: Final = {"integer": 0, "number": 0, "boolean": False, "json": {}}
BOUNDS: Final = {"string": ("minLength", "maxLength"), "array": ("minItems", "maxItems")}


@dataclass(frozen=True, slots=True)
class Field:
    """A thing to be said in words. `type` is string, integer, number, boolean or json, of each one if there may be
    `many`; `options` are the values to choose from, each with its words; `free` takes other words than these; what is
    not `needed` may be left empty, and is then `default` if there is one. `least` and `most` bound a number, the
    letters of a text, or how many there are.
    """

    name: str
    words: str
    type: str = "string"
    many: bool = False
    options: tuple[tuple[Any, str], ...] = ()
    free: bool = True
    needed: bool = True
    secret: bool = False
    default: Any = None
    least: float | None = None
    most: float | None = None
    form: str = ""

    def hint(self) -> str:
        """What can be typed, where the words do not say it; "" where anything can."""
        if self.many:
            told = "numbers, with commas between" if self.options else "with commas between"
        elif self.options:
            told = "a number, or other words" if self.free else "a number"
        else:
            told = HINTS.get(self.type, self.form)
        empty = "" if self.needed else "may be left empty"
        if self.default is not None:
            empty = f"empty: {json_line(self.default)}"
        return ", ".join(each for each in (told, empty) if each)


class Unfit(ValueError):
    """What was typed does not fit; says what would."""


class Making:
    """An answer in the making, out of what a person types: first the decision, then each field that a yes needs.

    `json`: whether what has no simple type is typed as JSON here; otherwise a form that needs it is not taken.
    """

    def __init__(self, kind: InteractionKind, decisions: Iterable[Any], request: Any, *, json: bool = True) -> None:
        self.fields = fields_of(kind, request)
        self._kind = kind
        self._decisions = tuple(decisions)
        self._json = json
        self._decision: Any = None
        self._said: dict[str, Any] | None = None
        self._number = 0

    @property
    def field(self) -> Field | None:
        """What is to be said next; None while it is to be decided."""
        return None if self._said is None else self.fields[self._number]

    def choices(self) -> list[str]:
        """What a number picks now, in order: the decisions, or the values of the field."""
        field = self.field
        if field is None:
            return [_label(decision) for decision in self._decisions]
        return [label for _, label in field.options]

    def say(self, typed: str) -> AnswerInteraction | None:
        """Take what was typed; the whole answer if that was the last of it. Raises Unfit, and nothing is taken."""
        field = self.field
        if field is None or self._said is None:
            self._decision = self._decided(typed.strip())
            if self._decision != ACCEPT or not self.fields:
                return AnswerInteraction(decision=self._decision)
            self._said = {}
            return None
        self._said[field.name] = value_of(field, typed)
        self._number += 1
        return answer_of(self._kind, self._decision, self._said) if self._number == len(self.fields) else None

    def _decided(self, words: str) -> Any:
        names = names_of(self._decisions)
        number = number_of(words, len(names))
        if number is None and words not in names:
            raise Unfit(f"One of these: 1 to {len(names)}.")
        decision = self._decisions[names.index(words) if number is None else number]
        if decision == ACCEPT and not self._json and any(field.type == "json" for field in self.fields):
            raise Unfit("Not here: with the command above.")
        return decision


def names_of(decisions: Iterable[Any]) -> list[str]:
    """The names of what can be decided: those of Codex's objects are their only key. Not escaped."""
    return [str(next(iter(each), "")) if isinstance(each, dict) else str(each) for each in decisions]


def number_of(words: str, count: int) -> int | None:
    """Which of `count` numbered choices is meant, from 0; None if it is none of their numbers."""
    number = int(words) if words.isdecimal() and len(words) <= DIGITS_MAX else 0
    return number - 1 if 1 <= number <= count else None


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
            return [Field("content", one_line(f"What {told.get('tool', 'the tool')} gives back, as text"))]
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


def content_like(fields: Iterable[Field]) -> dict[str, Any]:
    """A form with a value in each field that its type allows, for a person to write others over."""

    def value(field: Field) -> Any:
        one = field.options[0][0] if field.options else EXAMPLES.get(field.type, "...")
        return field.default if field.default is not None else [one] if field.many else one

    return {field.name: value(field) for field in fields}


def value_of(field: Field, typed: str) -> Any:
    """What was typed as the field has it; None if it is left empty. Raises Unfit."""
    words = typed.strip()
    if not words:
        if field.needed and field.default is None:
            raise Unfit("This cannot be left empty.")
        return field.default
    if not field.many:
        return _bounded(field, _one(field, words))
    return _bounded(field, [_one(field, each.strip()) for each in words.split(",") if each.strip()])


def one_line(text: str) -> str:
    """`text` escaped, and in one line: in a list of choices a line of its own would look like another choice."""
    return " ".join(plain(text).split("\n"))


def _one(field: Field, words: str) -> Any:
    number = number_of(words, len(field.options))
    if number is not None:
        return field.options[number][0]
    for value, label in field.options:
        if words in (value, label):
            return value
    if field.options and not field.free:
        raise Unfit(f"One of these: 1 to {len(field.options)}.")
    match field.type:
        case "boolean":
            if words.lower() not in YES | NO:
                raise Unfit("y or n.")
            return words.lower() in YES
        case "integer" | "number":
            return _number(field.type, words)
        case "json":
            try:
                return msgspec.json.decode(words)
            except msgspec.DecodeError:
                raise Unfit('JSON, such as {"a": 1} or ["a", 1].') from None
        case _:
            return words


def _number(type_: str, words: str) -> int | float:
    try:
        number = int(words) if type_ == "integer" else float(words)
    except ValueError:
        number = math.nan
    if not -INT_MAX <= number <= INT_MAX and (type_ == "integer" or not math.isfinite(number)):
        raise Unfit("A whole number." if type_ == "integer" else "A number.")
    return number


def _bounded(field: Field, value: Any) -> Any:
    """What fits the bounds. Raises Unfit."""
    counted = isinstance(value, (str, list))
    size = len(value) if counted else value
    if isinstance(size, bool) or not isinstance(size, (int, float)) or (field.options and not field.many):
        return value
    what = "" if not counted else " of them" if field.many else " letters"
    if field.least is not None and size < field.least:
        raise Unfit(f"At least {field.least:g}{what}.")
    if field.most is not None and size > field.most:
        raise Unfit(f"At most {field.most:g}{what}.")
    return value


def _label(decision: Any) -> str:
    """A decision with all that it says: a yes for ever tells for what."""
    (name,) = names_of([decision])
    more = json_line(decision[name]) if isinstance(decision, dict) and decision.get(name) else ""
    return one_line(f"{name} {more}".rstrip())


def _question(asked: dict[str, Any]) -> Field:
    options = [
        (str(each.get("label")), str(each.get("description") or "").strip()) for each in _dicts(asked.get("options"))
    ]
    return Field(
        str(asked.get("id")),
        plain(str(asked.get("question", ""))),
        options=tuple((label, one_line(f"{label}: {about}" if about else label)) for label, about in options),
        secret=asked.get("isSecret") is True,
    )


def _property(name: str, told: dict[str, Any], *, needed: bool) -> Field:
    words = str(told.get("title") or name)
    if told.get("description"):
        words = f"{words}: {told['description']}"
    type_, items = _type_of(told), told.get("items")
    of_each = items if type_ == "array" and isinstance(items, dict) else told if type_ != "array" else {}
    one = _type_of(of_each)
    options = _options(of_each)
    least, most = BOUNDS.get(type_, ("minimum", "maximum"))
    return Field(
        name,
        plain(words),
        "json" if one == "array" else one,
        many=type_ == "array" and one not in ("array", "json"),
        options=options,
        free=not options,
        needed=needed,
        secret=told.get("format") == "password" or told.get("writeOnly") is True,
        default=told.get("default"),
        least=_bound(told.get(least)),
        most=_bound(told.get(most)),
        form=one_line(told["format"]) if isinstance(told.get("format"), str) else "",
    )


def _type_of(told: dict[str, Any]) -> str:
    """The type that JSON Schema tells, beside null; json if it is none that a line holds."""
    given = told.get("type")
    kinds = given if isinstance(given, list) else [given] if given is not None else []
    others = [each for each in _dicts(told.get("anyOf")) if "const" not in each and each.get("type") != "null"]
    kinds = kinds or [_type_of(each) for each in others]
    named = [each for each in kinds if each != "null"] or ["string"]
    return named[0] if len(named) == 1 and named[0] in SIMPLE else "json"


def _bound(given: Any) -> float | None:
    return given if isinstance(given, (int, float)) and not isinstance(given, bool) else None


def _options(told: dict[str, Any]) -> tuple[tuple[Any, str], ...]:
    """The values of an enumeration, in each way that an MCP form may tell it."""
    titled = [each for each in _dicts(told.get("oneOf")) or _dicts(told.get("anyOf")) if "const" in each]
    if titled:
        return tuple((each["const"], one_line(str(each.get("title", each["const"])))) for each in titled)
    values = told.get("enum")
    if not isinstance(values, list):
        return ()
    names = told.get("enumNames")
    labels = names if isinstance(names, list) and len(names) == len(values) else values
    return tuple((value, one_line(str(label))) for value, label in zip(values, labels, strict=True))


def _dicts(given: Any) -> list[dict[str, Any]]:
    return [each for each in given if isinstance(each, dict)] if isinstance(given, list) else []
