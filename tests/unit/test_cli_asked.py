"""What a person is shown of a question: all that is to be decided on, escaped, and where else it can be answered."""

from __future__ import annotations

import json
import shlex
from typing import Any

import pytest

from baa.api.interactions import InteractionKind
from baa.cli.asked import OpenQuestion, elsewhere, rows_of
from baa.cli.rows import STYLES

EVIL = "\x1b]0;x\x07\u202e\n\x9b2J"
CHANGE = {"path": "a.txt", "kind": {"type": "add"}, "diff": "one\ntwo\n"}


def shown(kind: InteractionKind, request: dict[str, Any], *changes: dict[str, Any]) -> list[str]:
    rows = rows_of(kind, "2026-01-02T03:04:05.000Z", request, list(changes))
    assert {style for style, _ in rows} <= set(STYLES)
    head, *lines = [line for _, line in rows]
    assert head == f"Codex asks ({kind.value}), until 03:04:05 UTC:"
    return lines


def asked(kind: InteractionKind, request: dict[str, Any]) -> OpenQuestion:
    return OpenQuestion("int_a", "ses_a", "trn_a", kind, request, ("accept", "decline"))


def test_a_command_is_shown_whole_with_what_else_a_yes_gives() -> None:
    request = {
        "command": "/bin/bash -lc 'echo one\necho two'",
        "cwd": "/work",
        "reason": "May I?",
        "additionalPermissions": {"network": True},
    }
    assert shown(InteractionKind.COMMAND, request) == [
        "May I?",
        "$ echo one",
        "  echo two",
        "  in /work",
        'additionalPermissions: {"network":true}',
    ]


def test_a_change_is_shown_as_a_diff_and_says_what_it_may_write_from_then_on() -> None:
    assert shown(InteractionKind.FILE_CHANGE, {"grantRoot": "/work"}, CHANGE, {"path": "b"}) == [
        "add a.txt",
        "  +one",
        "  +two",
        "change b",
        'grantRoot: "/work"',
    ]


@pytest.mark.parametrize(
    ("kind", "request_", "lines"),
    [
        (InteractionKind.USER_INPUT, {"questions": [{"id": "q", "question": "Which?"}]}, ["  - Which?"]),
        (InteractionKind.TOOL_CALL, {"tool": "t"}, ["  - What t gives back, as text", '{"tool":"t"}']),
        (InteractionKind.PERMISSIONS, {"permissions": {}}, ['{"permissions":{}}']),
        (InteractionKind.ELICITATION, {"message": "Open it", "url": "https://a"}, ["Open it", "https://a"]),
        (InteractionKind.ELICITATION, {"message": "May it?", "_meta": {"x": 1}}, ["May it?", '{"x":1}']),
    ],
)
def test_each_kind_shows_what_it_is_about(kind: InteractionKind, request_: dict[str, Any], lines: list[str]) -> None:
    assert shown(kind, request_) == lines


def form(**properties: Any) -> dict[str, Any]:
    return {"requestedSchema": {"properties": properties}}


@pytest.mark.parametrize(
    ("kind", "request_", "content"),
    [
        (
            InteractionKind.ELICITATION,
            form(**{"it's $(x)": {"type": "object"}, "b": {"enum": ["c"]}}),
            {"it's $(x)": {}, "b": "c"},
        ),
        (InteractionKind.TOOL_CALL, {"tool": EVIL}, [{"type": "inputText", "text": "..."}]),
        (InteractionKind.PERMISSIONS, {"permissions": {"network": EVIL}}, {"network": EVIL}),
    ],
)
@pytest.mark.parametrize("config", [None, "/a b/baa.toml"])
def test_what_a_screen_cannot_take_has_a_command_that_a_shell_reads_as_it_is_meant(
    kind: InteractionKind, request_: dict[str, Any], content: Any, config: str | None
) -> None:
    ((_, line),) = elsewhere(asked(kind, request_), config)
    assert line.isprintable()
    words = shlex.split(line[line.index("baa ") :])
    assert words[:6] == ["baa", "answer", "int_a", "--decision", "accept", "--content"]
    assert json.loads(words[6]) == content
    assert words[7:] == ([] if config is None else ["--config", config])


@pytest.mark.parametrize(
    ("kind", "request_"),
    [
        (InteractionKind.COMMAND, {"command": "ls"}),
        (InteractionKind.USER_INPUT, {"questions": [{"id": "q", "question": "?"}]}),
        (InteractionKind.ELICITATION, form(name={"type": "string"})),
    ],
)
def test_what_the_screen_takes_whole_names_no_other_place(kind: InteractionKind, request_: dict[str, Any]) -> None:
    assert elsewhere(asked(kind, request_)) == []


def test_nothing_of_a_model_is_given_out_as_it_came() -> None:
    told: dict[str, Any] = {
        "reason": EVIL,
        "message": EVIL,
        "url": EVIL,
        "command": EVIL,
        "cwd": EVIL,
        "grantRoot": EVIL,
    }
    told |= {"questions": [{"id": EVIL, "question": EVIL}], "tool": EVIL, "_meta": {EVIL: EVIL}, "permissions": EVIL}
    told |= form(**{EVIL: {"title": EVIL, "type": "object", "default": EVIL}})
    change = {"path": EVIL, "kind": {"type": EVIL}, "diff": EVIL}
    for kind in InteractionKind:
        question = asked(kind, told)
        rows = [*rows_of(kind, EVIL, told, [change]), *elsewhere(question, EVIL)]
        lines = [*(line for _, line in rows), question.summary()]
        for line in lines:
            assert line.isprintable(), line
        assert len(lines) > 3
