"""Every situation of a session with every input, and long random lives: what must hold, holds after each step."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import get_args

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import UNSET, Raw

from baa.api import events as e
from baa.api.events import EventType
from baa.api.interactions import AnswerInteraction
from baa.api.sessions import Origin, TextInput, TurnStatus
from baa.api.status import ChildState
from baa.codexd.machines import inputs as i
from baa.codexd.machines.child import Child
from baa.codexd.machines.inputs import Input
from baa.codexd.machines.session import Session, Step
from baa.codexd.machines.step import step
from tests.support.script import (
    ASKED,
    BACKOFF,
    EXPIRED,
    ITEM,
    NEXT,
    NO_CHILD,
    SETTINGS,
    Script,
    asked,
    began,
    died,
    doubtful,
    ended,
    finished,
    found,
    grew,
    handed,
    idle,
    named,
    opened,
    opening,
    question,
    running,
    stop,
)
from tests.support.witness import Witness


class Life:
    """A session from its first turn on. Each step is checked when it is taken."""

    def __init__(self) -> None:
        self.session = Session("ses_a", SETTINGS)
        self.child = NO_CHILD
        self.witness = Witness()
        self.handed = list[str]()

    def take(self, given: Input) -> Step:
        before = self.session
        done = step(before, given, self.child)
        for event in done.events:
            assert event.session_id == before.session_id
            payload = event.payload
            self.witness.see(
                event.type,
                event.session_id,
                event.turn_id,
                item_id=getattr(payload, "item_id", ""),
                requeued=isinstance(payload, e.TurnQueued) and payload.requeued,
                own=isinstance(payload, e.TurnQueued) and payload.origin is Origin.CODEX,
            )
        self.session = done.session
        self._agree()
        self._effects(done)
        return done

    def _agree(self) -> None:
        """The machine and the events tell the same of every turn."""
        turns = self.session.turns
        assert [turn.turn_id for turn in turns] == self.witness.queues.get("ses_a", [])
        for place, turn in enumerate(turns):
            assert turn.status is self.witness.statuses[turn.turn_id]
            open_ids = {item.item_id for item in turn.open_items}
            assert open_ids == self.witness.items[turn.turn_id]
            assert not open_ids & set(turn.done_items)
            assert turn.status is TurnStatus.QUEUED or place == 0, "two turns are with Codex"
            assert (turn.generation == 0) is (turn.status is TurnStatus.QUEUED)
            assert (turn.codex_turn_id is not None) is (turn.status is TurnStatus.IN_PROGRESS)

    def _effects(self, done: Step) -> None:
        session, accepted = done.session, [event for event in done.events if event.type is EventType.TURN_ACCEPTED]
        handed = [effect for effect in done.effects if isinstance(effect, i.HandTurn)]
        own = {event.turn_id for event in done.events if getattr(event.payload, "origin", None) is Origin.CODEX}
        assert [event.turn_id for event in accepted if event.turn_id not in own] == [hand.turn_id for hand in handed]
        for effect in done.effects:
            match effect:
                case i.HandTurn():
                    assert self.child.ready
                    assert session.loaded_in == self.child.generation
                    assert effect.thread_id == session.thread_id
                    self.handed.append(effect.turn_id)
                case i.OpenThread():
                    assert self.child.ready
                    assert session.opening_in == self.child.generation
                case i.ReadHistory():
                    assert self.child.ready
                    assert session.running is not None
                    assert session.running.unresolved or session.running.doubted
                case i.InterruptTurn():
                    assert session.running is not None
                    agents = {agent.codex_turn_id for agent in session.agents}
                    assert effect.codex_turn_id in {session.running.codex_turn_id, *agents}
                case i.CleanTerminals() | i.LookForLeft():
                    assert session.running is not None
                    assert session.running.said is not None
                case i.UnloadThread():
                    assert self.child.ready
                    lost = [event for event in done.events if event.type is EventType.TURN_LOST]
                    assert not session.turns or lost, "a thread in use was unloaded"
                case i.Answer():
                    assert effect.request_id not in {question.request_id for question in session.questions}

    def finish(self) -> None:
        """From wherever it stands: once a child lives and answers, every turn ends."""
        self.die(taken=None, keeper=True)  # says nothing new where it was told before
        effects = list(self.rise().effects)
        while effects:
            match effect := effects.pop(0):
                case i.OpenThread():
                    done = self.take(i.ThreadOpened(self.child.generation, "thread", False, None))
                case i.HandTurn():
                    self.take(named(f"codex_{effect.turn_id}"))
                    done = self.take(ended(codex_turn_id=f"codex_{effect.turn_id}"))
                case i.ReadHistory():
                    done = self.take(i.HistoryRead(None))
                case i.CleanTerminals(turn_id, answered=True):
                    done = self.take(i.TerminalsCleaned(turn_id))
                case i.LookForLeft(_, turn_id):
                    done = self.take(i.LeftLooked(turn_id, {}))
                case _:
                    continue
            effects += done.effects
        assert self.session.turns == ()
        assert not self.session.closing
        outside = [question for question in self.session.questions if question.turn_id is not None]
        assert outside == [], "a question outlived its turn"

    def rise(self) -> Step:
        self.child = Child(ChildState.READY, self.child.generation + 1)
        return self.take(i.ChildBecameReady())

    def die(self, *, taken: bool | None, keeper: bool) -> Step:
        self.child = Child(ChildState.BACKOFF, self.child.generation)
        return self.take(i.ChildDied(self.child.generation, taken, keeper))


# --- everything with everything


def ephemeral(*given: Input) -> Script:
    return Script(Session("ses_a", msgspec.structs.replace(SETTINGS, ephemeral=True))).played(*given)


SITUATIONS: dict[str, Script] = {
    "new": Script(),
    "new, no child": Script(child=NO_CHILD),
    "idle": idle(),
    "idle, its child dead": idle().beside(BACKOFF),
    "idle, a new child": idle().beside(NEXT),
    "queued, no child": Script(child=NO_CHILD).played(asked()),
    "queued, opening": opening(),
    "queued, opening, the child dead": opening().beside(BACKOFF).played(died()),
    "closing": running().played(i.CloseRequested()),
    "closed": idle().played(i.CloseRequested()),
    "to be ended, not named": handed().played(stop()),
    "to be ended": running().played(began(), stop()),
    "said, cleaning": running().played(stop(), ended(i.TurnEnd.INTERRUPTED)),
    "said, looking": running().played(stop(), ended(i.TurnEnd.INTERRUPTED), i.TerminalsCleaned("trn_a")),
    "said, another waits": running().played(asked("trn_z"), ended(i.TurnEnd.INTERRUPTED)),
    "asking": running().played(question()),
    "asking, no turn": idle().played(question(codex_turn_id=None)),
    "steering": running().played(i.SteerRequested("str_a", "trn_a", (TextInput("more"),))),
    "steering, not named": handed().played(i.SteerRequested("str_a", "trn_a", (TextInput("more"),))),
    "with a sub-agent": running().played(
        i.ItemBegan("codex_a", "spawn", "collabAgentToolCall", ITEM, None, ("sub",)),
        i.OfAgent("sub", named("codex_sub")),
    ),
    "ephemeral": ephemeral(asked(), opened(), named()),
    "ephemeral, idle": ephemeral(asked(), opened(), named(), ended()),
    "two queued, opening": opening().played(asked("trn_z")),
    "accepted": handed(),
    "accepted, another waits": handed().played(asked("trn_z")),
    "accepted, the child dying": handed().beside(BACKOFF),
    "accepted, in doubt": handed().beside(BACKOFF).played(died(keeper=True)),
    "accepted, in doubt, asked": handed()
    .beside(BACKOFF)
    .played(died(keeper=True))
    .beside(NEXT)
    .played(i.ChildBecameReady()),
    "requeued": handed().beside(BACKOFF).played(died(taken=False)),
    "in progress": running(),
    "in progress, an item open and one done": running().played(began("done"), finished("done"), began()),
    "in progress, another waits": running().played(asked("trn_z")),
    "in progress, the child dying": running().beside(BACKOFF),
    "in doubt": doubtful(keeper=False),
    "in doubt, no keeper": doubtful(keeper=True),
    "in doubt, asked": doubtful(keeper=False).beside(NEXT).played(i.ChildBecameReady()),
    "in doubt, no keeper, asked, another waits": doubtful(keeper=True)
    .beside(NEXT)
    .played(asked("trn_z"), i.ChildBecameReady()),
}

ERROR = {"code": -1, "message": "no"}
INPUTS: list[Input] = [
    asked("trn_new"),
    i.OpenWanted(),
    i.ChildBecameReady(),
    *(died(taken=taken, keeper=keeper, generation=g) for taken in (True, False, None) for keeper in (True, False)
      for g in (1, 2)),
    i.NoChildToAsk("none"),
    *(stop(turn_id) for turn_id in ("trn_a", "trn_z", "trn_x")),
    stop(wish=EXPIRED),
    i.CloseRequested(),
    *(i.TimeUp(owner_id, kind) for owner_id in ("trn_a", "ses_a", "int_a") for kind in i.TimerKind),
    *(i.SteerRequested("str_new", turn_id, (TextInput("more"),)) for turn_id in ("trn_a", "trn_x")),
    *(i.SteerWithdrawn(steer_id) for steer_id in ("str_a", "str_x")),
    *(i.TurnSteered("trn_a", steer_id, error) for steer_id in ("str_a", "str_x") for error in (None, ERROR)),
    i.TerminalsCleaned("trn_a"),
    i.LeftLooked("trn_a", {}),
    *(question(f"int_{codex_id}", request_id=9, codex_turn_id=codex_id) for codex_id in ("codex_a", "codex_x", None)),
    i.InteractionAnswered("int_a", AnswerInteraction(decision="accept")),
    i.AskedNoMore(1, 7),
    i.OfAgent("sub", named("codex_sub")),
    i.OfAgent("sub", began("of_sub", "codex_sub")),
    i.OfAgent("sub", ended(codex_turn_id="codex_sub")),
    i.Noted(EventType.CODEX_WARNING, "error", UNSET, None, retried_turn_id="codex_a"),
    i.ChildEndedByUs(),
    i.LogWentBack("restored"),
    *(opened(thread_id, generation=generation) for thread_id in ("thread", "other") for generation in (1, 2)),
    i.ThreadRefused(ERROR),
    *(named(codex_id) for codex_id in ("codex_a", "codex_x")),
    named("codex_own", new_id="trn_own"),
    *(i.TurnRefused(turn_id, ERROR) for turn_id in ("trn_a", "trn_x")),
    *(ended(end, codex_id) for end in i.TurnEnd for codex_id in ("codex_a", "codex_x")),
    *(make(item, codex_id) for make in (began, grew, finished) for item in ("item", "done", "other")
      for codex_id in ("codex_a", "codex_x")),
    *(i.Updated(codex_id, EventType.PLAN_UPDATED, Raw(b"{}"), None) for codex_id in ("codex_a", "codex_x")),
    i.Noted(EventType.CODEX_WARNING, "warning", UNSET, None),
    i.HistoryRead(None, ERROR),
    i.HistoryRead(()),
    *(i.HistoryRead((found(end, "item", "done", "other", client_id=client_id),))
      for end in (None, *i.TurnEnd) for client_id in (None, "trn_a", "trn_x")),
]  # fmt: skip


def at(script: Script) -> Life:
    """A life that came to this situation: what the witness would have seen of it."""
    life = Life()
    life.session, life.child = script.session, script.child
    for turn in script.session.turns:
        life.witness.statuses[turn.turn_id] = turn.status
        life.witness.queues.setdefault("ses_a", []).append(turn.turn_id)
        life.witness.items[turn.turn_id] = {item.item_id for item in turn.open_items}
    return life


def test_every_kind_of_input_is_tried() -> None:
    assert {type(given) for given in INPUTS} == set(get_args(Input))


@pytest.mark.parametrize("situation", SITUATIONS)
def test_whatever_happens_in_a_situation_breaks_nothing_and_every_turn_can_still_end(situation: str) -> None:
    for first in INPUTS:
        life = at(SITUATIONS[situation])
        life.take(first)
        life.finish()


@pytest.mark.parametrize("situation", SITUATIONS)
def test_a_turn_that_may_be_with_codex_is_not_handed_over_again(situation: str) -> None:
    for first, second in product(INPUTS, INPUTS):
        life = at(SITUATIONS[situation])
        with_codex = life.session.running
        life.take(first)
        if isinstance(first, i.TurnRequested) and first == second:
            continue
        life.take(second)
        if with_codex is not None and not (isinstance(first, i.ChildDied) or isinstance(second, i.ChildDied)):
            assert with_codex.turn_id not in life.handed


# --- random lives


Move = Callable[[Life], object]


def some(*names: str) -> st.SearchStrategy[str]:
    return st.sampled_from(names)


def current(life: Life) -> str:
    """The id by which Codex knows the running turn; before it is named, the one by which it will."""
    return f"codex_{life.session.turns[0].turn_id}" if life.session.turns else "codex_of_nobody"


def request(life: Life) -> object:
    return life.take(i.TurnRequested(f"trn_{len(life.witness.statuses)}", ASKED))


def died_by(taken: bool | None, keeper: bool) -> Move:
    # The supervisor tells of a death once, of a child that was there.
    return lambda life: life.die(taken=taken, keeper=keeper) if life.child.ready else None


def risen(life: Life) -> object:
    return None if life.child.ready else life.rise()


def told(make: Callable[[Life], Input]) -> Move:
    return lambda life: life.take(make(life))


ITEM_IDS = some("i", "k")
MOVES: st.SearchStrategy[Move] = st.one_of(
    st.just(request),
    st.just(risen),
    st.builds(died_by, st.sampled_from([True, False, None]), st.booleans()),
    st.just(told(lambda life: i.ThreadOpened(life.child.generation, "thread", True, None))),
    st.just(told(lambda life: named(current(life)))),
    st.sampled_from(i.TurnEnd).map(lambda end: told(lambda life: ended(end, current(life)))),
    ITEM_IDS.map(lambda item: told(lambda life: began(item, current(life)))),
    ITEM_IDS.map(lambda item: told(lambda life: finished(item, current(life)))),
    st.sampled_from([None, *i.TurnEnd]).map(
        lambda end: told(
            lambda life: i.HistoryRead((i.FoundTurn(current(life), None, end, None, (("i", "plan", ITEM, None),)),))
        )
    ),
    st.sampled_from(INPUTS)
    .filter(lambda given: not isinstance(given, i.ChildDied | i.TurnRequested))
    .map(lambda given: told(lambda _: given)),
)


@given(st.lists(MOVES, max_size=60))
@example([request, risen])
@settings(max_examples=400)
def test_no_life_breaks_the_rules_and_in_the_end_every_turn_has_ended_once(moves: list[Move]) -> None:
    life = Life()
    for move in moves:
        move(life)
    life.finish()
