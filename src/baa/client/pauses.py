"""How long to wait before one tries again."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Final

FIRST_S: Final = 0.05
LONGEST_S: Final = 2.0


def pauses() -> Iterator[float]:
    """Seconds, without an end: soon at first, then ever longer; by chance, so that many do not come back at once."""
    longest = FIRST_S
    while True:
        yield random.uniform(longest / 2, longest)
        longest = min(longest * 2, LONGEST_S)
