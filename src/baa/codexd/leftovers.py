"""Processes that a dead codexd or keeper left: found by what they hold or by their recorded pid and start time.

Never by name, and never without the start time: a pid is given to another process sooner than one thinks.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from baa.codexd import cgroups

ENDING_S: Final = 12.0
"""Seconds that a keeper is given to end its child by the ladder (5 s after EOF, 3 s after SIGTERM) and itself."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A process as it was written down: its pid, and when it was born (ticks since boot on Linux, seconds on macOS)."""

    pid: int
    start: str

    def find(self) -> psutil.Process | None:
        """The process, if that very one still runs."""
        try:
            process = psutil.Process(self.pid)
            if self.pid > 0 and self.start == start_of(self.pid) and process.status() != psutil.STATUS_ZOMBIE:
                return process
        except (psutil.Error, OSError, ValueError):
            return None
        return None

    def kill(self) -> None:
        """SIGKILL it, and never a later process of the same pid."""
        with suppress(ProcessLookupError, OSError, psutil.Error):
            if hasattr(os, "pidfd_open"):
                descriptor = os.pidfd_open(self.pid)
                try:
                    if self.find() is not None:  # it is still the one that was looked at, and the descriptor is its own
                        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                finally:
                    os.close(descriptor)
            elif (found := self.find()) is not None:
                found.kill()

    async def gone(self, seconds: float) -> bool:
        """Wait until it is gone, `seconds` at most; whether it is."""
        process = self.find()
        if process is None:
            return True
        try:
            await asyncio.to_thread(process.wait, seconds)
        except psutil.TimeoutExpired:
            return False
        return True


def keeper_of(folder: Path) -> Recorded | None:
    """The keeper that holds this folder now, if one does."""
    try:
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        pid = os.read(lock, 100).decode("ascii", "replace").partition(" ")[0]
        # It holds the lock at this moment, so its pid is its own.
        return Recorded(int(pid), start_of(int(pid))) if pid.isdecimal() else Recorded(0, "")
    finally:
        os.close(lock)


async def end_keeper(keeper: Recorded, *, at_once: bool = False) -> None:
    """End a keeper and its child: by its own ladder; `at_once` or too late, by SIGKILL (its child sees EOF then)."""
    process = keeper.find()
    if process is None:
        return
    with suppress(psutil.NoSuchProcess):
        if not at_once:
            process.terminate()
            if await keeper.gone(ENDING_S):
                return
        process.kill()
    await keeper.gone(ENDING_S)


@dataclass(frozen=True, slots=True)
class Swept:
    """What `sweep` found: pids of the keepers that it ended, the highest generation and the ids that had folders."""

    ended: list[int]
    newest: int
    keeper_ids: list[str]


async def sweep(keepers: Path, but: Path | None) -> Swept:
    """End every keeper of this state folder except the recorded one, and remove what they leave."""
    ended, newest, keeper_ids = [], 0, []
    for folder in sorted(keepers.iterdir()):
        number, _, keeper_id = folder.name.partition("-")
        newest = max(newest, int(number) if number.isdecimal() else 0)
        if folder == but:
            continue
        keeper = keeper_of(folder)
        if keeper is not None:
            await end_keeper(keeper)
            ended.append(keeper.pid)
        await asyncio.to_thread(cgroups.end, folder)
        keeper_ids.append(keeper_id)
        shutil.rmtree(folder, ignore_errors=True)
    return Swept(ended, newest, keeper_ids)


async def end_all(keepers: Path) -> None:
    """End every keeper of this state folder, and leave what they wrote."""
    for folder in keepers.iterdir():
        keeper = keeper_of(folder)
        if keeper is not None:
            await end_keeper(keeper)


def age_of(start: str) -> float | None:
    """Seconds since a birth in the words of `Recorded`; None if it is not known. Suspended time counts."""
    if not start.isdecimal():
        return None
    if Path("/proc/self/stat").exists():
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - int(start) / os.sysconf("SC_CLK_TCK"))
    return max(0.0, time.time() - int(start))  # macOS tells a birth by the wall clock alone


def start_of(pid: int) -> str:
    """When the process was born, in the words of `Recorded`; empty if there is no such process."""
    try:
        if Path("/proc/self/stat").exists():
            return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19].decode()
        return str(int(psutil.Process(pid).create_time()))
    except (OSError, IndexError, psutil.Error):
        return ""
