"""Many subscribers in a process of their own: `python -m bench.readers ADDRESS TOKEN COUNT DEAF UNTIL`.

One in so many (DEAF per cent) never reads. Prints {"ready"} once all are connected; then, when each of those that read
has come to the end of UNTIL turns, one line of JSON: how many deltas the first saw, which counts them; how many readers
missed something, which each tells by `from` and `next` of its frames; and for each of the turns, how old events were
that were looked at, in ms when they were read (an event's `at` is the moment of its commit).

A hundred readers on the machine that is measured cost as much as what they read from: but for the first, each looks at
the beginning of every frame, and passes over the rest.
"""

from __future__ import annotations

import json
import re
import selectors
import struct
import sys
import time
from datetime import datetime

import msgspec

from bench.codexd import DELTA, EVENTS
from bench.wire import READ_BYTES, Closed, WebSocket

AT = re.compile(rb'"at":"([^"]+)"')
SHARE = 2
SEAM = 32
END = b'"type":"turn.completed"'
RANGE = re.compile(rb'"type":"events","from":"([^"]+)","next":"([^"]+)"')
HEAD_BYTES = 10 + 128


class Reader:
    """A subscriber that sees by the beginning of each frame that it has missed nothing. `at`: the last cursor."""

    def __init__(self, socket: WebSocket, after: bytes) -> None:
        self.socket = socket
        self.at = after
        self.missed = 0
        self._begun = b""
        self._left = 0

    @property
    def seq(self) -> int:
        """How far it has come."""
        return int(self.at.partition(b":")[2])

    def look(self, data: memoryview) -> None:
        """What came, as it came."""
        place = 0
        while place < len(data):
            if self._left:
                passed = min(self._left, len(data) - place)
                self._left -= passed
                place += passed
                continue
            piece = bytes(data[place : place + HEAD_BYTES - len(self._begun)])
            self._begun += piece
            place += len(piece)
            length = frame_length(self._begun)
            if length is None or len(self._begun) < min(length, HEAD_BYTES):
                continue
            place -= max(0, len(self._begun) - length)
            self._left = max(0, length - len(self._begun))
            found = RANGE.search(self._begun[:length])
            if found is not None:
                self.missed += found[1] != self.at
                self.at = found[2]
            self._begun = b""


class Counting(Reader):
    """The one that counts the deltas by their name, and sees where turns end: `ends` are the seqs."""

    def __init__(self, socket: WebSocket, after: bytes) -> None:
        super().__init__(socket, after)
        self.deltas = 0
        self.ends: list[int] = []
        self._rest = b""

    def look(self, data: memoryview) -> None:
        """What came, counted too."""
        super().look(data)
        whole = bytes(data)
        seam = self._rest + whole[:SEAM]
        self.deltas += whole.count(DELTA) + _across(seam, len(self._rest), DELTA)
        ends = whole.count(END) + _across(seam, len(self._rest), END)
        self.ends += [self.seq] * ends
        self._rest = (self._rest + whole)[-SEAM:]


def frame_length(begun: bytes) -> int | None:
    """The length of a server's frame, its head included; None while that cannot be seen."""
    if len(begun) < 2:
        return None
    size = begun[1] & 0x7F
    if size < 126:
        return 2 + size
    form, start = ("!H", 4) if size == 126 else ("!Q", 10)
    if len(begun) < start:
        return None
    (size,) = struct.unpack_from(form, begun, 2)
    return start + int(size)


def _across(seam: bytes, border: int, word: bytes) -> int:
    """1 if `word` lies across the border: begins before it and ends after it."""
    at = seam.find(word, max(0, border - len(word) + 1))
    return int(0 <= at < border < at + len(word))


def _after(socket: WebSocket) -> bytes:
    hello = msgspec.json.decode(next(socket.messages()))
    assert hello["type"] == "hello"
    return str(hello["after"]).encode()


def main() -> None:
    """Read until all have come to the end."""
    address, token, count, deaf, until = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])
    sockets = [WebSocket(address, EVENTS, token=token) for _ in range(count)]
    afters = [_after(socket) for socket in sockets]
    first = Counting(sockets[0], afters[0])
    hearing = max(1, count - count * deaf // 100)
    reading = [first, *(Reader(socket, after) for socket, after in zip(sockets[1:hearing], afters[1:], strict=False))]
    ages: list[list[float]] = [[] for _ in range(until)]
    every = max(1, count // SHARE)
    print(json.dumps({"ready": len(sockets)}), flush=True)
    selector = selectors.DefaultSelector()
    for each in reading:
        selector.register(each.socket.fileno, selectors.EVENT_READ, each)
    buffer = memoryview(bytearray(READ_BYTES))
    reads = 0
    while len(first.ends) < until or any(each.seq < first.ends[until - 1] for each in reading):
        for key, _ in selector.select(60):
            reader: Reader = key.data
            ended = sum(end <= reader.seq for end in first.ends)
            data = buffer[: reader.socket.take(buffer)]
            reader.look(data)
            reads += 1
            if reads % every == 0 and ended < until and (at := AT.search(data)) is not None:
                committed = datetime.fromisoformat(at[1].decode()).timestamp()
                ages[ended].append((time.time() - committed) * 1000)
    missed = sum(each.missed > 0 for each in reading)
    print(json.dumps({"deltas": first.deltas, "missed": missed, "ages": ages}), flush=True)
    for socket in sockets:
        socket.close()


if __name__ == "__main__":
    try:
        main()
    except Closed:
        sys.exit("a subscriber was closed")
