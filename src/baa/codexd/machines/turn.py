"""A turn: the table of what may follow what, and the part of a turn that decisions need."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final, NamedTuple

from msgspec import Struct

from baa.api.sessions import InputPart, TurnRequest, TurnStatus
from baa.codexd.machines import Impossible


class TurnChange(StrEnum):
    """What can happen to a turn."""

    HANDED = "handed"  # written for Codex, in the same commit as its line
    RETURNED = "returned"  # handed, but the child died before the keeper took the line
    NAMED = "named"  # Codex gave it an id
    COMPLETED = "completed"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    EXPIRED = "expired"
    LOST = "lost"


TURN_TABLE: Final[dict[TurnStatus, dict[TurnChange, TurnStatus]]] = {
    TurnStatus.QUEUED: {
        TurnChange.HANDED: TurnStatus.ACCEPTED,
        TurnChange.FAILED: TurnStatus.FAILED,
        TurnChange.INTERRUPTED: TurnStatus.INTERRUPTED,
        TurnChange.EXPIRED: TurnStatus.EXPIRED,
        TurnChange.LOST: TurnStatus.LOST,
    },
    TurnStatus.ACCEPTED: {
        TurnChange.RETURNED: TurnStatus.QUEUED,
        TurnChange.NAMED: TurnStatus.IN_PROGRESS,
        TurnChange.FAILED: TurnStatus.FAILED,
        TurnChange.INTERRUPTED: TurnStatus.INTERRUPTED,
        TurnChange.LOST: TurnStatus.LOST,
    },
    TurnStatus.IN_PROGRESS: {
        TurnChange.COMPLETED: TurnStatus.COMPLETED,
        TurnChange.FAILED: TurnStatus.FAILED,
        TurnChange.INTERRUPTED: TurnStatus.INTERRUPTED,
        TurnChange.EXPIRED: TurnStatus.EXPIRED,
        TurnChange.LOST: TurnStatus.LOST,
    },
    TurnStatus.COMPLETED: {},
    TurnStatus.FAILED: {},
    TurnStatus.INTERRUPTED: {},
    TurnStatus.EXPIRED: {},
    TurnStatus.LOST: {},
}


class Item(NamedTuple):
    """An item that started and did not end."""

    item_id: str
    kind: str


class StopWish(Struct, frozen=True):
    """Why a turn is to be ended, and as what: `change` is INTERRUPTED or EXPIRED."""

    change: TurnChange
    reason: str


class Said(Struct, frozen=True):
    """Codex's word that it interrupted the turn. What the turn left running is looked for before we say so too."""

    error: dict[str, Any] | None = None
    emitted_at: str | None = None


class Steer(Struct, frozen=True):
    """Input for the running turn that Codex has not confirmed. `sent`: its line is in the outbox."""

    steer_id: str
    input: tuple[InputPart, ...]
    idempotency_key: str | None = None
    body_hash: str | None = None
    sent: bool = False


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn that has not ended.

    `generation` is the child it was handed to (0 = none yet). `open_items` started and did not end, `done_items` are
    Codex's ids of those that completed. `unresolved` is the generation whose death left its end unknown (0 = its end is
    not in doubt), and `keeper_died` whether the spool's last bytes went with it. `stop`: it is to be ended. `said`:
    Codex interrupted it; `cleaning_in` is the generation that was then asked to end what it left, and `looking` whether
    this codexd looks for what is still there. `doubted`: Codex did not answer in time, and its history is asked.
    `final_text` is the last message, kept only for an output schema.
    """

    turn_id: str
    request: TurnRequest
    status: TurnStatus = TurnStatus.QUEUED
    codex_turn_id: str | None = None
    generation: int = 0
    open_items: tuple[Item, ...] = ()
    done_items: tuple[str, ...] = ()
    unresolved: int = 0
    keeper_died: bool = False
    stop: StopWish | None = None
    said: Said | None = None
    cleaning_in: int = 0
    looking: bool = False
    doubted: bool = False
    steers: tuple[Steer, ...] = ()
    final_text: str | None = None

    def change(self, change: TurnChange) -> Turn:
        """The turn after `change`. Raises Impossible if its table does not list it."""
        status = TURN_TABLE[self.status].get(change)
        if status is None:
            raise Impossible(f"turn {self.turn_id}: {change} in {self.status}")
        return replace(self, status=status)
