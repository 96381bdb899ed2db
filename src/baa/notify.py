"""What a program tells the service manager that started it: sd_notify(3), on the socket named in NOTIFY_SOCKET.

Without that variable (a terminal, launchd) nothing is told.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Final

READY: Final = "READY=1"
STOPPING: Final = "STOPPING=1"
WATCHDOG: Final = "WATCHDOG=1"


def notify(state: str) -> None:
    """Tell `state`. A manager that does not listen is not waited for: it acts on silence by itself."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.setblocking(False)
        sock.sendto(state.encode(), "\0" + path[1:] if path.startswith("@") else path)


def watchdog_seconds() -> float | None:
    """After how much silence the manager ends this process; None = it does not."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 1e6 if microseconds.isdecimal() and int(microseconds) > 0 else None


async def watch(alive: Callable[[], bool]) -> None:
    """Feed the watchdog while `alive`, three times in each of its periods, until cancelled."""
    seconds = watchdog_seconds()
    while seconds is not None:
        if alive():
            notify(WATCHDOG)
        await asyncio.sleep(seconds / 3)
