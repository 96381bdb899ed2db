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
from contextlib import suppress
from datetime import datetime

from bench.codexd import DELTA, ENDS, EVENTS
from bench.wire import Closed, WebSocket

AT = re.compile(rb'"at":"([^"]+)"')
SHARE = 2


def main() -> None:
    """Read until all have seen the end."""
    address, token, count, deaf, until = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])
    sockets = [WebSocket(address, EVENTS, token=token) for _ in range(count)]
    for each in sockets:
        assert b'"hello"' in next(each.messages())
    reading = sockets[: max(1, count - count * deaf // 100)]
    seen = dict.fromkeys(reading, 0)
    ended = dict.fromkeys(reading, 0)
    ages: dict[int, list[float]] = {number: [] for number in range(until)}
    every = max(1, count // SHARE)
    print(json.dumps({"ready": len(sockets)}), flush=True)
    selector = selectors.DefaultSelector()
    for each in reading:
        selector.register(each.fileno, selectors.EVENT_READ, each)
    frames = 0
    while any(done < until for done in ended.values()):
        for key, _ in selector.select(60):
            socket: WebSocket = key.data
            with suppress(BlockingIOError):
                socket.fill()
            for message in socket.waiting():
                seen[socket] += message.count(DELTA)
                frames += 1
                if frames % every == 0 and ended[socket] < until and (at := AT.search(message)) is not None:
                    committed = datetime.fromisoformat(at[1].decode()).timestamp()
                    ages[ended[socket]].append((time.time() - committed) * 1000)
                ended[socket] += sum(message.count(end) for end in ENDS)
    print(json.dumps({"seen": list(seen.values()), "ages": list(ages.values())}), flush=True)
    for each in sockets:
        each.close()


if __name__ == "__main__":
    try:
        main()
    except Closed:
        sys.exit("a subscriber was closed")
