"""What is said to a question beside yes and no: its fields, what fits them, and the answer that they make."""

from __future__ import annotations

from typing import Any

import pytest

from baa.api.interactions import AnswerInteraction, InteractionKind
from baa.cli.questions import Field, Unfit, answer_of, fields_of, names_of, value_of

EVIL = "\x1b]0;x\x07\u202e"
INPUT, FORM, TOOL = InteractionKind.USER_INPUT, InteractionKind.ELICITATION, InteractionKind.TOOL_CALL


def of_form(**properties: Any) -> list[Field]:
    return fields_of(FORM, {"requestedSchema": {"properties": properties, "required": [*properties][:1]}})


def test_decisions_have_names() -> None:
    assert names_of(["accept", {"acceptAlways": {"x": 1}}, {}]) == ["accept", "acceptAlways", ""]


def test_a_question_has_its_options_and_takes_other_words() -> None:
    (field,) = fields_of(
        INPUT,
        {"questions": [{"id": "q", "question": "Which?", "options": [{"label": "Red"}, {"label": "Blue"}]}, "x"]},
    )
    assert (field.name, field.words, field.hint()) == ("q", "Which?", "a number, or other words")
    assert [value_of(field, typed) for typed in ("2", " Red ", "3", "none of them")] == [
        "Blue",
        "Red",
        "3",
        "none of them",
    ]
    (hidden,) = fields_of(INPUT, {"questions": [{"id": "q", "question": "Key?", "isSecret": True}]})
    assert (hidden.secret, hidden.hint()) == (True, "")


@pytest.mark.parametrize(
    ("told", "hint", "typed", "value"),
    [
        ({"type": "string", "title": "Name"}, "", " Bob ", "Bob"),
        ({"type": "integer"}, "a whole number", "-3", -3),
        ({"type": "number"}, "a number", "2.5", 2.5),
        ({"type": "boolean"}, "y or n", "Yes", True),
        ({"type": "boolean"}, "y or n", "n", False),
        ({"type": "string", "enum": ["a", "b"], "enumNames": ["A", "B"]}, "a number", "2", "b"),
        ({"type": "string", "enum": ["a", "b"], "enumNames": ["A", "B"]}, "a number", "A", "a"),
        ({"type": "string", "enum": ["a", "b"], "enumNames": ["A"]}, "a number", "1", "a"),
        ({"type": "string", "oneOf": [{"const": "a", "title": "A"}, {"const": "b"}]}, "a number", "b", "b"),
        ({"type": "array", "items": {"enum": ["a", "b"]}}, "numbers, with commas between", "1, b", ["a", "b"]),
        ({"type": "array", "items": {"anyOf": [{"const": 7}]}}, "numbers, with commas between", "1", [7]),
        ({"type": "array"}, "with commas between", "x, y,", ["x", "y"]),
    ],
)
def test_a_form_has_a_field_for_each_property(told: dict[str, Any], hint: str, typed: str, value: object) -> None:
    (field,) = of_form(name=told)
    assert (field.words, field.hint(), value_of(field, typed)) == (told.get("title", "name"), hint, value)


@pytest.mark.parametrize(
    ("told", "typed"),
    [
        ({"type": "string"}, " "),
        ({"type": "integer"}, "1.5"),
        ({"type": "number"}, "much"),
        ({"type": "number"}, "nan"),
        ({"type": "number"}, "inf"),
        ({"type": "boolean"}, "perhaps"),
        ({"type": "string", "enum": ["a"]}, "2"),
        ({"type": "string", "enum": ["a"]}, "b"),
    ],
)
def test_what_does_not_fit_is_told(told: dict[str, Any], typed: str) -> None:
    (field,) = of_form(name=told)
    with pytest.raises(Unfit, match=r"\.$"):
        value_of(field, typed)


def test_only_what_is_needed_cannot_be_left_empty() -> None:
    first, second = of_form(name={"type": "string"}, age={"type": "integer", "description": "in years"})
    assert (first.needed, second.needed, second.words) == (True, False, "age: in years")
    assert (second.hint(), value_of(second, "")) == ("a whole number, may be left empty", None)


@pytest.mark.parametrize(
    ("kind", "request_"),
    [
        (InteractionKind.COMMAND, {"command": "ls"}),
        (INPUT, {}),
        (INPUT, {"questions": "x"}),
        (FORM, {"mode": "url", "url": "https://example.com"}),
        (FORM, {"requestedSchema": {"properties": {}}}),
        (FORM, {"requestedSchema": {"properties": {"x": 1}}}),
        (FORM, {"requestedSchema": []}),
        (FORM, None),
    ],
)
def test_what_asks_for_no_words_has_no_fields(kind: InteractionKind, request_: Any) -> None:
    assert fields_of(kind, request_) == []
    assert answer_of(kind, "accept", {}) == AnswerInteraction(decision="accept")


def test_an_answer_carries_what_was_said_where_its_kind_has_it() -> None:
    assert answer_of(INPUT, "accept", {"q": "Red"}) == AnswerInteraction(decision="accept", answers={"q": "Red"})
    said = {"name": "Bob", "age": None}
    assert answer_of(FORM, "accept", said) == AnswerInteraction(decision="accept", content={"name": "Bob"})
    (field,) = fields_of(TOOL, {"tool": "look"})
    assert field.words == "What look gives back, as text"
    assert answer_of(TOOL, "accept", {field.name: "It is."}) == AnswerInteraction(decision="accept", content="It is.")
    assert answer_of(FORM, "decline", said) == AnswerInteraction(decision="decline")


def test_nothing_of_a_model_is_given_out_as_it_came() -> None:
    fields = [
        *fields_of(INPUT, {"questions": [{"id": "q", "question": EVIL, "options": [{"label": EVIL}]}]}),
        *of_form(name={"title": EVIL, "description": EVIL, "enum": [EVIL], "type": EVIL}),
        *of_form(name={"oneOf": [{"const": 1, "title": EVIL}], "type": EVIL}),
        *of_form(**{EVIL: {"type": "string"}}),
        *fields_of(TOOL, {"tool": EVIL}),
    ]
    for field in fields:
        for words in (field.words, field.hint(), *(label for _, label in field.options)):
            assert words.isprintable(), words
