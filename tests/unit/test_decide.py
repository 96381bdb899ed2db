"""What becomes of a task when an attempt has ended: every case there is."""

from __future__ import annotations

from itertools import product

import pytest

from baa.api.tasks import ATTEMPT_ENDED, AttemptState, QueueEventType, TaskState
from baa.engine.decide import AGAIN, PARKS_MAX, USAGE_LIMIT, Next, after

ENDS = sorted(ATTEMPT_ENDED)
EVERY = list(product(ENDS, (None, USAGE_LIMIT, "other"), (False, True), (0, 1, 3), (0, PARKS_MAX), (None, 5000)))


def next_of(
    end: AttemptState, reason: str | None, cancel_asked: bool, tries: int, parks: int, until: int | None
) -> Next:
    return after(
        end,
        reason=reason,
        cancel_asked=cancel_asked,
        tries=tries,
        parks=parks,
        max_attempts=3,
        park_until_utc=until,
    )


def expected(
    end: AttemptState, reason: str | None, cancel_asked: bool, tries: int, parks: int, until: int | None
) -> str:
    """The rules in other words."""
    if end is AttemptState.SUCCEEDED:
        return "succeeded"
    if end is AttemptState.CANCELED or cancel_asked:
        return "canceled"
    if until is not None and reason == USAGE_LIMIT:
        return "parked" if parks < PARKS_MAX else "failed"
    if tries == 3:
        return "failed"
    if until is not None:
        return "parked"
    return "requeued" if end in AGAIN else "failed"


def test_every_end_of_an_attempt_gives_the_task_one_state() -> None:
    for case in EVERY:
        found = next_of(*case)
        assert found.told == f"task.{expected(*case)}", case
        again = found.told in (QueueEventType.TASK_PARKED, QueueEventType.TASK_REQUEUED)
        assert found.state == ("queued" if again else expected(*case)), case
        assert (found.not_before_utc is not None) == (found.told is QueueEventType.TASK_PARKED), case


def test_a_reason_is_always_told_except_of_a_success() -> None:
    for case in EVERY:
        end, reason, *_ = case
        want = reason if end is AttemptState.SUCCEEDED else reason or str(end)
        assert next_of(*case).reason == want, case


def test_what_counts_as_a_try() -> None:
    for case in EVERY:
        _, reason, _, tries, parks, _ = case
        found = next_of(*case)
        waits = found.told is QueueEventType.TASK_PARKED and reason == USAGE_LIMIT
        assert (found.tries, found.parks) == ((tries - 1, parks + 1) if waits else (tries, parks)), case


@pytest.mark.parametrize("end", sorted(AGAIN))
def test_an_end_that_says_nothing_about_the_task_is_tried_again_up_to_its_limit(end: AttemptState) -> None:
    ends = [next_of(end, None, False, tries, 0, None).state for tries in (1, 2, 3)]
    assert ends == [TaskState.QUEUED, TaskState.QUEUED, TaskState.FAILED]


def test_a_wait_for_a_reset_is_no_try_and_ends_some_day() -> None:
    tries, parks = 1, 0
    for _ in range(PARKS_MAX):
        found = next_of(AttemptState.FAILED, USAGE_LIMIT, False, tries, parks, 1)
        assert (found.state, found.tries, found.parks) == (TaskState.QUEUED, 0, parks + 1)
        tries, parks = found.tries + 1, found.parks
    assert next_of(AttemptState.FAILED, USAGE_LIMIT, False, tries, parks, 1).state is TaskState.FAILED
