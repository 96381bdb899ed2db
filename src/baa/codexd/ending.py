"""`python -m baa.codexd --end-leftovers`: end what a codexd that died left running, without starting another one.

Nothing is removed and nothing is written to the event log: the next codexd reads there how the child ended.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

import apsw
import psutil
import structlog

from baa.api.errors import CannotStart
from baa.clock import SystemClock
from baa.codexd import cgroups, leftovers, orphans, restore
from baa.codexd.daemon import hold
from baa.codexd.leftovers import Recorded
from baa.codexd.orphans import Past
from baa.config import Config
from baa.sqlite import open_reader

EX_OSERR: Final = 71

GONE_S: Final = 5.0
"""Seconds in which a child ends after its keeper's death: it sees EOF, and Codex needs 0.1."""

_log = structlog.get_logger("ending")


async def end_leftovers(config: Config) -> str:
    """End every keeper of this node and what runs below it; returns what was ended, in words.

    Raises CannotStart: a codexd runs (75), or something does not end (71).
    """
    keepers = config.state_dir / "keepers"
    if not keepers.is_dir():
        return "There was nothing to end."
    try:
        lock = hold(config.state_dir / "daemon.lock")
    except CannotStart as held:
        raise CannotStart(
            "codexd runs here, so nothing is left over. Stop it instead: it ends its child.", exit_code=held.exit_code
        ) from None
    try:
        ended = [pid for folder in sorted(keepers.iterdir()) for pid in await _end(folder)]
        ended += await _end_rest(config.state_dir / "codexd.sqlite3", keepers)
    finally:
        os.close(lock)
    if not ended:
        return "There was nothing to end."
    _log.warning("leftovers.ended", pids=ended)
    return f"Ended what a codexd had left: {', '.join(map(str, ended))} (pids; the first is the keeper's)."


async def _end(folder: Path) -> list[int]:
    """End the keeper that holds `folder`, by its ladder: it ends its child and sweeps. What was ended, pids."""
    keeper = leftovers.keeper_of(folder)
    process = None if keeper is None else keeper.find()
    if keeper is None or process is None:
        return []
    below: list[Recorded] = []
    with suppress(psutil.Error):
        below = [Recorded(child.pid, leftovers.start_of(child.pid)) for child in process.children(recursive=True)]
    await leftovers.end_keeper(keeper)
    if not await keeper.gone(GONE_S):
        raise CannotStart(f"The keeper, process {keeper.pid}, does not end. Look at it.", exit_code=EX_OSERR)
    for child in below:
        await _see_gone(child)
    return [keeper.pid, *(child.pid for child in below)]


async def _see_gone(child: Recorded) -> list[int]:
    """Wait until a process is gone that should go by itself now; else SIGKILL. Its pid, if it ran at all."""
    process = child.find()
    if process is None:
        return []
    if not await child.gone(GONE_S):
        with suppress(psutil.NoSuchProcess):
            process.kill()
        if not await child.gone(GONE_S):
            raise CannotStart(f"The process {child.pid} does not end. Look at it.", exit_code=EX_OSERR)
    return [child.pid]


async def _end_rest(log: Path, keepers: Path) -> list[int]:
    """End what no keeper has below it: a child whose keeper is dead already, and what children left. The pids."""
    past = Past()
    for folder in keepers.iterdir():
        past.add(folder.name.partition("-")[2])
        await asyncio.to_thread(cgroups.end, folder)
    ended = []
    try:
        with closing(open_reader(log)) as connection:
            past.add(*(keeper_id for (keeper_id,) in connection.execute("SELECT keeper_id FROM generation")))
            left = restore.living(connection, keepers, SystemClock())
        if left is not None:
            ended = await _see_gone(Recorded(left.child_pid or 0, left.child_start))
    except apsw.Error as error:  # then the keepers' own word is all that there is
        _log.warning("log.unreadable", why=str(error))
    ended += [process.pid for process in past.left()]
    stuck = await asyncio.to_thread(past.end)
    if stuck:
        raise CannotStart(orphans.told(stuck), exit_code=EX_OSERR)
    return ended
