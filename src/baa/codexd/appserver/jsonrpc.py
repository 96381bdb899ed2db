"""Lines and envelopes of the app-server: JSON-RPC 2.0 without its version field, one message a line.

A line that cannot be read is a value (`Unreadable`), never an exception that ends the reader.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

LINE_MAX: Final = 32 * 1024 * 1024
"""Bytes. A longer line is skipped to its end and told: it would otherwise grow until memory ends."""

SAMPLE_MAX: Final = 4096
"""Bytes of an unreadable line that are kept, to see what it was."""


class Envelope(Struct, frozen=True):
    """A message of the child, not looked into. A request has `id` and `method`, an answer only `id`."""

    id: str | int | UnsetType = UNSET
    method: str | UnsetType = UNSET
    params: Raw | UnsetType = UNSET
    result: Raw | UnsetType = UNSET
    error: dict[str, Any] | UnsetType = UNSET
    emitted_at_ms: int | None = msgspec.field(default=None, name="emittedAtMs")


class Unreadable(Struct, frozen=True):
    """A line that is not a message: what it began with, and why it was refused."""

    sample: str
    why: str


_decoder: Final = msgspec.json.Decoder(Envelope)
_encoder: Final = msgspec.json.Encoder()


def decode(line: bytes) -> Envelope | Unreadable:
    """The message in one line (without its newline)."""
    try:
        return _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Unreadable(line[:SAMPLE_MAX].decode("utf-8", "replace"), str(error))


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
