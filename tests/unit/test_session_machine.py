"""What a session makes of what happens to it, case by case. test_session_exhaustive.py tries all of it."""

from __future__ import annotations

import pytest
from msgspec import UNSET, Raw

from baa.api import events as e
from baa.api.events import EventType
from baa.api.status import ChildState
from baa.codexd.machines import inputs as i
from baa.codexd.machines.child import Child
from baa.codexd.machines.inputs import Effect, NewEvent
from baa.codexd.machines.session import Session
from tests.support.script import (
    BACKOFF,
    IDLE,
    NEXT,
    NO_CHILD,
    SETTINGS,
    Script,
    accepted,
    ask,
    asked,
    began,
    died,
    doubtful,
    ended,
    event,
    finished,
    found,
    grew,
    hand,
    handed,
    idle,
    interrupt,
    item_abandoned,
    item_completed,
    item_started,
    loaded,
    named,
    open_thread,
    opened,
    opening,
    queued,
    requeued,
    running,
    started,
    stop,
    turn_ended,
    wish,
)

REFUSED = {"code": -32600, "message": "no"}
COMPLETED, FAILED, INTERRUPTED = EventType.TURN_COMPLETED, EventType.TURN_FAILED, EventType.TURN_INTERRUPTED


# --- a turn's way


def test_the_first_turn_opens_the_thread_and_is_handed_over_once_it_is_open() -> None:
    script = Script()
    script.got(asked(), queued(), open_thread())
    script.got(opened(), loaded(), accepted(), hand())
    script.got(named(), started())
    script.got(began(), item_started())
    script.got(finished(), item_completed())
    script.got(ended(), turn_ended(COMPLETED), IDLE)

    assert script.session == Session("ses_a", SETTINGS, "thread", resumable=True, loaded_in=1, model="model")


def test_a_later_turn_is_handed_over_at_once() -> None:
    idle().got(asked("trn_b"), queued("trn_b"), accepted("trn_b"), hand("trn_b"))


def test_a_turn_waits_for_a_child() -> None:
    script = Script(child=NO_CHILD)
    script.got(asked(), queued())
    script.beside(NEXT).got(i.ChildBecameReady(), open_thread())
    script.got(opened(generation=2), loaded(generation=2), accepted(generation=2), hand())


def test_turns_wait_for_one_another_and_keep_their_order() -> None:
    script = running()
    script.got(asked("trn_b"), queued("trn_b"))
    script.got(asked("trn_c"), queued("trn_c"))
    script.got(ended(), turn_ended(COMPLETED), accepted("trn_b"), hand("trn_b"))
    script.got(named("codex_b"), started("trn_b", "codex_b"))
    script.got(
        ended(i.TurnEnd.FAILED, "codex_b"), turn_ended(FAILED, turn_id="trn_b"), accepted("trn_c"), hand("trn_c")
    )


def test_a_name_for_a_turn_that_has_one_names_nothing() -> None:
    script = handed().got(named("codex_a"), started())
    script.got(named("codex_a"), i.Count("late_turn"))
    script.got(named("codex_x"), i.Count("late_turn"))


def test_a_turn_that_codex_refuses_fails_with_its_words() -> None:
    script = handed()
    script.got(i.TurnRefused("trn_a", REFUSED), turn_ended(FAILED, "refused_by_codex", error=REFUSED), IDLE)
    script.got(i.TurnRefused("trn_a", REFUSED), i.Count("late_turn"))


def test_a_refusal_of_another_turn_or_of_one_that_was_named_fails_nothing() -> None:
    handed().got(i.TurnRefused("trn_x", REFUSED), i.Count("late_turn"))
    running().got(i.TurnRefused("trn_a", REFUSED), i.Count("late_turn"))


@pytest.mark.parametrize("end", i.TurnEnd)
def test_a_second_end_is_counted_and_changes_nothing(end: i.TurnEnd) -> None:
    script = idle()
    before = script.session
    script.got(ended(end), i.Count("late_turn_end"))

    assert script.session == before


def test_what_an_ended_turn_leaves_open_is_abandoned_first() -> None:
    running().played(began("i"), began("k"), finished("i")).got(
        ended(i.TurnEnd.FAILED), item_abandoned("k"), turn_ended(FAILED), IDLE
    )


def test_an_item_that_begins_again_is_open_again() -> None:
    running().played(began(), finished(), began()).got(ended(), item_abandoned(), turn_ended(COMPLETED), IDLE)


@pytest.mark.parametrize("late", [began(), grew(), finished()])
def test_an_item_of_no_running_turn_is_counted(late: i.Input) -> None:
    idle().got(late, i.Count("item_of_no_turn"))


def test_a_delta_is_told_even_of_an_item_that_nobody_began() -> None:
    delta = e.ItemDelta(item_id="other", stream="text", delta="piece")
    running().got(grew("other"), event(EventType.ITEM_DELTA, delta))


def test_an_update_belongs_to_the_running_turn_or_to_none() -> None:
    usage = i.Updated("codex_a", EventType.USAGE_UPDATED, Raw(b"{}"), None)
    running().got(usage, event(EventType.USAGE_UPDATED, e.Updated(update=Raw(b"{}"))))
    idle().got(usage, i.Count("update_of_no_turn"))


def test_what_codex_says_beside_is_passed_on_with_the_turn_that_runs() -> None:
    note = i.Noted(EventType.CODEX_WARNING, "warning", UNSET, None)
    told = e.Notification(method="warning")
    running().got(note, event(EventType.CODEX_WARNING, told))
    idle().got(note, event(EventType.CODEX_WARNING, told, None))


# --- threads


def test_a_refused_thread_fails_only_the_first_turn() -> None:
    script = opening().played(asked("trn_b"))
    script.got(i.ThreadRefused(REFUSED), turn_ended(FAILED, "thread_refused", error=REFUSED), open_thread())
    script.got(opened(), loaded(), accepted("trn_b"), hand("trn_b"))


def test_a_refusal_that_nobody_waits_for_fails_nothing() -> None:
    for script in (Script(child=NO_CHILD).played(asked()), running(), idle()):
        script.got(i.ThreadRefused(REFUSED), i.Count("late_thread"))


def test_a_thread_opened_for_an_earlier_child_is_not_used() -> None:
    script = opening().beside(BACKOFF).got(died()).beside(NEXT)
    script.got(i.ChildBecameReady(), open_thread())
    script.got(opened("old", generation=1), i.Count("late_thread"))


def test_a_thread_in_which_a_turn_has_run_is_resumed_by_the_next_child() -> None:
    script = idle().beside(NEXT)
    script.got(asked("trn_b"), queued("trn_b"), open_thread("thread"))
    script.got(
        opened(generation=2, fresh=False),
        loaded(generation=2, fresh=False),
        accepted("trn_b", generation=2),
        hand("trn_b"),
    )


def test_a_thread_in_which_nothing_has_run_is_not_on_disk_and_is_opened_anew() -> None:
    script = handed().beside(BACKOFF).got(died(taken=False), requeued()).beside(NEXT)
    script.got(i.ChildBecameReady(), open_thread())
    script.got(opened("new", generation=2), loaded("new", generation=2), accepted(generation=2), hand(thread_id="new"))


@pytest.mark.parametrize("thread_id", ["thread", "other"])
def test_only_a_thread_in_which_a_turn_has_run_counts_as_one_that_can_be_resumed(thread_id: str) -> None:
    nothing_has_run = handed().beside(BACKOFF).played(died(taken=False)).beside(NEXT).played(i.ChildBecameReady())
    one_has_run = idle().beside(NEXT).played(asked("trn_b"))
    scripts = [script.played(opened(thread_id, generation=2)) for script in (nothing_has_run, one_has_run)]

    assert [script.session.resumable for script in scripts] == [False, thread_id == "thread"]


def test_a_session_asks_for_its_thread_once() -> None:
    opening().got(asked("trn_b"), queued("trn_b")).got(i.ChildBecameReady())


# --- the child's death


def test_a_turn_that_the_keeper_never_took_waits_again_in_its_old_place() -> None:
    script = handed().played(asked("trn_b")).beside(BACKOFF)
    script.got(died(taken=False), requeued())

    assert [turn.turn_id for turn in script.session.turns] == ["trn_a", "trn_b"]
    script.beside(NEXT).got(i.ChildBecameReady(), open_thread())


@pytest.mark.parametrize("taken", [True, None])
def test_a_turn_that_the_keeper_took_is_asked_about_and_never_handed_over_again(taken: bool | None) -> None:
    script = handed().beside(BACKOFF).got(died(taken=taken)).beside(NEXT)
    script.got(i.ChildBecameReady(), ask())
    script.got(i.ChildBecameReady())


def test_a_waiting_turn_does_not_notice_a_death() -> None:
    opening().beside(BACKOFF).got(died())


def test_the_death_of_another_generation_concerns_no_turn_of_this_one() -> None:
    script = running().beside(BACKOFF)
    before = script.session
    script.got(died(generation=7))

    assert script.session == before


def test_a_second_child_that_dies_while_asked_leaves_the_question_to_the_third() -> None:
    script = doubtful(keeper=False).beside(NEXT).got(i.ChildBecameReady(), ask())
    script.beside(BACKOFF).got(died(generation=2))
    script.beside(Child(ChildState.READY, 3)).got(i.ChildBecameReady(), ask())


HISTORY_SILENT = [
    (i.HistoryRead(()), "the turn is not in it"),
    (i.HistoryRead((found(i.TurnEnd.COMPLETED, codex_turn_id="codex_x", client_id="trn_x"),)), "the turn is not in it"),
    (i.HistoryRead(None, REFUSED), REFUSED),
]


@pytest.mark.parametrize(("history", "said"), HISTORY_SILENT)
@pytest.mark.parametrize(
    ("keeper", "end", "reason"),
    [(False, INTERRUPTED, "child_exited"), (True, EventType.TURN_LOST, "keeper_died")],
)
def test_where_the_history_is_silent_the_spool_decides_and_without_it_the_turn_is_lost(
    history: i.HistoryRead, said: object, keeper: bool, end: EventType, reason: str
) -> None:
    script = doubtful(keeper=keeper).beside(NEXT).played(i.ChildBecameReady())
    script.got(history, item_abandoned(), turn_ended(end, reason, evidence={"generation": 1, "history": said}))


@pytest.mark.parametrize("keeper", [False, True])
@pytest.mark.parametrize("end", [None, i.TurnEnd.INTERRUPTED])
def test_a_turn_that_the_history_calls_cut_short_is_interrupted(keeper: bool, end: i.TurnEnd | None) -> None:
    script = doubtful(keeper=keeper).beside(NEXT).played(i.ChildBecameReady())
    evidence = {"history": end or "in progress", "generation": 1}
    script.got(
        i.HistoryRead((found(end),)), item_abandoned(), turn_ended(INTERRUPTED, "child_exited", evidence=evidence)
    )


def test_a_turn_that_the_history_calls_completed_gets_the_items_that_died_with_the_keeper() -> None:
    script = running().played(began("done"), finished("done"), began("open")).beside(BACKOFF).played(died(keeper=True))
    script.beside(NEXT).played(i.ChildBecameReady())
    script.got(
        i.HistoryRead((found(i.TurnEnd.COMPLETED, "done", "open", "unseen"),)),
        item_completed("open"),
        item_started("unseen"),
        item_completed("unseen"),
        turn_ended(COMPLETED, evidence={"history": "completed", "generation": 1}),
    )


def test_a_turn_is_found_by_the_name_that_codex_gave_it_where_the_history_does_not_tell_ours() -> None:
    script = doubtful(keeper=True).beside(NEXT).played(i.ChildBecameReady())
    script.got(
        i.HistoryRead(
            (found(None, codex_turn_id="codex_x", client_id=None), found(i.TurnEnd.COMPLETED, client_id=None))
        ),
        item_abandoned(),
        turn_ended(COMPLETED, evidence={"history": "completed", "generation": 1}),
    )


def test_a_turn_that_failed_unseen_fails_with_the_words_of_the_history() -> None:
    script = doubtful(keeper=True).beside(NEXT).played(i.ChildBecameReady())
    script.got(
        i.HistoryRead((found(i.TurnEnd.FAILED, error=REFUSED),)),
        item_abandoned(),
        turn_ended(FAILED, error=REFUSED, evidence={"history": "failed", "generation": 1}),
    )


@pytest.mark.parametrize(("end", "type_"), [(i.TurnEnd.COMPLETED, COMPLETED), (i.TurnEnd.INTERRUPTED, INTERRUPTED)])
def test_a_turn_that_codex_named_to_nobody_is_found_by_our_id_and_its_thread_is_kept(
    end: i.TurnEnd, type_: EventType
) -> None:
    """Its name died with the keeper; the next turn must not begin in a thread that knows nothing of it."""
    script = handed().played(asked("trn_b")).beside(BACKOFF).played(died(keeper=True)).beside(NEXT)
    script.got(i.ChildBecameReady(), ask())
    reason = "child_exited" if end is i.TurnEnd.INTERRUPTED else None
    script.got(
        i.HistoryRead((found(end),)),
        started(),
        turn_ended(type_, reason, evidence={"history": end, "generation": 1}),
        open_thread("thread"),
    )


@pytest.mark.parametrize(("keeper", "end"), [(False, INTERRUPTED), (True, EventType.TURN_LOST)])
def test_a_turn_in_doubt_ends_when_no_child_will_come(keeper: bool, end: EventType) -> None:
    evidence = {"generation": 1, "history": "not asked: crash loop"}
    reason = "keeper_died" if keeper else "child_exited"
    doubtful(keeper=keeper).got(
        i.NoChildToAsk("crash loop"), item_abandoned(), turn_ended(end, reason, evidence=evidence), IDLE
    )


@pytest.mark.parametrize("script", [Script(child=NO_CHILD).played(asked()), running(), idle()])
def test_a_turn_that_is_in_no_doubt_waits_on_without_a_child(script: Script) -> None:
    script.got(i.NoChildToAsk("not installed"))


def test_a_history_that_nobody_waits_for_is_counted() -> None:
    for script in (idle(), running(), opening()):
        script.got(i.HistoryRead((found(i.TurnEnd.FAILED),)), i.Count("late_history"))


# --- stopping


STOP_TURN: list[tuple[Script, list[NewEvent | Effect]]] = [
    (running(), [wish(), interrupt()]),
    (handed(), [wish()]),
    (idle(), [i.Count("stop of no turn")]),
    (doubtful(keeper=False), []),
]


@pytest.mark.parametrize(("script", "wanted"), STOP_TURN)
def test_only_a_turn_that_codex_named_can_be_interrupted(script: Script, wanted: list[NewEvent | Effect]) -> None:
    script.got(stop(), *wanted)


def test_a_turn_that_codex_did_not_name_yet_is_interrupted_as_soon_as_it_does() -> None:
    script = handed().got(stop(), wish()).got(stop())
    script.got(named(), started(), interrupt())
    script.got(named("codex_a"), i.Count("late_turn"))


def test_nobody_is_left_to_be_asked_to_interrupt_what_a_dead_child_ran() -> None:
    script = handed().got(stop(), wish()).beside(BACKOFF).played(died(keeper=True)).beside(NEXT)
    script.played(i.ChildBecameReady())
    evidence = {"history": "in progress", "generation": 1}
    script.got(i.HistoryRead((found(None),)), started(), turn_ended(INTERRUPTED, "child_exited", evidence=evidence))


def test_a_turn_whose_child_we_ended_is_interrupted() -> None:
    running().played(began()).beside(BACKOFF).got(
        i.ChildEndedByUs(), item_abandoned(), turn_ended(INTERRUPTED, "daemon_stopped"), IDLE
    )


@pytest.mark.parametrize("script", [opening().beside(BACKOFF), doubtful(keeper=True), idle()])
def test_a_turn_that_waits_or_is_in_doubt_outlives_a_stop(script: Script) -> None:
    script.got(i.ChildEndedByUs())


@pytest.mark.parametrize("script", [opening(), handed(), running().played(began()), doubtful(keeper=False)])
def test_every_turn_is_lost_when_the_log_is_older_than_the_spool(script: Script) -> None:
    """One that still waits in the log may have run since."""
    script.played(asked("trn_b"))
    open_items = [item_abandoned(item.item_id) for item in script.session.turns[0].open_items]
    evidence = {"log": "restored"}
    ends = [turn_ended(EventType.TURN_LOST, "log_went_back", turn_id=t, evidence=evidence) for t in ("trn_a", "trn_b")]
    script.got(i.LogWentBack("restored"), *open_items, *ends)


def test_a_session_without_a_turn_does_not_notice_that_the_log_went_back() -> None:
    idle().got(i.LogWentBack("restored"))
