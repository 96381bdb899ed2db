"""Which releases of Codex codexd can work with."""

from __future__ import annotations

import re
from typing import Final

OLDEST: Final = (0, 133, 0)
"""The oldest release whose app-server was looked at. What came before lacks parts of the protocol that codexd needs."""

_NUMBERS: Final = re.compile(r"(\d{1,9})\.(\d{1,9})\.(\d{1,9})")


def too_old(version: str) -> str | None:
    """What to do about a Codex of this version if it is too old; None if it is not, or cannot be judged.

    A Codex that somebody built calls itself 0.0.0.
    """
    found = _NUMBERS.match(version)
    if found is None:
        return None
    numbers = tuple(map(int, found.groups()))
    if numbers == (0, 0, 0) or numbers >= OLDEST:
        return None
    oldest = ".".join(map(str, OLDEST))
    return (
        f"Codex {version} is too old: codexd needs {oldest} or later. Update it with `pip install -U"
        " 'baa-conductor[codex]'` or `npm install -g @openai/codex`."
    )
