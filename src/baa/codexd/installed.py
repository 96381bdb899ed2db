"""Which Codex is installed: the very file, so that a change of it is seen without starting anything."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from baa import codex


@dataclass(frozen=True, slots=True)
class Installed:
    """A program as it was found. `file` tells it from what may later be found at the same path."""

    path: Path
    file: str


def look(command: str) -> Installed:
    """The Codex for the setting `server_command`, as it is installed now. Raises NoProgram."""
    path = codex.find(command)
    try:
        found = os.stat(path)
    except OSError as error:  # it went between two looks
        raise codex.NoProgram(f"Codex cannot be looked at: {error}") from None
    # Of a script (npm installs one) as of a binary: an upgrade replaces the file, a repair may only change its mode.
    marks = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return Installed(path, " ".join(map(str, marks)))
