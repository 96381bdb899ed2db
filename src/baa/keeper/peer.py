"""A connection, its frames, and whether whoever made it may speak."""

import fcntl
import socket
import struct
from contextlib import suppress

from system import DARWIN

FRAME = struct.Struct(">cQI")
LINE_BYTES_MAX = 64 << 20  # images come as data URLs; Codex was seen to take 12 MB
CONTROL_BYTES_MAX = 4096  # a hello is about 100 bytes
RECEIVE_BYTES = 64 << 10
NEVER = float("inf")


def holds_lock(connection: socket.socket, path: str) -> bool:
    """Whether that process holds the POSIX write lock on the file. (To read-lock it, the right to read is enough.)"""
    with suppress(OSError), open(path, "rb") as file:
        if DARWIN:
            pid = connection.getsockopt(0, 2)  # SOL_LOCAL, LOCAL_PEERPID
            layout, question, kind_at, pid_at = "qqihh", (0, 0, 0, fcntl.F_RDLCK, 0), 3, 2
        else:
            pid = struct.unpack("iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
            layout, question, kind_at, pid_at = "hhqqi4x", (fcntl.F_RDLCK, 0, 0, 0, 0), 0, 4
        lock = struct.unpack(layout, fcntl.fcntl(file, fcntl.F_GETLK, struct.pack(layout, *question)))
        return bool(pid > 0 and lock[kind_at] == fcntl.F_WRLCK and lock[pid_at] == pid)
    return False


class Peer:
    """A connection: codexd's, or one before its hello."""

    def __init__(self, connection: socket.socket, hello_due: float) -> None:
        connection.setblocking(False)
        self.connection, self.descriptor = connection, connection.fileno()
        self.hello_due = hello_due  # NEVER once it was said
        self.inbox, self.outbox = bytearray(), bytearray()
        self.stuck = self.told_end = False  # stuck: the next frame is a line, and the child's stdin is full

    def receive(self) -> None:
        with suppress(BlockingIOError):
            chunk = self.connection.recv(RECEIVE_BYTES)
            self.inbox += chunk
            if not chunk:
                raise ConnectionAbortedError("gone")  # and a half frame of it goes with this object

    def next_frame(self, takes_lines: bool) -> tuple[bytes, int, bytes] | None:
        if len(self.inbox) < FRAME.size:
            return None
        kind, number, size = FRAME.unpack_from(self.inbox)
        if size > (LINE_BYTES_MAX if kind == b"L" and self.hello_due == NEVER else CONTROL_BYTES_MAX):
            raise ConnectionAbortedError(f"a payload of {size} bytes")
        self.stuck = kind == b"L" and not takes_lines
        end = FRAME.size + size
        if self.stuck or len(self.inbox) < end:
            return None
        payload = bytes(self.inbox[FRAME.size : end])
        del self.inbox[:end]
        return kind, number, payload

    def send(self, kind: bytes, number: int, payload: bytes = b"") -> None:
        """Bounded by what is ever sent: a hello, starts, an end, and one ring and one acknowledgement at a time."""
        self.outbox += FRAME.pack(kind, number, len(payload)) + payload

    def flush(self) -> None:
        with suppress(OSError):  # full, or gone: the poll tells
            while self.outbox:
                del self.outbox[: self.connection.send(self.outbox)]
