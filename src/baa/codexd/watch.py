"""Watches the child that there is: whether it comes up, whether it lives, how large it is, and whether it is outdated.

Each look costs a stat, and one at all processes below the keeper. What is found ends the child, or has it replaced when
nothing runs: the supervisor does both.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil
import structlog

from baa import codex
from baa.api.status import ChildResources
from baa.clock import Clock
from baa.codexd import installed
from baa.codexd.appserver import lines
from baa.codexd.appserver.versions import too_old
from baa.codexd.eventlog import Transaction
from baa.codexd.generation import Generation
from baa.codexd.installed import Installed
from baa.codexd.machines.pulse import MISSES_MAX, Finding, Pulse, feel
from baa.codexd.main_loop import MainLoop
from baa.codexd.succession import Ending

HANDSHAKE_S: Final = 30
"""Seconds in which Codex answers `initialize`; 0.2 are usual, a first start on a slow disk takes some."""

VERSION_S: Final = 10.0
"""Seconds in which an installed Codex tells its version; 0.1 are usual."""

NOTHING_SEEN: Final = Pulse(-1)

MIB: Final = 1 << 20

_log = structlog.get_logger("watch")


@dataclass(frozen=True, slots=True)
class Watching:
    """How the child is watched: the milliseconds between two looks, and its memory's limits in MiB (0 = none)."""

    watch_ms: int
    soft_mib: int
    hard_mib: int


@dataclass(frozen=True, slots=True)
class _Sample:
    rss: int
    fds: int | None
    threads: int
    descendants: int
    at: float


class Watch:
    """Watches one child after the other. `end` ends it, `replace` has it replaced once nothing runs."""

    def __init__(
        self,
        loop: MainLoop,
        watching: Watching,
        server_command: str,
        clock: Clock,
        *,
        end: Callable[[Ending], Awaitable[None]],
        replace: Callable[[str], None],
    ) -> None:
        """Nothing is looked at before `run`."""
        self._loop = loop
        self._watching = watching
        self._command = server_command
        self._clock = clock
        self._end = end
        self._replace = replace
        self._sample: _Sample | None = None
        self._candidate: Installed | None = None
        self._judged: Installed | None = None
        self.ready = asyncio.Event()
        self.outdated = False
        self.installed_version: str | None = None

    @property
    def resources(self) -> ChildResources | None:
        """What the child takes of the machine, as last seen."""
        sample = self._sample
        if sample is None:
            return None
        age_ms = round((self._clock.monotonic() - sample.at) * 1000)
        return ChildResources(
            rss_bytes=sample.rss,
            fds=sample.fds,
            threads=sample.threads,
            descendants=sample.descendants,
            age_ms=age_ms,
        )

    async def run(self, generation: Generation, keeper_pid: int) -> None:
        """Watch this child until it is ended, by us or by itself."""
        self._sample = self._candidate = self._judged = None
        self.outdated, self.installed_version = False, generation.version
        if not await self._comes_up():
            return
        period_s = self._watching.watch_ms / 1000
        pulse, last = NOTHING_SEEN, self._clock.monotonic()
        while True:
            await asyncio.sleep(period_s)
            now = self._clock.monotonic()
            pulse = await self._feel(generation, pulse, now - last)
            last = now
            await self._measure(generation, keeper_pid)
            await self._compare(generation)

    async def _comes_up(self) -> bool:
        seconds = left_s = max(1, min(HANDSHAKE_S, self._loop.periods.answer_ms // 1000))
        while left_s:  # second by second: time in which nobody ran does not count, nor one in which nothing is read
            left_s -= not self._loop.log.full
            with suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self.ready.wait()
                    return True
        await self._end(Ending(f"it did not answer the handshake in {seconds} s"))
        return False

    # --- whether it lives

    async def _feel(self, generation: Generation, pulse: Pulse, elapsed_s: float) -> Pulse:
        spooled, period_s = generation.spool.size(), self._watching.watch_ms / 1000
        if not self._loop.child.ready or generation.spool.read_to < spooled or self._loop.log.full:
            return NOTHING_SEEN  # a child that is ended says no more, and one that we cannot follow may wait for us
        pulse, finding = feel(pulse, spooled=spooled, elapsed_s=elapsed_s, period_s=period_s)
        match finding:
            case Finding.SILENT:
                await self._loop.change(lambda transaction: self._ping(generation, transaction))
            case Finding.HUNG:
                silent_s = (MISSES_MAX + 1) * period_s
                await self._end(Ending(f"hung: no byte for {silent_s:.0f} s, and no answer to {MISSES_MAX} pings"))
        return pulse

    def _ping(self, generation: Generation, transaction: Transaction) -> None:
        if self._loop.child.ready:
            generation.send(transaction, lines.ping(generation.next_number))

    # --- how large it is

    async def _measure(self, generation: Generation, keeper_pid: int) -> None:
        pid = generation.child_pid
        self._sample = None if pid is None else await asyncio.to_thread(self._look_at, pid, keeper_pid)
        mib = 0 if self._sample is None else self._sample.rss // MIB
        soft, hard = self._watching.soft_mib, self._watching.hard_mib
        if hard and mib > hard:
            await self._end(Ending(f"memory: {mib} MiB, and the limit is {hard} MiB"))
        elif soft and mib > soft:
            self._replace(f"memory: {mib} MiB, more than {soft} MiB")

    def _look_at(self, pid: int, keeper_pid: int) -> _Sample | None:
        try:
            child = psutil.Process(pid)
            with child.oneshot():
                rss, threads = child.memory_info().rss, child.num_threads()
            fds = child.num_fds()
            # What lost its parent came to the keeper, which is all that the child descends from.
            below = psutil.Process(keeper_pid).children(recursive=True)
        except (psutil.Error, OSError):
            return None
        descendants = sum(process.pid != pid for process in below)
        return _Sample(rss, fds, threads, descendants, self._clock.monotonic())

    # --- whether another one is installed

    async def _compare(self, generation: Generation) -> None:
        try:
            found = installed.look(self._command)
        except codex.NoProgram:  # removed, or in the middle of an upgrade: the child has all that it needs
            self._candidate = None
            return
        running = generation.program
        if running is not None and found.file == running.file:
            self._candidate = self._judged = None
            self.outdated, self.installed_version = False, generation.version
            return
        settled, self._candidate = found == self._candidate, found
        if not settled or found == self._judged:  # half an upgrade is none
            return
        self._judged = found
        version = await asyncio.to_thread(version_of, found.path)
        if version is None:
            _log.warning("codex.unreadable", path=str(found.path), why="it does not tell its version")
            return
        self.installed_version = version
        flaw = too_old(version)
        if flaw is not None:
            _log.warning("codex.too_old", why=flaw)
            return
        if version == generation.version:
            generation.program = found  # the same again
            return
        self.outdated = True
        _log.info("codex.installed", version=version, runs=generation.version)
        self._replace(f"Codex {version} is installed")


def version_of(program: Path) -> str | None:
    """The version that a Codex tells when it is asked; None if it does not."""
    try:
        asked = subprocess.run(
            [str(program), "--version"],
            env={"PATH": os.environ.get("PATH", os.defpath)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=VERSION_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    told = asked.stdout.decode("utf-8", "replace").split()
    return told[-1] if asked.returncode == 0 and told else None
