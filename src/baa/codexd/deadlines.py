"""How long Codex may take for each thing that is asked of it. What follows then is decided in machines/overdue.py.

The times count from the moment in which the keeper is given the line, and anew in a codexd that comes back: it has what
was written meanwhile to read first, and no time that it was away is Codex's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from baa.api.sessions import TurnStatus
from baa.codexd.machines import inputs as i
from baa.codexd.machines.inputs import TimerKind
from baa.codexd.machines.session import Session


class Due(NamedTuple):
    """An answer that is waited for: at most `after_ms`. `asked`: the word for it in the request's id."""

    kind: TimerKind
    after_ms: int
    asked: tuple[str, ...]


OPEN: Final = Due(TimerKind.OPENING, 60_000, ("open", "resume", "fork"))
"""thread/start, /resume, /fork: 10 ms are usual; 64 at once took 10 s, and servers of MCP may have to start."""

BEGIN: Final = Due(TimerKind.BEGINNING, 60_000, ("start",))
"""turn/start until turn/started: 20 ms are usual, whatever the model does."""

STOP: Final = Due(TimerKind.STOPPING, 30_000, ("interrupt",))
"""turn/interrupt until turn/completed: 20 ms are usual, whatever the turn does."""

CLEAN: Final = Due(TimerKind.CLEANING, 10_000, ("clean",))
"""thread/backgroundTerminals/clean: 30 ms are usual. What it leaves is looked for in any case."""

TELL: Final = Due(TimerKind.TELLING, 30_000, ("history",))
"""thread/turns/list: 10 ms are usual, some hundred for a long thread."""

DUE: Final = {due.kind: due for due in (OPEN, BEGIN, STOP, CLEAN, TELL)}


def due_of(effect: i.LineEffect) -> tuple[str, Due] | None:
    """Whose answer is waited for once this was asked, and how long; None if nobody waits."""
    match effect:
        case i.OpenThread():
            return effect.session_id, OPEN
        case i.HandTurn():
            return effect.turn_id, BEGIN
        case i.InterruptTurn():
            return effect.turn_id, STOP
        case i.CleanTerminals(answered=True):
            return effect.turn_id, CLEAN
        case i.ReadHistory():
            return effect.session_id, TELL
    return None


def still_due(session: Session) -> Iterator[tuple[str, Due]]:
    """What is waited for in a session as boot restored it."""
    if session.opening_in:
        yield session.session_id, OPEN
    if session.asking_in:
        yield session.session_id, TELL
    turn = session.running
    if turn is None or turn.unresolved:
        return
    if turn.status is TurnStatus.ACCEPTED:
        yield turn.turn_id, BEGIN
    elif turn.said is not None:
        yield turn.turn_id, CLEAN
    elif turn.stop is not None:
        yield turn.turn_id, STOP
