"""Interactions: what Codex asks of its client, and how it was answered. Each one ends, and says how."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from msgspec import Raw, Struct


class InteractionKind(StrEnum):
    """What is asked."""

    COMMAND = "command"
    FILE_CHANGE = "file_change"
    PERMISSIONS = "permissions"
    USER_INPUT = "user_input"
    ELICITATION = "elicitation"
    TOOL_CALL = "tool_call"


class InteractionStatus(StrEnum):
    """Where it stands: `resolved` = answered, or what asked is gone; `expired` = declined by its deadline."""

    OPEN = "open"
    RESOLVED = "resolved"
    EXPIRED = "expired"


class ResolvedBy(StrEnum):
    """What ended an interaction: a client, its deadline, Codex itself, or the end of its turn, session or child."""

    CLIENT = "client"
    DEADLINE = "deadline"
    CODEX = "codex"
    TURN_ENDED = "turn_ended"
    SESSION_CLOSED = "session_closed"
    CHILD_EXITED = "child_exited"


class Scope(StrEnum):
    """How long a granted permission holds; Codex's own words."""

    TURN = "turn"
    SESSION = "session"


class AnswerInteraction(Struct, rename="camel", forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Body of `POST …/interactions/{id}`. `decision` is one of the interaction's `decisions`, or the name of one.

    `answers` (user_input) maps the id of a question to its answer or answers; `content` is an elicitation's form, or
    what a tool gave, or the permissions granted where these are fewer than asked for.
    """

    decision: str | dict[str, Any]
    answers: dict[str, str | list[str]] | None = None
    content: Any = None
    scope: Scope | None = None


class Interaction(Struct, rename="camel", kw_only=True, frozen=True):
    """An interaction as codexd tells it. `request` is Codex's own object; `answer` is what was answered, but for its
    secrets.
    """

    interaction_id: str
    session_id: str
    turn_id: str | None
    kind: InteractionKind
    status: InteractionStatus
    item_id: str | None
    request: Raw
    decisions: list[Any]
    requested_at: str
    deadline_at: str
    answer: AnswerInteraction | None
    resolved_by: ResolvedBy | None
    ended_at: str | None
