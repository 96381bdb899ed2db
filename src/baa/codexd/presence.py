"""The lock file must stay where it is while codexd runs: it is what keeps a second one away."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Final

from baa.api.errors import CannotStart

EX_IOERR: Final = 74

LOOK_S: Final = 1.0
"""Seconds between two looks."""


async def watch(lock: Path, held: int) -> None:
    """Look after the lock, for ever. Without it codexd is not the only one any more. Raises CannotStart."""
    while True:
        if not is_at(lock, held):
            raise CannotStart(
                f"The lock file {lock} was removed or replaced while codexd ran: another codexd could start beside it."
                " Codex goes on; start codexd again.",
                exit_code=EX_IOERR,
            )
        await asyncio.sleep(LOOK_S)


def is_at(path: Path, held: int) -> bool:
    """Whether the file behind the descriptor is still the one of that name."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    except OSError:  # it cannot be told, which is no reason to end
        return True
    mine = os.fstat(held)
    return (found.st_dev, found.st_ino) == (mine.st_dev, mine.st_ino)
