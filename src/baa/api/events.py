"""What the event log holds and what every reader of it gets: the same bytes, in the same order.

A payload's type is given here for each event type; the tables of codexd are made from these payloads and from nothing
else, so whatever a table says stands in an event.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final, dataclass_transform

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from baa.api.errors import Code, Rejected
from baa.api.interactions import AnswerInteraction, InteractionKind, ResolvedBy
from baa.api.sessions import Fork, InputPart, Origin, SessionSettings, TurnRequest


class EventType(StrEnum):
    """Every type of event; past tense, because an event is a committed fact."""

    DAEMON_STARTED = "daemon.started"
    DAEMON_STOPPING = "daemon.stopping"
    DAEMON_DRAINING = "daemon.draining"
    CHILD_STARTED = "child.started"
    CHILD_READY = "child.ready"
    CHILD_ADOPTED = "child.adopted"
    CHILD_EXITED = "child.exited"
    CHILD_BACKOFF = "child.backoff"
    CHILD_CRASH_LOOP = "child.crash_loop"
    SESSION_REGISTERED = "session.registered"
    SESSION_LOADED = "session.loaded"
    SESSION_CLOSED = "session.closed"
    TURN_QUEUED = "turn.queued"
    TURN_ACCEPTED = "turn.accepted"
    TURN_STARTED = "turn.started"
    TURN_STEERED = "turn.steered"
    TURN_COMPLETED = "turn.completed"
    TURN_FAILED = "turn.failed"
    TURN_INTERRUPTED = "turn.interrupted"
    TURN_EXPIRED = "turn.expired"
    TURN_LOST = "turn.lost"
    ITEM_STARTED = "item.started"
    ITEM_DELTA = "item.delta"
    ITEM_COMPLETED = "item.completed"
    ITEM_ABANDONED = "item.abandoned"
    INTERACTION_REQUESTED = "interaction.requested"
    INTERACTION_RESOLVED = "interaction.resolved"
    INTERACTION_EXPIRED = "interaction.expired"
    USAGE_UPDATED = "usage.updated"
    PLAN_UPDATED = "plan.updated"
    DIFF_UPDATED = "diff.updated"
    CODEX_WARNING = "codex.warning"
    CODEX_NOTIFICATION = "codex.notification"


TURN_ENDS: Final = frozenset(
    {
        EventType.TURN_COMPLETED,
        EventType.TURN_FAILED,
        EventType.TURN_INTERRUPTED,
        EventType.TURN_EXPIRED,
        EventType.TURN_LOST,
    }
)
"""The events that end a turn; each turn has exactly one of them."""


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class Payload(Struct, rename="camel", omit_defaults=True, kw_only=True, frozen=True):
    """Base of the payloads below. `emitted_at` is the child's own time where the fact came from the child."""

    emitted_at: str | None = None


class Daemon(Payload):
    """`daemon.*`. `handover`: it stops alone, and its child and their turns go on."""

    daemon_id: str
    pid: int
    version: str
    handover: bool = False


class Child(Payload):
    """`child.*`: what is known of the child at that moment. `stderr_tail` is the end of what it said on stderr."""

    generation: int
    pid: int | None = None
    codex_version: str | None = None
    reason: str | None = None
    code: int | None = None
    signal: int | None = None
    uptime_ms: int | None = None
    stderr_tail: str | None = None
    bytes_discarded: int | None = None
    failures: int | None = None
    delay_ms: int | None = None


class SessionRegistered(Payload):
    """`session.registered`: the session exists, as it was asked for.

    `thread_id`: it adopted a stored thread. `forked_from`: it begins with the history of another session.
    """

    settings: SessionSettings
    thread_id: str | None = None
    forked_from: Fork | None = None


class SessionLoaded(Payload):
    """`session.loaded`: Codex has the thread in memory. `fresh` = a new thread, not one resumed."""

    thread_id: str
    generation: int
    fresh: bool
    model: str | None = None
    effort: str | None = None


class SessionClosed(Payload):
    """`session.closed`: it takes no more turns. `reason`: `requested`, or `thread_gone` for an ephemeral one."""

    reason: str


class TurnQueued(Payload):
    """`turn.queued`: accepted by us and durable. `requeued` = handed over once, but the child never got it."""

    request: TurnRequest | None = None
    origin: Origin = Origin.API
    requeued: bool = False
    idempotency_key: str | None = None
    body_hash: str | None = None


class TurnAccepted(Payload):
    """`turn.accepted`: on its way to Codex, in this generation of the child."""

    generation: int


class TurnStarted(Payload):
    """`turn.started`: Codex named it."""

    codex_turn_id: str


class TurnSteered(Payload):
    """`turn.steered`: Codex took more input for the running turn."""

    input: tuple[InputPart, ...]
    idempotency_key: str | None = None
    body_hash: str | None = None


class TurnEnded(Payload):
    """`turn.completed|failed|interrupted|expired|lost`: the one end of a turn, and how we know.

    `output` is the final message as JSON, where an output schema was given and kept.
    """

    reason: str | None = None
    error: dict[str, Any] | None = None
    evidence: dict[str, Any] = {}
    output: Raw | UnsetType = UNSET


class ItemStarted(Payload):
    """`item.started`, `item.completed`: `item` is Codex's own object, passed on whole.

    `agent_thread_id`: it is a sub-agent's, whose thread this is.
    """

    item_id: str
    kind: str
    item: Raw
    agent_thread_id: str | None = None


class ItemDelta(Payload):
    """`item.delta`: a piece of an item. `stream` tells which text it continues (text, output, reasoning, …)."""

    item_id: str
    stream: str
    delta: str


class ItemAbandoned(Payload):
    """`item.abandoned`: Codex will not finish this item; `text` is what it had said so far.

    `reason`: `retried` = Codex asks the model again, and a later item begins anew; null = its turn ended.
    """

    item_id: str
    text: str | None = None
    reason: str | None = None


class InteractionRequested(Payload):
    """`interaction.requested`: Codex waits for an answer, until `deadline_at`. `request` is Codex's own object."""

    interaction_id: str
    generation: int
    request_id: str | int
    kind: InteractionKind
    request: Raw
    decisions: list[Any]
    deadline_at: str
    item_id: str | None = None


class InteractionEnded(Payload):
    """`interaction.resolved`, `interaction.expired`: it is over. Without an `answer` nobody answered it."""

    interaction_id: str
    resolved_by: ResolvedBy
    answer: AnswerInteraction | None = None


class Updated(Payload):
    """`usage.updated`, `plan.updated`, `diff.updated`: Codex's object, passed on whole.

    `agent_thread_id`: it is a sub-agent's, whose thread this is.
    """

    update: Raw
    agent_thread_id: str | None = None


class Notification(Payload):
    """`codex.warning`, `codex.notification`: a message of Codex that is not modelled, passed on whole.

    `answered` tells what codexd answered, if the message was a request.
    """

    method: str
    params: Raw | UnsetType = UNSET
    answered: str | None = None


PAYLOADS: Final[dict[EventType, type[Payload]]] = {
    EventType.DAEMON_STARTED: Daemon,
    EventType.DAEMON_STOPPING: Daemon,
    EventType.DAEMON_DRAINING: Daemon,
    EventType.CHILD_STARTED: Child,
    EventType.CHILD_READY: Child,
    EventType.CHILD_ADOPTED: Child,
    EventType.CHILD_EXITED: Child,
    EventType.CHILD_BACKOFF: Child,
    EventType.CHILD_CRASH_LOOP: Child,
    EventType.SESSION_REGISTERED: SessionRegistered,
    EventType.SESSION_LOADED: SessionLoaded,
    EventType.SESSION_CLOSED: SessionClosed,
    EventType.TURN_QUEUED: TurnQueued,
    EventType.TURN_ACCEPTED: TurnAccepted,
    EventType.TURN_STARTED: TurnStarted,
    EventType.TURN_STEERED: TurnSteered,
    EventType.TURN_COMPLETED: TurnEnded,
    EventType.TURN_FAILED: TurnEnded,
    EventType.TURN_INTERRUPTED: TurnEnded,
    EventType.TURN_EXPIRED: TurnEnded,
    EventType.TURN_LOST: TurnEnded,
    EventType.ITEM_STARTED: ItemStarted,
    EventType.ITEM_DELTA: ItemDelta,
    EventType.ITEM_COMPLETED: ItemStarted,
    EventType.ITEM_ABANDONED: ItemAbandoned,
    EventType.INTERACTION_REQUESTED: InteractionRequested,
    EventType.INTERACTION_RESOLVED: InteractionEnded,
    EventType.INTERACTION_EXPIRED: InteractionEnded,
    EventType.USAGE_UPDATED: Updated,
    EventType.PLAN_UPDATED: Updated,
    EventType.DIFF_UPDATED: Updated,
    EventType.CODEX_WARNING: Notification,
    EventType.CODEX_NOTIFICATION: Notification,
}


class Event(Struct, rename="camel", frozen=True):
    """One committed event. `seq` counts all events of the daemon; `at` is the time of the commit."""

    seq: int
    at: str
    type: str
    session_id: str | None
    turn_id: str | None
    payload: dict[str, Any]


class Hello(Struct, tag="hello", tag_field="type", rename="camel", frozen=True):
    """First frame of the live stream: where the log stands and from where this reader will be served."""

    epoch: str
    head: str
    oldest: str
    after: str


class Events(Struct, tag="events", tag_field="type", rename="camel", frozen=True):
    """One or more events. A reader is whole as long as each `from` equals its last `next`."""

    from_: str = msgspec.field(name="from")
    next: str
    events: list[Event]


class Heartbeat(Struct, tag="heartbeat", tag_field="type", rename="camel", frozen=True):
    """Nothing new: the log's head, so that a quiet stream can be told from a dead one."""

    head: str


Frame = Hello | Events | Heartbeat


class Cursor(Struct, frozen=True):
    """A place in the log: all events up to `seq` are behind it. On the wire `epoch:seq`."""

    epoch: str
    seq: int

    def __str__(self) -> str:
        """The wire form."""
        return f"{self.epoch}:{self.seq}"


def parse_cursor(text: str, *, epoch: str, oldest: int, head: int) -> Cursor:
    """The cursor in `text`, checked against the log it is to be used on.

    `0` means the oldest event there is. `oldest` is the lowest seq still kept, `head` the highest.

    Raises Rejected: 422 `invalid_request` if it is no cursor, 410 `cursor_expired` if it is of another epoch or below
    the oldest event, 409 `cursor_ahead` if it is above the head.
    """
    if text == "0":
        return Cursor(epoch, oldest - 1)
    theirs, colon, digits = text.rpartition(":")
    if not colon or not theirs or not (digits.isascii() and digits.isdecimal()) or len(digits) > 18:
        raise Rejected(Code.INVALID_REQUEST, "The cursor must be 0 or EPOCH:SEQ, as an earlier answer gave it.")
    seq = int(digits)
    if theirs != epoch or seq < oldest - 1:
        raise expired(epoch=epoch, oldest=oldest, head=head)
    if seq > head:
        raise Rejected(
            Code.CURSOR_AHEAD,
            "The cursor is ahead of the log: it comes from another log, or was made up. Follow from `head`.",
            details=_where(epoch, oldest, head),
        )
    return Cursor(epoch, seq)


def expired(*, epoch: str, oldest: int, head: int) -> Rejected:
    """The 410 for a cursor of which the log no longer holds what follows it."""
    return Rejected(
        Code.CURSOR_EXPIRED,
        "The log no longer holds what follows this cursor: read the state anew, then follow from `head`.",
        details=_where(epoch, oldest, head),
    )


def _where(epoch: str, oldest: int, head: int) -> dict[str, str]:
    return {"oldest": f"{epoch}:{oldest - 1}", "head": f"{epoch}:{head}"}
