"""The parts of Codex's messages that codexd reads. All else of a message is passed on or left alone.

Taken from the JSON schema that the app-server writes of itself; fields are optional where any release that we speak to
leaves them out.
"""

from __future__ import annotations

from typing import Any, Final, dataclass_transform

from msgspec import UNSET, Raw, Struct, UnsetType, field

from baa.codexd.appserver.jsonrpc import EmittedAt

RUNNING: Final = "inProgress"
"""The status of a turn that has not ended."""


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
class Message(Struct, rename="camel", frozen=True):
    """Base: camelCase on the wire, unknown fields ignored."""


class About(Message):
    """Who a message concerns, when it says."""

    thread_id: str | None = None


class Turn(Message):
    """A turn of Codex's. `items` is complete only where it was asked for with `itemsView: full`."""

    id: str
    status: str = RUNNING
    error: dict[str, Any] | None = None
    items: list[Raw] = []


class TurnMessage(Message):
    """`turn/started`, `turn/completed`."""

    thread_id: str
    turn: Turn


class ItemHead(Message):
    """What every item has; `client_id` is our turn's id on the user's own message."""

    id: str
    type: str
    client_id: str | None = None
    text: Any = None
    receiver_thread_ids: list[str] = []


class ItemMessage(Message):
    """`item/started`, `item/completed`."""

    thread_id: str
    turn_id: str
    item: Raw


class DeltaMessage(Message):
    """`item/…/delta`."""

    thread_id: str
    turn_id: str
    item_id: str
    delta: str


class DeltaLine(Message):
    """The whole line of one, whose method is known."""

    params: DeltaMessage
    emitted_at_ms: EmittedAt = None
    id: str | int | UnsetType = UNSET


class UpdateMessage(Message):
    """`thread/tokenUsage/updated`, `turn/plan/updated`, `turn/diff/updated`: whose it is."""

    thread_id: str
    turn_id: str


class QuestionParams(Message):
    """What codexd reads of a request for an answer."""

    thread_id: str | None = None
    turn_id: str | None = None
    item_id: str | None = None
    call_id: str | None = None
    available_decisions: list[Any] | None = None


class PermissionsParams(Message):
    """`item/permissions/requestApproval`: what is asked for."""

    permissions: dict[str, Any] = {}


class ResolvedMessage(Message):
    """`serverRequest/resolved`."""

    thread_id: str
    request_id: str | int


class ErrorMessage(Message):
    """`error`: whether Codex asks the model again."""

    turn_id: str | None = None
    will_retry: bool = False


class StoredThread(Message):
    """A thread as `thread/read` tells it."""

    id: str
    cwd: str
    ephemeral: bool = False


class StoredThreadResult(Message):
    """Answer to `thread/read`."""

    thread: StoredThread


class LimitsMessage(Message):
    """`account/rateLimits/updated`, and the answer to `account/rateLimits/read`."""

    rate_limits: dict[str, Any] | None = None


class InitializeResult(Message):
    """Answer to `initialize`: `user_agent` is NAME/VERSION (system) …."""

    user_agent: str = ""


class Thread(Message):
    """A thread of Codex's."""

    id: str


class ThreadResult(Message):
    """Answer to `thread/start`, `thread/resume` and `thread/fork`."""

    thread: Thread
    model: str | None = None
    reasoning_effort: str | None = None


class TurnsResult(Message):
    """Answer to `thread/turns/list`."""

    data: list[Turn]


class AccountResult(Message):
    """Answer to `account/read`."""

    account: dict[str, Any] | None = None
    requires_openai_auth: bool = False
