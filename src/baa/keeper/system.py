"""What the keeper asks of the system: processes, and a log that cannot fail."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

DARWIN = sys.platform == "darwin"
log_lines = iter(range(1000))  # a stranger who knocks for ever must not fill the disk


def log(text: str) -> None:
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    with suppress(OSError, StopIteration):  # the disk may be full; the work goes on
        os.write(2, f"{stamp} keeper {os.getpid()} [{next(log_lines)}]: {text}\n".encode(errors="replace"))


def parent_and_start(pid: int) -> tuple[int, int]:
    """The start (in clock ticks since boot) tells a process from a later one of the same pid; zeros without /proc."""
    with suppress(OSError), open(f"/proc/{pid}/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
        return int(fields[1]), int(fields[19])
    return 0, 0


def kill_children() -> bool:
    """SIGKILLs the orphans that came to us; false if there are none. On macOS they go to launchd."""
    pids = [] if DARWIN else [int(name) for name in os.listdir("/proc") if name.isdigit()]
    children = [pid for pid in pids if parent_and_start(pid)[0] == os.getpid()]
    for pid in children:  # not reaped yet, so the pids are still theirs
        with suppress(PermissionError):  # it has changed its user
            os.kill(pid, signal.SIGKILL)
    return bool(children)


@contextmanager
def within(cgroup: str) -> Iterator[None]:
    """What is born in here is born in that cgroup, which lies right below the keeper's own. Without one: as ever."""
    try:
        enter(cgroup)
        yield
    finally:
        enter(os.path.dirname(cgroup))


def enter(cgroup: str) -> None:
    if cgroup:
        try:
            with open(os.path.join(cgroup, "cgroup.procs"), "w") as procs:
                procs.write("0")
        except OSError as failure:
            log(f"cannot enter {cgroup}: {failure}")
