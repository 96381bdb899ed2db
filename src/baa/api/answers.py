"""What the answers of codexd hold as `data`, each keyed by its noun. The status is `baa.api.status.Status` itself."""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from baa.api.events import Event
from baa.api.interactions import Interaction
from baa.api.sessions import Session, Turn
from baa.api.status import Backup, Handover


class Healthy(Struct, frozen=True, omit_defaults=True):
    """The main loop and the log's writer both moved of late. Asked with a nonce, only `proof` is told: one a scope."""

    status: Literal["ok"] | UnsetType = UNSET
    proof: dict[str, str] | UnsetType = UNSET


class BackupAnswer(Struct, frozen=True):
    """The backup, complete and verified."""

    backup: Backup


class HandoverAnswer(Struct, frozen=True):
    """What was announced."""

    handover: Handover


class SessionAnswer(Struct, frozen=True):
    """A session."""

    session: Session


class SessionPage(Struct, rename="camel", frozen=True):
    """Sessions, newest first. Without a `next_page_token` this is the last page."""

    sessions: list[Session]
    next_page_token: str | None


class TurnAnswer(Struct, frozen=True):
    """A turn."""

    turn: Turn


class TurnPage(Struct, rename="camel", frozen=True):
    """Turns without their items, newest first. Without a `next_page_token` this is the last page."""

    turns: list[Turn]
    next_page_token: str | None


class AcceptedTurn(Struct, frozen=True):
    """The turn, and the cursor before its first event. `steered`: it is the running one, which took the input."""

    turn: Turn
    cursor: str
    steered: Literal[True] | UnsetType = UNSET


class SteeredTurn(Struct, frozen=True):
    """The turn that took the input."""

    turn: Turn
    steered: Literal[True]


class Attachment(Struct, rename="camel", frozen=True):
    """What Codex's own terminal UI is let in with, once: at `socket`, as the bearer token of its handshake."""

    session_id: str
    thread_id: str
    socket: str
    ticket: str
    expires_at: str


class AttachmentAnswer(Struct, frozen=True):
    """A ticket."""

    attachment: Attachment


class InteractionAnswer(Struct, frozen=True):
    """An interaction as it ended."""

    interaction: Interaction


class EventPage(Struct, frozen=True):
    """Events, oldest first. `next` is where to go on, also past what was filtered out."""

    events: list[Event]
    next: str
