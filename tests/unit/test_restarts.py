"""Whether and when a child that ended is followed by another."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baa.codexd.machines.restarts import (
    FAILURES_MAX,
    PAUSE_MAX_S,
    PROBE_S,
    PROBED_S,
    STABLE_S,
    WINDOW_S,
    Restarts,
    Verdict,
    after_exit,
    hopeless,
)

SOON = 1.0


def failing(ends: list[float], *, jitter: float = 0.5) -> Verdict:
    """The verdict on the last of children that each lived for a moment and ended at these times."""
    verdict = Verdict(Restarts(), 0.0, crash_loop=False)
    for now in ends:
        verdict = after_exit(verdict.restarts, now=now, lived_s=SOON, jitter=jitter)
    return verdict


def test_the_first_end_is_followed_at_once() -> None:
    assert failing([10.0]) == Verdict(Restarts((10.0,)), 0.0, crash_loop=False)


@pytest.mark.parametrize(("failures", "pause"), [(1, 0.0), (2, 0.75), (3, 1.5), (4, 3.0), (5, 6.0)])
def test_each_end_doubles_the_pause_and_chance_takes_up_to_half_of_it(failures: int, pause: float) -> None:
    verdict = failing([float(at) for at in range(failures)])

    assert (verdict.delay_s, verdict.crash_loop) == (pause, False)


@pytest.mark.parametrize(("jitter", "delay"), [(0.0, 0.9 * PROBE_S), (0.5, PROBE_S)])
def test_one_end_more_than_the_limit_is_a_crash_loop_and_then_only_probed(jitter: float, delay: float) -> None:
    ends = [float(at) for at in range(FAILURES_MAX + 1)]

    assert failing(ends, jitter=jitter) == Verdict(Restarts(tuple(ends), looping=True), delay, crash_loop=True)


def test_a_probe_that_fails_is_followed_by_another_probe_however_long_it_took() -> None:
    loop = failing([float(at) for at in range(FAILURES_MAX + 1)])
    probed = after_exit(loop.restarts, now=1000.0, lived_s=PROBED_S - 1, jitter=0.5)

    assert (probed.crash_loop, probed.delay_s) == (True, PROBE_S)


def test_a_probe_that_worked_and_ends_later_is_a_failure_like_any_other() -> None:
    loop = failing([float(at) for at in range(FAILURES_MAX + 1)])
    worked = after_exit(loop.restarts, now=1000.0, lived_s=PROBED_S, jitter=0.5)

    assert worked == Verdict(Restarts((1000.0,)), 0.0, crash_loop=False)


@pytest.mark.parametrize(
    ("reason", "verdict"),
    [
        ("cannot start: [Errno 2] No such file or directory: '/nowhere/codex'", True),
        ("cannot start: [Errno 8] Exec format error: '/codex'", True),
        ("cannot start: [Errno 13] Permission denied: '/codex'", True),
        ("cannot start: [Errno 11] Resource temporarily unavailable", False),
        ("cannot start: [Errno 24] Too many open files", False),
        ("exited", False),
        (None, False),
    ],
)
def test_only_what_no_try_can_mend_is_hopeless(reason: str | None, verdict: bool) -> None:
    assert hopeless(reason) is verdict


def test_ends_outside_the_window_no_longer_count() -> None:
    assert failing([0.0, 1.0, 2.0, 2.0 + WINDOW_S]) == Verdict(Restarts((2.0 + WINDOW_S,)), 0.0, crash_loop=False)


def test_a_child_that_lived_long_is_followed_at_once_whatever_came_before() -> None:
    loop = failing([float(at) for at in range(FAILURES_MAX + 3)])

    assert loop.crash_loop
    assert after_exit(loop.restarts, now=1000.0, lived_s=STABLE_S, jitter=0.9) == Verdict(
        Restarts((1000.0,)), 0.0, crash_loop=False
    )


@given(st.lists(st.tuples(st.floats(0, 1000), st.floats(0, 1000), st.floats(0, 1, exclude_max=True)), max_size=40))
def test_no_history_is_remembered_without_end_and_no_pause_is_endless(
    children: list[tuple[float, float, float]],
) -> None:
    restarts, now = Restarts(), 0.0
    for pause, lived, jitter in children:
        now += pause + lived
        verdict = after_exit(restarts, now=now, lived_s=lived, jitter=jitter)
        restarts = verdict.restarts

        assert len(restarts.failures) <= FAILURES_MAX + 1
        assert 0 <= verdict.delay_s <= (1.1 * PROBE_S if verdict.crash_loop else PAUSE_MAX_S)
