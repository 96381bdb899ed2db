"""What follows when Codex does not answer in time: its history is asked, and nothing waits for ever.

What is known is told: a turn that cannot be found is `lost` and not handed over again, one that is still there is
interrupted, and a child that does not end a turn that it was told to end, is ended itself.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from baa.api.sessions import TurnStatus
from baa.codexd.machines import deaths, progress, requests
from baa.codexd.machines import inputs as i
from baa.codexd.machines.child import Child
from baa.codexd.machines.session import Session, Step, end, then_advance, unload, with_turn
from baa.codexd.machines.turn import StopWish, Turn, TurnChange

NO_ANSWER: Final = StopWish(TurnChange.INTERRUPTED, "no_answer")


def time_up(session: Session, given: i.TimeUp, child: Child) -> Step:
    """A time is over: Codex's own, or one that somebody set."""
    running = session.running
    match given.kind:
        case i.TimerKind.OPENING:
            return _not_opened(session, child)
        case i.TimerKind.TELLING:
            if session.asking_in != child.generation:
                return Step(session)
            told = i.HistoryRead(None, {"message": "Codex did not answer in time"})
            return history_read(session, told, child)
    if given.kind not in (i.TimerKind.BEGINNING, i.TimerKind.STOPPING, i.TimerKind.CLEANING):
        return requests.time_up(session, given, child)
    if running is None or running.turn_id != given.owner_id or not _with(running, child):
        return Step(session)
    match given.kind:
        case i.TimerKind.BEGINNING if running.status is TurnStatus.ACCEPTED:
            return _ask(session, running, child)
        case i.TimerKind.STOPPING if running.stop is not None and running.said is None:
            return _ask(session, running, child)
        case i.TimerKind.CLEANING if running.cleaning_in:
            late = {"message": "Codex did not answer in time"}
            return progress.terminals_cleaned(session, i.TerminalsCleaned(running.turn_id, late), child)
    return Step(session)


def _with(running: Turn, child: Child) -> bool:
    """Whether the turn is with this child, which can be asked about it."""
    return child.lives and not running.unresolved and running.generation == child.generation


def _not_opened(session: Session, child: Child) -> Step:
    if session.opening_in != child.generation or not child.lives:
        return Step(session)
    session = replace(session, opening_in=0)
    if not session.turns or session.running is not None:
        return Step(session)
    error = {"message": "Codex did not open the thread in time."}
    return end(session, session.turns[0], TurnChange.FAILED, child, reason="no_answer", error=error)


def _ask(session: Session, running: Turn, child: Child) -> Step:
    session = with_turn(session, replace(running, doubted=True))
    if session.asking_in == child.generation or session.thread_id is None:
        return Step(session)
    asking = i.ReadHistory(session.session_id, session.thread_id)
    return Step(replace(session, asking_in=child.generation), (), (asking,))


def history_read(session: Session, given: i.HistoryRead, child: Child) -> Step:
    """What Codex's own history says of the turn in doubt, after its child's death or in its lifetime."""
    running = session.running
    if running is None or not running.doubted or running.unresolved:
        return deaths.history_read(session, given, child)
    sure = replace(running, doubted=False)
    session = with_turn(replace(session, asking_in=0), sure)
    if sure.said is not None:  # it ended meanwhile
        return Step(session)
    found = next((turn for turn in given.turns or () if deaths.is_ours(turn, sure)), None)
    if found is None:
        return _not_found(session, sure, given, child)
    if found.end is None and sure.status is TurnStatus.IN_PROGRESS:
        if sure.stop is None:
            return Step(session)
        return Step(session, (), (i.EndChild(f"it did not end turn {sure.turn_id} when it was told to"),))
    known = deaths.known(session, sure, found)
    return known.then(_as_found(known.session, found, child))


def _not_found(session: Session, running: Turn, given: i.HistoryRead, child: Child) -> Step:
    said: Any = given.error if given.turns is None else "the turn is not in it"
    if running.status is TurnStatus.IN_PROGRESS:
        if running.stop is None:
            return Step(session)
        return Step(session, (), (i.EndChild(f"it neither ends turn {running.turn_id} nor tells of it"),))
    evidence = {"history": said, "generation": running.generation}
    left = unload(session, child)  # nothing else is to meet the turn in the thread, should it begin after all
    return left.then(end(left.session, running, TurnChange.LOST, child, reason="no_answer", evidence=evidence))


def _as_found(session: Session, found: i.FoundTurn, child: Child) -> Step:
    running = session.running
    assert running is not None
    if found.end is None:  # it runs, and nobody was told: that is not the turn that was asked for
        session = with_turn(session, replace(running, stop=running.stop or NO_ANSWER))
        assert session.thread_id is not None
        remember = i.Remember(running.turn_id, running.stop or NO_ANSWER)
        return Step(session, (), (remember, i.InterruptTurn(running.turn_id, session.thread_id, found.codex_turn_id)))
    if found.end is i.TurnEnd.INTERRUPTED:
        told = i.TurnFinished(found.codex_turn_id, found.end, found.error, None)
        done = progress.finished(session, told, child)
        return done.then(then_advance(done.session, child)) if done.session.running is None else done
    return deaths.as_found(session, found, child)
