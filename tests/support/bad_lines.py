"""Lines that a child might write: those of a recorded conversation with the real Codex, spoilt by chance."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from baa.codexd.appserver import jsonrpc, translate
from tests.support.dialect import recorded

ODD: Final[tuple[Any, ...]] = (
    None,
    True,
    0,
    -1,
    2**63,
    1e308,
    "",
    "x",
    "\0",
    "\ud800",
    "\u202e",
    [],
    {},
    [[]],
    {"": None},
    "trn_",
    "ses_",
)
PIECES: Final = (b"\x00", b"\xff", b"\xed\xa0\x80", b"{", b"}", b"[", b'"', b"\\", b"\r", b"1e999", b"NaN", b"\\ud800")


def lines(seed: int, count: int) -> Iterator[bytes]:
    """So many of them: values changed for others, names left out or given twice, bytes cut, doubled and changed."""
    draw = random.Random(seed)
    good = recorded("told")
    for _ in range(count):
        message = json.loads(json.dumps(draw.choice(good)))
        for _ in range(draw.randint(0, 3)):
            message = _spoilt(message, draw)
        line = json.dumps(message).encode()
        yield _cut(line, draw) if draw.random() < 0.5 else line


def _spoilt(value: Any, draw: random.Random) -> Any:
    if not isinstance(value, dict | list) or not value or draw.random() < 0.2:
        return draw.choice(ODD)
    if isinstance(value, list):
        at = draw.randrange(len(value))
        return [*value[:at], _spoilt(value[at], draw), *value[at + 1 :]]
    name = draw.choice(sorted(value))
    what = draw.random()
    if what < 0.2:
        return {key: each for key, each in value.items() if key != name}
    if what < 0.3:
        return {**value, draw.choice(("id", "method", "params", "result", "error")): draw.choice(ODD)}
    return {**value, name: _spoilt(value[name], draw)}


def _cut(line: bytes, draw: random.Random) -> bytes:
    at, to = sorted((draw.randrange(len(line) + 1), draw.randrange(len(line) + 1)))
    return draw.choice(
        (
            line[:at],
            line[at:],
            line[:at] + line[to:],
            line[:to] + line[at:],
            line[:at] + draw.choice(PIECES) + line[at:],
        )
    )


def crash(line: bytes) -> str | None:
    """None if it is read, or refused as codexd expects it; else what it raised."""
    try:
        translate.piece(line)
        message = jsonrpc.decode(line)
        if isinstance(message, jsonrpc.Envelope):
            translate.incoming(message, 1)
    except msgspec.DecodeError:
        return None
    except Exception as raised:  # boundary: whatever it raises would end codexd
        return f"{line[:200]!r} raised {raised!r}"
    return None
