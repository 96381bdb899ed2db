"""Space that is held for the moment when the disk is full: given back then, so that what was begun can be committed.

The file is emptied, not deleted: its place in the folder is held too. Half of it goes when a commit finds no space, the
rest when the log cannot be opened at a start.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

BALLAST_BYTES: Final = 4 << 20
"""Held while all is well."""

OPENING_BYTES: Final = 2 << 20
"""What stays of it for the next start: opening the log takes some 100 KiB, and a codexd's first words a few more."""

ROOM_BYTES: Final = 4 << 20
"""Bytes free beside the ballast when space counts as being back: less would be gone at once."""

_PART: Final = 1 << 18


class Ballast:
    """The ballast of one log. Its methods may block, for as long as writing a few megabytes takes."""

    def __init__(self, path: Path) -> None:
        """Nothing happens to the file yet."""
        self._path = path

    def release(self, keep: int = 0) -> bool:
        """Give back all but `keep` bytes; False if there is nothing to give."""
        with suppress(OSError):
            if self._path.stat().st_size > keep:
                os.truncate(self._path, keep)
                return True
        return False

    def hold(self) -> bool:
        """Hold all of it, if there is room beside it; False if there is not."""
        try:
            free = os.statvfs(self._path.parent)
            held = self._path.stat().st_size if self._path.exists() else 0
            if free.f_bavail * free.f_frsize < ROOM_BYTES + BALLAST_BYTES - held:
                return False
            self._fill(held)
        except OSError:
            return False
        return True

    def _fill(self, held: int) -> None:
        """Take the space that is missing. Raises OSError."""
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(descriptor, 0, BALLAST_BYTES)
                return
            while held < BALLAST_BYTES:
                # macOS cannot reserve space: what is written must not be made smaller.
                held += os.write(descriptor, os.urandom(min(_PART, BALLAST_BYTES - held)))
        except OSError:
            os.ftruncate(descriptor, min(held, OPENING_BYTES))
            raise
        finally:
            os.close(descriptor)
