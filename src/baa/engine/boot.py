"""The clock that all processes of one machine share, and which boot it belongs to."""

from __future__ import annotations

import subprocess
import time
from functools import cache
from pathlib import Path


def milliseconds() -> int:
    """Since the machine was started, sleep included (Linux) or as its monotonic clock counts (macOS)."""
    clock: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime_ns(clock) // 1_000_000


@cache
def boot_id() -> str:
    """Differs from one start of the machine to the next."""
    linux = Path("/proc/sys/kernel/random/boot_id")
    if linux.exists():
        return linux.read_text().strip()
    command = ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
