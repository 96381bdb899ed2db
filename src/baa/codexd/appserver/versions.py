"""Which releases of Codex codexd can work with."""

from __future__ import annotations

import re
from typing import Any, Final

from baa.api.status import Support

OLDEST: Final = (0, 144, 4)
"""The oldest release that has what codexd cannot do without. 0.133.0 has no `clientUserMessageId`, by which a turn is
found again in Codex's history, and forks more of a thread than it is asked to, without a word."""

KNOWN: Final = ((0, 144, 4), (0, 154, 0), (0, 159, 3), (0, 163, 0), (0, 171, 0))
"""The releases on which the tests passed, oldest first, but for what docs/compatibility.md says that each lacks; one is
pinned by the `codex` extra."""

MISSING: Final = "missingMethod"
"""The key under which an error names a method that this release of Codex does not have."""

_UNKNOWN: Final = re.compile(r"Invalid request: unknown variant `([\w/]{1,100})`, expected ")
_NUMBERS: Final = re.compile(r"(\d{1,9})\.(\d{1,9})\.(\d{1,9})")


def support(version: str | None) -> Support:
    """What is known of a Codex of this version. A pre-release is another release than the one that it leads to."""
    of = None if version is None else numbers(version)
    if version is None or of is None:
        return Support.UNKNOWN
    if of < OLDEST:
        return Support.TOO_OLD
    if of in KNOWN and version == text(of):
        return Support.KNOWN
    return Support.NEWER if of > KNOWN[-1] else Support.OLDER


def too_old(version: str) -> str | None:
    """What to do about a Codex of this version if it is too old; None if it is not, or cannot be judged."""
    if support(version) is not Support.TOO_OLD:
        return None
    return (
        f"Codex {version} is too old: codexd needs {text(OLDEST)} or later. Update it with `pip install -U"
        " 'baa-conductor[codex]'` or `npm install -g @openai/codex`."
    )


def said(error: dict[str, Any]) -> dict[str, Any]:
    """An error of Codex's as it is told on. That it does not have a method it tells by naming all that it has."""
    unknown = _UNKNOWN.match(str(error.get("message")))
    if unknown is None:
        return error
    method = unknown.group(1)
    return {**error, "message": f"The Codex that runs has no {method}. Another release may.", MISSING: method}


def numbers(version: str) -> tuple[int, ...] | None:
    """None for what cannot be compared: a Codex that somebody built calls itself 0.0.0."""
    found = _NUMBERS.match(version)
    told = () if found is None else tuple(map(int, found.groups()))
    return told if any(told) else None


def text(version: tuple[int, ...]) -> str:
    """A version as Codex writes it."""
    return ".".join(map(str, version))
