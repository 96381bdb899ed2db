"""Commands that come too late, on a main loop and a log that run."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from baa.api.sessions import TextInput
from baa.clock import SystemClock
from baa.codexd.commands import Commands, TurnGone
from baa.codexd.eventlog import EventLog
from baa.codexd.main_loop import MainLoop, Restored


async def test_what_is_asked_of_a_turn_that_is_gone_is_refused_and_the_loop_goes_on(tmp_path: Path) -> None:
    clock = SystemClock()
    log = EventLog(tmp_path / "log", clock=clock)
    try:
        loop = MainLoop(log, Restored(), clock=clock)
        commands = Commands(loop, clock=clock)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(loop.run(), name="main_loop")
            for asked in (
                commands.interrupt("trn_a"),
                commands.renew("trn_a", 1000),
                commands.steer("trn_a", (TextInput("more"),)),
            ):
                with pytest.raises(TurnGone):
                    await asked
            await loop.settle()
            running.cancel()
    finally:
        log.close()
