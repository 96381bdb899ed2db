"""What clients and the clock want of a session."""

from __future__ import annotations

from dataclasses import replace

from baa.api import events as e
from baa.api.events import EventType
from baa.api.interactions import AnswerInteraction, ResolvedBy
from baa.api.sessions import TurnStatus
from baa.codexd.machines import inputs as i
from baa.codexd.machines.child import Child
from baa.codexd.machines.inputs import Effect, NewEvent
from baa.codexd.machines.interaction import Question, decided
from baa.codexd.machines.session import (
    TURN_OVER,
    Session,
    Step,
    counted,
    end,
    question_ended,
    then_advance,
    unload,
    with_turn,
)
from baa.codexd.machines.turn import Steer, StopWish, Turn, TurnChange

REQUESTED = StopWish(TurnChange.INTERRUPTED, "requested")
CLOSING = StopWish(TurnChange.INTERRUPTED, "session_closed")
LEASE_OVER = StopWish(TurnChange.INTERRUPTED, "lease_expired")


def requested(session: Session, given: i.TurnRequested, child: Child) -> Step:
    """A new turn, at the end of the line."""
    request = given.request
    payload = e.TurnQueued(
        request=request, origin=given.origin, idempotency_key=given.idempotency_key, body_hash=given.body_hash
    )
    queued = NewEvent(EventType.TURN_QUEUED, session.session_id, given.turn_id, payload)
    timers: list[Effect] = []
    if request.deadline_ms is not None:
        timers.append(i.SetTimer(given.turn_id, i.TimerKind.DEADLINE, request.deadline_ms))
    if request.lease_ms is not None:
        timers.append(i.SetTimer(given.turn_id, i.TimerKind.LEASE, request.lease_ms))
    session = replace(session, turns=(*session.turns, Turn(given.turn_id, request)))
    done = Step(session, (queued,), tuple(timers))
    return done.then(then_advance(session, child)) if len(session.turns) == 1 else done


def open_wanted(session: Session, _: i.OpenWanted, child: Child) -> Step:
    """Open the thread, unless this child has it or was asked already. One without a turn Codex could not find."""
    there = child.generation in (session.loaded_in, session.opening_in)
    if there or not child.ready or session.thread_id is None or not session.resumable or session.closed:
        return Step(session)
    opening = i.OpenThread(session.session_id, session.thread_id, session.settings)
    return Step(replace(session, opening_in=child.generation), (), (opening,))


def stop_turn(session: Session, given: i.StopTurn, child: Child) -> Step:
    """End a turn: one that waits at once, one that Codex has by Codex's own interrupt. The first reason stands."""
    turn = next((turn for turn in session.turns if turn.turn_id == given.turn_id), None)
    if turn is None:
        return counted(session, "stop of no turn")
    if turn.status is TurnStatus.QUEUED:
        reason = given.stop.reason if given.stop.change is TurnChange.EXPIRED else "canceled_before_start"
        evidence = {} if reason == given.stop.reason else {"why": given.stop.reason}
        return end(session, turn, given.stop.change, child, reason=reason, evidence=evidence)
    if turn.stop is not None or turn.said is not None:
        return Step(session)
    if turn.unresolved and given.stop != LEASE_OVER:  # for a lease that is over, the keeper ended the child
        return Step(session)
    session = with_turn(session, replace(turn, stop=given.stop))
    remember = i.Remember(turn.turn_id, given.stop)
    if turn.unresolved or turn.codex_turn_id is None or session.thread_id is None:
        return Step(session, (), (remember,))
    return Step(session, (), (remember, i.InterruptTurn(turn.turn_id, session.thread_id, turn.codex_turn_id)))


def close_requested(session: Session, _: i.CloseRequested, child: Child) -> Step:
    """End every turn, the waiting ones first, so that none of them follows the running one."""
    if session.closed or session.closing:
        return Step(session)
    done = Step(replace(session, closing=True))
    for turn in reversed(session.turns):
        done = done.then(stop_turn(done.session, i.StopTurn(turn.turn_id, CLOSING), child))
    if not session.turns:
        done = done.then(then_advance(done.session, child))
    if done.session.closed:
        return done
    return done.then(Step(done.session, (), (i.Remember(session.session_id, CLOSING),)))


def ending(turn: Turn) -> bool:
    """Whether Codex has done with the turn, though its end is not told yet."""
    return turn.said is not None or turn.unresolved != 0


def waits(session: Session, turn: Turn, child: Child) -> bool:
    """Whether the turn waits for others or for a child. One whose thread is being opened begins in a moment."""
    begins = child.ready and session.turns[0] is turn and session.opening_in == child.generation
    return turn.status is TurnStatus.QUEUED and not begins


def steer_requested(session: Session, given: i.SteerRequested, _: Child) -> Step:
    """More input for the turn with Codex; if Codex has not named that turn yet, as soon as it does."""
    turn = next((turn for turn in session.turns if turn.turn_id == given.turn_id), None)
    if turn is None or ending(turn):
        return Step(session, (), (i.SteerDone(given.steer_id, TURN_OVER),))
    steer = Steer(given.steer_id, given.input, given.idempotency_key, given.body_hash)
    session = with_turn(session, replace(turn, steers=(*turn.steers, steer)))
    return send_steers(session)


def send_steers(session: Session) -> Step:
    """Send what waits for the running turn's name, once it has one."""
    turn = session.running
    if turn is None or turn.codex_turn_id is None or session.thread_id is None:
        return Step(session)
    lines = tuple(
        i.SteerTurn(
            turn.turn_id,
            steer.steer_id,
            session.thread_id,
            turn.codex_turn_id,
            steer.input,
            steer.idempotency_key,
            steer.body_hash,
        )
        for steer in turn.steers
        if not steer.sent
    )
    sent = tuple(replace_sent(steer) for steer in turn.steers)
    return Step(with_turn(session, replace(turn, steers=sent)), (), lines)


def replace_sent(steer: Steer) -> Steer:
    """The steer, sent."""
    return Steer(steer.steer_id, steer.input, steer.idempotency_key, steer.body_hash, sent=True)


def steer_withdrawn(session: Session, given: i.SteerWithdrawn, _: Child) -> Step:
    """Forget a steer that was not sent."""
    for turn in session.turns:
        if any(steer.steer_id == given.steer_id and not steer.sent for steer in turn.steers):
            left = tuple(steer for steer in turn.steers if steer.steer_id != given.steer_id)
            done = i.SteerDone(given.steer_id, {"message": "It was withdrawn before it was sent.", "unsent": True})
            return Step(with_turn(session, replace(turn, steers=left)), (), (done,))
    return Step(session)


def answered(session: Session, given: i.InteractionAnswered, child: Child) -> Step:
    """A client's answer: the first one counts, and goes to Codex in the same commit."""
    question = _question(session, given.interaction_id)
    if question is None:
        return counted(session, "answer to no question")
    decision = decided(question, given.answer)
    line = i.Answer(question.request_id, question.kind, question.request, decision, given.answer)
    return _over(session, question, ResolvedBy.CLIENT, child, line, answer=given.answer)


def time_up(session: Session, given: i.TimeUp, child: Child) -> Step:
    """A time is over."""
    match given.kind:
        case i.TimerKind.ANSWER:
            question = _question(session, given.owner_id)
            if question is None:
                return Step(session)
            line = i.Answer(question.request_id, question.kind, question.request, None, None)
            return _over(session, question, ResolvedBy.DEADLINE, child, line)
        case i.TimerKind.IDLE:
            return Step(session) if session.busy else unload(session, child)
        case i.TimerKind.DEADLINE:
            stop = StopWish(TurnChange.EXPIRED, "deadline")
        case i.TimerKind.STALL:
            if session.running is None or session.running.turn_id != given.owner_id:
                return Step(session)  # the child died before it took the turn, which waits again
            stop = StopWish(TurnChange.EXPIRED, "stalled")
        case _:
            assert given.kind is i.TimerKind.LEASE
            stop = LEASE_OVER
    return stop_turn(session, i.StopTurn(given.owner_id, stop), child)


def asked(session: Session, given: i.Asked, _: Child) -> Step:
    """Codex waits for an answer: durable before anybody sees it, and with an end in any case."""
    if any(
        question.generation == given.generation and question.request_id == given.request_id
        for question in session.questions
    ):
        return counted(session, "asked twice")
    running = session.running
    turn_id = None
    if running is not None and given.codex_turn_id in (None, running.codex_turn_id):
        turn_id = None if given.codex_turn_id is None else running.turn_id
    payload = e.InteractionRequested(
        interaction_id=given.interaction_id,
        generation=given.generation,
        request_id=given.request_id,
        kind=given.kind,
        request=given.request,
        decisions=list(given.decisions),
        deadline_at=given.deadline_at,
        item_id=given.item_id,
    )
    question = Question(
        given.interaction_id,
        given.generation,
        given.request_id,
        given.kind,
        turn_id,
        given.decisions,
        given.request,
    )
    requested = NewEvent(EventType.INTERACTION_REQUESTED, session.session_id, turn_id, payload)
    timer = i.SetTimer(given.interaction_id, i.TimerKind.ANSWER, given.deadline_ms)
    return Step(replace(session, questions=(*session.questions, question)), (requested,), (timer,))


def asked_no_more(session: Session, given: i.AskedNoMore, child: Child) -> Step:
    """Codex took an answer, or withdrew the question with its turn."""
    for question in session.questions:
        if question.generation == given.generation and question.request_id == given.request_id:
            return _over(session, question, ResolvedBy.CODEX, child)
    return Step(session)


def _question(session: Session, interaction_id: str) -> Question | None:
    return next((each for each in session.questions if each.interaction_id == interaction_id), None)


def _over(
    session: Session,
    question: Question,
    by: ResolvedBy,
    child: Child,
    *lines: Effect,
    answer: AnswerInteraction | None = None,
) -> Step:
    """The end of a question. One that came while no turn ran kept the session from its rest."""
    event = question_ended(session, question, by, answer)
    left = replace(session, questions=tuple(each for each in session.questions if each is not question))
    done = Step(left, (event,), lines)
    return done if left.busy else done.then(then_advance(left, child))
