"""Times on the wire: RFC 3339 in UTC, with milliseconds."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baa.clock import SystemClock, rfc3339


@pytest.mark.parametrize(
    ("utc_ms", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1, "1970-01-01T00:00:00.001Z"),
        (999, "1970-01-01T00:00:00.999Z"),
        (1_795_478_562_388, "2026-11-24T00:02:42.388Z"),
        (1_709_164_800_000, "2024-02-29T00:00:00.000Z"),
        (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
    ],
)
def test_a_time_is_written_with_its_milliseconds(utc_ms: int, text: str) -> None:
    assert rfc3339(utc_ms) == text


@given(st.integers(0, 253_402_300_799_999))
def test_no_millisecond_is_lost_or_rounded(utc_ms: int) -> None:
    read = datetime.fromisoformat(rfc3339(utc_ms))

    assert read.tzinfo is UTC
    assert round((read - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1000) == utc_ms


@given(st.integers(0, 253_402_300_799_999), st.integers(0, 253_402_300_799_999))
def test_times_sort_as_their_text_does(one: int, other: int) -> None:
    assert (rfc3339(one) < rfc3339(other)) is (one < other)


def test_the_machines_clock_goes_forward_and_knows_the_year() -> None:
    clock = SystemClock()
    before = clock.monotonic()

    assert clock.monotonic() >= before
    assert rfc3339(clock.utc_ms()) > "2020"
