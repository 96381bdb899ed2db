"""Text that came from a model, or from what it ran, on its way to a terminal: nothing in it may act there."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Final

import msgspec

ACTING: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Categories of what is not seen but acts: controls (ESC and the C1 set above all), bidi and tag characters, halves of
surrogate pairs, line and paragraph separators."""

HARMLESS: Final = frozenset("\n\t\u200c\u200d")
"""Of those, what only lays text out: the joiners make one letter or emoji of several."""

_QUICK: Final = re.compile(r"[\n\t\x20-\x7e]*")


def plain(text: str) -> str:
    """`text` with everything that could act on a terminal written out, as `\\x1b` or `\\u202e`. Lines stay lines."""
    if _QUICK.fullmatch(text):
        return text
    return "".join(map(_shown, text.replace("\r\n", "\n")))


def json_line(data: object) -> str:
    """`data` as one line of JSON in which nothing can act: all that is not ASCII is written as an escape."""
    told = msgspec.json.decode(msgspec.json.encode(data))
    return json.dumps(told, ensure_ascii=True, separators=(",", ":")).replace("\x7f", "\\u007f")


def _shown(character: str) -> str:
    if character in HARMLESS or unicodedata.category(character) not in ACTING:
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
