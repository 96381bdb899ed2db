"""Sessions, turns and items as codexd tells them, and what a client may ask for."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final

from msgspec import UNSET, Raw, Struct, UnsetType


class Sandbox(StrEnum):
    """What a command of the agent may touch, weakest power first; Codex's own words."""

    READ_ONLY = "read-only"
    WORKSPACE_WRITE = "workspace-write"
    DANGER_FULL_ACCESS = "danger-full-access"


class ApprovalPolicy(StrEnum):
    """When Codex asks before it acts; Codex's own words."""

    UNTRUSTED = "untrusted"
    ON_REQUEST = "on-request"
    NEVER = "never"


class SessionStatus(StrEnum):
    """Where a session stands: `not_loaded` = Codex has its thread on disk only, or has none yet."""

    NOT_LOADED = "not_loaded"
    IDLE = "idle"
    ACTIVE = "active"


class TurnStatus(StrEnum):
    """Where a turn stands; the last four are ends."""

    QUEUED = "queued"
    ACCEPTED = "accepted"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    LOST = "lost"


TURN_ENDED: Final = frozenset({TurnStatus.COMPLETED, TurnStatus.FAILED, TurnStatus.INTERRUPTED, TurnStatus.LOST})


class ItemStatus(StrEnum):
    """Where an item stands."""

    STARTED = "started"
    COMPLETED = "completed"
    ABANDONED = "abandoned"


class OnBusy(StrEnum):
    """What to do with a new turn while another of its session has not ended."""

    REJECT = "reject"


class CreateSession(Struct, rename="camel", forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Body of `POST /v1/codexd/sessions`. `cwd` is an absolute path of an existing folder inside the roots."""

    cwd: str
    purpose: str | None = None
    model: str | None = None
    model_provider: str | None = None
    sandbox: Sandbox | None = None
    approval_policy: ApprovalPolicy | None = None
    base_instructions: str | None = None
    developer_instructions: str | None = None
    metadata: dict[str, str] = {}


class SessionSettings(Struct, rename="camel", kw_only=True, frozen=True):
    """What a session was registered with, after defaults and the ceiling; it never changes."""

    cwd: str
    sandbox: Sandbox
    approval_policy: ApprovalPolicy
    purpose: str | None = None
    model: str | None = None
    model_provider: str | None = None
    base_instructions: str | None = None
    developer_instructions: str | None = None
    metadata: dict[str, str] = {}


class StartTurn(Struct, rename="camel", forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Body of `POST /v1/codexd/turn`."""

    session_id: str
    prompt: str
    on_busy: OnBusy = OnBusy.REJECT
    model: str | None = None
    effort: str | None = None
    metadata: dict[str, str] = {}


class TurnRequest(Struct, rename="camel", kw_only=True, frozen=True):
    """What a turn was asked to do; it never changes."""

    prompt: str
    model: str | None = None
    effort: str | None = None
    metadata: dict[str, str] = {}


class Session(Struct, rename="camel", kw_only=True, frozen=True):
    """A session as codexd tells it. `usage` is Codex's token count of the whole thread."""

    session_id: str
    thread_id: str | None
    status: SessionStatus
    purpose: str | None
    cwd: str
    model: str | None
    sandbox: Sandbox
    approval_policy: ApprovalPolicy
    current_turn_id: str | None
    last_turn_id: str | None
    last_turn_status: TurnStatus | None
    queued_turns: int
    open_interactions: int
    usage: dict[str, int] | None
    metadata: dict[str, str]
    created_at: str
    updated_at: str


class Item(Struct, rename="camel", kw_only=True, frozen=True):
    """A unit inside a turn. `item` is Codex's own object; `text` is what an unfinished item has said so far."""

    item_id: str
    kind: str
    status: ItemStatus
    item: Raw
    text: str | None = None
    started_at: str
    ended_at: str | None = None


class Turn(Struct, rename="camel", kw_only=True, frozen=True):
    """A turn as codexd tells it: with `items`, its ledger. `reason` and `evidence` tell why it ended as it did."""

    turn_id: str
    session_id: str
    codex_turn_id: str | None
    status: TurnStatus
    origin: str
    reason: str | None
    error: dict[str, Any] | None
    evidence: dict[str, Any]
    prompt: str
    model: str | None
    effort: str | None
    final_message: str | None
    usage: dict[str, int] | None
    diff: str | None
    plan: dict[str, Any] | None
    metadata: dict[str, str]
    queued_at: str
    accepted_at: str | None
    started_at: str | None
    ended_at: str | None
    items: list[Item] | UnsetType = UNSET
