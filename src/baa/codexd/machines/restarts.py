"""Whether and when a child that ended is followed by another. Times are monotonic seconds."""

from __future__ import annotations

import errno
import re
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

PROBED_S: Final = 30.0
"""A probe that lived this long works again: if it ends later, that is a failure like any other."""

_CANNOT_START: Final = re.compile(r"cannot start: \[Errno (\d+)\]")

_BAD_ARCHITECTURE: Final = 86
"""macOS's EBADARCH, which Python does not name everywhere."""

_HOPELESS: Final = frozenset(
    {
        errno.ENOENT,
        errno.EACCES,
        errno.EPERM,
        errno.ENOEXEC,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ELOOP,
        _BAD_ARCHITECTURE,
    }
)
"""Why a program does not start however often it is tried. Too many processes, files or pages pass."""


@dataclass(frozen=True, slots=True)
class Restarts:
    """The ends of children that count: when each happened. `looping`: since the last of them only probes are made."""

    failures: tuple[float, ...] = ()
    looping: bool = False


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
    failed_probe = restarts.looping and lived_s < PROBED_S
    if failed_probe:
        failures = (*restarts.failures, now)
    if failed_probe or len(failures) > FAILURES_MAX:
        kept = Restarts(failures[-FAILURES_MAX - 1 :], looping=True)
        return Verdict(kept, PROBE_S * (0.9 + 0.2 * jitter), crash_loop=True)
    # The first one costs nothing to follow at once, and is by far the most common: somebody ended one child.
    pause = 0.0 if len(failures) == 1 else min(PAUSE_MAX_S, 2.0 ** (len(failures) - 2)) * (0.5 + 0.5 * jitter)
    return Verdict(Restarts(failures), pause, crash_loop=False)


def hopeless(reason: str | None) -> bool:
    """Whether the keeper's word on why the child did not start says that no try at this file will do better."""
    found = None if reason is None else _CANNOT_START.match(reason)
    return found is not None and int(found[1]) in _HOPELESS
