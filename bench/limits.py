"""What stands between a figure and its target, whatever codexd does: measured with bare app-servers, in the same run.

On a machine whose processors a turn keeps busy, all that runs beside Codex takes time from it: how much, a program
tells that does nothing but that.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from baa.redaction import FRESH, Redactor
from bench.appserver import Stdio
from bench.contender import Played, Say
from bench.model import SMALL
from bench.row import Row, row

SAID = {"approvalPolicy": "never", "sandboxPolicy": {"type": "dangerFullAccess"}}
"""What codexd says with every turn: Codex keeps what one turn changes for the next, so each says all of it."""

RUN = 100
"""About as many pieces as come together at full speed."""

KNOWN = 20

BUSY = """
import os, sys, time
while os.read(0, 1):
    end = time.thread_time() + float(sys.argv[1])
    while time.thread_time() < end:
        pass
"""


class Saying(Stdio):
    """A bare client whose turns say their sandbox and approval policy."""

    said = SAID


class Beside(Saying):
    """The same, beside a program that takes so many ms of a processor a turn: a part whenever Codex says something."""

    def __init__(self, folder: Path, model_url: str, cpu_ms: float) -> None:
        super().__init__(folder, model_url)
        self._cpu_s = cpu_ms / 1000
        self._came_a_turn = 0
        self._busy: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        super().__enter__()
        thread = self.thread()
        self.play(thread, SMALL)
        self._came_a_turn = 0
        self.play(thread, SMALL)
        slice_s = self._cpu_s / max(1, self._came_a_turn)
        command = (sys.executable, "-S", "-c", BUSY, str(slice_s))
        self._busy = self._stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, bufsize=0))
        return self

    def _came(self) -> None:
        self._came_a_turn += 1
        if self._busy is not None and self._busy.stdin is not None:
            self._busy.stdin.write(b".")


def small_turn(folder: Path, model: str, *, turns: int, cpu_ms: float, say: Say) -> Row:
    """A small turn of the bare client: as it is, saying what codexd says, and beside as much CPU as codexd takes."""
    with ExitStack() as stack:
        running: dict[str, Stdio] = {
            "as it is": stack.enter_context(Stdio(folder / "limit-bare", model)),
            "saying its sandbox": stack.enter_context(Saying(folder / "limit-saying", model)),
            f"and beside {cpu_ms:.1f} ms of CPU": stack.enter_context(Beside(folder / "limit-beside", model, cpu_ms)),
        }
        took = _in_turn(running, turns)
    say(f"{turns} small turns of the bare client, in three ways")
    medians = [statistics.median(times) for times in took.values()]
    return row(
        "a small turn of the bare client",
        "ms",
        took,
        of="the last - the first: no server that takes this CPU can do with less",
        figure=medians[-1] - medians[0],
    )


def _in_turn(running: dict[str, Stdio], turns: int) -> dict[str, list[float]]:
    threads = {name: who.thread() for name, who in running.items()}
    for name, who in running.items():
        who.play(threads[name], SMALL)
    took: dict[str, list[float]] = {name: [] for name in running}
    for number in range(turns):
        order: Sequence[str] = list(running) if number % 2 == 0 else list(reversed(running))
        for name in order:
            played: Played = running[name].play(threads[name], SMALL)
            took[name].append(played.ms)
    return took


def secrets(deltas: int) -> Row:
    """What it costs to look for secrets in as many pieces as a flood has: in runs, as they come, and one by one."""
    redactor = Redactor(f"{number:032x}" for number in range(KNOWN))
    pieces = [f"word {number} " for number in range(deltas)]
    spent: dict[str, list[float]] = {}
    began, tail = time.process_time(), FRESH
    for at in range(0, deltas, RUN):
        plain = redactor.plain(tail, "".join(pieces[at : at + RUN]))
        assert plain is not None
        tail = plain
    spent[f"in runs of {RUN}"] = [(time.process_time() - began) / deltas * 1e6]
    began, tail = time.process_time(), FRESH
    for piece in pieces:
        _, tail = redactor.piece(tail, piece)
    spent["one by one"] = [(time.process_time() - began) / deltas * 1e6]
    return row(f"CPU a delta of looking for secrets, {KNOWN} of them known", "µs", spent)
