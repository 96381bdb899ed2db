"""What becomes of a turn besides its way: its output, the account's limits, what the model begins anew, sub-agents."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from msgspec import UNSET, Raw

from baa.api import events as e
from baa.api.events import EventType
from baa.api.sessions import Fork, Origin, TurnRequest
from baa.codexd.machines import inputs as i
from baa.codexd.machines.inputs import NewEvent
from baa.codexd.machines.session import Agent, Session
from baa.codexd.machines.step import step
from baa.codexd.machines.turn import Said
from tests.support.script import (
    ASKED,
    BACKOFF,
    DRAINING,
    IDLE,
    ITEM,
    NEXT,
    SETTINGS,
    Script,
    accepted,
    asked,
    began,
    clean,
    died,
    ended,
    event,
    finished,
    grew,
    idle,
    interrupt,
    item_abandoned,
    item_completed,
    item_started,
    loaded,
    named,
    open_thread,
    opened,
    queued,
    requeued,
    running,
    session_closed,
    started,
    stop,
    turn_ended,
    wish,
)

COMPLETED, FAILED, INTERRUPTED = EventType.TURN_COMPLETED, EventType.TURN_FAILED, EventType.TURN_INTERRUPTED


# --- an output schema

SCHEMA: dict[str, Any] = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
PROMISED = TurnRequest(prompt="go", output_schema=SCHEMA)


def said(text: str | None) -> i.ItemFinished:
    return msgspec.structs.replace(finished(), text=text)


def promised(*texts: str | None) -> Script:
    script = Script().played(asked(request=PROMISED), opened(), named())
    return script.played(*(said(text) for text in texts))


@pytest.mark.parametrize("text", ['{"n":1}', ' {"n" : 1, "more": [null]} '])
def test_a_message_that_fits_its_schema_is_the_output(text: str) -> None:
    output = Raw(msgspec.json.encode(msgspec.json.decode(text)))
    promised("not this", text, None).got(ended(), turn_ended(COMPLETED, output=output), IDLE)


@pytest.mark.parametrize(
    ("texts", "flaw"),
    [
        ((), "The turn ended without a message, and an output was asked for."),
        ((None,), "The turn ended without a message, and an output was asked for."),
        (("words",), "The final message is not JSON: JSON is malformed: invalid character (byte 0)"),
        (
            ('{"n":"1"}',),
            'The final message does not fit the output schema at n: "1" is not of type "integer"',
        ),
        (
            ("{}",),
            'The final message does not fit the output schema at its root: "n" is a required property',
        ),
    ],
)
def test_a_message_that_does_not_fit_fails_the_turn_and_says_where(texts: tuple[str | None, ...], flaw: str) -> None:
    promised(*texts).got(ended(), turn_ended(FAILED, "output_invalid", error={"message": flaw}), IDLE)


def test_a_message_that_is_deeper_than_anybody_reads_fails_the_turn() -> None:
    script = promised("[" * 100_000 + "]" * 100_000)
    done = step(script.session, ended(), script.child)
    assert [event.type for event in done.events] == [FAILED]


def test_a_turn_that_failed_is_not_measured_by_its_schema() -> None:
    promised("words").got(ended(i.TurnEnd.FAILED), turn_ended(FAILED), IDLE)


def test_an_output_that_only_the_history_tells_counts() -> None:
    script = promised().beside(BACKOFF).played(died(keeper=True)).beside(NEXT).played(i.ChildBecameReady())
    turn = i.FoundTurn("codex_a", "trn_a", i.TurnEnd.COMPLETED, None, (("k", "agentMessage", ITEM, '{"n":2}'),))
    evidence = {"history": "completed", "generation": 1}
    end = turn_ended(COMPLETED, evidence=evidence, output=Raw(b'{"n":2}'))
    script.got(i.HistoryRead((turn,)), item_started("k"), item_completed("k"), end)


def test_without_a_schema_nobody_keeps_what_was_said() -> None:
    script = running().played(said("words"))
    assert script.session.turns[0].final_text is None


# --- limits

LIMITS = {"codex": {"primary": {"usedPercent": 100, "resetsAt": 1}}}


@pytest.mark.parametrize("info", ["usageLimitExceeded", "rateLimitExceeded", "sessionBudgetExceeded",
                                  {"usageLimitExceeded": {"httpStatusCode": 429}}])  # fmt: skip
def test_a_turn_that_the_accounts_limits_ended_says_so_and_when_they_reset(info: object) -> None:
    error = {"message": "limit", "codexErrorInfo": info}
    given = i.TurnFinished("codex_a", i.TurnEnd.FAILED, error, None, LIMITS, "then")
    evidence = {"resetsAt": "then", "limits": LIMITS}
    running().got(given, turn_ended(FAILED, "usage_limit", error=error, evidence=evidence), IDLE)


@pytest.mark.parametrize(
    "error",
    [
        None,
        {},
        {"codexErrorInfo": None},
        {"codexErrorInfo": "other"},
        {"codexErrorInfo": {}},
        {"codexErrorInfo": {"responseTooManyFailedAttempts": {"httpStatusCode": 429}}},
        {"codexErrorInfo": [1]},
        {"codexErrorInfo": 7},
    ],
)
def test_any_other_failure_is_not_blamed_on_limits(error: dict[str, Any] | None) -> None:
    given = i.TurnFinished("codex_a", i.TurnEnd.FAILED, error, None, LIMITS, "then")
    running().got(given, turn_ended(FAILED, error=error), IDLE)


# --- what the model begins anew

KINDS = ("agentMessage", "reasoning", "plan", "commandExecution", "fileChange")


def note(turn_id: str | None) -> i.Noted:
    return i.Noted(EventType.CODEX_WARNING, "error", UNSET, None, retried_turn_id=turn_id)


def told(turn_id: str | None = "trn_a") -> NewEvent:
    return event(EventType.CODEX_WARNING, e.Notification(method="error"), turn_id)


def test_what_the_model_was_saying_is_abandoned_when_it_is_asked_again() -> None:
    script = running().played(*(msgspec.structs.replace(began(kind), kind=kind) for kind in KINDS))
    script.got(note("codex_a"), told(), *(item_abandoned(kind, "retried") for kind in KINDS[:3]))
    script.got(note("codex_a"), told())
    script.got(ended(), *(item_abandoned(kind) for kind in KINDS[3:]), turn_ended(COMPLETED), IDLE)


def test_an_error_that_begins_nothing_anew_or_belongs_to_another_turn_abandons_nothing() -> None:
    running().played(began()).got(note(None), told()).got(note("codex_x"), told())
    idle().got(note("codex_a"), told(None))


# --- turns that Codex begins by itself


def began_by_codex(generation: int = 1) -> list[NewEvent]:
    request = TurnRequest(prompt="")
    queued = e.TurnQueued(request=request, origin=Origin.CODEX)
    return [
        event(EventType.TURN_QUEUED, queued, "trn_new"),
        accepted("trn_new", generation=generation),
        started("trn_new", "codex_x"),
    ]


def test_a_turn_that_codex_begins_by_itself_is_a_turn() -> None:
    script = idle().got(named("codex_x", "trn_new"), *began_by_codex())
    script.got(stop("trn_new"), wish(owner_id="trn_new"), interrupt("codex_x", "trn_new"))
    script.got(asked("trn_b"), queued("trn_b"))


def test_a_turn_that_codex_begins_by_itself_goes_before_those_that_wait() -> None:
    script = idle().played(i.TimeUp("ses_a", i.TimerKind.IDLE), asked("trn_b"))
    script.got(named("codex_x", "trn_new"), *began_by_codex())
    assert [turn.turn_id for turn in script.session.turns] == ["trn_new", "trn_b"]


def test_a_closed_session_begins_no_turn() -> None:
    script = idle().played(i.CloseRequested())
    script.got(named("codex_x", "trn_new"), i.Count("late_turn"))


# --- ephemeral threads and forks

EPHEMERAL = msgspec.structs.replace(SETTINGS, ephemeral=True)
GONE = {"why": "the ephemeral thread ended with its child"}


def ephemeral(*turn_ids: str) -> Script:
    script = Script(Session("ses_a", EPHEMERAL)).played(*(asked(turn_id) for turn_id in turn_ids))
    return script.played(opened(), named())


def canceled(turn_id: str) -> NewEvent:
    return turn_ended(INTERRUPTED, "canceled_before_start", turn_id=turn_id, evidence=GONE)


def test_an_ephemeral_session_is_never_unloaded_while_it_can_be_used() -> None:
    script = ephemeral("trn_a")
    script.got(ended(), turn_ended(COMPLETED))
    script.got(i.CloseRequested(), session_closed(), i.UnloadThread("ses_a", "thread"))


def test_an_idle_ephemeral_session_ends_with_its_child() -> None:
    script = ephemeral("trn_a").played(ended()).beside(BACKOFF)
    script.got(died(generation=3))
    script.got(died(), session_closed("thread_gone"))
    script.got(died())


def test_with_an_ephemeral_thread_its_turns_end_too() -> None:
    script = ephemeral("trn_a", "trn_b").played(began()).beside(BACKOFF)
    evidence = {"generation": 1, "history": "an ephemeral thread has none"}
    end = turn_ended(INTERRUPTED, "child_exited", evidence=evidence)
    script.got(died(), canceled("trn_b"), item_abandoned(), end, session_closed("thread_gone"))


def test_an_ephemeral_turn_is_lost_with_its_keeper() -> None:
    script = ephemeral("trn_a").beside(BACKOFF)
    evidence = {"generation": 1, "history": "an ephemeral thread has none"}
    end = turn_ended(EventType.TURN_LOST, "keeper_died", evidence=evidence)
    script.got(died(keeper=True), end, session_closed("thread_gone"))


def test_an_ephemeral_turn_that_the_keeper_never_took_ends_with_the_thread() -> None:
    script = Script(Session("ses_a", EPHEMERAL)).played(asked(), opened()).beside(BACKOFF)
    script.got(died(taken=False), requeued(), canceled("trn_a"), session_closed("thread_gone"))


def test_an_ephemeral_session_whose_thread_was_never_opened_outlives_a_child() -> None:
    script = Script(Session("ses_a", EPHEMERAL)).played(asked()).beside(BACKOFF)
    script.got(died()).beside(NEXT).got(i.ChildBecameReady(), i.OpenThread("ses_a", None, EPHEMERAL))


def test_an_ephemeral_session_ends_with_a_codexd_that_stops() -> None:
    script = ephemeral("trn_a", "trn_b").beside(DRAINING)
    end = turn_ended(INTERRUPTED, "daemon_stopped")
    script.got(i.ChildEndedByUs(), end, canceled("trn_b"), session_closed("thread_gone"))


def test_a_fork_begins_with_the_past_of_another_until_a_turn_of_its_own_has_run() -> None:
    fork = Fork("ses_b", "source", "codex_z")
    script = Script(Session("ses_a", SETTINGS, fork=fork))
    opening_line = i.OpenThread("ses_a", None, SETTINGS, fork)
    script.got(asked(), queued(), opening_line)
    script.got(i.ThreadRefused({"message": "no"}), turn_ended(FAILED, "thread_refused", error={"message": "no"}))
    script.got(asked("trn_b"), queued("trn_b"), opening_line)
    script.played(opened("forked"), named("codex_b"), ended(codex_turn_id="codex_b")).beside(NEXT)
    script.got(asked("trn_c"), queued("trn_c"), open_thread("forked"))


def test_a_fork_of_a_session_without_a_thread_begins_anew() -> None:
    script = Script(Session("ses_a", SETTINGS, fork=Fork("ses_b", None)))
    script.got(asked(), queued(), open_thread())


def test_an_adopted_thread_is_resumed_by_its_first_turn() -> None:
    script = Script(Session("ses_a", SETTINGS, thread_id="stored", resumable=True))
    script.got(asked(), queued(), open_thread("stored"))
    script.got(opened("stored", fresh=False), loaded("stored", fresh=False), accepted(), _hand("stored"))


def _hand(thread_id: str) -> i.HandTurn:
    return i.HandTurn("trn_a", thread_id, ASKED, SETTINGS, "model", None)


# --- model and effort


def _handed(script: Script, request: TurnRequest) -> i.HandTurn:
    """How the next turn of an idle session is handed over; it runs and ends."""
    given = asked(f"trn_{len(request.prompt)}{request.effort}", request)
    before = script.session
    (effect,) = step(before, given, script.child).effects
    assert isinstance(effect, i.HandTurn)
    script.played(given, named("codex_n"), ended(codex_turn_id="codex_n"))
    return effect


def test_an_effort_holds_for_one_turn() -> None:
    script = idle()
    own = TurnRequest(prompt="a", effort="high", model="big")
    with_effort, again, third = (_handed(script, request) for request in (own, ASKED, ASKED))

    assert (with_effort.model, with_effort.effort, with_effort.forget_effort) == ("big", "high", False)
    assert (again.model, again.effort, again.forget_effort) == ("model", None, True)
    assert (third.effort, third.forget_effort) == (None, False)


def test_a_turn_that_shortens_the_history_takes_no_effort_away() -> None:
    script = idle()
    own, shortening = TurnRequest(prompt="a", effort="high"), TurnRequest(prompt="/compact", compact=True)
    _, compact, again = (_handed(script, request) for request in (own, shortening, ASKED))
    assert compact.request is shortening
    assert again.forget_effort


def test_an_effort_that_the_thread_came_with_is_what_a_turn_goes_back_to() -> None:
    script = idle()
    script.session = replace(script.session, effort="low")
    first, second = (_handed(script, request) for request in (TurnRequest(prompt="a", effort="high"), ASKED))

    assert (first.effort, second.effort, second.forget_effort) == ("high", "low", False)


# --- sub-agents


def of_agent(given: i.FromThread, thread_id: str = "sub") -> i.OfAgent:
    return i.OfAgent(thread_id, given)


def with_agent() -> Script:
    """A turn whose sub-agent works."""
    spawning = msgspec.structs.replace(began("spawn"), kind="collabAgentToolCall", agents=("sub",))
    return running().played(spawning, of_agent(named("codex_sub")))


def test_a_sub_agents_items_belong_to_the_turn_and_say_whose_they_are() -> None:
    script = with_agent()
    assert script.session.agents == (Agent("sub", "codex_sub"),)
    item = e.ItemStarted(item_id="item", kind="agentMessage", item=ITEM, agent_thread_id="sub")
    script.got(of_agent(began(codex_turn_id="codex_sub")), event(EventType.ITEM_STARTED, item))
    delta = e.ItemDelta(item_id="item", stream="text", delta="piece")
    script.got(of_agent(grew(codex_turn_id="codex_sub")), event(EventType.ITEM_DELTA, delta))
    script.got(of_agent(finished(codex_turn_id="codex_sub")), event(EventType.ITEM_COMPLETED, item))
    usage = i.Updated("codex_sub", EventType.USAGE_UPDATED, Raw(b"{}"), None)
    payload = e.Updated(update=Raw(b"{}"), agent_thread_id="sub")
    script.got(of_agent(usage), event(EventType.USAGE_UPDATED, payload))
    plan = i.Updated("codex_sub", EventType.PLAN_UPDATED, Raw(b"{}"), None)
    script.got(of_agent(plan), i.Count("sub_agent_update"))


def test_what_a_sub_agent_says_is_not_the_turns_output() -> None:
    script = promised('{"n":1}').played(of_agent(said("words")))
    script.got(ended(), turn_ended(COMPLETED, output=Raw(b'{"n":1}')), IDLE)


def test_an_interrupt_ends_the_turns_of_sub_agents_and_what_they_left_too() -> None:
    script = with_agent().played(stop())
    done = script.copy()
    script.got(
        ended(i.TurnEnd.INTERRUPTED),
        wish(said=Said()),
        i.InterruptTurn("trn_a", "sub", "codex_sub"),
        i.CleanTerminals("trn_a", "sub", answered=False),
        clean(),
    )
    done.played(of_agent(ended(codex_turn_id="codex_sub")))
    done.got(ended(i.TurnEnd.INTERRUPTED), wish(said=Said()), clean())


def test_what_a_sub_agent_does_after_the_turn_is_counted() -> None:
    script = with_agent().played(ended())
    script.got(of_agent(began(codex_turn_id="codex_sub")), i.Count("sub_agent_of_no_turn"))
    script.got(of_agent(named("codex_sub2")))
    assert script.session.agents == (Agent("sub", "codex_sub2"),)


def test_no_sub_agent_works_on_when_the_child_is_dead() -> None:
    script = with_agent().beside(BACKOFF).played(died())
    assert script.session.agents == (Agent("sub"),)


def test_what_a_sub_agent_warns_of_is_passed_on() -> None:
    given = i.Noted(EventType.CODEX_WARNING, "error", UNSET, None)
    with_agent().got(of_agent(given), told())
