"""How an attempt goes on: a table of every end of a turn, and what holds whatever the facts are."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from baa.api.sessions import TurnStatus
from baa.api.tasks import AttemptState, AttemptTurn, Budget, Check, CheckResult, SubmitTask
from baa.worker import decisions
from baa.worker.decisions import Await, End, Facts, RunCheck, Spent, Start, Why, following, is_transient, reason_of

NOW = 1_800_000_000_000
TWO = [Check(command="one"), Check(command="two", timeout_ms=7)]


def turn(number: int = 1, status: str | None = "completed", reason: str | None = None, tokens: int = 10) -> AttemptTurn:
    return AttemptTurn(number=number, turn_id=f"trn_{number}", why="first", status=status, reason=reason, tokens=tokens)


def result(of: int = 1, passed: bool = True) -> CheckResult:
    return CheckResult(
        command="one",
        turn=of,
        passed=passed,
        exit_code=0 if passed else 1,
        timed_out=False,
        output="",
        truncated=False,
        duration_ms=1,
    )


def asked(**given: Any) -> SubmitTask:
    return SubmitTask(prompt="p", cwd="/work", **given)


def facts(*turns: AttemptTurn, request: SubmitTask | None = None, **more: Any) -> Facts:
    return Facts(request=request or asked(), turns=list(turns), now_utc_ms=NOW, **({"checks": []} | more))


def ended(state: str, reason: str | None = None, park_until_ms: int | None = None) -> End:
    return End(state=AttemptState(state), reason=reason, park_until_ms=park_until_ms)


ENDS = [
    (turn(status=None), Await(1)),
    (turn(), ended("succeeded")),
    (turn(status="lost", reason="keeper_died"), ended("lost", "keeper_died")),
    (turn(status="lost"), ended("lost", "turn_lost")),
    (turn(status="lost", reason="turn_gone"), ended("lost", "turn_gone")),
    (turn(status="expired", reason="stalled"), ended("stalled", "stalled")),
    (turn(status="expired", reason="deadline"), ended("timed_out", "deadline")),
    (turn(status="interrupted", reason="requested"), ended("failed", "requested")),
    (turn(status="interrupted", reason="session_closed"), ended("failed", "session_closed")),
    (turn(status="interrupted", reason="interrupted_by_codex"), ended("failed", "interrupted_by_codex")),
    (turn(status="interrupted"), ended("failed", "interrupted")),
    (turn(status="interrupted", reason="lease_expired"), Start(number=2, why=Why.CUT_OFF)),
    (turn(status="interrupted", reason="child_exited"), Start(number=2, why=Why.CUT_OFF)),
    (turn(status="interrupted", reason="daemon_stopped"), Start(number=2, why=Why.CUT_OFF)),
    (turn(status="failed", reason="no_answer"), Start(number=2, why=Why.CUT_OFF)),
    (turn(status="failed", reason="usage_limit"), ended("failed", "usage_limit", NOW + 900_000)),
    (turn(status="failed", reason="output_invalid"), Start(number=2, why=Why.OUTPUT_INVALID)),
    (turn(status="failed", reason="serverOverloaded"), Start(number=2, why=Why.TRANSIENT, delay_ms=2000)),
    (turn(status="failed", reason="internalServerError"), Start(number=2, why=Why.TRANSIENT, delay_ms=2000)),
    (turn(status="failed", reason="responseStreamDisconnected"), Start(number=2, why=Why.TRANSIENT, delay_ms=2000)),
    (turn(status="failed", reason="httpConnectionFailed:503"), Start(number=2, why=Why.TRANSIENT, delay_ms=2000)),
    (turn(status="failed", reason="httpConnectionFailed:401"), ended("failed", "httpConnectionFailed:401")),
    (turn(status="failed", reason="badRequest"), ended("failed", "badRequest")),
    (turn(status="failed", reason="contextWindowExceeded"), ended("failed", "contextWindowExceeded")),
    (turn(status="failed", reason="thread_refused"), ended("failed", "thread_refused")),
    (turn(status="failed"), ended("failed", "turn_failed")),
]


@pytest.mark.parametrize(("last", "next_"), ENDS, ids=[f"{last.status}-{last.reason}" for last, _ in ENDS])
def test_every_end_of_a_turn_has_its_next_step(last: AttemptTurn, next_: object) -> None:
    assert following(facts(last)) == next_


def test_the_first_turn_has_all_the_time_that_is_left() -> None:
    assert following(facts()) == Start(number=1, why=Why.FIRST)
    request = asked(deadline_ms=1000, budget=Budget(time_ms=5000))
    assert following(facts(request=request, elapsed_ms=400)) == Start(number=1, why=Why.FIRST, deadline_ms=600)
    spent = Spent(time_ms=4500)
    assert following(facts(request=request, elapsed_ms=400, earlier=spent)) == Start(
        number=1, why=Why.FIRST, deadline_ms=100
    )


def test_checks_run_one_after_the_other_and_all_of_them() -> None:
    request = asked(checks=TWO)
    first = following(facts(turn(), request=request))
    assert first == RunCheck(index=0, timeout_ms=600_000)
    assert following(facts(turn(), request=request, checks=[result(passed=False)])) == RunCheck(index=1, timeout_ms=7)
    both = [result(), result()]
    assert following(facts(turn(), request=request, checks=both)) == ended("succeeded")
    one_failed = [result(passed=False), result()]
    assert following(facts(turn(), request=request, checks=one_failed)) == Start(number=2, why=Why.CHECKS_FAILED)
    # What an earlier turn's checks said counts no more.
    assert following(facts(turn(), turn(2), request=request, checks=one_failed)) == RunCheck(
        index=0, timeout_ms=600_000
    )


def test_a_check_has_no_more_time_than_the_attempt() -> None:
    request = asked(checks=TWO, deadline_ms=1000)
    assert following(facts(turn(), request=request, elapsed_ms=900)) == RunCheck(index=0, timeout_ms=100)
    assert following(facts(turn(), request=request, elapsed_ms=1000)) == ended("timed_out", "deadline")


def test_turns_are_bounded_and_only_answered_ones_count() -> None:
    request = asked(checks=TWO[:1], max_turns=2)
    failed = [result(1, passed=False), result(2, passed=False), result(3, passed=False)]
    cut = turn(2, "interrupted", "lease_expired")
    assert following(facts(turn(), turn(2), request=request, checks=failed)) == ended("checks_failed", "checks_failed")
    assert following(facts(turn(), cut, turn(3), request=request, checks=failed)) == ended(
        "checks_failed", "checks_failed"
    )
    assert following(facts(turn(), cut, request=request, checks=failed)) == Start(number=3, why=Why.CUT_OFF)
    invalid = turn(2, "failed", "output_invalid")
    assert following(facts(turn(), invalid, request=request, checks=failed)) == ended("checks_failed", "output_invalid")


@pytest.mark.parametrize(
    ("budget", "earlier", "elapsed", "end"),
    [
        (Budget(turns=1), Spent(), 0, "budget_turns"),
        (Budget(turns=5), Spent(turns=4), 0, "budget_turns"),
        (Budget(tokens=10), Spent(), 0, "budget_tokens"),
        (Budget(tokens=100), Spent(tokens=90), 0, "budget_tokens"),
        (Budget(time_ms=100), Spent(time_ms=60), 40, "budget_time"),
    ],
)
def test_a_budget_of_all_attempts_ends_the_last_one(budget: Budget, earlier: Spent, elapsed: int, end: str) -> None:
    request = asked(checks=TWO[:1], budget=budget)
    found = facts(turn(), request=request, checks=[result(passed=False)], earlier=earlier, elapsed_ms=elapsed)
    assert following(found) == ended("budget_exceeded", end)


def test_what_passes_within_the_budget_succeeds() -> None:
    request = asked(checks=TWO[:1], budget=Budget(turns=1, tokens=10))
    assert following(facts(turn(), request=request)) == RunCheck(index=0, timeout_ms=600_000)
    assert following(facts(turn(), request=request, checks=[result()])) == ended("succeeded")


def test_why_a_turn_was_ended_follows_from_the_facts() -> None:
    interrupted = turn(status="interrupted", reason="requested", tokens=50)
    over = asked(budget=Budget(tokens=50))
    assert following(facts(interrupted, request=over)) == ended("budget_exceeded", "budget_tokens")
    assert following(facts(interrupted, canceled=True)) == ended("canceled", "canceled")
    expired = turn(status="expired", reason="deadline")
    time = asked(deadline_ms=1000, budget=Budget(time_ms=500))
    assert following(facts(expired, request=time, elapsed_ms=600)) == ended("budget_exceeded", "budget_time")
    assert following(facts(expired, request=time, elapsed_ms=1000)) == ended("timed_out", "deadline")


def test_a_task_waits_for_the_reset_that_codex_named_and_a_little_longer() -> None:
    limited = turn(status="failed", reason="usage_limit")
    in_an_hour = "2027-01-15T09:00:00.000Z"
    at = NOW + 3_600_000
    assert following(facts(limited, resets_at=in_an_hour)) == ended("failed", "usage_limit", at)
    assert following(facts(limited, resets_at=in_an_hour, chance=0.5)) == ended("failed", "usage_limit", at + 30_000)
    long_ago = "2020-01-01T00:00:00.000Z"
    assert following(facts(limited, resets_at=long_ago)) == ended("failed", "usage_limit", NOW)
    assert following(facts(limited, canceled=True)) == ended("canceled", "canceled")


def test_the_model_is_asked_again_later_and_later_and_not_for_ever() -> None:
    bad = [turn(number, "failed", "serverOverloaded") for number in range(1, 7)]
    waits = [following(facts(*bad[:count])) for count in range(1, 7)]
    assert [wait.delay_ms for wait in waits[:5] if isinstance(wait, Start)] == [2000, 4000, 8000, 16_000, 32_000]
    assert waits[5] == ended("failed", "serverOverloaded")
    late = following(facts(bad[0], request=asked(deadline_ms=1000), elapsed_ms=900))
    assert isinstance(late, Start)
    assert (late.delay_ms, late.deadline_ms) == (100, 100)
    sooner = following(facts(bad[0], chance=0.99))
    assert isinstance(sooner, Start)
    assert 1000 <= sooner.delay_ms < 1020
    between = [bad[0], turn(2), turn(3, "failed", "serverOverloaded")]
    after_work = following(facts(*between))
    assert isinstance(after_work, Start)
    assert after_work.delay_ms == 2000


def test_one_that_is_cut_off_again_and_again_is_lost() -> None:
    cut = [turn(number, "interrupted", "child_exited") for number in range(1, 7)]
    assert following(facts(*cut[:5])) == Start(number=6, why=Why.CUT_OFF)
    assert following(facts(*cut)) == ended("lost", "child_exited")


@pytest.mark.parametrize(
    ("reason", "error", "told"),
    [
        ("stalled", {"codexErrorInfo": "other"}, "stalled"),
        (None, None, None),
        (None, {"message": "?"}, None),
        (None, {"codexErrorInfo": "badRequest"}, "badRequest"),
        (None, {"codexErrorInfo": {"httpConnectionFailed": {"httpStatusCode": 401}}}, "httpConnectionFailed:401"),
        (
            None,
            {"codexErrorInfo": {"responseStreamDisconnected": {"httpStatusCode": None}}},
            "responseStreamDisconnected",
        ),
        (None, {"codexErrorInfo": {}}, None),
        (None, {"codexErrorInfo": 7}, None),
    ],
)
def test_codexs_own_words_are_the_reason_where_codexd_has_none(
    reason: str | None, error: dict[str, Any] | None, told: str | None
) -> None:
    assert reason_of(reason, error) == told


def test_what_the_server_says_of_the_request_does_not_pass_by_itself() -> None:
    assert is_transient("responseTooManyFailedAttempts:429")
    assert is_transient("httpConnectionFailed")
    assert not is_transient("httpConnectionFailed:403")
    assert not is_transient("other")


STATUSES = [None, *TurnStatus]
REASONS = [
    None,
    "usage_limit",
    "lease_expired",
    "requested",
    "stalled",
    "deadline",
    "serverOverloaded",
    "output_invalid",
]


def test_whatever_the_facts_are_there_is_a_next_step_and_limits_hold() -> None:
    """Exhaustive over what a last turn can be, beside whatever limits there are."""
    budgets = [Budget(), Budget(turns=1), Budget(tokens=5), Budget(time_ms=10)]
    for status, reason, budget, canceled, deadline, max_turns, checks in itertools.product(
        STATUSES[:1] + [str(each) for each in TurnStatus if each in decisions_ends()],
        REASONS,
        budgets,
        (False, True),
        (None, 10),
        (1, 3),
        ([], [result()], [result(passed=False)]),
    ):
        request = asked(checks=TWO[:1], budget=budget, deadline_ms=deadline, max_turns=max_turns)
        given_ = facts(
            turn(status=status, reason=reason), request=request, canceled=canceled, elapsed_ms=20, checks=checks
        )
        action = following(given_)
        match action:
            case Await():
                assert status is None
            case Start() | RunCheck():
                assert not canceled
                assert deadline is None
                assert budget.time_ms is None
                if isinstance(action, Start):
                    assert (budget.turns, budget.tokens) == (None, None)
            case End(state=state, park_until_ms=park):
                assert state not in (AttemptState.ASSIGNED, AttemptState.RUNNING)
                assert (park is not None) == (
                    reason == "usage_limit" and state is AttemptState.FAILED and status == "failed"
                )
                passed = status == "completed" and bool(checks) and checks[0].passed
                assert (state is AttemptState.SUCCEEDED) == passed
                if canceled and not passed and status is not None:
                    assert state is AttemptState.CANCELED


def decisions_ends() -> set[TurnStatus]:
    return {TurnStatus.COMPLETED, TurnStatus.FAILED, TurnStatus.INTERRUPTED, TurnStatus.EXPIRED, TurnStatus.LOST}


@given(st.lists(st.sampled_from([last for last, _ in ENDS[1:]]), max_size=12), st.booleans())
def test_an_attempt_ends(turns: list[AttemptTurn], canceled: bool) -> None:
    """Playing on from any history, whatever comes back, the bounds end it."""
    numbered = [msgspec.structs.replace(each, number=number) for number, each in enumerate(turns, 1)]
    request = asked(checks=TWO[:1], max_turns=3)
    history, results = list(numbered), list[CheckResult]()
    for _ in range(60):
        action = following(facts(*history, request=request, checks=results, canceled=canceled))
        match action:
            case End():
                return
            case RunCheck():
                results.append(result(history[-1].number, passed=False))
            case Start(number=number):
                history.append(turn(number, "interrupted", "lease_expired"))
            case Await():
                raise AssertionError("no turn runs")
    raise AssertionError("it does not end")


def test_what_is_left_of_budgets() -> None:
    request = asked(budget=Budget(tokens=100, time_ms=50), deadline_ms=70)
    found = facts(turn(tokens=30), request=request, earlier=Spent(tokens=20, time_ms=10), elapsed_ms=5)
    assert (decisions.tokens_left(found), decisions.time_left(found)) == (50, 35)
    assert (decisions.tokens_left(facts()), decisions.time_left(facts())) == (None, None)
