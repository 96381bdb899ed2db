"""What the child's birth and death mean for a session: turns in doubt are asked about, and nothing is handed twice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from baa.api import events as e
from baa.api.events import EventType
from baa.api.interactions import ResolvedBy
from baa.api.sessions import TurnStatus
from baa.codexd.machines import inputs as i
from baa.codexd.machines.child import Child
from baa.codexd.machines.inputs import NewEvent
from baa.codexd.machines.progress import complete, end_as_said, item_began, item_finished
from baa.codexd.machines.requests import LEASE_OVER, stop_turn
from baa.codexd.machines.session import Session, Step, close, counted, end, then_advance, with_turn, withdraw
from baa.codexd.machines.turn import Turn, TurnChange


def child_ready(session: Session, _: i.ChildBecameReady, child: Child) -> Step:
    """There is a child to do things."""
    return then_advance(session, child)


def child_died(session: Session, given: i.ChildDied, child: Child) -> Step:
    """The child is gone. What is not known of its turn stays open until the next child was asked."""
    done = withdraw(session, ResolvedBy.CHILD_EXITED, generation=given.generation)
    idle = tuple(agent._replace(codex_turn_id=None) for agent in done.session.agents)
    if done.session.loaded_in == given.generation and idle != done.session.agents:
        done = Step(replace(done.session, agents=idle), done.events, done.effects)
    done = done.then(_running_died(done.session, given, child))
    return done.then(_thread_died(done.session, given.generation, child))


def _running_died(session: Session, given: i.ChildDied, child: Child) -> Step:
    running = session.running
    if running is None or running.generation != given.generation or running.unresolved:
        return Step(session)
    if running.said is not None:  # how it ended is known, and what it left running, died with the child or is swept
        return end_as_said(session, running, child, evidence={"childExited": given.generation})
    if running.status is TurnStatus.ACCEPTED and given.taken is False:
        returned = replace(running.change(TurnChange.RETURNED), generation=0)
        payload = e.TurnQueued(requeued=True)
        again = Step(
            with_turn(session, replace(returned, stop=None)),
            (NewEvent(EventType.TURN_QUEUED, session.session_id, running.turn_id, payload),),
        )
        if returned.stop is not None:  # nothing of it ever ran
            return again.then(stop_turn(again.session, i.StopTurn(returned.turn_id, returned.stop), child))
        return again.then(then_advance(again.session, child))
    doubtful = replace(running, unresolved=given.generation, keeper_died=given.keeper_died)
    session = with_turn(session, doubtful)
    return Step(session).then(then_advance(session, child))


def _thread_died(session: Session, generation: int, child: Child) -> Step:
    """An ephemeral thread is nowhere else: the session ends with it, once its turn has."""
    if not session.settings.ephemeral or session.loaded_in != generation or session.closed:
        return Step(session)
    done = Step(session)
    for turn in reversed(session.turns):
        if turn.status is TurnStatus.QUEUED:
            evidence = {"why": "the ephemeral thread ended with its child"}
            change = TurnChange.INTERRUPTED
            done = done.then(end(done.session, turn, change, child, reason="canceled_before_start", evidence=evidence))
    running = done.session.running
    if running is not None and running.unresolved:  # it has no history that the next child could be asked about
        done = done.then(_end_untold(done.session, running, child, {"history": "an ephemeral thread has none"}))
    if done.session.closed or done.session.turns:
        return done
    return done.then(close(replace(done.session, closing=False), "thread_gone"))


def no_child_to_ask(session: Session, given: i.NoChildToAsk, child: Child) -> Step:
    """There will be no child soon."""
    running = session.running
    if running is None or not running.unresolved:
        return Step(session)
    return _end_untold(session, running, child, {"history": f"not asked: {given.why}"})


def ended_by_us(session: Session, _: i.ChildEndedByUs, child: Child) -> Step:
    """codexd stopped the child, and with it what ran."""
    done = withdraw(session, ResolvedBy.CHILD_EXITED, generation=child.generation)
    running = done.session.running
    if running is not None and running.said is not None:
        done = done.then(end_as_said(done.session, running, child, evidence={"childExited": child.generation}))
    elif running is not None and not running.unresolved:  # one in doubt is asked about when there is a child again
        done = done.then(end(done.session, running, TurnChange.INTERRUPTED, child, reason="daemon_stopped"))
    return done.then(_thread_died(done.session, child.generation, child))


def log_went_back(session: Session, given: i.LogWentBack, _: Child) -> Step:
    """Every turn is lost: one that was still queued when the copy was made may have run since, and must not again."""
    evidence = {"log": given.why}
    done = Step(session)
    for question in session.questions:
        done = done.then(withdraw(done.session, ResolvedBy.CHILD_EXITED, generation=question.generation))
    for turn in session.turns:
        # No child follows what is ended here: this one's keeper holds more than the log knows.
        done = done.then(end(done.session, turn, TurnChange.LOST, Child(), reason="log_went_back", evidence=evidence))
    return done


def history_read(session: Session, given: i.HistoryRead, child: Child) -> Step:
    """What Codex's own history says of the turn in doubt."""
    session = replace(session, asking_in=0)
    running = session.running
    if running is None or not running.unresolved:
        return counted(session, "late_history")
    found = next((turn for turn in given.turns or () if is_ours(turn, running)), None)
    if found is None:
        said = given.error if given.turns is None else "the turn is not in it"
        return _end_untold(session, running, child, {"history": said})
    # One that was never named ran all the same, and its thread is on disk with it.
    named = known(session, running, found)
    return named.then(as_found(named.session, found, child))


def known(session: Session, running: Turn, found: i.FoundTurn) -> Step:
    """The turn by the name that Codex's history gives it, if nothing else did."""
    if running.status is not TurnStatus.ACCEPTED:
        return Step(session)
    begun = replace(running.change(TurnChange.NAMED), codex_turn_id=found.codex_turn_id)
    payload = e.TurnStarted(codex_turn_id=found.codex_turn_id)
    started = NewEvent(EventType.TURN_STARTED, session.session_id, running.turn_id, payload)
    return Step(replace(with_turn(session, begun), resumable=True), (started,))


def as_found(session: Session, found: i.FoundTurn, child: Child) -> Step:
    """End the running turn as Codex's history tells it."""
    running = session.running
    assert running is not None
    evidence: dict[str, Any] = {
        "history": found.end or "in progress",
        "generation": running.unresolved or running.generation,
    }
    if found.end is None or found.end is i.TurnEnd.INTERRUPTED:
        return end(session, running, TurnChange.INTERRUPTED, child, reason=_reason(running), evidence=evidence)
    recovered = _recover(session, running, found, child)
    left = recovered.session.running
    assert left is not None
    if found.end is i.TurnEnd.COMPLETED:
        return recovered.then(complete(recovered.session, left, child, evidence=evidence))
    return recovered.then(end(recovered.session, left, TurnChange.FAILED, child, error=found.error, evidence=evidence))


def _recover(session: Session, running: Turn, found: i.FoundTurn, child: Child) -> Step:
    """The items of the history that the log does not have as completed."""
    done = Step(session)
    open_ids = {item.item_id for item in running.open_items}
    for item_id, kind, item, text in found.items:
        if item_id in running.done_items:
            continue
        if item_id not in open_ids:
            done = done.then(
                item_began(done.session, i.ItemBegan(found.codex_turn_id, item_id, kind, item, None), child)
            )
        finished = i.ItemFinished(found.codex_turn_id, item_id, kind, item, None, text)
        done = done.then(item_finished(done.session, finished, child))
    return done


def is_ours(found: i.FoundTurn, turn: Turn) -> bool:
    """Whether Codex's history tells of this turn."""
    return found.client_id == turn.turn_id or (found.codex_turn_id == turn.codex_turn_id is not None)


def _end_untold(session: Session, running: Turn, child: Child, evidence: dict[str, Any]) -> Step:
    """End a turn of which Codex's history cannot tell: the spool decides, unless it went with the keeper."""
    evidence = {"generation": running.unresolved, **evidence}
    if running.keeper_died:
        return end(session, running, TurnChange.LOST, child, reason="keeper_died", evidence=evidence)
    return end(session, running, TurnChange.INTERRUPTED, child, reason=_reason(running), evidence=evidence)


def _reason(running: Turn) -> str:
    """Why the child's death ended the turn: the keeper ends a child whose turn's lease is over while it is alone."""
    return LEASE_OVER.reason if running.stop == LEASE_OVER else "child_exited"
