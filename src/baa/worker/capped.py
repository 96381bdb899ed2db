"""Output of which the beginning and the end are kept: what a check, a diff or git says may be longer than anyone reads.

A leaf of the worker: it knows nothing of ours.
"""

from __future__ import annotations

from collections import deque


class Capped:
    """Takes bytes without an end, and holds `limit` of them: a half from the beginning, a half from the end."""

    def __init__(self, limit: int) -> None:
        self._head_left = limit // 2
        self._tail_max = limit - limit // 2
        self._head: list[bytes] = []
        self._tail: deque[bytes] = deque()
        self._tail_bytes = 0
        self.left_out = 0

    def feed(self, data: bytes) -> None:
        """Take more of it."""
        taken = data[: self._head_left]
        if taken:
            self._head.append(taken)
            self._head_left -= len(taken)
        rest = data[len(taken) :]
        if rest:
            self._tail.append(rest)
            self._tail_bytes += len(rest)
        while self._tail_bytes > self._tail_max:
            over = self._tail_bytes - self._tail_max
            oldest = self._tail.popleft()
            cut = min(over, len(oldest))
            if cut < len(oldest):
                self._tail.appendleft(oldest[cut:])
            self._tail_bytes -= cut
            self.left_out += cut

    @property
    def data(self) -> bytes:
        """All of it, if nothing was left out; else its beginning and its end, joined."""
        return b"".join((*self._head, *self._tail))

    def text(self) -> str:
        """To read, and to store: what is no UTF-8 is replaced, so is NUL, and where the middle is missing stands so."""
        if not self.left_out:
            return readable(self.data)
        head, tail = readable(b"".join(self._head)), readable(b"".join(self._tail))
        return f"{head}\n[... {self.left_out} bytes are left out here ...]\n{tail}"


def readable(data: bytes) -> str:
    """Text for a JSON document in any database: PostgreSQL stores no NUL."""
    return data.decode(errors="replace").replace("\0", "\ufffd")
