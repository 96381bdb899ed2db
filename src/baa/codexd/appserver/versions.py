"""Which releases of Codex codexd can work with."""

from __future__ import annotations

import re
from typing import Final

from baa.api.status import Support

OLDEST: Final = (0, 133, 0)
"""The oldest release whose app-server was looked at. What came before lacks parts of the protocol that codexd needs."""

KNOWN: Final = ((0, 163, 0),)
"""The releases that the tests run on, oldest first: the one that is pinned by the `codex` extra."""

_NUMBERS: Final = re.compile(r"(\d{1,9})\.(\d{1,9})\.(\d{1,9})")


def support(version: str | None) -> Support:
    """What is known of a Codex of this version. A pre-release is another release than the one that it leads to."""
    numbers = None if version is None else _numbers(version)
    if version is None or numbers is None:
        return Support.UNKNOWN
    if numbers < OLDEST:
        return Support.TOO_OLD
    if numbers in KNOWN and version == _text(numbers):
        return Support.KNOWN
    return Support.NEWER if numbers > KNOWN[-1] else Support.OLDER


def too_old(version: str) -> str | None:
    """What to do about a Codex of this version if it is too old; None if it is not, or cannot be judged."""
    if support(version) is not Support.TOO_OLD:
        return None
    return (
        f"Codex {version} is too old: codexd needs {_text(OLDEST)} or later. Update it with `pip install -U"
        " 'baa-conductor[codex]'` or `npm install -g @openai/codex`."
    )


def _numbers(version: str) -> tuple[int, ...] | None:
    """None for what cannot be compared: a Codex that somebody built calls itself 0.0.0."""
    found = _NUMBERS.match(version)
    numbers = () if found is None else tuple(map(int, found.groups()))
    return numbers if any(numbers) else None


def _text(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))
