"""Ids of ours: a prefix that says what they name, and 26 characters of Crockford's base32.

The first ten characters are the millisecond of birth, so ids sort by age; the rest is random. Ids are keys in a
database, never file names.
"""

from __future__ import annotations

import re
import secrets
from typing import Final

SESSION: Final = "ses"
TURN: Final = "trn"
INTERACTION: Final = "int"
DAEMON: Final = "dmn"
KEEPER: Final = "kpr"
TASK: Final = "tsk"

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_ID: Final = re.compile(r"[a-z]{3}_[0-9a-hjkmnp-tv-z]{26}")


def new_id(prefix: str, utc_ms: int) -> str:
    """A new id that begins with `prefix`, born at `utc_ms` (milliseconds since 1970)."""
    number = (utc_ms << 80) | secrets.randbits(80)
    return f"{prefix}_" + "".join(_ALPHABET[(number >> shift) & 31] for shift in range(125, -1, -5))


def is_id(text: str, prefix: str) -> bool:
    """Whether `text` could be an id of ours with this prefix."""
    return text.startswith(prefix + "_") and _ID.fullmatch(text) is not None
