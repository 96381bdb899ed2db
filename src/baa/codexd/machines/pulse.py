"""Whether a child that says nothing is dead in all but name. Times are seconds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

MISSES_MAX: Final = 3
"""Pings without an answer, each given a whole period, before a silent child is called hung."""

GAP_PERIODS: Final = 2.0
"""Looks that lie further apart than this many periods say that we slept, not that the child did."""


class Finding(StrEnum):
    """What a look at the child says."""

    LIVES = "lives"
    SILENT = "silent"  # ask it
    HUNG = "hung"


@dataclass(frozen=True, slots=True)
class Pulse:
    """What was seen at the last look: how many bytes the child had written, and the pings since they last grew."""

    spooled: int
    misses: int = 0


def feel(pulse: Pulse, *, spooled: int, elapsed_s: float, period_s: float) -> tuple[Pulse, Finding]:
    """A look at the child, `elapsed_s` after the last one.

    Any byte is life: a child that streams may be slow to answer. One that was asked at each of three looks, and wrote
    nothing until a whole period after the last of them, is hung.
    """
    if spooled != pulse.spooled:
        return Pulse(spooled), Finding.LIVES
    if elapsed_s > GAP_PERIODS * period_s:
        return Pulse(spooled, 1), Finding.SILENT
    if pulse.misses >= MISSES_MAX:
        return pulse, Finding.HUNG
    return Pulse(spooled, pulse.misses + 1), Finding.SILENT
