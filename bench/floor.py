"""What the bytes alone cost: so many sockets of this machine written to and read, with no codexd and no events.

Whoever reads on the machine that is measured takes its processors from Codex: this is the part of a slowdown by many
subscribers that no server could avoid.
"""

from __future__ import annotations

import os
import selectors
import socket
import sys

from bench.wire import READ_BYTES

ROUNDS = 50
"""About as often in a second as codexd tells many readers something."""


def cpu_s(sockets: int, size: int) -> float:
    """Processor seconds, of sender and reader together, for `size` bytes to each of so many sockets."""
    with socket.create_server(("127.0.0.1", 0), backlog=sockets) as server:
        pid = os.fork()
        if pid == 0:
            _read(server.getsockname(), sockets)
        taken = [server.accept()[0] for _ in range(sockets)]
        frame = b"x" * (size // ROUNDS)
        before = os.times()
        for _ in range(ROUNDS):
            for each in taken:
                each.sendall(frame)
        for each in taken:
            each.close()
        os.waitpid(pid, 0)
    after = os.times()
    # The reader is a child that ended meanwhile, and so counted with the children.
    return sum(after[:4]) - sum(before[:4])


def _read(address: tuple[str, int], sockets: int) -> None:
    """As lean as it goes: nothing is looked at. Ends the process."""
    try:
        selector = selectors.DefaultSelector()
        for _ in range(sockets):
            selector.register(socket.create_connection(address), selectors.EVENT_READ)
        buffer = bytearray(READ_BYTES)
        left = sockets
        while left:
            for key, _ in selector.select():
                assert isinstance(key.fileobj, socket.socket)
                if not key.fileobj.recv_into(buffer):
                    selector.unregister(key.fileobj)
                    left -= 1
    except OSError:
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    deltas = 20_000
    print(f"{cpu_s(100, deltas * 235) / deltas * 1e6:.1f} µs a delta", file=sys.stdout)
