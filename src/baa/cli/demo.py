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
from baa.cli.plain import json_line

BY_SIGNAL: Final = 128
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(*, keep: bool = False, json: bool = False) -> int:
    """Play the demo; the exit code. Raises CannotStart when something that it needs is not there.

    `keep`: leave codexd running afterwards, until Ctrl-C. `json`: say nothing but the result.
    """
    find_codex(os.environ)
    find_git()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    return asyncio.run(_run(_Console(highlight=False, quiet=json), time.monotonic(), keep=keep, json=json))


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Nobody reads what we say: that is a hang-up, whose signal ends the demo in order."""
        if not self.quiet:
            self.quiet = True
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            os.kill(os.getpid(), signal.SIGHUP)


async def _run(console: Console, began: float, *, keep: bool, json: bool) -> int:
    stage = Stage(find_codex(os.environ), find_git())
    show = Show(console, stage.work)
    result = Result()
    stopped: list[int] = []
    kept: list[str] = []

    def tell(address: str | None = None) -> None:
        result.tell(show, took=time.monotonic() - began)
        if json:
            print(json_line(result.told() | ({} if address is None else _where(stage, address))), flush=True)
        elif address is not None:
            _tell_where(show, stage, address)
        if address is not None:
            kept.append(address)

    try:
        try:
            async with asyncio.TaskGroup() as tasks:
                playing = tasks.create_task(Play(stage, show, result, keep=tell if keep else None).play(), name="play")

                def stop(number: int) -> None:
                    stopped.append(number)
                    playing.cancel()

                for number in SIGNALS:
                    asyncio.get_running_loop().add_signal_handler(number, stop, number)
        finally:  # not a part of what a signal cancels
            await stage.end_everything()
        if not stopped:
            tell()
    finally:
        if result.holds or stopped:
            stage.remove()
        else:
            show.line(f"Kept: {stage.base}, with codexd's log {stage.log} and its {stage.stderr.name}", style="red")
    if stopped and kept:
        show.line("Stopped. No process and no folder is left.", style="yellow")
        return 0 if result.holds else 1
    if stopped:
        show.line("Stopped. No process and no folder is left.", style="yellow")
        return BY_SIGNAL + stopped[0]
    return 0 if result.holds else 1


def _where(stage: Stage, address: str) -> dict[str, str]:
    """Where what was kept is to be found."""
    return {"address": address, "home": str(stage.base / "baa"), "token": str(stage.base / "baa/state/tokens/drive")}


def _tell_where(show: Show, stage: Stage, address: str) -> None:
    home = stage.base / "baa"
    show.line("")
    show.line("It runs on until Ctrl-C:", style="bold")
    show.fact("codexd", f"{address}/v1/codexd/status")
    show.fact("described", f"{address}/openapi.json (with the token)")
    show.fact("baa", f"BAA_HOME={home} BAA_CONFIG={stage.base / 'baa.toml'} baa session list")
    bearer = f'-H "Authorization: Bearer $(cat {home}/state/tokens/drive)"'
    show.fact("curl", f"curl -s {bearer} {address}/v1/codexd/sessions")
