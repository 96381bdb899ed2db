"""Sessions, turns and items as codexd tells them, and what a client may ask for."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Final

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from baa.api.interactions import Interaction


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


class Personality(StrEnum):
    """How Codex speaks; Codex's own words."""

    NONE = "none"
    FRIENDLY = "friendly"
    PRAGMATIC = "pragmatic"


class SessionStatus(StrEnum):
    """Where a session stands: `not_loaded` = Codex has its thread on disk only, or none yet. `closed` is its end."""

    NOT_LOADED = "not_loaded"
    IDLE = "idle"
    ACTIVE = "active"
    CLOSED = "closed"


class TurnStatus(StrEnum):
    """Where a turn stands; the last five are ends."""

    QUEUED = "queued"
    ACCEPTED = "accepted"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    EXPIRED = "expired"
    LOST = "lost"


TURN_ENDED: Final = frozenset(
    {TurnStatus.COMPLETED, TurnStatus.FAILED, TurnStatus.INTERRUPTED, TurnStatus.EXPIRED, TurnStatus.LOST}
)


class Origin(StrEnum):
    """Who began a turn: a client of the API, a person in an attached terminal, or Codex by itself."""

    API = "api"
    ATTACHED = "attached"
    CODEX = "codex"


class ItemStatus(StrEnum):
    """Where an item stands."""

    STARTED = "started"
    COMPLETED = "completed"
    ABANDONED = "abandoned"


class OnBusy(StrEnum):
    """What to do with a new turn while another of its session has not ended, queued ones included.

    `reject`: 409. `enqueue`: wait in line. `steer`: give the input to the running turn. `interrupt`: end the first turn
    of the line, and wait until that is verified.
    """

    REJECT = "reject"
    ENQUEUE = "enqueue"
    STEER = "steer"
    INTERRUPT = "interrupt"


class TextInput(Struct, tag="text", rename="camel", forbid_unknown_fields=True, frozen=True):
    """Words for Codex."""

    text: str


class LocalImage(Struct, tag="localImage", rename="camel", forbid_unknown_fields=True, frozen=True):
    """An image on this machine: an absolute path of a file inside the roots."""

    path: str


InputPart = TextInput | LocalImage

PROMPT_MAX: Final = 1_048_576
"""Characters of text in one input: Codex takes no more (0.163 and 0.169: `input too large`)."""

DURATION_MAX_MS: Final = 31 * 86_400_000
"""The longest time that a request may set: a month. Whoever wants no end sets none."""

Ms = Annotated[int, Meta(ge=1, le=DURATION_MAX_MS)]


class CreateSession(Struct, rename="camel", forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Body of `POST /v1/codexd/sessions`. `cwd` is an absolute path of an existing folder inside the roots.

    `thread_id` adopts a thread that is stored in codexd's CODEX_HOME; `cwd` is then the thread's own if not given.
    `network_access` is for the commands in a `workspace-write` sandbox: off unless it is asked for.
    """

    cwd: str | None = None
    thread_id: str | None = None
    purpose: str | None = None
    model: str | None = None
    model_provider: str | None = None
    sandbox: Sandbox | None = None
    network_access: bool | None = None
    approval_policy: ApprovalPolicy | None = None
    writable_roots: list[str] = []
    base_instructions: str | None = None
    developer_instructions: str | None = None
    personality: Personality | None = None
    service_tier: str | None = None
    ephemeral: bool = False
    metadata: dict[str, str] = {}


class SessionSettings(Struct, rename="camel", kw_only=True, frozen=True):
    """What a session was registered with, after defaults and the ceiling; it never changes.

    `network_access` is what was asked for: what it comes to says `networked`.
    """

    cwd: str
    sandbox: Sandbox
    network_access: bool = False
    approval_policy: ApprovalPolicy
    purpose: str | None = None
    model: str | None = None
    model_provider: str | None = None
    writable_roots: tuple[str, ...] = ()
    base_instructions: str | None = None
    developer_instructions: str | None = None
    personality: Personality | None = None
    service_tier: str | None = None
    ephemeral: bool = False
    metadata: dict[str, str] = {}


def networked(sandbox: Sandbox, network_access: bool) -> bool:
    """Whether commands can reach the network: without a sandbox always, in one that only reads never."""
    return sandbox is Sandbox.DANGER_FULL_ACCESS or (sandbox is Sandbox.WORKSPACE_WRITE and network_access)


class Fork(Struct, rename="camel", frozen=True):
    """Whose history a session began with: `last_turn_id` is Codex's id of the last turn that belongs to it.

    Without a thread there was no history yet.
    """

    session_id: str
    thread_id: str | None
    last_turn_id: str | None = None


class StartTurn(Struct, rename="camel", forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Body of `POST /v1/codexd/turn`: `prompt`, or `input`, and what holds for this turn only.

    `deadline_ms` counts from the 202, `stall_ms` from the turn's last event while it runs, `lease_ms` from the 202 or
    the last renewal. When the input steers a running turn, that turn's own settings stay.
    """

    session_id: str
    prompt: str | None = None
    input: list[InputPart] | None = None
    on_busy: OnBusy = OnBusy.REJECT
    model: str | None = None
    effort: str | None = None
    sandbox: Sandbox | None = None
    network_access: bool | None = None
    approval_policy: ApprovalPolicy | None = None
    output_schema: dict[str, Any] | None = None
    deadline_ms: Ms | None = None
    stall_ms: Ms | None = None
    lease_ms: Ms | None = None
    metadata: dict[str, str] = {}


class TurnRequest(Struct, rename="camel", kw_only=True, frozen=True, omit_defaults=True):
    """What a turn was asked to do; it never changes. `input` is empty where the prompt is all of it.

    `compact`: it gives Codex no input, and shortens the thread's history (`/compact` of an attached terminal).
    """

    prompt: str
    input: tuple[InputPart, ...] = ()
    model: str | None = None
    effort: str | None = None
    sandbox: Sandbox | None = None
    network_access: bool | None = None
    approval_policy: ApprovalPolicy | None = None
    output_schema: dict[str, Any] | None = None
    deadline_ms: int | None = None
    stall_ms: int | None = None
    lease_ms: int | None = None
    metadata: dict[str, str] = {}
    compact: bool = False

    @property
    def parts(self) -> tuple[InputPart, ...]:
        """All of the input."""
        return self.input or (TextInput(self.prompt),)


class SteerTurn(Struct, rename="camel", forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Body of `POST /v1/codexd/turn/{turnId}/steer`."""

    prompt: str | None = None
    input: list[InputPart] | None = None


class RenewTurn(Struct, rename="camel", forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Body of `POST /v1/codexd/turn/{turnId}/renew`: the lease ends `lease_ms` from now; without it, as before."""

    lease_ms: Ms | None = None


class NoFields(Struct, forbid_unknown_fields=True, frozen=True):
    """Body of a POST that takes nothing: `{}`, or none."""


class Session(Struct, rename="camel", kw_only=True, frozen=True):
    """A session as codexd tells it. `usage` is Codex's token count of the whole thread.

    `network_access`: whether the commands of its turns can reach the network, unless a turn asks otherwise.
    `interactions` are the open ones; they are told where one session is asked for.
    """

    session_id: str
    thread_id: str | None
    status: SessionStatus
    purpose: str | None
    cwd: str
    model: str | None
    model_provider: str | None
    sandbox: Sandbox
    network_access: bool
    approval_policy: ApprovalPolicy
    writable_roots: tuple[str, ...]
    base_instructions: str | None
    developer_instructions: str | None
    personality: Personality | None
    service_tier: str | None
    ephemeral: bool
    forked_from: Fork | None
    current_turn_id: str | None
    last_turn_id: str | None
    last_turn_status: TurnStatus | None
    queued_turns: int
    open_interactions: int
    usage: dict[str, int] | None
    metadata: dict[str, str]
    created_at: str
    updated_at: str
    closed_at: str | None
    interactions: list[Interaction] | UnsetType = UNSET


class Item(Struct, rename="camel", kw_only=True, frozen=True):
    """A unit inside a turn. `item` is Codex's own object; `text` is what an unfinished item has said so far.

    `agent_thread_id` is set for the items of a sub-agent. `reason` tells why it was abandoned: `retried` = Codex asked
    the model again, and what this item had said is told by a later one (then `text` is null); null = its turn ended.
    """

    item_id: str
    kind: str
    status: ItemStatus
    item: Raw
    text: str | None = None
    reason: str | None = None
    agent_thread_id: str | None = None
    started_at: str
    ended_at: str | None = None


class Turn(Struct, rename="camel", kw_only=True, frozen=True):
    """A turn as codexd tells it: with `items` and `interactions`, its ledger.

    `reason` and `evidence` tell why it ended as it did; `output` is the final message as JSON where an output schema
    was given and kept.
    """

    turn_id: str
    session_id: str
    codex_turn_id: str | None
    status: TurnStatus
    origin: Origin
    reason: str | None
    error: dict[str, Any] | None
    evidence: dict[str, Any]
    prompt: str
    input: tuple[InputPart, ...]
    model: str | None
    effort: str | None
    sandbox: Sandbox | None
    network_access: bool | None
    approval_policy: ApprovalPolicy | None
    output_schema: dict[str, Any] | None
    deadline_ms: int | None
    stall_ms: int | None
    lease_ms: int | None
    final_message: str | None
    output: Any
    usage: dict[str, int] | None
    diff: str | None
    plan: dict[str, Any] | None
    metadata: dict[str, str]
    queued_at: str
    accepted_at: str | None
    started_at: str | None
    ended_at: str | None
    items: list[Item] | UnsetType = UNSET
    interactions: list[Interaction] | UnsetType = UNSET
