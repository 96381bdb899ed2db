"""What Codex is told while it works, and what it asks: steers, and questions with their answers."""

from __future__ import annotations

import pytest

from baa.api import events as e
from baa.api.events import EventType
from baa.api.interactions import AnswerInteraction, InteractionKind, ResolvedBy
from baa.codexd.machines import inputs as i
from baa.codexd.machines.session import TURN_OVER
from baa.codexd.machines.step import step
from tests.support.script import (
    BACKOFF,
    DRAINING,
    IDLE,
    NEXT,
    WORDS,
    Script,
    accepted,
    answer_by,
    answer_line,
    answered,
    asked,
    died,
    doubtful,
    ended,
    event,
    hand,
    handed,
    idle,
    interaction_ended,
    interaction_requested,
    interrupted,
    loaded,
    more,
    named,
    opened,
    opening,
    question,
    running,
    started,
    steer_line,
    steered,
    stop,
    turn_ended,
)

COMPLETED = EventType.TURN_COMPLETED
NO = {"code": -32600, "message": "no active turn to steer"}
TOOK = i.TurnSteered("trn_a", "str_a")
UNSENT = {"message": "It was withdrawn before it was sent.", "unsent": True}
ACCEPTED = AnswerInteraction(decision="accept")


def over(steer_id: str = "str_a") -> i.SteerDone:
    return i.SteerDone(steer_id, TURN_OVER)


# --- steers


def test_more_input_goes_to_the_running_turn_and_is_told_once_codex_took_it() -> None:
    script = running().got(more(), steer_line())
    script.got(TOOK, steered(), i.SteerDone("str_a"))
    script.got(TOOK, i.Count("late_steer"))


@pytest.mark.parametrize("script", [handed(), opening().played(opened())])
def test_more_input_for_a_turn_that_codex_did_not_name_yet_waits_for_the_name(script: Script) -> None:
    script.got(more()).got(more("str_b"))
    script.got(named(), started(), steer_line(), steer_line("str_b"))


def test_more_input_for_the_head_of_the_line_waits_until_it_runs() -> None:
    script = opening().got(more())
    script.got(opened(), loaded(), accepted(), hand())
    script.got(named(), started(), steer_line())
    script.got(TOOK, steered(), i.SteerDone("str_a"))


def test_each_input_is_sent_once() -> None:
    script = running().got(more(), steer_line())
    script.got(more("str_b"), steer_line("str_b"))
    script.got(i.TurnSteered("trn_a", "str_b"), steered(), i.SteerDone("str_b"))
    assert [steer.steer_id for steer in script.session.turns[0].steers] == ["str_a"]


def test_what_codex_refuses_is_told_to_who_asked_and_to_nobody_else() -> None:
    script = running().got(more(), steer_line())
    script.got(i.TurnSteered("trn_a", "str_a", NO), i.SteerDone("str_a", NO))


@pytest.mark.parametrize("script", [idle(), interrupted(), doubtful(keeper=False)])
def test_a_turn_that_is_over_or_in_doubt_takes_no_more_input(script: Script) -> None:
    before = script.session
    script.got(more(), over())
    assert script.session == before


def test_a_turn_that_ends_first_gives_the_input_back() -> None:
    running().played(more(), more("str_b")).got(ended(), turn_ended(COMPLETED), over(), over("str_b"), IDLE)
    opening().played(more()).got(
        stop(),
        turn_ended(EventType.TURN_INTERRUPTED, "canceled_before_start", evidence={"why": "requested"}),
        over(),
    )


def test_a_turn_that_goes_back_keeps_the_input_that_waits_for_it() -> None:
    script = handed().played(more()).beside(BACKOFF).played(died(taken=False)).beside(NEXT)
    script.played(i.ChildBecameReady(), opened(generation=2))
    script.got(named(), started(), steer_line())


def test_who_waits_no_longer_takes_back_what_was_not_sent() -> None:
    script = handed().played(more(), more("str_b"))
    script.got(i.SteerWithdrawn("str_a"), i.SteerDone("str_a", UNSENT))
    script.got(i.SteerWithdrawn("str_a"))
    script.got(named(), started(), steer_line("str_b"))
    script.got(i.SteerWithdrawn("str_b"))
    idle().got(i.SteerWithdrawn("str_a"))


def test_the_key_of_a_steer_goes_with_its_line_and_stands_in_its_event() -> None:
    script = running()
    line = i.SteerTurn("trn_a", "str_a", "thread", "codex_a", WORDS, "k", "hash")
    script.got(i.SteerRequested("str_a", "trn_a", WORDS, "k", "hash"), line)
    payload = e.TurnSteered(input=WORDS, idempotency_key="k", body_hash="hash")
    script.got(TOOK, event(EventType.TURN_STEERED, payload), i.SteerDone("str_a"))


def test_who_steered_a_turn_that_is_lost_with_its_log_is_told() -> None:
    script = running().played(more())
    end = turn_ended(EventType.TURN_LOST, "log_went_back", evidence={"log": "restored"})
    script.got(i.LogWentBack("restored"), end, over())


# --- questions


def asking(given: i.Asked | None = None) -> Script:
    return running().played(given or question())


def test_a_question_is_told_with_its_deadline_and_answered_with_the_first_answer() -> None:
    given = question()
    script = running().got(given, interaction_requested(given), answer_by())
    script.got(answered(), interaction_ended(ResolvedBy.CLIENT, ACCEPTED), answer_line(given, "accept", ACCEPTED))
    script.got(answered(decision="decline"), i.Count("answer to no question"))
    script.got(i.AskedNoMore(1, 7))


def test_an_answer_that_names_an_offered_object_by_its_key_gets_that_object() -> None:
    offered = {"acceptWithExecpolicyAmendment": {"execpolicy_amendment": ["ls"]}}
    given = question(decisions=("accept", offered, "decline"))
    answer = AnswerInteraction(decision="acceptWithExecpolicyAmendment")
    asking(given).got(
        i.InteractionAnswered("int_a", answer),
        interaction_ended(ResolvedBy.CLIENT, answer),
        answer_line(given, offered, answer),
    )


def test_a_question_is_asked_once_however_often_codex_sends_it() -> None:
    script = asking().got(question("int_b"), i.Count("asked twice"))
    given = question("int_c", request_id="7")
    script.got(given, interaction_requested(given), answer_by("int_c"))
    given = question("int_d", generation=2)
    script.got(given, interaction_requested(given), answer_by("int_d"))


@pytest.mark.parametrize("kind", InteractionKind)
def test_a_question_that_nobody_answers_in_its_time_is_declined(kind: InteractionKind) -> None:
    given = question(kind=kind)
    script = asking(given)
    up = i.TimeUp("int_a", i.TimerKind.ANSWER)
    script.got(up, interaction_ended(ResolvedBy.DEADLINE), answer_line(given))
    script.got(up)
    script.got(answered(), i.Count("answer to no question"))


def test_a_question_that_codex_takes_back_is_over() -> None:
    script = asking().got(i.AskedNoMore(2, 7)).got(i.AskedNoMore(1, "7")).got(i.AskedNoMore(1, 8))
    script.got(i.AskedNoMore(1, 7), interaction_ended(ResolvedBy.CODEX))
    script.got(answered(), i.Count("answer to no question"))


def test_with_the_turn_its_questions_end_and_those_of_no_turn_stay() -> None:
    outside = question("int_b", request_id=8, codex_turn_id=None)
    script = asking().got(outside, interaction_requested(outside, None), answer_by("int_b"))
    script.got(ended(), interaction_ended(ResolvedBy.TURN_ENDED), turn_ended(COMPLETED), IDLE)
    end = interaction_ended(ResolvedBy.CLIENT, ACCEPTED, interaction_id="int_b", turn_id=None)
    script.got(answered("int_b"), end, answer_line(outside, "accept", ACCEPTED), IDLE)


def test_a_question_about_another_turn_belongs_to_none_of_ours() -> None:
    given = question(codex_turn_id="codex_x")
    running().got(given, interaction_requested(given, None), answer_by())
    idle().got(given, interaction_requested(given, None), answer_by())


def test_with_the_child_all_that_it_asked_ends() -> None:
    outside = question("int_b", request_id=8, codex_turn_id=None)
    script = asking().played(outside)
    ends = [
        interaction_ended(ResolvedBy.CHILD_EXITED),
        interaction_ended(ResolvedBy.CHILD_EXITED, interaction_id="int_b", turn_id=None),
    ]
    script.copy().beside(BACKOFF).got(died(), *ends)
    stopped = turn_ended(EventType.TURN_INTERRUPTED, "daemon_stopped")
    script.copy().beside(DRAINING).got(i.ChildEndedByUs(), *ends, stopped, IDLE)
    lost = turn_ended(EventType.TURN_LOST, "log_went_back", evidence={"log": "restored"})
    script.copy().got(i.LogWentBack("restored"), *ends, lost)


def test_the_death_of_another_child_ends_no_question() -> None:
    script = asking()
    script.got(died(generation=2))
    assert len(script.session.questions) == 1


def test_a_session_that_is_asked_something_is_not_unloaded() -> None:
    script = idle().played(question(codex_turn_id=None))
    script.got(i.TimeUp("ses_a", i.TimerKind.IDLE))
    script.played(answered()).got(i.TimeUp("ses_a", i.TimerKind.IDLE), i.UnloadThread("ses_a", "thread"))


def test_a_turn_that_was_interrupted_has_no_question_left_for_codex_to_take_back() -> None:
    script = asking().played(stop())
    done = step(script.session, ended(i.TurnEnd.INTERRUPTED), script.child)
    assert done.events == (interaction_ended(ResolvedBy.TURN_ENDED),)
    script.played(ended(i.TurnEnd.INTERRUPTED)).got(i.AskedNoMore(1, 7))


def test_turns_that_wait_are_not_disturbed_by_a_question() -> None:
    script = running().played(asked("trn_b"), question())
    assert [turn.turn_id for turn in script.session.turns] == ["trn_a", "trn_b"]
    assert [each.turn_id for each in script.session.questions] == ["trn_a"]
