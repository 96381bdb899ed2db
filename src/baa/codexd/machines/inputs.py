"""What can happen to a session, and what it may ask to be done. Data only.

Inputs come from HTTP, from the child (already translated: nothing here knows a method name of Codex's) and from the
supervisor. Effects are carried out after the commit of the events they came with.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from msgspec import Raw, Struct, UnsetType

from baa.api.events import EventType, Payload
from baa.api.sessions import SessionSettings, TurnRequest


class NewEvent(Struct, frozen=True):
    """An event that is not committed yet: the log gives it its seq and time."""

    type: EventType
    session_id: str | None
    turn_id: str | None
    payload: Payload


# --- inputs: from HTTP


class TurnRequested(Struct, frozen=True):
    """A client wants a turn."""

    turn_id: str
    request: TurnRequest
    idempotency_key: str | None = None
    body_hash: str | None = None


# --- inputs: from the supervisor


class ChildBecameReady(Struct, frozen=True):
    """A child can take turns."""


class ChildDied(Struct, frozen=True):
    """The child of this generation is gone, and all that it wrote has been read.

    `taken` tells whether the keeper took the line that handed over this session's turn; None = nobody can say, because
    the keeper died too (`keeper_died`).
    """

    generation: int
    taken: bool | None
    keeper_died: bool


class NoChildToAsk(Struct, frozen=True):
    """No child will be there soon to ask about a turn whose end is in doubt."""

    why: str


class StopTurn(Struct, frozen=True):
    """codexd stops: ask Codex to end the running turn."""


class ChildEndedByUs(Struct, frozen=True):
    """codexd ended the child: what still ran was interrupted by that."""


class LogWentBack(Struct, frozen=True):
    """The log is older than the keeper's spool: what happened since its copy was made cannot be told."""

    why: str


# --- inputs: from the child


class ThreadOpened(Struct, frozen=True):
    """Codex has the session's thread in memory."""

    generation: int
    thread_id: str
    fresh: bool
    model: str | None


class ThreadRefused(Struct, frozen=True):
    """Codex will not open the session's thread."""

    error: dict[str, Any]


class TurnNamed(Struct, frozen=True):
    """Codex has begun the turn and named it. `turn_id` is ours if the message was the answer to our request."""

    codex_turn_id: str
    turn_id: str | None
    emitted_at: str | None


class TurnRefused(Struct, frozen=True):
    """Codex answered the hand-over of a turn with an error."""

    turn_id: str
    error: dict[str, Any]


class TurnEnd(StrEnum):
    """How Codex says that a turn ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


class TurnFinished(Struct, frozen=True):
    """Codex says that a turn ended."""

    codex_turn_id: str
    end: TurnEnd
    error: dict[str, Any] | None
    emitted_at: str | None


class ItemBegan(Struct, frozen=True):
    """An item started."""

    codex_turn_id: str
    item_id: str
    kind: str
    item: Raw
    emitted_at: str | None


class ItemGrew(Struct, frozen=True):
    """A piece of an item."""

    codex_turn_id: str
    item_id: str
    stream: str
    delta: str
    emitted_at: str | None


class ItemFinished(Struct, frozen=True):
    """An item is complete."""

    codex_turn_id: str
    item_id: str
    kind: str
    item: Raw
    emitted_at: str | None


class Updated(Struct, frozen=True):
    """Usage, plan or diff of a turn changed: `type` says which."""

    codex_turn_id: str
    type: EventType
    update: Raw
    emitted_at: str | None


class Noted(Struct, frozen=True):
    """A message of Codex about this session that is passed on whole."""

    type: EventType
    method: str
    params: Raw | UnsetType
    emitted_at: str | None
    answered: str | None = None


class FoundTurn(Struct, frozen=True):
    """A turn as Codex's own history tells it. `client_id` is the turn id that we gave with its input."""

    codex_turn_id: str
    client_id: str | None
    end: TurnEnd | None
    error: dict[str, Any] | None
    items: tuple[tuple[str, str, Raw], ...]


class HistoryRead(Struct, frozen=True):
    """Codex's history of the thread, newest first; None = Codex has none."""

    turns: tuple[FoundTurn, ...] | None
    error: dict[str, Any] | None = None


Input = (
    TurnRequested
    | ChildBecameReady
    | ChildDied
    | NoChildToAsk
    | StopTurn
    | ChildEndedByUs
    | LogWentBack
    | ThreadOpened
    | ThreadRefused
    | TurnNamed
    | TurnRefused
    | TurnFinished
    | ItemBegan
    | ItemGrew
    | ItemFinished
    | Updated
    | Noted
    | HistoryRead
)


# --- effects


class OpenThread(Struct, frozen=True):
    """Ask Codex to open the session's thread: `thread_id` to resume it, None for a new one."""

    session_id: str
    thread_id: str | None
    settings: SessionSettings


class HandTurn(Struct, frozen=True):
    """Hand the turn to Codex."""

    turn_id: str
    thread_id: str
    request: TurnRequest


class InterruptTurn(Struct, frozen=True):
    """Ask Codex to end the turn."""

    turn_id: str
    thread_id: str
    codex_turn_id: str


class ReadHistory(Struct, frozen=True):
    """Ask Codex what became of the thread's last turns."""

    session_id: str
    thread_id: str


class Count(Struct, frozen=True):
    """Count a message that came too late, twice, or for nobody."""

    what: str


Effect = OpenThread | HandTurn | InterruptTurn | ReadHistory | Count
