"""PURE: how an attempt goes on, from what of it is committed: `following` looks at no clock, no codexd and no folder.

Whoever comes back after a crash asks the same question with the same evidence, and gets the same answer.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, Final, TypeAlias

from msgspec import Struct

from baa.api.sessions import TurnStatus
from baa.api.tasks import AttemptState, AttemptTurn, CheckResult, SubmitTask

TRANSIENT: Final = frozenset(
    {
        "flexUnavailable",
        "httpConnectionFailed",
        "internalServerError",
        "policyCapacityUnavailable",
        "responseStreamConnectionFailed",
        "responseStreamDisconnected",
        "responseTooManyFailedAttempts",
        "serverOverloaded",
    }
)
"""Codex's words (codexErrorInfo) for what may pass by itself. Its words for mistakes of ours or of the task are not
here: badRequest, unauthorized, modelNotFound, contextWindowExceeded and the like fail the attempt at once."""

_LASTING_STATUS: Final = frozenset({400, 401, 403, 404, 422})

CUT_OFF: Final = frozenset({"child_exited", "daemon_stopped", "lease_expired", "no_answer"})
"""Reasons of a turn that somebody's crash or absence ended: the agent goes on where it was."""

TRANSIENT_MAX: Final = 5
"""How often in a row the model is asked again, in further turns."""

CUT_OFF_MAX: Final = 5
"""How often in a row a turn that was cut off is followed by another; then the attempt is lost, and another is due."""

BACKOFF_MS: Final = 2000
"""Milliseconds before the model is asked again; twice as many each time, and by chance up to a half less."""

JITTER_MS: Final = 60_000
"""A limit's reset is met a little later, by chance, so that not everybody comes at once."""

UNKNOWN_RESET_MS: Final = 900_000
"""For how long a task waits where Codex does not say when the limit resets."""


class Why(StrEnum):
    """Why there was a turn."""

    FIRST = "first"
    CHECKS_FAILED = "checks_failed"
    OUTPUT_INVALID = "output_invalid"
    TRANSIENT = "transient"
    CUT_OFF = "cut_off"


class Spent(Struct, frozen=True, kw_only=True):
    """What attempts have taken."""

    tokens: int = 0
    turns: int = 0
    time_ms: int = 0


class Facts(Struct, frozen=True, kw_only=True):
    """All that counts. `earlier` was spent by the attempts before this one; `elapsed_ms` is this one's age.

    `resets_at`: when the limit that ended the last turn resets, if Codex said so. `chance` is a number in [0, 1).
    """

    request: SubmitTask
    turns: list[AttemptTurn]
    checks: list[CheckResult]
    canceled: bool = False
    elapsed_ms: int = 0
    earlier: Spent = Spent()
    resets_at: str | None = None
    now_utc_ms: int = 0
    chance: float = 0.0


class Await(Struct, frozen=True):
    """Wait for the end of the turn that runs."""

    number: int


class Start(Struct, frozen=True, kw_only=True):
    """Begin a turn after `delay_ms`; `deadline_ms` is all the time that is left, None where nothing limits it."""

    number: int
    why: Why
    delay_ms: int = 0
    deadline_ms: int | None = None


class RunCheck(Struct, frozen=True, kw_only=True):
    """Run the check of this index, for no longer than this."""

    index: int
    timeout_ms: int


class End(Struct, frozen=True, kw_only=True):
    """End the attempt. `park_until_ms` (UTC): another one may not begin before."""

    state: AttemptState
    reason: str | None = None
    park_until_ms: int | None = None


Action: TypeAlias = Await | Start | RunCheck | End


def following(facts: Facts) -> Action:
    """What is next."""
    if not facts.turns:
        return _start(facts, Why.FIRST)
    last = facts.turns[-1]
    if last.status is None:
        return Await(last.number)
    if last.status == TurnStatus.COMPLETED:
        return _after_work(facts, last)
    if facts.canceled:
        return End(state=AttemptState.CANCELED, reason="canceled")
    match last.status:
        case TurnStatus.LOST:
            return End(state=AttemptState.LOST, reason=last.reason or "turn_lost")
        case TurnStatus.EXPIRED:
            return _after_expiry(facts, last)
        case TurnStatus.INTERRUPTED:
            return _after_interruption(facts, last)
        case _:
            return _after_failure(facts, last)


def _after_work(facts: Facts, last: AttemptTurn) -> Action:
    results = [result for result in facts.checks if result.turn == last.number]
    if len(results) < len(facts.request.checks):
        check = facts.request.checks[len(results)]
        left = time_left(facts)
        timeout_ms = check.timeout_ms if left is None else min(check.timeout_ms, left)
        return _out_of_time(facts) or RunCheck(index=len(results), timeout_ms=max(1, timeout_ms))
    if all(result.passed for result in results):
        return End(state=AttemptState.SUCCEEDED)
    return _back_to_the_agent(facts, Why.CHECKS_FAILED)


def _back_to_the_agent(facts: Facts, why: Why) -> Action:
    """What is not good enough goes back, while turns are left; turns that were cut off or failed do not count."""
    answered = [turn for turn in facts.turns if turn.status == TurnStatus.COMPLETED or turn.reason == "output_invalid"]
    if len(answered) >= facts.request.max_turns and not facts.canceled:
        return End(state=AttemptState.CHECKS_FAILED, reason=str(why))
    return _start(facts, why)


def _after_expiry(facts: Facts, last: AttemptTurn) -> Action:
    if last.reason == "stalled":
        return End(state=AttemptState.STALLED, reason="stalled")
    return _out_of_time(facts) or End(state=AttemptState.TIMED_OUT, reason="deadline")


def _after_interruption(facts: Facts, last: AttemptTurn) -> Action:
    if (over := _over_tokens(facts)) is not None:
        return over
    if last.reason in CUT_OFF:
        return _again(facts, Why.CUT_OFF)
    # A person ended it, or closed its session: what was wrong with it, only a person knows.
    return End(state=AttemptState.FAILED, reason=last.reason or "interrupted")


def _after_failure(facts: Facts, last: AttemptTurn) -> Action:
    reason = last.reason or "turn_failed"
    if reason == "usage_limit":
        return End(state=AttemptState.FAILED, reason=reason, park_until_ms=_reset(facts))
    if reason == "output_invalid":
        return _back_to_the_agent(facts, Why.OUTPUT_INVALID)
    if reason in CUT_OFF:
        return _again(facts, Why.CUT_OFF)
    if is_transient(reason):
        return _again(facts, Why.TRANSIENT)
    return End(state=AttemptState.FAILED, reason=reason)


def _again(facts: Facts, why: Why) -> Action:
    """Another turn, unless it was tried too often in a row."""
    transient = why is Why.TRANSIENT
    in_a_row = 0
    for turn in reversed(facts.turns):
        if turn.status not in (TurnStatus.FAILED, TurnStatus.INTERRUPTED):
            break
        in_a_row += 1
    if in_a_row > (TRANSIENT_MAX if transient else CUT_OFF_MAX):
        reason = facts.turns[-1].reason
        return End(state=AttemptState.FAILED if transient else AttemptState.LOST, reason=reason)
    wait = round(BACKOFF_MS * 2 ** (in_a_row - 1) * (1 - facts.chance / 2)) if transient else 0
    left = time_left(facts)
    return _start(facts, why, wait if left is None else max(0, min(wait, left)))


def _start(facts: Facts, why: Why, delay_ms: int = 0) -> Action:
    budget, turns = facts.request.budget, facts.earlier.turns + len(facts.turns)
    if (over := _out_of_time(facts) or _over_tokens(facts)) is not None:
        return over
    if budget.turns is not None and turns >= budget.turns:
        return End(state=AttemptState.BUDGET_EXCEEDED, reason="budget_turns")
    left = time_left(facts)
    return Start(number=len(facts.turns) + 1, why=why, delay_ms=delay_ms, deadline_ms=left)


def _out_of_time(facts: Facts) -> End | None:
    """The end that is due without anything more: somebody asked for it, or a time is up."""
    deadline, budget = facts.request.deadline_ms, facts.request.budget.time_ms
    if facts.canceled:
        return End(state=AttemptState.CANCELED, reason="canceled")
    if deadline is not None and facts.elapsed_ms >= deadline:
        return End(state=AttemptState.TIMED_OUT, reason="deadline")
    if budget is not None and facts.earlier.time_ms + facts.elapsed_ms >= budget:
        return End(state=AttemptState.BUDGET_EXCEEDED, reason="budget_time")
    return None


def _over_tokens(facts: Facts) -> End | None:
    left = tokens_left(facts)
    return None if left is None or left > 0 else End(state=AttemptState.BUDGET_EXCEEDED, reason="budget_tokens")


def tokens_left(facts: Facts) -> int | None:
    """What of the budget the turns that ended have left; None without a budget."""
    budget = facts.request.budget.tokens
    return None if budget is None else budget - facts.earlier.tokens - sum(turn.tokens for turn in facts.turns)


def time_left(facts: Facts) -> int | None:
    """Milliseconds until the deadline or the end of the time budget, whichever is first; None without both."""
    deadline, budget = facts.request.deadline_ms, facts.request.budget.time_ms
    ends = [] if deadline is None else [deadline - facts.elapsed_ms]
    ends += [] if budget is None else [budget - facts.earlier.time_ms - facts.elapsed_ms]
    return min(ends, default=None)


def _reset(facts: Facts) -> int:
    jitter = round(JITTER_MS * facts.chance)
    if facts.resets_at is None:
        return facts.now_utc_ms + UNKNOWN_RESET_MS + jitter
    told = round(datetime.fromisoformat(facts.resets_at).timestamp() * 1000)
    return max(told, facts.now_utc_ms) + jitter


def reason_of(reason: str | None, error: dict[str, Any] | None) -> str | None:
    """Why a turn ended, in a word: codexd's, else Codex's own, with the HTTP status where it has one."""
    if reason is not None or error is None:
        return reason
    told = error.get("codexErrorInfo")
    if not isinstance(told, dict):
        return told if isinstance(told, str) else None
    kind, more = next(iter(told.items()), (None, None))
    status = more.get("httpStatusCode") if isinstance(more, dict) else None
    return f"{kind}:{status}" if isinstance(status, int) else kind


def is_transient(reason: str) -> bool:
    """Whether what failed may pass by itself: not if the server says that it is the request."""
    kind, _, status = reason.partition(":")
    return kind in TRANSIENT and not (status.isdecimal() and int(status) in _LASTING_STATUS)
