"""What Codex asks, as a person is shown it: all that has to be known to decide, and where it can be answered. Pure.

`baa answer` and `baa run` print it, `baa watch` has it on its screen. All lines given out are escaped.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any, Final

from baa.api.interactions import InteractionKind
from baa.cli.demo_show import command
from baa.cli.plain import json_line, plain
from baa.cli.questions import content_like, fields_of, one_line
from baa.cli.rows import Row, diff_of, diff_rows

WHOLE: Final = frozenset({InteractionKind.PERMISSIONS, InteractionKind.TOOL_CALL})
"""Kinds of which a person is shown Codex's own object: it is what is decided on."""

MORE: Final = ("additionalPermissions", "networkApprovalContext", "grantRoot")
"""What a yes gives beside the command or the change that it is about."""


@dataclass(frozen=True, slots=True)
class OpenQuestion:
    """Something that Codex waits for. `request` is Codex's own object."""

    interaction_id: str
    session_id: str
    turn_id: str | None
    kind: InteractionKind
    request: dict[str, Any]
    decisions: tuple[Any, ...]
    item_id: str | None = None
    deadline_at: str = ""

    def summary(self) -> str:
        """What is asked, in a line."""
        told = self.request
        match self.kind:
            case InteractionKind.COMMAND:
                what = f"run {told.get('command')}"
            case InteractionKind.FILE_CHANGE:
                what = "change files"
            case InteractionKind.PERMISSIONS:
                what = "more permissions"
            case InteractionKind.USER_INPUT:
                asked = told.get("questions")
                first = asked[0] if isinstance(asked, list) and asked and isinstance(asked[0], dict) else {}
                what = str(first.get("question") or "a question")
            case InteractionKind.ELICITATION:
                what = str(told.get("message") or "a form")
            case InteractionKind.TOOL_CALL:
                what = f"call {told.get('tool')}"
        reason = told.get("reason")
        return one_line(f"{what} ({reason})" if reason else what)


def rows_of(
    kind: InteractionKind, deadline_at: str, request: dict[str, Any], changes: list[dict[str, Any]]
) -> list[Row]:
    """All that a person has to know to decide. `changes` are those that an approval is about."""
    rows: list[Row] = [("bold", f"Codex asks ({kind.value}), until {deadline_at[11:19]} UTC:")]
    rows += [("", line) for name in ("reason", "message", "url") if request.get(name) for line in _lines(request[name])]
    rows += [("", f"  - {one_line(field.words)}") for field in fields_of(kind, request)]
    if request.get("command"):
        first, *others = _lines(command(str(request["command"])))
        rows += [("bold", f"$ {first}"), *(("bold", f"  {line}") for line in others)]
        rows.append(("dim", f"  in {one_line(str(request.get('cwd', '')))}"))
    for change in changes:
        rows.append(("bold", one_line(f"{_kind_of(change)} {change.get('path', '')}")))
        rows += [(style, plain(line)) for style, line in diff_rows(diff_of(change))]
    rows += [("", f"{name}: {json_line(request[name])}") for name in MORE if request.get(name)]
    if kind in WHOLE or request.get("_meta"):
        rows.append(("dim", json_line(request.get("_meta") or request)))
    return rows


def elsewhere(question: OpenQuestion, config: str | None = None) -> list[Row]:
    """The command that answers what a screen with one line to type in cannot; none where it can say all of it."""
    kind, request = question.kind, question.request
    content: Any
    match kind:
        case InteractionKind.ELICITATION if any(field.type == "json" for field in fields_of(kind, request)):
            style, words, content = "asks", "This form is answered with", content_like(fields_of(kind, request))
        case InteractionKind.TOOL_CALL:
            style, words, content = "dim", "More than a line", [{"type": "inputText", "text": "..."}]
        case InteractionKind.PERMISSIONS:
            style, words, content = "dim", "Fewer than these", request.get("permissions")
        case _:
            return []
    parts = ["baa", "answer", question.interaction_id, "--decision", "accept", "--content", json_line(content)]
    line = shlex.join([*parts, *(() if config is None else ("--config", config))])
    return [(style, one_line(f"{words}: {line}"))]


def _kind_of(change: dict[str, Any]) -> str:
    kind = change.get("kind")
    return str(kind.get("type", "change")) if isinstance(kind, dict) else "change"


def _lines(words: Any) -> list[str]:
    return plain(str(words)).split("\n")
