"""A session's machine, played like a script: what comes in, and all that it leads to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from msgspec import Raw

from baa.api import events as e
from baa.api.events import EventType
from baa.api.sessions import ApprovalPolicy, Sandbox, SessionSettings, TurnRequest
from baa.api.status import ChildState
from baa.codexd.machines import inputs as i
from baa.codexd.machines.child import Child
from baa.codexd.machines.inputs import Effect, Input, NewEvent
from baa.codexd.machines.session import Session, step

SETTINGS = SessionSettings(cwd="/home/user", sandbox=Sandbox.WORKSPACE_WRITE, approval_policy=ApprovalPolicy.NEVER)
ASKED = TurnRequest(prompt="go")
ITEM = Raw(b'{"id":"item"}')

NO_CHILD = Child()
READY = Child(ChildState.READY, 1)
BACKOFF = Child(ChildState.BACKOFF, 1)
NEXT = Child(ChildState.READY, 2)

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


def asked(turn_id: str = "trn_a") -> i.TurnRequested:
    return i.TurnRequested(turn_id, ASKED)


def opened(thread_id: str = "thread", *, generation: int = 1, fresh: bool = True) -> i.ThreadOpened:
    return i.ThreadOpened(generation, thread_id, fresh, "model")


def named(codex_turn_id: str = "codex_a", turn_id: str | None = None) -> i.TurnNamed:
    return i.TurnNamed(codex_turn_id, turn_id, None)


def ended(end: i.TurnEnd = i.TurnEnd.COMPLETED, codex_turn_id: str = "codex_a") -> i.TurnFinished:
    return i.TurnFinished(codex_turn_id, end, None, None)


def began(item_id: str = "item", codex_turn_id: str = "codex_a") -> i.ItemBegan:
    return i.ItemBegan(codex_turn_id, item_id, "agentMessage", ITEM, None)


def grew(item_id: str = "item", codex_turn_id: str = "codex_a") -> i.ItemGrew:
    return i.ItemGrew(codex_turn_id, item_id, "text", "piece", None)


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
    return i.FoundTurn(codex_turn_id, client_id, end, error, tuple((item, "agentMessage", ITEM) for item in items))


# --- events


def event(type_: EventType, payload: e.Payload, turn_id: str | None = "trn_a") -> NewEvent:
    return NewEvent(type_, "ses_a", turn_id, payload)


def queued(turn_id: str = "trn_a") -> NewEvent:
    return event(EventType.TURN_QUEUED, e.TurnQueued(request=ASKED), turn_id)


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


def item_abandoned(item_id: str = "item") -> NewEvent:
    return event(EventType.ITEM_ABANDONED, e.ItemAbandoned(item_id=item_id))


def turn_ended(
    type_: EventType,
    reason: str | None = None,
    *,
    turn_id: str = "trn_a",
    error: dict[str, Any] | None = None,
    evidence: dict[str, Any] | None = None,
) -> NewEvent:
    return event(type_, e.TurnEnded(reason=reason, error=error, evidence=evidence or {}), turn_id)


# --- effects


def open_thread(thread_id: str | None = None) -> i.OpenThread:
    return i.OpenThread("ses_a", thread_id, SETTINGS)


def hand(turn_id: str = "trn_a", thread_id: str = "thread") -> i.HandTurn:
    return i.HandTurn(turn_id, thread_id, ASKED)


def ask() -> i.ReadHistory:
    return i.ReadHistory("ses_a", "thread")


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


def doubtful(*, keeper: bool) -> Script:
    """A turn with an open item was with a child that died."""
    return running().played(began()).beside(BACKOFF).played(died(keeper=keeper))
