"""Many subscribers in a process of their own: `python -m bench.readers ADDRESS TOKEN COUNT DEAF UNTIL`.

One in so many (DEAF per cent) never reads. Prints {"ready"} once all are connected; then, when each of those that read
has seen the end of UNTIL turns, one line of JSON: how many deltas each saw; and for each of the turns, how old events
were that were looked at, in ms when they were read (an event's `at` is the moment of its commit).
"""

from __future__ import annotations

import json
import re
import selectors
import sys
import time
from datetime import datetime

from bench.codexd import DELTA, EVENTS
from bench.wire import Closed, WebSocket

AT = re.compile(rb'"at":"([^"]+)"')
SHARE = 2
SEAM = 32
END = b'"type":"turn.completed"'


class Reader:
    """A subscriber that takes bytes and counts in them; it looks at no frame but for its length."""

    def __init__(self, socket: WebSocket) -> None:
        self.socket = socket
        self.deltas = 0
        self.ended = 0
        self._rest = b""

    def read(self) -> bytes:
        """What came, once; counted."""
        data = self.socket.take()
        seam = self._rest + data[:SEAM]
        self.deltas += data.count(DELTA) + _across(seam, len(self._rest), DELTA)
        if END in data or END in seam:
            self.ended += data.count(END) + _across(seam, len(self._rest), END)
        self._rest = (self._rest + data)[-SEAM:]
        return data


def _across(seam: bytes, border: int, word: bytes) -> int:
    """1 if `word` lies across the border: begins before it and ends after it."""
    at = seam.find(word, max(0, border - len(word) + 1))
    return int(0 <= at < border < at + len(word))


def main() -> None:
    """Read until all have seen the end."""
    address, token, count, deaf, until = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])
    sockets = [WebSocket(address, EVENTS, token=token) for _ in range(count)]
    for socket in sockets:
        assert b'"hello"' in next(socket.messages())
    reading = [Reader(each) for each in sockets[: max(1, count - count * deaf // 100)]]
    ages: dict[int, list[float]] = {number: [] for number in range(until)}
    every = max(1, count // SHARE)
    print(json.dumps({"ready": len(sockets)}), flush=True)
    selector = selectors.DefaultSelector()
    for each in reading:
        selector.register(each.socket.fileno, selectors.EVENT_READ, each)
    reads = 0
    while any(each.ended < until for each in reading):
        for key, _ in selector.select(60):
            reader: Reader = key.data
            data = reader.read()
            reads += 1
            if reads % every == 0 and reader.ended < until and (at := AT.search(data)) is not None:
                committed = datetime.fromisoformat(at[1].decode()).timestamp()
                ages[reader.ended].append((time.time() - committed) * 1000)
    print(json.dumps({"seen": [each.deltas for each in reading], "ages": list(ages.values())}), flush=True)
    for socket in sockets:
        socket.close()


if __name__ == "__main__":
    try:
        main()
    except Closed:
        sys.exit("a subscriber was closed")
