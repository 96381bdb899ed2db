"""When a silent child is called hung: only after three pings, each with its time, and never for time that we slept."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baa.codexd.machines.pulse import GAP_PERIODS, MISSES_MAX, Finding, Pulse, feel

PERIOD_S = 10.0
LIVES, SILENT, HUNG = Finding.LIVES, Finding.SILENT, Finding.HUNG


def findings(looks: list[tuple[int, float]]) -> list[Finding]:
    """What is found at looks at so many bytes, each so long after the one before."""
    pulse, found = Pulse(-1), []
    for spooled, elapsed_s in looks:
        pulse, finding = feel(pulse, spooled=spooled, elapsed_s=elapsed_s, period_s=PERIOD_S)
        found.append(finding)
    return found


def test_three_pings_and_a_period_more_are_given() -> None:
    assert findings([(5, PERIOD_S)] * 5) == [LIVES, SILENT, SILENT, SILENT, HUNG]


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_any_byte_is_life(at: int) -> None:
    looks = [(5, PERIOD_S)] * at + [(6, PERIOD_S)] * 4
    assert HUNG not in findings(looks)
    assert findings(looks)[at] is LIVES


def test_time_in_which_we_slept_is_no_silence() -> None:
    asleep = (5, PERIOD_S * (GAP_PERIODS + 1))
    assert findings([(5, PERIOD_S)] * 4 + [asleep] * 9) == [LIVES, *[SILENT] * 12]
    assert findings([(5, PERIOD_S)] * 4 + [asleep] + [(5, PERIOD_S)] * 3) == [LIVES, *[SILENT] * 6, HUNG]


@given(st.lists(st.tuples(st.integers(0, 1), st.floats(0.1, 100.0)), max_size=30))
def test_nothing_is_hung_without_three_questions_in_a_row(looks: list[tuple[int, float]]) -> None:
    found = findings(looks)
    for at, finding in enumerate(found):
        if finding is HUNG:
            before = [each for each in found[:at] if each is not HUNG]
            assert before[-MISSES_MAX:] == [SILENT] * MISSES_MAX
