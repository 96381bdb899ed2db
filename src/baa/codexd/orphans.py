"""What outlives its child: found by the marker that it inherited, or by recorded pid and start time; then ended.

Never by name. A process that has shed its environment is not found by its marker, nor is one that forks faster than
/proc can be read: where there is a cgroup of the child's own (cgroups.py), it ends those too.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

import psutil

from baa.codexd.leftovers import Recorded, start_of
from baa.codexd.program import MARKER

ENDING_S: Final = 5.0
"""Seconds in which what outlived its child is ended; what is left then can only be named."""

LOOK_S: Final = 0.02
"""Seconds between two looks: what was killed needs some to be gone."""

EMPTY_LOOKS: Final = 2
"""So many looks in a row must find nothing: one can miss a process that is just being forked."""

_MARKED: Final = f"\0{MARKER}=".encode()


class Past:
    """The children that are over, and what may be left of them."""

    def __init__(self) -> None:
        """There were none."""
        self._keeper_ids: set[bytes] = set()
        self._children: set[Recorded] = set()

    def add(self, *keeper_ids: str, child: Recorded | None = None) -> None:
        """These are over: nothing of theirs may live beside another child."""
        self._keeper_ids.update(keeper_id.encode() for keeper_id in keeper_ids if keeper_id)
        if child is not None:
            self._children.add(child)

    def end(self, seconds: float = ENDING_S) -> list[Recorded]:
        """End all that is left; what still lives after so many seconds. It waits: call it in a thread."""
        until, empty = time.monotonic() + seconds, 0
        while True:
            left = self.left()
            empty = 0 if left else empty + 1
            if empty >= EMPTY_LOOKS or time.monotonic() >= until:
                return left
            for process in left:
                process.kill()
            if left:
                time.sleep(LOOK_S)

    def left(self) -> list[Recorded]:
        """What lives now. Never codexd itself, nor who started it, wherever that was done."""
        self._children = {child for child in self._children if child.find() is not None}
        left = self._children | set(self._marked())
        if left:
            with suppress(psutil.Error):
                ours = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
                left = {process for process in left if process.pid not in ours}
        return sorted(left, key=lambda process: process.pid)

    def _marked(self) -> Iterator[Recorded]:
        """macOS shows nobody's environment, and has no /proc: there, only what was written down is found."""
        for name in os.listdir("/proc") if self._keeper_ids and os.path.exists("/proc/self") else ():
            if name.isdecimal() and self._is_ours(name):
                start = start_of(int(name))
                if start and self._is_ours(name):  # again: now it is the one that was born then
                    yield Recorded(int(name), start)

    def _is_ours(self, pid: str) -> bool:
        try:
            with open(f"/proc/{pid}/environ", "rb", buffering=0) as file:
                environment = b"\0" + file.read()
        except OSError:  # gone, or another user's
            return False
        _, found, rest = environment.partition(_MARKED)
        return bool(found) and rest.partition(b"\0")[0] in self._keeper_ids


def told(left: list[Recorded]) -> str:
    """What is left, why that matters, and what to do."""
    pids = " ".join(str(process.pid) for process in left)
    return (
        f"Processes of an earlier child still run, and no other is started beside them: pid {pids}. They could not be"
        f" ended; end them (kill -9 {pids}) or restart the machine."
    )
