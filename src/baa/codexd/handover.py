"""Whether the next SIGTERM is a hand-over to another codexd instead of a stop: announced beforehand, for a while."""

from __future__ import annotations

from baa.api.status import Handover
from baa.clock import Clock, rfc3339


class Announcement:
    """What was announced. It is kept in memory only: a codexd that dies meanwhile hands over in any case."""

    def __init__(self, clock: Clock) -> None:
        """Nothing is announced."""
        self._clock = clock
        self._until = -1.0

    @property
    def holds(self) -> bool:
        """Whether a hand-over was announced and has not expired."""
        return self._clock.monotonic() < self._until

    def announce(self, expires_in_ms: int) -> Handover:
        """From now on, and for so long, a signal is a hand-over. An announcement that lasts longer stands."""
        now = self._clock.monotonic()
        self._until = max(self._until, now + expires_in_ms / 1000)
        left_ms = round((self._until - now) * 1000)
        return Handover(expires_at=rfc3339(self._clock.utc_ms() + left_ms), expires_in_ms=left_ms)
