"""Times as people write them: how long, and since when. Pure; the clock and the zone are given."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Final

from baa.api.errors import CannotStart

EX_USAGE: Final = 64

_UNITS: Final = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION: Final = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)\s*(ms|s|m|h|d)")


def milliseconds(text: str) -> int:
    """`90s`, `15m`, `1.5h` or `2d` as milliseconds, 1 or more. Raises CannotStart (64)."""
    found = _DURATION.fullmatch(text.strip())
    length = 0 if found is None else round(float(found[1]) * _UNITS[found[2]])
    if length < 1:
        raise CannotStart(f"{text!r} is no time: write 90s, 15m, 2h or 1d.", exit_code=EX_USAGE)
    return length


def since(text: str, now: datetime) -> datetime:
    """`yesterday`, `today`, `8h` (ago), `2026-11-25` or `2026-11-25T18:00`, in the zone of `now`.

    Raises CannotStart (64).
    """
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    match text.strip().lower():
        case "today":
            return midnight
        case "yesterday":
            return midnight - timedelta(days=1)
    if _DURATION.fullmatch(text.strip()):
        return now - timedelta(milliseconds=milliseconds(text))
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        raise CannotStart(
            f"{text!r} is no time: write yesterday, today, 8h, 2026-11-25 or 2026-11-25T18:00.", exit_code=EX_USAGE
        ) from None
    return found if found.tzinfo is not None else found.replace(tzinfo=now.tzinfo)


def told(milliseconds_: int) -> str:
    """A length as people read it: `850 ms`, `12 s`, `3 min 5 s`, `2 h 10 min`."""
    if milliseconds_ < 1000:
        return f"{milliseconds_} ms"
    seconds = round(milliseconds_ / 1000)
    if seconds < 60:
        return f"{seconds} s"
    minutes, seconds = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes} min {seconds} s" if seconds else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"
