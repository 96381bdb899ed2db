"""What Codex tells of a session while its child lives: the thread, the running turn, and the turn's items."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from baa.api import events as e
from baa.api.events import EventType
from baa.api.interactions import ResolvedBy
from baa.api.sessions import Origin, TurnRequest, TurnStatus
from baa.codexd.machines import inputs as i
from baa.codexd.machines.child import Child
from baa.codexd.machines.inputs import NewEvent
from baa.codexd.machines.requests import send_steers
from baa.codexd.machines.session import (
    Agent,
    Session,
    Step,
    abandon,
    counted,
    end,
    then_advance,
    turn_of,
    with_turn,
    withdraw,
)
from baa.codexd.machines.turn import Item, Said, Turn, TurnChange

TOLD_BY_MODEL: Final = frozenset({"agentMessage", "reasoning", "plan"})
"""The kinds of items that the model streams: begun anew, in items of their own, when Codex asks it again."""

OUT_OF_LIMITS: Final = frozenset({"usageLimitExceeded", "rateLimitExceeded", "sessionBudgetExceeded"})


def thread_opened(session: Session, given: i.ThreadOpened, child: Child) -> Step:
    """Codex has the thread: it was asked to by this session's first turn."""
    if session.opening_in != given.generation:
        return counted(session, "late_thread")
    same = given.thread_id == session.thread_id
    session = replace(
        session,
        thread_id=given.thread_id,
        resumable=session.resumable and same,
        loaded_in=given.generation,
        opening_in=0,
        model=given.model or session.model,
        effort=given.effort or session.effort,
    )
    payload = e.SessionLoaded(
        thread_id=given.thread_id,
        generation=given.generation,
        fresh=given.fresh,
        model=given.model,
        effort=given.effort,
    )
    loaded = NewEvent(EventType.SESSION_LOADED, session.session_id, None, payload)
    return Step(session, (loaded,)).then(then_advance(session, child))


def thread_refused(session: Session, given: i.ThreadRefused, child: Child) -> Step:
    """Codex will not open the thread: the turn that needed it cannot be."""
    if session.opening_in == 0:
        return counted(session, "late_thread")
    session = replace(session, opening_in=0)
    if not session.turns or session.running is not None:
        return counted(session, "late_thread")
    return end(session, session.turns[0], TurnChange.FAILED, child, reason="thread_refused", error=given.error)


def named(session: Session, given: i.TurnNamed, child: Child) -> Step:
    """Codex began a turn. One that nobody asked for, it began by itself."""
    running = session.running
    if running is None:
        known = given.new_id is not None and session.thread_id is not None and not session.closed
        return _began_by_itself(session, given, child) if known else counted(session, "late_turn")
    if running.status is not TurnStatus.ACCEPTED:
        return counted(session, "late_turn")
    begun = replace(running.change(TurnChange.NAMED), codex_turn_id=given.codex_turn_id)
    payload = e.TurnStarted(codex_turn_id=given.codex_turn_id, emitted_at=given.emitted_at)
    started = NewEvent(EventType.TURN_STARTED, session.session_id, running.turn_id, payload)
    session = replace(with_turn(session, begun), resumable=True)
    if begun.unresolved or session.thread_id is None:
        return Step(session, (started,))
    if begun.stop is not None:
        interrupt = i.InterruptTurn(running.turn_id, session.thread_id, given.codex_turn_id)
        return Step(session, (started,), (interrupt,))
    return Step(session, (started,)).then(send_steers(session))


def _began_by_itself(session: Session, given: i.TurnNamed, child: Child) -> Step:
    assert given.new_id is not None
    turn = Turn(given.new_id, TurnRequest(prompt=""))
    queued = e.TurnQueued(request=turn.request, origin=Origin.CODEX)
    accepted = e.TurnAccepted(generation=child.generation)
    turn = replace(turn.change(TurnChange.HANDED), generation=child.generation)
    begun = Step(
        replace(session, turns=(turn, *session.turns)),
        (
            NewEvent(EventType.TURN_QUEUED, session.session_id, turn.turn_id, queued),
            NewEvent(EventType.TURN_ACCEPTED, session.session_id, turn.turn_id, accepted),
        ),
    )
    return begun.then(named(begun.session, given, child))


def turn_refused(session: Session, given: i.TurnRefused, child: Child) -> Step:
    """Codex answered the hand-over with an error, or may not have the turn any more."""
    running = session.running
    if running is None or running.turn_id != given.turn_id or running.status is not TurnStatus.ACCEPTED:
        return counted(session, "late_turn")
    reason = "policy_ceiling" if given.forbidden else "refused_by_codex"
    return end(session, running, TurnChange.FAILED, child, reason=reason, error=given.error)


def finished(session: Session, given: i.TurnFinished, child: Child) -> Step:
    """Codex's word on how the turn ended. That it interrupted it, we say only once we looked."""
    running = turn_of(session, given.codex_turn_id)
    if running is None or running.said is not None:
        return counted(session, "late_turn_end")
    match given.end:
        case i.TurnEnd.INTERRUPTED:
            said = Said(given.error, given.emitted_at)
            session = with_turn(session, replace(running, said=said))
            remember = i.Remember(running.turn_id, running.stop, said)
            # Codex waits for no answer any more, and says so only now: the end of the turn is why.
            done = Step(session, (), (remember,)).then(
                withdraw(session, ResolvedBy.TURN_ENDED, turn_id=running.turn_id)
            )
            return done.then(then_advance(done.session, child))
        case i.TurnEnd.FAILED:
            reason, evidence = _of_limits(given)
            return end(
                session,
                running,
                TurnChange.FAILED,
                child,
                reason=reason,
                error=given.error,
                evidence=evidence,
                emitted_at=given.emitted_at,
            )
        case i.TurnEnd.COMPLETED:
            return complete(session, running, child, emitted_at=given.emitted_at)


def _of_limits(given: i.TurnFinished) -> tuple[str | None, dict[str, Any]]:
    """Whether the account's limits ended the turn, and when they reset, as far as Codex said."""
    told = (given.error or {}).get("codexErrorInfo")
    if isinstance(told, dict):  # such as {"responseTooManyFailedAttempts": {"httpStatusCode": 429}}
        told = next(iter(told), None)
    if not isinstance(told, str) or told not in OUT_OF_LIMITS:
        return None, {}
    return "usage_limit", {"resetsAt": given.resets_at, "limits": given.limits}


def complete(
    session: Session,
    running: Turn,
    child: Child,
    *,
    evidence: dict[str, Any] | None = None,
    emitted_at: str | None = None,
) -> Step:
    """Codex completed the turn; where an output was promised, it must be there."""
    output, flaw = _output(running)
    change = TurnChange.COMPLETED if flaw is None else TurnChange.FAILED
    reason = None if flaw is None else "output_invalid"
    error = None if flaw is None else {"message": flaw}
    return end(
        session,
        running,
        change,
        child,
        reason=reason,
        error=error,
        evidence=evidence,
        emitted_at=emitted_at,
        output=output,
    )


def _output(running: Turn) -> tuple[Raw | UnsetType, str | None]:
    if running.request.output_schema is None:
        return UNSET, None
    if running.final_text is None:
        return UNSET, "The turn ended without a message, and an output was asked for."
    try:
        value = msgspec.json.decode(running.final_text)
    except (msgspec.DecodeError, RecursionError) as error:
        return UNSET, f"The final message is not JSON: {error}"
    flaw = _flaw(running.request.output_schema, value)
    return (UNSET, flaw) if flaw else (Raw(msgspec.json.encode(value)), None)


def _flaw(schema: dict[str, Any], value: Any) -> str | None:
    from baa.api.output import flaw_of  # late: few turns have a schema, and its library takes time to load

    return flaw_of(schema, value)


def steered(session: Session, given: i.TurnSteered, _: Child) -> Step:
    """Codex's word on more input."""
    for turn in session.turns:
        steer = next((each for each in turn.steers if each.sent and each.steer_id == given.steer_id), None)
        if steer is not None:
            left = tuple(other for other in turn.steers if other.steer_id != given.steer_id)
            session = with_turn(session, replace(turn, steers=left))
            done = (i.SteerDone(given.steer_id, given.error),)
            if given.error is not None:
                return Step(session, (), done)
            payload = e.TurnSteered(input=steer.input, idempotency_key=steer.idempotency_key, body_hash=steer.body_hash)
            event = NewEvent(EventType.TURN_STEERED, session.session_id, turn.turn_id, payload)
            return Step(session, (event,), done)
    return counted(session, "late_steer")


def terminals_cleaned(session: Session, given: i.TerminalsCleaned, _: Child) -> Step:
    """Codex ended what it knows of; what is left of the turn is looked for."""
    running = session.running
    if running is None or running.turn_id != given.turn_id or running.said is None:
        return counted(session, "late_cleaning")
    looking = with_turn(session, replace(running, cleaning_in=0, looking=True))
    return Step(looking, (), (i.LookForLeft(session.session_id, running.turn_id),))


def left_looked(session: Session, given: i.LeftLooked, child: Child) -> Step:
    """Nothing of the turn runs any more, or it is known what does: now it is interrupted."""
    running = session.running
    if running is None or running.turn_id != given.turn_id or running.said is None:
        return counted(session, "late_look")
    return end_as_said(session, running, child, evidence=given.evidence)


def end_as_said(
    session: Session,
    running: Turn,
    child: Child,
    *,
    evidence: dict[str, Any],
    withdrawn_by: ResolvedBy = ResolvedBy.TURN_ENDED,
) -> Step:
    """The end of a turn that Codex interrupted: as what and why we wanted it, if we did."""
    assert running.said is not None
    change = TurnChange.INTERRUPTED if running.stop is None else running.stop.change
    reason = "interrupted_by_codex" if running.stop is None else running.stop.reason
    return end(
        session,
        running,
        change,
        child,
        reason=reason,
        error=running.said.error,
        evidence=evidence,
        emitted_at=running.said.emitted_at,
        withdrawn_by=withdrawn_by,
    )


def of_agent(session: Session, told: i.OfAgent, child: Child) -> Step:
    """A sub-agent works for the running turn: what it does is that turn's, but for how its own turn goes."""
    given, thread_id = told.given, told.thread_id
    match given:
        case i.TurnNamed():
            return Step(_with_agent(session, Agent(thread_id, given.codex_turn_id)))
        case i.TurnFinished():
            return Step(_with_agent(session, Agent(thread_id)))
        case i.Noted():
            return noted(session, given, child)
    running = session.running
    if running is None or running.codex_turn_id is None:
        return counted(session, "sub_agent_of_no_turn")
    own = msgspec.structs.replace(given, codex_turn_id=running.codex_turn_id)
    match own:
        case i.ItemBegan():
            return item_began(session, own, child, agent=thread_id)
        case i.ItemFinished():
            return item_finished(session, msgspec.structs.replace(own, text=None), child, agent=thread_id)
        case i.ItemGrew():
            return item_grew(session, own, child)
        case i.Updated(type=EventType.USAGE_UPDATED):
            return updated(session, own, child, agent=thread_id)
    return counted(session, "sub_agent_update")  # its plan and its diff are not the turn's


def _with_agent(session: Session, agent: Agent) -> Session:
    others = tuple(other for other in session.agents if other.thread_id != agent.thread_id)
    return replace(session, agents=(*others, agent))


def _with_agents(session: Session, thread_ids: tuple[str, ...]) -> Session:
    known = {agent.thread_id for agent in session.agents}
    new = tuple(Agent(thread_id) for thread_id in dict.fromkeys(thread_ids) if thread_id not in known)
    return replace(session, agents=(*session.agents, *new)) if new else session


def item_began(session: Session, given: i.ItemBegan, child: Child, agent: str | None = None) -> Step:
    """An item of the running turn started."""
    running = turn_of(session, given.codex_turn_id)
    if running is None:
        return counted(session, "item_of_no_turn")
    session = _with_agents(session, given.agents)
    if all(item.item_id != given.item_id for item in running.open_items):
        done = tuple(item for item in running.done_items if item != given.item_id)
        begun = replace(running, open_items=(*running.open_items, Item(given.item_id, given.kind)), done_items=done)
        session = with_turn(session, begun)
    payload = e.ItemStarted(
        item_id=given.item_id, kind=given.kind, item=given.item, agent_thread_id=agent, emitted_at=given.emitted_at
    )
    return Step(session, (NewEvent(EventType.ITEM_STARTED, session.session_id, running.turn_id, payload),))


def item_grew(session: Session, given: i.ItemGrew, child: Child) -> Step:
    """Pieces of items."""
    running = turn_of(session, given.codex_turn_id)
    if running is None:
        return counted(session, "item_of_no_turn")
    type_, session_id, turn_id = EventType.ITEM_DELTA, session.session_id, running.turn_id
    return Step(session, tuple([NewEvent(type_, session_id, turn_id, piece) for piece in given.pieces]))


def item_finished(session: Session, given: i.ItemFinished, child: Child, agent: str | None = None) -> Step:
    """An item is complete."""
    running = turn_of(session, given.codex_turn_id)
    if running is None:
        return counted(session, "item_of_no_turn")
    session = _with_agents(session, given.agents)
    left = tuple(item for item in running.open_items if item.item_id != given.item_id)
    done = (*(item for item in running.done_items if item != given.item_id), given.item_id)
    after = replace(running, open_items=left, done_items=done)
    if given.text is not None and running.request.output_schema is not None:
        after = replace(after, final_text=given.text)
    session = with_turn(session, after)
    payload = e.ItemStarted(
        item_id=given.item_id, kind=given.kind, item=given.item, agent_thread_id=agent, emitted_at=given.emitted_at
    )
    return Step(session, (NewEvent(EventType.ITEM_COMPLETED, session.session_id, running.turn_id, payload),))


def updated(session: Session, given: i.Updated, child: Child, agent: str | None = None) -> Step:
    """Usage, plan or diff."""
    running = turn_of(session, given.codex_turn_id)
    if running is None:
        return counted(session, "update_of_no_turn")
    payload = e.Updated(update=given.update, agent_thread_id=agent, emitted_at=given.emitted_at)
    return Step(session, (NewEvent(given.type, session.session_id, running.turn_id, payload),))


def noted(session: Session, given: i.Noted, child: Child) -> Step:
    """A message that is passed on; if it says that the model is asked again, what it was saying is over."""
    running = session.running
    payload = e.Notification(
        method=given.method, params=given.params, answered=given.answered, emitted_at=given.emitted_at
    )
    turn_id = running.turn_id if running is not None else None
    note = Step(session, (NewEvent(given.type, session.session_id, turn_id, payload),))
    if running is None or given.retried_turn_id is None or given.retried_turn_id != running.codex_turn_id:
        return note
    return note.then(abandon(session, running, TOLD_BY_MODEL, "retried"))
