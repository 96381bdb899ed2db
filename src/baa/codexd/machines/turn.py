"""A turn: the table of what may follow what, and the part of a turn that decisions need."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from baa.api.sessions import TurnRequest, TurnStatus
from baa.codexd.machines import Impossible


class TurnChange(StrEnum):
    """What can happen to a turn."""

    HANDED = "handed"  # written for Codex, in the same commit as its line
    RETURNED = "returned"  # handed, but the child died before the keeper took the line
    NAMED = "named"  # Codex gave it an id
    COMPLETED = "completed"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    LOST = "lost"


TURN_TABLE: Final[dict[TurnStatus, dict[TurnChange, TurnStatus]]] = {
    TurnStatus.QUEUED: {
        TurnChange.HANDED: TurnStatus.ACCEPTED,
        TurnChange.FAILED: TurnStatus.FAILED,
        TurnChange.INTERRUPTED: TurnStatus.INTERRUPTED,
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
        TurnChange.LOST: TurnStatus.LOST,
    },
    TurnStatus.COMPLETED: {},
    TurnStatus.FAILED: {},
    TurnStatus.INTERRUPTED: {},
    TurnStatus.LOST: {},
}


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn that has not ended.

    `generation` is the child it was handed to (0 = none yet). `open_items` are Codex's ids of the items that started
    and did not end, `done_items` of those that completed. `unresolved` is the generation whose death left its end
    unknown (0 = its end is not in doubt), and `keeper_died` whether the spool's last bytes went with it.
    `told_to_stop`: codexd is stopping and wants it interrupted.
    """

    turn_id: str
    request: TurnRequest
    status: TurnStatus = TurnStatus.QUEUED
    codex_turn_id: str | None = None
    generation: int = 0
    open_items: tuple[str, ...] = ()
    done_items: tuple[str, ...] = ()
    unresolved: int = 0
    keeper_died: bool = False
    told_to_stop: bool = False

    def change(self, change: TurnChange) -> Turn:
        """The turn after `change`. Raises Impossible if its table does not list it."""
        status = TURN_TABLE[self.status].get(change)
        if status is None:
            raise Impossible(f"turn {self.turn_id}: {change} in {self.status}")
        return replace(self, status=status)
