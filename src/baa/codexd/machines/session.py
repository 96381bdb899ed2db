"""A session: its thread, and the turns of it that have not ended. Only the first of them is ever with Codex.

A thread is opened by the first turn that needs it, once per generation of the child. A turn whose end is unknown after
its child's death stays as it is until the next child has been asked; nothing is ever handed over twice unless the
keeper never took the line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from msgspec import Struct

from baa.api import events as e
from baa.api.events import EventType
from baa.api.sessions import SessionSettings, TurnStatus
from baa.codexd.machines import inputs as i
from baa.codexd.machines.child import Child
from baa.codexd.machines.inputs import Effect, Input, NewEvent
from baa.codexd.machines.turn import Turn, TurnChange


@dataclass(frozen=True, slots=True)
class Session:
    """A session as decisions see it.

    `loaded_in` is the generation of the child that has the thread in memory, `opening_in` the one that was asked to.
    `resumable`: a turn has run in the thread, so Codex has it on disk. `asking_in`: the generation that was asked what
    became of a turn.
    """

    session_id: str
    settings: SessionSettings
    thread_id: str | None = None
    resumable: bool = False
    loaded_in: int = 0
    opening_in: int = 0
    asking_in: int = 0
    turns: tuple[Turn, ...] = ()

    @property
    def running(self) -> Turn | None:
        """The turn that is with Codex, if any."""
        if self.turns and self.turns[0].status is not TurnStatus.QUEUED:
            return self.turns[0]
        return None


class Step(Struct, frozen=True):
    """What an input led to."""

    session: Session
    events: tuple[NewEvent, ...] = ()
    effects: tuple[Effect, ...] = ()


def step(session: Session, given: Input, child: Child) -> Step:
    """What `given` does to `session` while `child` stands as it does."""
    return _HANDLERS[type(given)](session, given, child)


def _requested(session: Session, given: i.TurnRequested, child: Child) -> Step:
    payload = e.TurnQueued(request=given.request, idempotency_key=given.idempotency_key, body_hash=given.body_hash)
    queued = NewEvent(EventType.TURN_QUEUED, session.session_id, given.turn_id, payload)
    session = replace(session, turns=(*session.turns, Turn(given.turn_id, given.request)))
    return _then_advance(Step(session, (queued,)), child)


def _child_ready(session: Session, _: i.ChildBecameReady, child: Child) -> Step:
    return _then_advance(Step(session), child)


def _child_died(session: Session, given: i.ChildDied, child: Child) -> Step:
    running = session.running
    if running is None or running.generation != given.generation or running.unresolved:
        return Step(session)
    if running.status is TurnStatus.ACCEPTED and given.taken is False:
        returned = replace(running.change(TurnChange.RETURNED), generation=0)
        again = NewEvent(EventType.TURN_QUEUED, session.session_id, running.turn_id, e.TurnQueued(requeued=True))
        return _then_advance(Step(_with_running(session, returned), (again,)), child)
    doubtful = replace(running, unresolved=given.generation, keeper_died=given.keeper_died)
    return _then_advance(Step(_with_running(session, doubtful)), child)


def _no_child_to_ask(session: Session, given: i.NoChildToAsk, child: Child) -> Step:
    running = session.running
    if running is None or not running.unresolved:
        return Step(session)
    return _end_untold(session, running, child, {"history": f"not asked: {given.why}"})


def _stop_turn(session: Session, _: i.StopTurn, child: Child) -> Step:
    running = session.running
    if running is None or session.thread_id is None or running.unresolved:
        return Step(session)
    stopping = _with_running(session, replace(running, told_to_stop=True))
    if running.codex_turn_id is None:  # Codex can be asked only by its own name for the turn: see _named
        return Step(stopping)
    return Step(stopping, (), (i.InterruptTurn(running.turn_id, session.thread_id, running.codex_turn_id),))


def _ended_by_us(session: Session, _: i.ChildEndedByUs, child: Child) -> Step:
    running = session.running
    if running is None or running.unresolved:  # one in doubt is asked about when there is a child again
        return Step(session)
    return _end(session, running, TurnChange.INTERRUPTED, child, reason="daemon_stopped")


def _log_went_back(session: Session, given: i.LogWentBack, _: Child) -> Step:
    """Every turn is lost: one that was still queued when the copy was made may have run since, and must not again."""
    evidence = {"log": given.why}
    done = Step(session)
    for turn in session.turns:
        # No child follows what is ended here: this one's keeper holds more than the log knows.
        ended = _end(done.session, turn, TurnChange.LOST, Child(), reason="log_went_back", evidence=evidence)
        done = Step(ended.session, done.events + ended.events)
    return done


def _thread_opened(session: Session, given: i.ThreadOpened, child: Child) -> Step:
    if session.opening_in != given.generation:
        return Step(session, (), (i.Count("late_thread"),))
    same = given.thread_id == session.thread_id
    session = replace(
        session,
        thread_id=given.thread_id,
        resumable=session.resumable and same,
        loaded_in=given.generation,
        opening_in=0,
    )
    payload = e.SessionLoaded(
        thread_id=given.thread_id, generation=given.generation, fresh=given.fresh, model=given.model
    )
    loaded = NewEvent(EventType.SESSION_LOADED, session.session_id, None, payload)
    return _then_advance(Step(session, (loaded,)), child)


def _thread_refused(session: Session, given: i.ThreadRefused, child: Child) -> Step:
    if session.opening_in == 0:
        return Step(session, (), (i.Count("late_thread"),))
    session = replace(session, opening_in=0)
    if not session.turns or session.running is not None:
        return Step(session, (), (i.Count("late_thread"),))
    return _end(session, session.turns[0], TurnChange.FAILED, child, reason="thread_refused", error=given.error)


def _named(session: Session, given: i.TurnNamed, child: Child) -> Step:
    running = session.running
    if running is None or (given.turn_id is not None and given.turn_id != running.turn_id):
        return Step(session, (), (i.Count("late_turn"),))
    if running.status is not TurnStatus.ACCEPTED:  # the answer and the notification both name it: the second one
        return Step(session)
    named = replace(running.change(TurnChange.NAMED), codex_turn_id=given.codex_turn_id)
    payload = e.TurnStarted(codex_turn_id=given.codex_turn_id, emitted_at=given.emitted_at)
    started = NewEvent(EventType.TURN_STARTED, session.session_id, running.turn_id, payload)
    session = replace(_with_running(session, named), resumable=True)
    if not running.told_to_stop or running.unresolved or session.thread_id is None:
        return Step(session, (started,))
    return Step(session, (started,), (i.InterruptTurn(running.turn_id, session.thread_id, given.codex_turn_id),))


def _turn_refused(session: Session, given: i.TurnRefused, child: Child) -> Step:
    running = session.running
    if running is None or running.turn_id != given.turn_id or running.status is not TurnStatus.ACCEPTED:
        return Step(session, (), (i.Count("late_turn"),))
    return _end(session, running, TurnChange.FAILED, child, reason="refused_by_codex", error=given.error)


_ENDS: Final = {
    i.TurnEnd.COMPLETED: TurnChange.COMPLETED,
    i.TurnEnd.FAILED: TurnChange.FAILED,
    i.TurnEnd.INTERRUPTED: TurnChange.INTERRUPTED,
}


def _finished(session: Session, given: i.TurnFinished, child: Child) -> Step:
    running = _turn_of(session, given.codex_turn_id)
    if running is None:
        return Step(session, (), (i.Count("late_turn_end"),))
    ours = running.told_to_stop and given.end is i.TurnEnd.INTERRUPTED
    reason = "daemon_stopped" if ours else None
    return _end(
        session, running, _ENDS[given.end], child, reason=reason, error=given.error, emitted_at=given.emitted_at
    )


def _item_began(session: Session, given: i.ItemBegan, child: Child) -> Step:
    running = _turn_of(session, given.codex_turn_id)
    if running is None:
        return Step(session, (), (i.Count("item_of_no_turn"),))
    if given.item_id not in running.open_items:
        done = tuple(item for item in running.done_items if item != given.item_id)
        begun = replace(running, open_items=(*running.open_items, given.item_id), done_items=done)
        session = _with_running(session, begun)
    payload = e.ItemStarted(item_id=given.item_id, kind=given.kind, item=given.item, emitted_at=given.emitted_at)
    return Step(session, (NewEvent(EventType.ITEM_STARTED, session.session_id, running.turn_id, payload),))


def _item_grew(session: Session, given: i.ItemGrew, child: Child) -> Step:
    running = _turn_of(session, given.codex_turn_id)
    if running is None:
        return Step(session, (), (i.Count("item_of_no_turn"),))
    payload = e.ItemDelta(item_id=given.item_id, stream=given.stream, delta=given.delta, emitted_at=given.emitted_at)
    return Step(session, (NewEvent(EventType.ITEM_DELTA, session.session_id, running.turn_id, payload),))


def _item_finished(session: Session, given: i.ItemFinished, child: Child) -> Step:
    running = _turn_of(session, given.codex_turn_id)
    if running is None:
        return Step(session, (), (i.Count("item_of_no_turn"),))
    left = tuple(item for item in running.open_items if item != given.item_id)
    done = (*(item for item in running.done_items if item != given.item_id), given.item_id)
    session = _with_running(session, replace(running, open_items=left, done_items=done))
    payload = e.ItemStarted(item_id=given.item_id, kind=given.kind, item=given.item, emitted_at=given.emitted_at)
    return Step(session, (NewEvent(EventType.ITEM_COMPLETED, session.session_id, running.turn_id, payload),))


def _updated(session: Session, given: i.Updated, child: Child) -> Step:
    running = _turn_of(session, given.codex_turn_id)
    if running is None:
        return Step(session, (), (i.Count("update_of_no_turn"),))
    payload = e.Updated(update=given.update, emitted_at=given.emitted_at)
    return Step(session, (NewEvent(given.type, session.session_id, running.turn_id, payload),))


def _noted(session: Session, given: i.Noted, child: Child) -> Step:
    running = session.running
    payload = e.Notification(
        method=given.method, params=given.params, answered=given.answered, emitted_at=given.emitted_at
    )
    turn_id = running.turn_id if running is not None else None
    return Step(session, (NewEvent(given.type, session.session_id, turn_id, payload),))


def _history_read(session: Session, given: i.HistoryRead, child: Child) -> Step:
    session = replace(session, asking_in=0)
    running = session.running
    if running is None or not running.unresolved:
        return Step(session, (), (i.Count("late_history"),))
    found = next((turn for turn in given.turns or () if _is_ours(turn, running)), None)
    if found is None:
        said = given.error if given.turns is None else "the turn is not in it"
        return _end_untold(session, running, child, {"history": said})
    # One that was never named ran all the same, and its thread is on disk with it.
    named = _named(session, i.TurnNamed(found.codex_turn_id, running.turn_id, None), child)
    ended = _as_found(named.session, found, child)
    return Step(ended.session, named.events + ended.events, ended.effects)


def _as_found(session: Session, found: i.FoundTurn, child: Child) -> Step:
    """End the running turn as Codex's history tells it."""
    running = session.running
    assert running is not None
    evidence = {"history": found.end or "in progress", "generation": running.unresolved}
    if found.end is None or found.end is i.TurnEnd.INTERRUPTED:
        return _end(session, running, TurnChange.INTERRUPTED, child, reason="child_exited", evidence=evidence)
    recovered = _recover(session, running, found, child)
    assert recovered.session.running is not None
    ended = _end(
        recovered.session, recovered.session.running, _ENDS[found.end], child, error=found.error, evidence=evidence
    )
    return Step(ended.session, recovered.events + ended.events, ended.effects)


def _recover(session: Session, running: Turn, found: i.FoundTurn, child: Child) -> Step:
    """The items that Codex's history has and our log has not: the child wrote them, and they died with its keeper."""
    done = Step(_with_running(session, replace(running, codex_turn_id=found.codex_turn_id)))
    for item_id, kind, item in found.items:
        if item_id in running.done_items:
            continue
        began = _item_began(done.session, i.ItemBegan(found.codex_turn_id, item_id, kind, item, None), child)
        events = done.events if item_id in running.open_items else done.events + began.events
        ended = _item_finished(began.session, i.ItemFinished(found.codex_turn_id, item_id, kind, item, None), child)
        done = Step(ended.session, events + ended.events)
    return done


def _is_ours(found: i.FoundTurn, turn: Turn) -> bool:
    return found.client_id == turn.turn_id or (found.codex_turn_id == turn.codex_turn_id is not None)


def _end_untold(session: Session, running: Turn, child: Child, evidence: dict[str, Any]) -> Step:
    """End a turn of which Codex's history cannot tell: the spool decides, unless it went with the keeper."""
    evidence = {"generation": running.unresolved, **evidence}
    if running.keeper_died:
        return _end(session, running, TurnChange.LOST, child, reason="keeper_died", evidence=evidence)
    return _end(session, running, TurnChange.INTERRUPTED, child, reason="child_exited", evidence=evidence)


_EVENT_OF: Final = {
    TurnChange.COMPLETED: EventType.TURN_COMPLETED,
    TurnChange.FAILED: EventType.TURN_FAILED,
    TurnChange.INTERRUPTED: EventType.TURN_INTERRUPTED,
    TurnChange.LOST: EventType.TURN_LOST,
}


def _end(
    session: Session,
    turn: Turn,
    change: TurnChange,
    child: Child,
    *,
    reason: str | None = None,
    error: dict[str, Any] | None = None,
    evidence: dict[str, Any] | None = None,
    emitted_at: str | None = None,
) -> Step:
    """The turn's end: what it left open is abandoned first, and the next turn of the session follows."""
    turn.change(change)
    abandoned = tuple(
        NewEvent(EventType.ITEM_ABANDONED, session.session_id, turn.turn_id, e.ItemAbandoned(item_id=item_id))
        for item_id in turn.open_items
    )
    payload = e.TurnEnded(reason=reason, error=error, evidence=evidence or {}, emitted_at=emitted_at)
    ended = NewEvent(_EVENT_OF[change], session.session_id, turn.turn_id, payload)
    left = tuple(other for other in session.turns if other.turn_id != turn.turn_id)
    return _then_advance(Step(replace(session, turns=left), (*abandoned, ended)), child)


def _then_advance(done: Step, child: Child) -> Step:
    """Add what the session can do next: ask about a turn in doubt, open its thread, hand over its first turn."""
    session = done.session
    if not child.ready or not session.turns:
        return done
    first = session.turns[0]
    if first.unresolved:
        if session.asking_in == child.generation or session.thread_id is None:
            return done
        ask = i.ReadHistory(session.session_id, session.thread_id)
        return Step(replace(session, asking_in=child.generation), done.events, (*done.effects, ask))
    if first.status is not TurnStatus.QUEUED:
        return done
    if session.loaded_in != child.generation or session.thread_id is None:
        if session.opening_in == child.generation:
            return done
        resume = session.thread_id if session.resumable else None
        opening = i.OpenThread(session.session_id, resume, session.settings)
        return Step(replace(session, opening_in=child.generation), done.events, (*done.effects, opening))
    handed = replace(first.change(TurnChange.HANDED), generation=child.generation)
    payload = e.TurnAccepted(generation=child.generation)
    accepted = NewEvent(EventType.TURN_ACCEPTED, session.session_id, first.turn_id, payload)
    hand = i.HandTurn(first.turn_id, session.thread_id, first.request)
    return Step(_with_running(session, handed), (*done.events, accepted), (*done.effects, hand))


def _turn_of(session: Session, codex_turn_id: str) -> Turn | None:
    """The turn with Codex, if it is this one and its child is not dead."""
    running = session.running
    return running if running is not None and running.codex_turn_id == codex_turn_id else None


def _with_running(session: Session, turn: Turn) -> Session:
    return replace(session, turns=(turn, *session.turns[1:]))


_Given = TypeVar("_Given")
_Handler = Callable[[Session, _Given, Child], Step]

_HANDLERS: Final[dict[type, _Handler[Any]]] = {
    i.TurnRequested: _requested,
    i.ChildBecameReady: _child_ready,
    i.ChildDied: _child_died,
    i.NoChildToAsk: _no_child_to_ask,
    i.StopTurn: _stop_turn,
    i.ChildEndedByUs: _ended_by_us,
    i.LogWentBack: _log_went_back,
    i.ThreadOpened: _thread_opened,
    i.ThreadRefused: _thread_refused,
    i.TurnNamed: _named,
    i.TurnRefused: _turn_refused,
    i.TurnFinished: _finished,
    i.ItemBegan: _item_began,
    i.ItemGrew: _item_grew,
    i.ItemFinished: _item_finished,
    i.Updated: _updated,
    i.Noted: _noted,
    i.HistoryRead: _history_read,
}
