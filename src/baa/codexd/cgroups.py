"""A cgroup of the child's own, where codexd owns the one that it is in: to end it is to end all that is in it.

Nothing leaves a cgroup by a fork, a session of its own or a clean environment, so this is the one complete way. It
needs cgroup v2 with `cgroup.kill` (Linux 5.14) and a cgroup that belongs to our user, such as systemd's `Delegate=yes`
gives. Everywhere else there is none, and what outlives a child is looked for by its marker.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

ENDING_S: Final = 2.0
"""Seconds for the kernel to end all of a cgroup; a few milliseconds are usual."""

LOOK_S: Final = 0.01
"""Seconds between two looks whether it has."""

FILE: Final = "cgroup"
"""The file in a keeper's folder that holds the path of its child's cgroup."""


def make(keeper_id: str) -> Path | None:
    """A new cgroup below our own; None where there can be none."""
    own = _own()
    if own is None or os.stat(own).st_uid != os.geteuid() or not os.access(own / "cgroup.procs", os.W_OK):
        return None
    made = own / f"codex-{keeper_id}"
    try:
        made.mkdir()
        if (made / "cgroup.kill").exists():
            return made
        made.rmdir()
    except OSError:
        return None
    return None


def end(folder: Path) -> None:
    """End all that is in the cgroup of this keeper's child, if it had one. Waits for it.

    If codexd itself was started from there, by a command of that child, nothing is done.
    """
    try:
        cgroup = Path((folder / FILE).read_text())
    except OSError:
        return
    own = _own()
    if own is not None and own.is_relative_to(cgroup):
        return
    with suppress(OSError):  # gone, or another's by now
        (cgroup / "cgroup.kill").write_text("1")
        until = time.monotonic() + ENDING_S
        while "populated 1" in (cgroup / "cgroup.events").read_text() and time.monotonic() < until:
            time.sleep(LOOK_S)
        for below in sorted(cgroup.glob("**/"), reverse=True):
            below.rmdir()


def _own() -> Path | None:
    """The cgroup that codexd is in; None for the root of all, which is nobody's."""
    try:
        mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        mounted = next(Path(fields[4]) for fields in mounts if fields[fields.index("-") + 1] == "cgroup2")
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        path = next(line.removeprefix("0::") for line in lines if line.startswith("0::"))
    except (OSError, StopIteration, ValueError):
        return None
    return None if path == "/" or ".." in path else mounted / path.lstrip("/")
