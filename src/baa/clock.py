"""Time as an argument: what is decided takes its time from here, so that tests can give it.

Deadlines and durations use `monotonic` (seconds, never set back); facts told to people use UTC.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol


class Clock(Protocol):
    """Where the programs read the time."""

    def monotonic(self) -> float:
        """Seconds on a clock that only goes forward; its zero means nothing."""

    def utc_ms(self) -> int:
        """Milliseconds since 1970 in UTC, as this machine believes them to be."""


@dataclass(frozen=True, slots=True)
class SystemClock:
    """The machine's own clocks."""

    def monotonic(self) -> float:
        """Seconds since an unknown start."""
        return time.monotonic()

    def utc_ms(self) -> int:
        """Milliseconds since 1970, UTC."""
        return time.time_ns() // 1_000_000


@lru_cache(maxsize=4)  # Thousands of deltas share a millisecond, and formatting one costs more than the rest of it.
def rfc3339(utc_ms: int) -> str:
    """The time as RFC 3339 in UTC with milliseconds, as every time on our wire is written."""
    seconds, ms = divmod(utc_ms, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat()}.{ms:03d}Z"
