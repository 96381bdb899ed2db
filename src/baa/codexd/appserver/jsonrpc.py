"""Lines and envelopes of the app-server: JSON-RPC 2.0 without its version field, one message a line.

A line that cannot be read is a value (`Unreadable`), never an exception that ends the reader.
"""

from __future__ import annotations

import re
from itertools import accumulate
from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

LINE_MAX: Final = 32 * 1024 * 1024
"""Bytes. A longer line is skipped to its end and told: it would otherwise grow until memory ends."""

SAMPLE_MAX: Final = 4096
"""Bytes of an unreadable line that are kept, to see what it was."""

NESTED_MAX: Final = 256
"""Levels of objects and arrays. Codex's own parser ends at 128; whatever reads the log after us (SQLite, clients) has a
limit of its own, and a line that only some of them can read must not get there."""

YEAR_10000_MS: Final = 253_402_300_800_000

EmittedAt = Annotated[int, Meta(ge=0, lt=YEAR_10000_MS)] | None
"""When the child says that it wrote a message, in milliseconds since 1970."""


class Envelope(Struct, frozen=True):
    """A message of the child, not looked into. A request has `id` and `method`, an answer only `id`."""

    id: str | int | UnsetType = UNSET
    method: str | UnsetType = UNSET
    params: Raw | UnsetType = UNSET
    result: Raw | UnsetType = UNSET
    error: dict[str, Any] | UnsetType = UNSET
    emitted_at_ms: EmittedAt = msgspec.field(default=None, name="emittedAtMs")


class Unreadable(Struct, frozen=True):
    """A line that is not a message: what it began with, and why it was refused."""

    sample: str
    why: str


_decoder: Final = msgspec.json.Decoder(Envelope)
_encoder: Final = msgspec.json.Encoder()


def decode(line: bytes) -> Envelope | Unreadable:
    """The message in one line (without its newline)."""
    try:
        if not line.isascii():
            line.decode()  # msgspec takes raw parts as they are, and what is in the log is UTF-8
        message = _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Unreadable(_sample(line), str(error))
    if len(line) > 2 * NESTED_MAX and _nesting(line) > NESTED_MAX:
        return Unreadable(_sample(line), f"more than {NESTED_MAX} levels of nesting")
    return message


_STRING: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')
_BRACKETS: Final = {ord("{"): 1, ord("["): 1, ord("}"): -1, ord("]"): -1}
_OTHERS: Final = bytes(set(range(256)) - _BRACKETS.keys())


def _nesting(line: bytes) -> int:
    """How deep the brackets of a valid line go; the number of them where that is little enough."""
    opened = line.count(b"{") + line.count(b"[")
    if opened <= NESTED_MAX:
        return opened
    brackets = _STRING.sub(b"", line).translate(None, _OTHERS)
    return max(accumulate(map(_BRACKETS.__getitem__, brackets)), default=0)


def _sample(line: bytes) -> str:
    return line[:SAMPLE_MAX].decode("utf-8", "replace")


def request(id_: str, method: str, params: object) -> bytes:
    """The line of a request, newline included."""
    return _encoder.encode({"id": id_, "method": method, "params": params}) + b"\n"


def notification(method: str) -> bytes:
    """The line of a notification without parameters, newline included."""
    return _encoder.encode({"method": method}) + b"\n"


def answer(id_: str | int, result: object) -> bytes:
    """The line that answers a request of the child, newline included."""
    return _encoder.encode({"id": id_, "result": result}) + b"\n"


def refusal(id_: str | int, code: int, message: str) -> bytes:
    """The line that answers a request of the child with an error, newline included."""
    return _encoder.encode({"id": id_, "error": {"code": code, "message": message}}) + b"\n"


class LineSplitter:
    """Cuts a stream of bytes into lines. `consumed` counts the bytes of all whole lines given out or skipped."""

    def __init__(self) -> None:
        """Start at the beginning of a line."""
        self._rest = bytearray()
        self._skipping = False
        self.consumed = 0
        self.oversize = 0

    @property
    def pending(self) -> int:
        """Bytes of the line that has not ended yet."""
        return len(self._rest)

    def drop(self) -> None:
        """The rest of the line that has begun will not come."""
        self.consumed += len(self._rest)
        self._rest.clear()
        self._skipping = False

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes, without their newlines."""
        *ended, rest = data.split(b"\n")
        lines: list[bytes] = []
        for piece in ended:
            self.consumed += len(self._rest) + len(piece) + 1
            if self._skipping:
                self._skipping = False
            elif self._rest:
                self._rest += piece
                lines.append(bytes(self._rest))
            else:
                lines.append(piece)
            self._rest.clear()
        if self._skipping:
            self.consumed += len(rest)
        elif len(self._rest) + len(rest) > LINE_MAX:
            self.consumed += len(self._rest) + len(rest)
            self._rest.clear()
            self._skipping = True
            self.oversize += 1
        else:
            self._rest += rest
        return lines
