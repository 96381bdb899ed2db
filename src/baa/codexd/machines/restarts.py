"""Whether and when a child that ended is followed by another. Times are monotonic seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

STABLE_S: Final = 300.0
"""A child that lived this long has shown that it can: the failures before it no longer count."""

WINDOW_S: Final = 300.0
FAILURES_MAX: Final = 5
"""More failures than this within the window are a crash loop: trying faster would only cost."""

PAUSE_MAX_S: Final = 60.0
PROBE_S: Final = 600.0
"""In a crash loop one child is tried this often, in case somebody mended the cause."""


@dataclass(frozen=True, slots=True)
class Restarts:
    """The ends of children that count: when each happened."""

    failures: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows an end: a pause of `delay_s` seconds, and whether it is now called a crash loop."""

    restarts: Restarts
    delay_s: float
    crash_loop: bool


def after_exit(restarts: Restarts, *, now: float, lived_s: float, jitter: float) -> Verdict:
    """The verdict on a child that lived `lived_s` seconds and ended `now`. `jitter` is a random number in [0, 1)."""
    if lived_s >= STABLE_S:
        return Verdict(Restarts((now,)), 0.0, crash_loop=False)
    failures = (*(at for at in restarts.failures if now - at < WINDOW_S), now)
    if len(failures) > FAILURES_MAX:
        return Verdict(Restarts(failures[-FAILURES_MAX - 1 :]), PROBE_S * (0.9 + 0.2 * jitter), crash_loop=True)
    # The first one costs nothing to follow at once, and is by far the most common: somebody ended one child.
    pause = 0.0 if len(failures) == 1 else min(PAUSE_MAX_S, 2.0 ** (len(failures) - 2)) * (0.5 + 0.5 * jitter)
    return Verdict(Restarts(failures), pause, crash_loop=False)
