"""A witness of events: follows them one by one, in the order of the log, and objects to what must never happen."""

from __future__ import annotations

from dataclasses import dataclass, field

from baa.api.events import TURN_ENDS, EventType
from baa.api.sessions import TURN_ENDED, TurnStatus

ITEM_ENDS = frozenset({EventType.ITEM_COMPLETED, EventType.ITEM_ABANDONED})
OF_TURN = frozenset({EventType.ITEM_STARTED, EventType.ITEM_DELTA, *ITEM_ENDS})


@dataclass
class Witness:
    """What the events so far say of each turn. `queues` holds the open turns of each session, in their order."""

    statuses: dict[str, TurnStatus] = field(default_factory=dict)
    queues: dict[str, list[str]] = field(default_factory=dict)
    items: dict[str, set[str]] = field(default_factory=dict)

    def see(
        self,
        type_: EventType,
        session_id: str | None,
        turn_id: str | None,
        *,
        item_id: str = "",
        requeued: bool = False,
        own: bool = False,
    ) -> None:
        """Take one event; `own`: its turn is one that Codex began. Raises AssertionError if it cannot follow."""
        if turn_id is None or session_id is None:
            assert not type_.startswith(("turn.", "item.")), type_
            return
        queue = self.queues.setdefault(session_id, [])
        if type_.startswith("turn."):
            self._turn(type_, turn_id, queue, requeued, own)
        elif type_ in OF_TURN:
            self._item(type_, turn_id, item_id)

    def _turn(self, type_: EventType, turn_id: str, queue: list[str], requeued: bool, own: bool) -> None:
        before = self.statuses.get(turn_id)
        match type_:
            case EventType.TURN_QUEUED if requeued:
                assert before is TurnStatus.ACCEPTED, f"{turn_id} went back from {before}"
                after = TurnStatus.QUEUED
            case EventType.TURN_QUEUED:
                assert before is None, f"{turn_id} was queued twice"
                queue.insert(0 if own else len(queue), turn_id)
                self.items[turn_id] = set()
                after = TurnStatus.QUEUED
            case EventType.TURN_ACCEPTED:
                assert before is TurnStatus.QUEUED, f"{turn_id} was accepted from {before}"
                assert queue[0] == turn_id, f"{turn_id} was handed over before its turn"
                after = TurnStatus.ACCEPTED
            case EventType.TURN_STARTED:
                assert before is TurnStatus.ACCEPTED, f"{turn_id} was named from {before}"
                after = TurnStatus.IN_PROGRESS
            case EventType.TURN_STEERED:
                assert before is TurnStatus.IN_PROGRESS, f"{turn_id} was steered in {before}"
                after = before
            case _:
                assert type_ in TURN_ENDS
                assert before is not None, f"{turn_id} ended before it was queued"
                assert before not in TURN_ENDED, f"{turn_id} ended twice"
                assert self.items[turn_id] == set(), f"{turn_id} ended with open items"
                queue.remove(turn_id)
                after = TurnStatus(type_.partition(".")[2])
        self.statuses[turn_id] = after

    def _item(self, type_: EventType, turn_id: str, item_id: str) -> None:
        assert self.statuses[turn_id] is TurnStatus.IN_PROGRESS, f"{type_} in {self.statuses[turn_id]}"
        if type_ is EventType.ITEM_STARTED:
            self.items[turn_id].add(item_id)
        elif type_ is EventType.ITEM_ABANDONED:
            self.items[turn_id].remove(item_id)
        elif type_ is EventType.ITEM_COMPLETED:
            self.items[turn_id].discard(item_id)
