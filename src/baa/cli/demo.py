"""`baa demo`: the real Codex at work through codexd, kill -9 in the middle of a turn, and a check of every statement.

Here: what is needed, Ctrl-C, and the end of everything that was started. `demo_play` has the steps, `demo_stage` the
folder and the processes, `demo_reader` the reader that counts, `demo_show` what is seen, `demo_result` the verdict.
"""

from __future__ import annotations

import asyncio
import io
import os
import signal
import sys
import time
from typing import Final

from rich.console import Console

from baa.cli.demo_play import Play
from baa.cli.demo_result import Result
from baa.cli.demo_show import Show
from baa.cli.demo_stage import Stage, find_codex, find_git

BY_SIGNAL: Final = 128
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run() -> int:
    """Play the demo; the exit code. Raises CannotStart when something that it needs is not there."""
    find_codex(os.environ)
    find_git()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    return asyncio.run(_run(_Console(highlight=False), time.monotonic()))


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Nobody reads what we say: that is a hang-up, whose signal ends the demo in order."""
        if not self.quiet:
            self.quiet = True
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            os.kill(os.getpid(), signal.SIGHUP)


async def _run(console: Console, began: float) -> int:
    stage = Stage(find_codex(os.environ), find_git())
    show = Show(console, stage.work)
    result = Result()
    stopped: list[int] = []
    try:
        try:
            async with asyncio.TaskGroup() as tasks:
                playing = tasks.create_task(Play(stage, show, result).play(), name="play")

                def stop(number: int) -> None:
                    stopped.append(number)
                    playing.cancel()

                for number in SIGNALS:
                    asyncio.get_running_loop().add_signal_handler(number, stop, number)
        finally:  # not a part of what a signal cancels
            await stage.end_everything()
        if not stopped:
            result.tell(show, took=time.monotonic() - began)
    finally:
        if result.holds or stopped:
            stage.remove()
        else:
            show.line(f"Kept: {stage.base}, with codexd's log {stage.log} and its {stage.stderr.name}", style="red")
    if stopped:
        show.line("Stopped. No process and no folder is left.", style="yellow")
        return BY_SIGNAL + stopped[0]
    return 0 if result.holds else 1
