"""The parts of what Codex's own terminal UI sends that codexd reads (attached.py). All else of it goes nowhere."""

from __future__ import annotations

from typing import Any

from baa.codexd.appserver.messages import Message


class UserInput(Message):
    """A piece of what was typed."""

    type: str
    text: str = ""
    path: str = ""


class Mode(Message):
    """The mode of a turn, with the model and the effort that go with it."""

    mode: str = "default"
    settings: dict[str, Any] | None = None


class StartParams(Message):
    """`turn/start`, as far as a turn of ours can say it."""

    thread_id: str
    input: list[UserInput]
    client_user_message_id: str | None = None
    cwd: str | None = None
    runtime_workspace_roots: list[str] | None = None
    approval_policy: Any = None
    approvals_reviewer: str | None = None
    sandbox_policy: dict[str, Any] | None = None
    permissions: Any = None
    model: str | None = None
    effort: str | None = None
    collaboration_mode: Mode | None = None
    output_schema: dict[str, Any] | None = None


class SteerParams(Message):
    """`turn/steer`."""

    thread_id: str
    input: list[UserInput]
    expected_turn_id: str
    client_user_message_id: str | None = None


class InterruptParams(Message):
    """`turn/interrupt`."""

    thread_id: str
    turn_id: str


class InitializeParams(Message):
    """`initialize`, as far as it matters here."""

    capabilities: dict[str, Any] | None = None


class CompactParams(Message):
    """`thread/compact/start`."""

    thread_id: str


class NameParams(Message):
    """`thread/name/set`."""

    thread_id: str
    name: str
