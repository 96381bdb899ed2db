"""What is said to a question beside yes and no: its fields, what fits them, and the answer that they make."""

from __future__ import annotations

from typing import Any

import pytest

from baa.api.interactions import AnswerInteraction, InteractionKind
from baa.cli.questions import Field, Making, Unfit, answer_of, content_like, fields_of, names_of, number_of, value_of

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
        ({"type": "array", "items": {"type": "integer"}}, "with commas between", "1, 2", [1, 2]),
        ({"type": "array", "items": {"type": "object"}}, "JSON", '[{"a": 1}]', [{"a": 1}]),
        ({"type": "object"}, "JSON", '{"a": [1]}', {"a": [1]}),
        ({"type": ["null", "integer"]}, "a whole number", "7", 7),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "a whole number", "7", 7),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, "JSON", '"7"', "7"),
        ({"type": "string", "format": "email"}, "email", "a@b", "a@b"),
        ({"type": "integer", "default": 4}, "a whole number, empty: 4", " ", 4),
        ({"type": "integer", "minimum": 2, "maximum": 3}, "a whole number", "3", 3),
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
        ({"type": "string", "enum": ["a"]}, "9" * 5000),
        ({"type": "integer"}, "9" * 400),
        ({"type": "integer"}, str(2**63)),
        ({"type": "integer"}, "9" * 5000),
        ({"type": "object"}, "{"),
        ({"type": "array", "items": {"type": "integer"}}, "1, x"),
        ({"type": "array", "minItems": 2}, "1"),
        ({"type": "array", "maxItems": 1, "items": {"enum": ["a", "b"]}}, "1,2"),
        ({"type": "string", "minLength": 3}, "ab"),
        ({"type": "string", "maxLength": 3}, "abcd"),
        ({"type": "integer", "minimum": 2}, "1"),
        ({"type": "number", "maximum": 2.5}, "2.6"),
    ],
)
def test_what_does_not_fit_is_told(told: dict[str, Any], typed: str) -> None:
    (field,) = of_form(name=told)
    with pytest.raises(Unfit, match=r"\.$"):
        value_of(field, typed)


@pytest.mark.parametrize(
    ("typed", "number"),
    [("1", 0), ("3", 2), ("0", None), ("4", None), ("", None), ("-1", None), ("1.0", None), ("x", None)],
)
def test_a_number_picks_a_choice(typed: str, number: int | None) -> None:
    assert number_of(typed, 3) == number


def test_an_answer_is_made_of_a_decision_and_then_a_value_for_each_field() -> None:
    amendment = {"acceptAlways": {"for": ["ls", EVIL]}}
    making = Making(FORM, ["accept", amendment, "decline"], {"requestedSchema": {"properties": {
        "name": {"type": "string"}, "size": {"enum": ["S", "M"]}
    }}})  # fmt: skip
    assert making.choices() == ["accept", 'acceptAlways {"for":["ls","\\u001b]0;x\\u0007\\u202e"]}', "decline"]
    with pytest.raises(Unfit, match="1 to 3"):
        making.say("4")
    assert making.say(" accept ") is None
    field = making.field
    assert field is not None
    assert (field.name, making.choices()) == ("name", [])
    assert making.say("Bob") is None
    assert making.choices() == ["S", "M"]
    with pytest.raises(Unfit):
        making.say("3")
    assert making.say("2") == AnswerInteraction(decision="accept", content={"name": "Bob", "size": "M"})


@pytest.mark.parametrize("typed", ["2", "acceptAlways"])
def test_a_no_and_a_yes_without_fields_are_whole_at_once(typed: str) -> None:
    amendment = {"acceptAlways": {"for": ["ls"]}}
    assert Making(InteractionKind.COMMAND, ["accept", amendment], {}).say(typed) == AnswerInteraction(
        decision=amendment
    )
    assert Making(InteractionKind.COMMAND, ["accept"], {}).say("1") == AnswerInteraction(decision="accept")
    assert Making(FORM, ["accept", "decline"], {"requestedSchema": {"properties": {"x": {}}}}).say(
        "decline"
    ) == AnswerInteraction(decision="decline")


def test_where_no_json_is_typed_a_form_that_needs_it_is_not_taken_and_can_be_declined() -> None:
    request = {"requestedSchema": {"properties": {"where": {"type": "object"}}}}
    making = Making(FORM, ["accept", "decline"], request, json=False)
    with pytest.raises(Unfit, match="command above"):
        making.say("1")
    assert making.say("2") == AnswerInteraction(decision="decline")


def test_an_example_of_a_form_has_a_value_of_each_type() -> None:
    fields = of_form(
        a={"type": "string"}, b={"type": "integer"}, c={"type": "boolean"}, d={"enum": [5, 6]},
        e={"type": "array", "items": {"type": "number"}}, f={"type": "object"}, g={"type": "string", "default": "x"},
    )  # fmt: skip
    assert content_like(fields) == {"a": "...", "b": 0, "c": False, "d": 5, "e": [0], "f": {}, "g": "x"}


@pytest.mark.parametrize("told", [{"format": "password"}, {"writeOnly": True}])
def test_a_field_of_a_form_may_be_a_secret_too(told: dict[str, Any]) -> None:
    (field,) = of_form(key={"type": "string", **told})
    assert field.secret


def test_a_choice_is_one_line_lest_a_part_of_it_looks_like_another() -> None:
    label = "Red\n  2  Blue"
    (field,) = fields_of(INPUT, {"questions": [{"id": "q", "question": "?", "options": [{"label": label}]}]})
    assert (field.options, value_of(field, "1")) == (((label, "Red   2  Blue"),), label)
    assert of_form(x={"enum": [label]})[0].options == field.options


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
        *fields_of(
            INPUT, {"questions": [{"id": "q", "question": EVIL, "options": [{"label": EVIL, "description": EVIL}]}]}
        ),
        *of_form(name={"title": EVIL, "description": EVIL, "enum": [EVIL], "type": EVIL}),
        *of_form(name={"oneOf": [{"const": 1, "title": EVIL}], "type": EVIL}),
        *of_form(**{EVIL: {"type": "string"}}),
        *of_form(name={"type": "string", "format": EVIL, "default": EVIL}),
        *fields_of(TOOL, {"tool": EVIL}),
    ]
    for field in fields:
        for words in (field.words, field.hint(), *(label for _, label in field.options)):
            assert words.isprintable(), words
