"""How a turn is ended before its time: by a client, by the clock, by a stop of codexd, by the end of its session."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from baa.api.events import EventType
from baa.codexd.machines import inputs as i
from baa.codexd.machines.inputs import NewEvent
from baa.codexd.machines.requests import CLOSING
from baa.codexd.machines.session import with_turn
from baa.codexd.machines.turn import Said, StopWish, TurnChange
from tests.support.script import (
    ASKED,
    BACKOFF,
    DRAINING,
    EXPIRED,
    IDLE,
    NEXT,
    NO_CHILD,
    REQUESTED,
    Script,
    accepted,
    asked,
    began,
    clean,
    died,
    doubtful,
    ended,
    finished,
    found,
    hand,
    handed,
    idle,
    interrupt,
    interrupted,
    item_abandoned,
    item_completed,
    loaded,
    look,
    looking,
    named,
    open_thread,
    opened,
    opening,
    queued,
    requeued,
    running,
    session_closed,
    started,
    stop,
    time_up,
    turn_ended,
    wish,
)

INTERRUPTED, TURN_EXPIRED = EventType.TURN_INTERRUPTED, EventType.TURN_EXPIRED
STALLED = StopWish(TurnChange.EXPIRED, "stalled")
LEASE = StopWish(TurnChange.INTERRUPTED, "lease_expired")
CLEANED = i.TerminalsCleaned("trn_a")
LEFT = i.LeftLooked("trn_a", {"left": [{"pid": 7, "command": "sleep"}]})


def canceled(turn_id: str = "trn_a", why: str = "requested") -> NewEvent:
    return turn_ended(INTERRUPTED, "canceled_before_start", turn_id=turn_id, evidence={"why": why})


# --- an interrupt that Codex confirms


@pytest.mark.parametrize(
    ("wanted", "type_", "reason"),
    [
        (REQUESTED, INTERRUPTED, "requested"),
        (EXPIRED, TURN_EXPIRED, "deadline"),
        (STALLED, TURN_EXPIRED, "stalled"),
        (LEASE, INTERRUPTED, "lease_expired"),
        (None, INTERRUPTED, "interrupted_by_codex"),
    ],
)
def test_an_interrupted_turn_ends_once_it_was_looked_for_what_it_left(
    wanted: StopWish | None, type_: EventType, reason: str
) -> None:
    script = running().played(began())
    if wanted is not None:
        script.got(stop(wish=wanted), wish(wanted), interrupt())
    script.got(ended(i.TurnEnd.INTERRUPTED), wish(wanted, Said()), clean())
    script.got(CLEANED, look())
    script.got(LEFT, item_abandoned(), turn_ended(type_, reason, evidence=LEFT.evidence), IDLE)


def test_what_codex_said_with_its_interrupt_is_kept_for_the_end() -> None:
    script = running()
    said = Said({"message": "why"}, "2026-11-24T00:00:00.000Z")
    given = i.TurnFinished("codex_a", i.TurnEnd.INTERRUPTED, said.error, said.emitted_at)
    script.got(given, wish(None, said), clean())
    script.got(CLEANED, look())
    end = turn_ended(INTERRUPTED, "interrupted_by_codex", error={"message": "why"})
    told = msgspec.structs.replace(end.payload, emitted_at=said.emitted_at)
    script.got(i.LeftLooked("trn_a", {}), msgspec.structs.replace(end, payload=told), IDLE)


def test_the_next_turn_waits_until_it_was_looked() -> None:
    script = running().played(asked("trn_b"), stop(), ended(i.TurnEnd.INTERRUPTED))
    script.got(i.ChildBecameReady())
    script.got(CLEANED, look())
    script.got(i.ChildBecameReady())
    end = turn_ended(INTERRUPTED, "requested")
    script.got(i.LeftLooked("trn_a", {}), end, accepted("trn_b"), hand("trn_b"))


def test_a_cleaning_that_codex_refuses_is_followed_by_a_look_all_the_same() -> None:
    interrupted().got(i.TerminalsCleaned("trn_a", {"message": "thread not found"}), look())


def test_what_codex_finishes_while_it_cleans_still_belongs_to_the_turn() -> None:
    script = interrupted().got(finished(), item_completed())
    script.got(CLEANED, look())
    script.got(i.LeftLooked("trn_a", {}), turn_ended(INTERRUPTED, "requested"), IDLE)


@pytest.mark.parametrize("end", i.TurnEnd)
def test_a_second_word_of_an_interrupted_turns_end_is_counted(end: i.TurnEnd) -> None:
    interrupted().got(ended(end), i.Count("late_turn_end"))


@pytest.mark.parametrize("script", [idle(), running(), opening(), doubtful(keeper=True)])
def test_a_cleaning_or_a_look_that_nobody_waits_for_is_counted(script: Script) -> None:
    script.got(CLEANED, i.Count("late_cleaning"))
    script.got(LEFT, i.Count("late_look"))


def test_a_cleaning_or_a_look_for_another_turn_is_counted() -> None:
    interrupted().got(i.TerminalsCleaned("trn_x"), i.Count("late_cleaning"))
    looking().got(i.LeftLooked("trn_x", {}), i.Count("late_look"))


@pytest.mark.parametrize("script", [interrupted(), looking()])
def test_a_turn_that_codex_interrupted_ends_so_when_its_child_dies(script: Script) -> None:
    end = turn_ended(INTERRUPTED, "requested", evidence={"childExited": 1})
    script.copy().beside(BACKOFF).got(died(keeper=True), item_abandoned(), end, IDLE)
    script.copy().beside(BACKOFF).got(i.ChildEndedByUs(), item_abandoned(), end, IDLE)


def test_a_codexd_that_stops_has_what_is_left_ended_too() -> None:
    script = running().beside(DRAINING)
    script.got(stop(), wish(), interrupt())
    script.got(ended(i.TurnEnd.INTERRUPTED), wish(REQUESTED, Said()), clean())
    script.got(CLEANED, look())
    script.got(i.LeftLooked("trn_a", {}), turn_ended(INTERRUPTED, "requested"), IDLE)


def test_without_a_child_nobody_is_asked_to_clean() -> None:
    running().played(stop()).beside(BACKOFF).got(ended(i.TurnEnd.INTERRUPTED), wish(REQUESTED, Said()))


def test_the_next_codexd_has_it_cleaned_again_where_the_last_one_looked() -> None:
    """Nobody will tell it what the last one found."""
    script = interrupted()
    (turn,) = script.session.turns
    script.session = with_turn(script.session, replace(turn, cleaning_in=0))
    script.got(i.ChildBecameReady(), clean())
    script.got(i.ChildBecameReady())


@pytest.mark.parametrize("end", [i.TurnEnd.COMPLETED, i.TurnEnd.FAILED])
def test_a_turn_that_was_quicker_than_its_interrupt_ends_as_it_ended(end: i.TurnEnd) -> None:
    type_ = EventType.TURN_COMPLETED if end is i.TurnEnd.COMPLETED else EventType.TURN_FAILED
    running().played(stop()).got(ended(end), turn_ended(type_), IDLE)


# --- where the turn stands when it is to end


def test_the_first_reason_to_stop_stands() -> None:
    for script in (handed(), running()):
        script.played(stop(wish=EXPIRED)).got(stop()).got(stop(wish=LEASE))
        assert script.session.turns[0].stop == EXPIRED
    interrupted(None).got(stop())


def test_a_turn_that_waits_ends_at_once_and_says_why() -> None:
    Script(child=NO_CHILD).played(asked()).got(stop(), canceled())
    opening().got(stop(), canceled())
    Script(child=NO_CHILD).played(asked()).got(stop(wish=EXPIRED), turn_ended(TURN_EXPIRED, "deadline"))
    Script(child=NO_CHILD).played(asked()).got(stop(wish=LEASE), canceled(why="lease_expired"))


def test_the_end_of_one_that_waits_moves_nothing_else() -> None:
    script = running().played(asked("trn_b"), asked("trn_c"))
    script.got(stop("trn_b"), canceled("trn_b"))

    assert [turn.turn_id for turn in script.session.turns] == ["trn_a", "trn_c"]


def test_when_the_first_of_the_line_is_canceled_the_next_takes_its_place() -> None:
    script = opening().played(asked("trn_b")).got(stop(), canceled())
    script.got(opened(), loaded(), accepted("trn_b"), hand("trn_b"))


def test_a_turn_that_was_to_end_and_that_the_keeper_never_took_ends_instead_of_waiting_again() -> None:
    script = handed().played(stop()).beside(BACKOFF)
    script.got(died(taken=False), requeued(), canceled(), IDLE)
    script = handed().played(stop(wish=EXPIRED), asked("trn_b")).beside(BACKOFF)
    script.got(died(taken=False), requeued(), turn_ended(TURN_EXPIRED, "deadline"))


def test_a_turn_in_doubt_is_not_stopped_but_found_out_about() -> None:
    script = doubtful(keeper=False).got(stop()).got(time_up(i.TimerKind.DEADLINE)).beside(NEXT)
    script.played(i.ChildBecameReady())
    evidence = {"history": "in progress", "generation": 1}
    end = turn_ended(INTERRUPTED, "child_exited", evidence=evidence)
    script.got(i.HistoryRead((found(None),)), item_abandoned(), end)


# --- the clock

TIMED = msgspec.structs.replace(ASKED, deadline_ms=5000, stall_ms=300, lease_ms=700)


def test_a_deadline_and_a_lease_count_from_the_request_and_a_stall_from_the_hand_over() -> None:
    script = Script()
    timers = [
        i.SetTimer("trn_a", i.TimerKind.DEADLINE, 5000),
        i.SetTimer("trn_a", i.TimerKind.LEASE, 700),
    ]
    script.got(asked(request=TIMED), queued(request=TIMED), *timers, open_thread())
    stall = i.SetTimer("trn_a", i.TimerKind.STALL, 300)
    script.got(opened(), loaded(), accepted(), hand(request=TIMED), stall)


OVER = [
    (i.TimerKind.DEADLINE, EXPIRED),
    (i.TimerKind.STALL, STALLED),
    (i.TimerKind.LEASE, LEASE),
]


@pytest.mark.parametrize(("kind", "wanted"), OVER)
def test_when_its_time_is_over_a_running_turn_is_interrupted_and_one_without_a_name_once_it_has_one(
    kind: i.TimerKind, wanted: StopWish
) -> None:
    running().got(time_up(kind), wish(wanted), interrupt())
    handed().got(time_up(kind), wish(wanted)).got(named(), started(), interrupt())


@pytest.mark.parametrize("kind", [i.TimerKind.DEADLINE, i.TimerKind.LEASE])
def test_when_its_time_is_over_a_turn_that_waits_ends(kind: i.TimerKind) -> None:
    end = turn_ended(TURN_EXPIRED, "deadline") if kind is i.TimerKind.DEADLINE else canceled(why="lease_expired")
    opening().got(time_up(kind), end)


def test_a_turn_that_waits_again_does_not_stall() -> None:
    script = handed().beside(BACKOFF).played(died(taken=False))
    script.got(time_up(i.TimerKind.STALL))
    idle().got(time_up(i.TimerKind.STALL))


@pytest.mark.parametrize("kind", [i.TimerKind.DEADLINE, i.TimerKind.LEASE])
def test_the_time_of_a_turn_that_ended_ends_nothing(kind: i.TimerKind) -> None:
    idle().got(time_up(kind), i.Count("stop of no turn"))


def test_an_idle_session_is_unloaded_and_a_later_turn_resumes_its_thread() -> None:
    script = idle().got(time_up(i.TimerKind.IDLE, "ses_a"), i.UnloadThread("ses_a", "thread"))
    script.got(time_up(i.TimerKind.IDLE, "ses_a"))
    script.got(asked("trn_b"), queued("trn_b"), open_thread("thread"))


@pytest.mark.parametrize("script", [opening(), running(), interrupted(), doubtful(keeper=False), idle().beside(BACKOFF),
                                    idle().beside(NEXT), Script()])  # fmt: skip
def test_a_session_that_is_busy_or_not_loaded_is_not_unloaded(script: Script) -> None:
    script.got(time_up(i.TimerKind.IDLE, "ses_a"))


# --- closing


def test_an_idle_session_closes_at_once_and_its_thread_is_unloaded() -> None:
    idle().got(i.CloseRequested(), session_closed(), i.UnloadThread("ses_a", "thread"))
    Script().got(i.CloseRequested(), session_closed())
    idle().beside(BACKOFF).got(i.CloseRequested(), session_closed())


def test_closing_ends_the_waiting_turns_first_and_then_the_running_one() -> None:
    script = running().played(asked("trn_b"), asked("trn_c"))
    script.got(
        i.CloseRequested(),
        canceled("trn_c", "session_closed"),
        canceled("trn_b", "session_closed"),
        wish(CLOSING),
        interrupt(),
        wish(CLOSING, owner_id="ses_a"),
    )
    script.got(i.CloseRequested())
    script.got(ended(i.TurnEnd.INTERRUPTED), wish(CLOSING, Said()), clean())
    script.got(CLEANED, look())
    script.got(
        i.LeftLooked("trn_a", {}),
        turn_ended(INTERRUPTED, "session_closed"),
        session_closed(),
        i.UnloadThread("ses_a", "thread"),
    )
    script.got(i.CloseRequested())


def test_closing_ends_what_only_waits() -> None:
    script = opening().played(asked("trn_b"))
    ends = [canceled("trn_b", "session_closed"), canceled("trn_a", "session_closed")]
    script.got(i.CloseRequested(), *ends, session_closed())


def test_a_turn_in_doubt_ends_before_its_session_closes() -> None:
    script = doubtful(keeper=False)
    script.got(i.CloseRequested(), wish(CLOSING, owner_id="ses_a")).beside(NEXT).played(i.ChildBecameReady())
    evidence = {"generation": 1, "history": "the turn is not in it"}
    end = turn_ended(INTERRUPTED, "child_exited", evidence=evidence)
    script.got(i.HistoryRead(()), item_abandoned(), end, session_closed())


def test_a_thread_that_opens_too_late_for_its_closed_session_is_unloaded_in_its_time() -> None:
    script = opening().played(i.CloseRequested())
    script.got(opened(), loaded(), IDLE)
    script.got(time_up(i.TimerKind.IDLE, "ses_a"), i.UnloadThread("ses_a", "thread"))
