"""How long an announced hand-over holds: by the monotonic clock, and never shorter for being announced again."""

from __future__ import annotations

from dataclasses import dataclass

from baa.api.status import Handover
from baa.codexd.handover import Announcement


@dataclass
class Hands:
    """A clock that is set by hand."""

    seconds: float = 0.0
    utc: int = 0

    def monotonic(self) -> float:
        return self.seconds

    def utc_ms(self) -> int:
        return self.utc


def test_without_an_announcement_there_is_none() -> None:
    assert not Announcement(Hands()).holds


def test_it_holds_until_it_expires_whatever_becomes_of_the_time_of_day() -> None:
    clock = Hands(seconds=5.0)
    announcement = Announcement(clock)
    told = announcement.announce(2000)
    assert told == Handover(expires_at="1970-01-01T00:00:02.000Z", expires_in_ms=2000)
    clock.utc = 10_000_000
    clock.seconds = 6.999
    assert announcement.holds
    clock.seconds = 7.0
    assert not announcement.holds


def test_announced_again_it_lasts_longer_and_never_shorter() -> None:
    clock = Hands()
    announcement = Announcement(clock)
    announcement.announce(60_000)
    clock.seconds = 10.0
    assert announcement.announce(1).expires_in_ms == 50_000
    assert announcement.announce(60_000).expires_in_ms == 60_000
    clock.seconds = 69.0
    assert announcement.holds
    clock.seconds = 70.0
    assert announcement.announce(5).expires_in_ms == 5
