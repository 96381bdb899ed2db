"""A session: its thread, the turns of it that have not ended, and what Codex waits for.

Only the first turn is ever with Codex. A thread is opened by the first turn that needs it, once per generation of the
child. What here has no handler's name is what all handlers share: how a turn ends, and what can be done next.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

from msgspec import UNSET, Raw, Struct, UnsetType

from baa.api import events as e
from baa.api.events import EventType
from baa.api.interactions import AnswerInteraction, ResolvedBy
from baa.api.sessions import Fork, SessionSettings, TurnStatus
from baa.codexd.machines import inputs as i
from baa.codexd.machines.child import Child
from baa.codexd.machines.inputs import Effect, NewEvent
from baa.codexd.machines.interaction import Question, told
from baa.codexd.machines.turn import Turn, TurnChange

TURN_OVER: Final = {"message": "The turn ended before Codex took this."}


class Agent(NamedTuple):
    """A sub-agent of Codex's: its thread, and Codex's id of the turn that runs in it."""

    thread_id: str
    codex_turn_id: str | None = None


@dataclass(frozen=True, slots=True)
class Session:
    """A session as decisions see it.

    `loaded_in` is the generation of the child that has the thread in memory, `opening_in` the one that was asked to.
    `resumable`: a turn has run in the thread, so Codex has it on disk. `asking_in`: the generation that was asked what
    became of a turn. `model` and `effort` are what Codex said that the thread has. `fork`: whose past it has.
    `effort_set`: the last turn that was handed over had an effort of its own. `agents`: Codex's helpers in its turns.
    """

    session_id: str
    settings: SessionSettings
    thread_id: str | None = None
    resumable: bool = False
    loaded_in: int = 0
    opening_in: int = 0
    asking_in: int = 0
    turns: tuple[Turn, ...] = ()
    questions: tuple[Question, ...] = ()
    fork: Fork | None = None
    model: str | None = None
    effort: str | None = None
    effort_set: bool = False
    agents: tuple[Agent, ...] = ()
    closing: bool = False
    closed: bool = False

    @property
    def running(self) -> Turn | None:
        """The turn that is with Codex, if any."""
        if self.turns and self.turns[0].status is not TurnStatus.QUEUED:
            return self.turns[0]
        return None

    @property
    def busy(self) -> bool:
        """Whether inputs about the child can matter to it."""
        return bool(self.turns or self.questions)


class Step(Struct, frozen=True):
    """What an input led to."""

    session: Session
    events: tuple[NewEvent, ...] = ()
    effects: tuple[Effect, ...] = ()

    def then(self, after: Step) -> Step:
        """This, and after it a step that began where this one ended."""
        return Step(after.session, self.events + after.events, self.effects + after.effects)


def turn_of(session: Session, codex_turn_id: str) -> Turn | None:
    """The turn with Codex, if it is this one of Codex's."""
    running = session.running
    return running if running is not None and running.codex_turn_id == codex_turn_id else None


def with_turn(session: Session, turn: Turn) -> Session:
    """The session with this turn as it is now."""
    turns = tuple(turn if other.turn_id == turn.turn_id else other for other in session.turns)
    return replace(session, turns=turns)


def counted(session: Session, what: str) -> Step:
    """Nothing but a count."""
    return Step(session, (), (i.Count(what),))


_EVENT_OF: Final = {
    TurnChange.COMPLETED: EventType.TURN_COMPLETED,
    TurnChange.FAILED: EventType.TURN_FAILED,
    TurnChange.INTERRUPTED: EventType.TURN_INTERRUPTED,
    TurnChange.EXPIRED: EventType.TURN_EXPIRED,
    TurnChange.LOST: EventType.TURN_LOST,
}


def end(
    session: Session,
    turn: Turn,
    change: TurnChange,
    child: Child,
    *,
    reason: str | None = None,
    error: dict[str, Any] | None = None,
    evidence: dict[str, Any] | None = None,
    emitted_at: str | None = None,
    output: Raw | UnsetType = UNSET,
    withdrawn_by: ResolvedBy = ResolvedBy.TURN_ENDED,
) -> Step:
    """The turn's end. What it left open ends before it; what can follow in the session, follows."""
    turn.change(change)
    closed = withdraw(session, withdrawn_by, turn_id=turn.turn_id)
    abandoned = tuple(_abandon(session, turn, item.item_id) for item in turn.open_items)
    payload = e.TurnEnded(reason=reason, error=error, evidence=evidence or {}, emitted_at=emitted_at, output=output)
    ended = NewEvent(_EVENT_OF[change], session.session_id, turn.turn_id, payload)
    untaken = tuple(i.SteerDone(steer.steer_id, TURN_OVER) for steer in turn.steers)
    left = tuple(other for other in session.turns if other.turn_id != turn.turn_id)
    session = replace(closed.session, turns=left)
    return closed.then(Step(session, (*abandoned, ended), untaken)).then(then_advance(session, child))


def _abandon(session: Session, turn: Turn, item_id: str, reason: str | None = None) -> NewEvent:
    payload = e.ItemAbandoned(item_id=item_id, reason=reason)
    return NewEvent(EventType.ITEM_ABANDONED, session.session_id, turn.turn_id, payload)


def abandon(session: Session, turn: Turn, kinds: frozenset[str], reason: str) -> Step:
    """Close the turn's open items of these kinds: Codex will not."""
    leaving = [item for item in turn.open_items if item.kind in kinds]
    staying = tuple(item for item in turn.open_items if item.kind not in kinds)
    events = tuple(_abandon(session, turn, item.item_id, reason) for item in leaving)
    return Step(with_turn(session, replace(turn, open_items=staying)), events)


def withdraw(session: Session, by: ResolvedBy, *, turn_id: str | None = None, generation: int = 0) -> Step:
    """Close the open questions of this turn, or of this child: nobody waits for their answers any more."""
    over = [
        question
        for question in session.questions
        if question.generation == generation or (turn_id is not None and question.turn_id == turn_id)
    ]
    if not over:
        return Step(session)
    return Step(
        replace(session, questions=tuple(question for question in session.questions if question not in over)),
        tuple(question_ended(session, question, by, None) for question in over),
    )


def question_ended(session: Session, question: Question, by: ResolvedBy, answer: AnswerInteraction | None) -> NewEvent:
    """The event that ends an interaction."""
    type_ = EventType.INTERACTION_EXPIRED if by is ResolvedBy.DEADLINE else EventType.INTERACTION_RESOLVED
    said = None if answer is None else told(question.kind, question.request, answer)
    payload = e.InteractionEnded(interaction_id=question.interaction_id, resolved_by=by, answer=said)
    return NewEvent(type_, session.session_id, question.turn_id, payload)


def close(session: Session, reason: str) -> Step:
    """The session's end; no turn of it is left. What is still asked in it is declined."""
    assert not session.turns
    asked = session.questions
    over = tuple(question_ended(session, question, ResolvedBy.SESSION_CLOSED, None) for question in asked)
    declined = tuple(i.Answer(each.request_id, each.kind, each.request, None, None) for each in asked)
    closed = NewEvent(EventType.SESSION_CLOSED, session.session_id, None, e.SessionClosed(reason=reason))
    return Step(replace(session, questions=(), closing=False, closed=True), (*over, closed), declined)


def unload(session: Session, child: Child) -> Step:
    """Let Codex forget the thread, if this child has it."""
    if session.thread_id is None or session.loaded_in != child.generation or not child.ready:
        return Step(session)
    effect = i.UnloadThread(session.session_id, session.thread_id)
    return Step(replace(session, loaded_in=0), (), (effect,))


def then_advance(session: Session, child: Child) -> Step:
    """What the session can do next: ask about a turn in doubt, open its thread, hand over its first turn, rest."""
    if not session.turns:
        return _rest(session, child)
    first = session.turns[0]
    if first.said is not None and not first.unresolved and child.lives:
        return _clean(session, first, child)
    if not child.ready:
        return Step(session)
    if first.unresolved:
        # An ephemeral thread has no history: its turn ends with the child.
        if session.asking_in == child.generation or session.thread_id is None or session.settings.ephemeral:
            return Step(session)
        ask = i.ReadHistory(session.session_id, session.thread_id)
        return Step(replace(session, asking_in=child.generation), (), (ask,))
    if first.status is not TurnStatus.QUEUED:
        return Step(session)
    if session.loaded_in != child.generation or session.thread_id is None:
        if session.opening_in == child.generation:
            return Step(session)
        resume = session.thread_id if session.resumable else None
        fork = session.fork if resume is None and session.fork is not None and session.fork.thread_id else None
        opening = i.OpenThread(session.session_id, resume, session.settings, fork)
        return Step(replace(session, opening_in=child.generation), (), (opening,))
    return _hand(session, first, child)


def _hand(session: Session, first: Turn, child: Child) -> Step:
    assert session.thread_id is not None
    handed = replace(first.change(TurnChange.HANDED), generation=child.generation)
    payload = e.TurnAccepted(generation=child.generation)
    accepted = NewEvent(EventType.TURN_ACCEPTED, session.session_id, first.turn_id, payload)
    request = first.request
    hand = i.HandTurn(
        first.turn_id,
        session.thread_id,
        request,
        session.settings,
        request.model or session.settings.model or session.model,
        request.effort or session.effort,
        forget_effort=session.effort_set and request.effort is None and session.effort is None,
    )
    if not request.compact:  # of which Codex learns no effort
        session = replace(session, effort_set=request.effort is not None)
    effects: tuple[Effect, ...] = (hand,)
    if request.stall_ms is not None:
        effects = (hand, i.SetTimer(first.turn_id, i.TimerKind.STALL, request.stall_ms))
    return Step(with_turn(session, handed), (accepted,), effects)


def _clean(session: Session, first: Turn, child: Child) -> Step:
    """Codex leaves commands alive after an interrupt: have it end them, then look. Also while codexd drains."""
    if first.cleaning_in == child.generation or first.looking or session.thread_id is None:
        return Step(session)
    cleaning = with_turn(session, replace(first, cleaning_in=child.generation))
    # Codex's interrupt leaves the turns of sub-agents running, too.
    agents = [agent for agent in session.agents if agent.codex_turn_id is not None]
    stops = [i.InterruptTurn(first.turn_id, agent.thread_id, agent.codex_turn_id or "") for agent in agents]
    tidies = [i.CleanTerminals(first.turn_id, agent.thread_id, answered=False) for agent in agents]
    return Step(cleaning, (), (*stops, *tidies, i.CleanTerminals(first.turn_id, session.thread_id)))


def _rest(session: Session, child: Child) -> Step:
    if session.closing:
        closed = close(session, "requested")
        return closed.then(unload(closed.session, child))
    if session.loaded_in == child.generation != 0 and not session.settings.ephemeral:
        return Step(session, (), (i.Idle(session.session_id),))
    return Step(session)
