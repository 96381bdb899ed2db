"""A session's machine, played like a script: what comes in, and all that it leads to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from msgspec import UNSET, Raw, UnsetType

from baa.api import events as e
from baa.api.events import EventType
from baa.api.interactions import AnswerInteraction, InteractionKind, ResolvedBy
from baa.api.sessions import ApprovalPolicy, InputPart, Sandbox, SessionSettings, TextInput, TurnRequest
from baa.api.status import ChildState
from baa.codexd.machines import inputs as i
from baa.codexd.machines.child import Child
from baa.codexd.machines.inputs import Effect, Input, NewEvent
from baa.codexd.machines.session import Session
from baa.codexd.machines.step import step
from baa.codexd.machines.turn import Said, StopWish, TurnChange

SETTINGS = SessionSettings(cwd="/home/user", sandbox=Sandbox.WORKSPACE_WRITE, approval_policy=ApprovalPolicy.NEVER)
ASKED = TurnRequest(prompt="go")
WORDS: tuple[InputPart, ...] = (TextInput("and this"),)
ITEM = Raw(b'{"id":"item"}')
ANSWER_MS = 900_000

NO_CHILD = Child()
READY = Child(ChildState.READY, 1)
BACKOFF = Child(ChildState.BACKOFF, 1)
NEXT = Child(ChildState.READY, 2)
DRAINING = Child(ChildState.DRAINING, 1)

REQUESTED = StopWish(TurnChange.INTERRUPTED, "requested")
EXPIRED = StopWish(TurnChange.EXPIRED, "deadline")
QUESTION = Raw(b'{"command":"ls"}')
AT = "2026-11-24T00:15:00.000Z"

NEW = Session("ses_a", SETTINGS)


@dataclass
class Script:
    """A session of which every step is checked. `child` is what the machine is told of it."""

    session: Session = NEW
    child: Child = READY

    def got(self, given: Input, *wanted: NewEvent | Effect) -> Script:
        """`given` leads to exactly these events and then these effects."""
        done = step(self.session, given, self.child)
        assert [*done.events, *done.effects] == list(wanted)
        self.session = done.session
        return self

    def played(self, *given: Input) -> Script:
        """What comes of these is checked elsewhere."""
        for each in given:
            self.session = step(self.session, each, self.child).session
        return self

    def beside(self, child: Child) -> Script:
        self.child = child
        return self

    def copy(self) -> Script:
        return replace(self)


# --- inputs


def asked(turn_id: str = "trn_a", request: TurnRequest = ASKED) -> i.TurnRequested:
    return i.TurnRequested(turn_id, request)


def stop(turn_id: str = "trn_a", wish: StopWish = REQUESTED) -> i.StopTurn:
    return i.StopTurn(turn_id, wish)


def time_up(kind: i.TimerKind, owner_id: str = "trn_a") -> i.TimeUp:
    return i.TimeUp(owner_id, kind)


def more(steer_id: str = "str_a", turn_id: str = "trn_a") -> i.SteerRequested:
    return i.SteerRequested(steer_id, turn_id, WORDS)


def question(
    interaction_id: str = "int_a",
    *,
    request_id: str | int = 7,
    generation: int = 1,
    kind: InteractionKind = InteractionKind.COMMAND,
    codex_turn_id: str | None = "codex_a",
    decisions: tuple[Any, ...] = ("accept", "decline"),
) -> i.Asked:
    return i.Asked(
        interaction_id, generation, request_id, kind, codex_turn_id, "item", QUESTION, decisions, ANSWER_MS, AT
    )


def answered(interaction_id: str = "int_a", decision: str = "accept") -> i.InteractionAnswered:
    return i.InteractionAnswered(interaction_id, AnswerInteraction(decision=decision))


def opened(thread_id: str = "thread", *, generation: int = 1, fresh: bool = True) -> i.ThreadOpened:
    return i.ThreadOpened(generation, thread_id, fresh, "model")


def named(codex_turn_id: str = "codex_a", new_id: str | None = None) -> i.TurnNamed:
    return i.TurnNamed(codex_turn_id, None, new_id)


def ended(end: i.TurnEnd = i.TurnEnd.COMPLETED, codex_turn_id: str = "codex_a") -> i.TurnFinished:
    return i.TurnFinished(codex_turn_id, end, None, None)


def began(item_id: str = "item", codex_turn_id: str = "codex_a") -> i.ItemBegan:
    return i.ItemBegan(codex_turn_id, item_id, "agentMessage", ITEM, None)


def grew(item_id: str = "item", codex_turn_id: str = "codex_a") -> i.ItemGrew:
    return i.ItemGrew(codex_turn_id, (e.ItemDelta(item_id=item_id, stream="text", delta="piece"),))


def finished(item_id: str = "item", codex_turn_id: str = "codex_a") -> i.ItemFinished:
    return i.ItemFinished(codex_turn_id, item_id, "agentMessage", ITEM, None)


def died(*, taken: bool | None = None, keeper: bool = False, generation: int = 1) -> i.ChildDied:
    return i.ChildDied(generation, taken, keeper_died=keeper)


def found(
    end: i.TurnEnd | None,
    *items: str,
    codex_turn_id: str = "codex_a",
    client_id: str | None = "trn_a",
    error: dict[str, Any] | None = None,
) -> i.FoundTurn:
    told = tuple((item, "agentMessage", ITEM, None) for item in items)
    return i.FoundTurn(codex_turn_id, client_id, end, error, told)


# --- events


def event(type_: EventType, payload: e.Payload, turn_id: str | None = "trn_a") -> NewEvent:
    return NewEvent(type_, "ses_a", turn_id, payload)


def queued(turn_id: str = "trn_a", request: TurnRequest = ASKED) -> NewEvent:
    return event(EventType.TURN_QUEUED, e.TurnQueued(request=request), turn_id)


def requeued(turn_id: str = "trn_a") -> NewEvent:
    return event(EventType.TURN_QUEUED, e.TurnQueued(requeued=True), turn_id)


def loaded(thread_id: str = "thread", *, generation: int = 1, fresh: bool = True) -> NewEvent:
    payload = e.SessionLoaded(thread_id=thread_id, generation=generation, fresh=fresh, model="model")
    return event(EventType.SESSION_LOADED, payload, None)


def accepted(turn_id: str = "trn_a", *, generation: int = 1) -> NewEvent:
    return event(EventType.TURN_ACCEPTED, e.TurnAccepted(generation=generation), turn_id)


def started(turn_id: str = "trn_a", codex_turn_id: str = "codex_a") -> NewEvent:
    return event(EventType.TURN_STARTED, e.TurnStarted(codex_turn_id=codex_turn_id), turn_id)


def item_started(item_id: str = "item") -> NewEvent:
    return event(EventType.ITEM_STARTED, e.ItemStarted(item_id=item_id, kind="agentMessage", item=ITEM))


def item_completed(item_id: str = "item") -> NewEvent:
    return event(EventType.ITEM_COMPLETED, e.ItemStarted(item_id=item_id, kind="agentMessage", item=ITEM))


def item_abandoned(item_id: str = "item", reason: str | None = None) -> NewEvent:
    return event(EventType.ITEM_ABANDONED, e.ItemAbandoned(item_id=item_id, reason=reason))


def steered(turn_id: str = "trn_a") -> NewEvent:
    return event(EventType.TURN_STEERED, e.TurnSteered(input=WORDS), turn_id)


def interaction_requested(given: i.Asked, turn_id: str | None = "trn_a") -> NewEvent:
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
    return event(EventType.INTERACTION_REQUESTED, payload, turn_id)


def interaction_ended(
    by: ResolvedBy,
    answer: AnswerInteraction | None = None,
    *,
    interaction_id: str = "int_a",
    turn_id: str | None = "trn_a",
) -> NewEvent:
    type_ = EventType.INTERACTION_EXPIRED if by is ResolvedBy.DEADLINE else EventType.INTERACTION_RESOLVED
    return event(type_, e.InteractionEnded(interaction_id=interaction_id, resolved_by=by, answer=answer), turn_id)


def session_closed(reason: str = "requested") -> NewEvent:
    return event(EventType.SESSION_CLOSED, e.SessionClosed(reason=reason), None)


def turn_ended(
    type_: EventType,
    reason: str | None = None,
    *,
    turn_id: str = "trn_a",
    error: dict[str, Any] | None = None,
    evidence: dict[str, Any] | None = None,
    output: Raw | UnsetType = UNSET,
) -> NewEvent:
    return event(type_, e.TurnEnded(reason=reason, error=error, evidence=evidence or {}, output=output), turn_id)


# --- effects


def open_thread(thread_id: str | None = None) -> i.OpenThread:
    return i.OpenThread("ses_a", thread_id, SETTINGS)


def hand(turn_id: str = "trn_a", thread_id: str = "thread", request: TurnRequest = ASKED) -> i.HandTurn:
    return i.HandTurn(turn_id, thread_id, request, SETTINGS, request.model or "model", request.effort)


def ask() -> i.ReadHistory:
    return i.ReadHistory("ses_a", "thread")


def interrupt(codex_turn_id: str = "codex_a", turn_id: str = "trn_a") -> i.InterruptTurn:
    return i.InterruptTurn(turn_id, "thread", codex_turn_id)


def clean(turn_id: str = "trn_a") -> i.CleanTerminals:
    return i.CleanTerminals(turn_id, "thread")


def look(turn_id: str = "trn_a") -> i.LookForLeft:
    return i.LookForLeft("ses_a", turn_id)


def steer_line(steer_id: str = "str_a", codex_turn_id: str = "codex_a", turn_id: str = "trn_a") -> i.SteerTurn:
    return i.SteerTurn(turn_id, steer_id, "thread", codex_turn_id, WORDS, None, None)


def answer_line(given: i.Asked, decision: Any = None, answer: AnswerInteraction | None = None) -> i.Answer:
    return i.Answer(given.request_id, given.kind, given.request, decision, answer)


def answer_by(interaction_id: str = "int_a") -> i.SetTimer:
    return i.SetTimer(interaction_id, i.TimerKind.ANSWER, ANSWER_MS)


def wish(stop: StopWish | None = REQUESTED, said: Said | None = None, owner_id: str = "trn_a") -> i.Remember:
    return i.Remember(owner_id, stop, said)


IDLE = i.Idle("ses_a")


# --- situations


def idle() -> Script:
    """Its thread is loaded, and it has no turn."""
    return running().played(ended())


def opening() -> Script:
    return Script().played(asked())


def handed() -> Script:
    return opening().played(opened())


def running() -> Script:
    return handed().played(named())


def interrupted(wanted: StopWish | None = REQUESTED) -> Script:
    """Codex said that it interrupted the turn, and is asked to end what it left."""
    script = running().played(began())
    return (script if wanted is None else script.played(stop(wish=wanted))).played(ended(i.TurnEnd.INTERRUPTED))


def looking() -> Script:
    return interrupted().played(i.TerminalsCleaned("trn_a"))


def doubtful(*, keeper: bool) -> Script:
    """A turn with an open item was with a child that died."""
    return running().played(began()).beside(BACKOFF).played(died(keeper=keeper))
