"""One input to one session: the place where each kind of input has its handler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from baa.codexd.machines import deaths, overdue, progress, requests
from baa.codexd.machines import inputs as i
from baa.codexd.machines.child import Child
from baa.codexd.machines.inputs import Input
from baa.codexd.machines.session import Session, Step


def step(session: Session, given: Input, child: Child) -> Step:
    """What `given` does to `session` while `child` stands as it does."""
    return _HANDLERS[type(given)](session, given, child)


_Given = TypeVar("_Given")
_Handler = Callable[[Session, _Given, Child], Step]

_HANDLERS: Final[dict[type, _Handler[Any]]] = {
    i.TurnRequested: requests.requested,
    i.OpenWanted: requests.open_wanted,
    i.SteerRequested: requests.steer_requested,
    i.SteerWithdrawn: requests.steer_withdrawn,
    i.StopTurn: requests.stop_turn,
    i.CloseRequested: requests.close_requested,
    i.InteractionAnswered: requests.answered,
    i.TimeUp: overdue.time_up,
    i.Asked: requests.asked,
    i.AskedNoMore: requests.asked_no_more,
    i.ChildBecameReady: deaths.child_ready,
    i.ChildDied: deaths.child_died,
    i.NoChildToAsk: deaths.no_child_to_ask,
    i.ChildEndedByUs: deaths.ended_by_us,
    i.LogWentBack: deaths.log_went_back,
    i.HistoryRead: overdue.history_read,
    i.ThreadOpened: progress.thread_opened,
    i.ThreadRefused: progress.thread_refused,
    i.TurnNamed: progress.named,
    i.TurnRefused: progress.turn_refused,
    i.TurnFinished: progress.finished,
    i.TurnSteered: progress.steered,
    i.TerminalsCleaned: progress.terminals_cleaned,
    i.LeftLooked: progress.left_looked,
    i.ItemBegan: progress.item_began,
    i.ItemGrew: progress.item_grew,
    i.ItemFinished: progress.item_finished,
    i.Updated: progress.updated,
    i.Noted: progress.noted,
    i.OfAgent: progress.of_agent,
}
