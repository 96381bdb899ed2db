"""What follows the end of a child: another one, at once or after a pause, or none until something changes.

It says so in the log, with the child's own end before: nobody hears of a consequence before its cause.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import structlog

from baa.api import events as e
from baa.api.events import EventType
from baa.api.status import ChildState, LastExit
from baa.clock import Clock, rfc3339
from baa.codexd.appserver.keeper_link import Exit
from baa.codexd.eventlog import Transaction
from baa.codexd.generation import Generation
from baa.codexd.installed import Installed
from baa.codexd.machines import inputs as i
from baa.codexd.machines.child import ChildChange
from baa.codexd.machines.inputs import NewEvent
from baa.codexd.machines.restarts import Restarts, after_exit, hopeless
from baa.codexd.main_loop import MainLoop

LOOK_AGAIN_S: Final = 5.0
"""Seconds between two looks for a Codex that is not installed, or cannot work as it is."""

STDERR_TOLD: Final = 4096
"""Characters of the child's last stderr that go into the log."""

BY_HAND: Final = "POST /v1/codexd/status/child/restart"

_log = structlog.get_logger("succession")


@dataclass(frozen=True, slots=True)
class Ending:
    """Why codexd ends a child that lives.

    `meant`: nothing is wrong with it, and the next one starts at once. `hopeless`: no other of the same file would do.
    """

    reason: str
    meant: bool = False
    hopeless: bool = False


class Succession:
    """The ends of this codexd's children, and what is to follow the last of them."""

    def __init__(self, loop: MainLoop, clock: Clock) -> None:
        """No child has ended."""
        self._loop = loop
        self._clock = clock
        self._restarts = Restarts()
        self._pause_s = 0.0
        self._woken = asyncio.Event()
        self._useless: Installed | None = None
        self.ending: Ending | None = None
        self.problem: str | None = None
        self.restarts = 0
        self.last_exit: LastExit | None = None

    # --- before another one

    async def pause(self) -> None:
        """Wait until it is time for another child, or somebody says that it is."""
        pause, self._pause_s = self._pause_s, 0.0
        if pause > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._woken.wait()
        self._woken.clear()

    def wake(self) -> None:
        """Wait no longer."""
        self._pause_s = 0.0
        self._woken.set()

    def begin_anew(self) -> None:
        """Somebody says that what was wrong is mended: try at once, and forget what failed."""
        self._restarts = Restarts()
        self._useless = None
        self.wake()

    def worth_trying(self, found: Installed) -> bool:
        """Whether a child of this program may work: False for the very file that cannot."""
        if found == self._useless:
            self._pause_s = LOOK_AGAIN_S
            return False
        self.problem = None
        return True

    async def unavailable(self, why: str) -> None:
        """There is nothing to start. It is looked for again soon, which costs next to nothing."""
        self._pause_s = LOOK_AGAIN_S
        if self.problem == why:
            return
        self.problem = why
        _log.error("child.unavailable", why=why)

        def decide(transaction: Transaction) -> None:
            self._loop.change_child(ChildChange.MISSING)
            self._loop.step_open(i.NoChildToAsk(why), transaction)

        await self._loop.change(decide)

    # --- after one

    def judge(self, told: Exit, lived_s: float, *, stopping: bool) -> None:
        """What follows, decided first of all: what is left to read may end a turn, and a dead child gets no other."""
        loop, state = self._loop, self._loop.child.state
        self._woken.clear()
        if stopping or state is ChildState.DRAINING:
            if state in (ChildState.STARTING, ChildState.READY):
                loop.change_child(ChildChange.DRAIN)
            return
        if state in (ChildState.STARTING, ChildState.READY):
            loop.change_child(ChildChange.RETRY)
        self.restarts += 1
        if self.ending is not None and self.ending.meant:
            return
        if hopeless(told.reason) or (self.ending is not None and self.ending.hopeless):
            self._pause_s = LOOK_AGAIN_S
            loop.change_child(ChildChange.MISSING)
            return
        verdict = after_exit(self._restarts, now=self._clock.monotonic(), lived_s=lived_s, jitter=random.random())
        self._restarts, self._pause_s = verdict.restarts, verdict.delay_s
        if verdict.crash_loop:
            loop.change_child(ChildChange.GIVE_UP)

    def put_down(
        self,
        generation: Generation,
        told: Exit,
        *,
        uptime_ms: int | None,
        stopping: bool,
        transaction: Transaction,
    ) -> None:
        """How the child ended, then what that means for its turns, then what follows."""
        ending, self.ending = self.ending, None
        reason = told.reason if ending is None else ending.reason
        self._say_end(generation, told, reason, uptime_ms, transaction)
        over = stopping or self._loop.child.state is ChildState.DRAINING
        if over:
            self._loop.change_child(ChildChange.END)
        if stopping:
            self._loop.step_open(i.ChildEndedByUs(), transaction)
        else:
            self._loop.died(generation, told.taken, told.keeper_died, transaction)
        if not over and (ending is None or not ending.meant):
            self._say_what_follows(generation, reason, transaction)
        generation.end(transaction, told)

    def _say_end(
        self,
        generation: Generation,
        told: Exit,
        reason: str | None,
        uptime_ms: int | None,
        transaction: Transaction,
    ) -> None:
        exited = e.Child(
            generation=generation.number,
            pid=generation.child_pid,
            code=told.code,
            signal=told.signal,
            reason=reason,
            uptime_ms=uptime_ms,
            stderr_tail=self._loop.log.told(told.stderr_tail)[-STDERR_TOLD:] if told.stderr_tail else None,
            bytes_discarded=generation.spool.unfinished or None,
        )
        transaction.events.append(NewEvent(EventType.CHILD_EXITED, None, None, exited))
        at = rfc3339(self._clock.utc_ms())
        self.last_exit = LastExit(
            generation=generation.number, at=at, code=told.code, signal=told.signal, reason=reason
        )
        say = _log.info if self._loop.child.state is ChildState.DRAINING else _log.warning
        say("child.gone", generation=generation.number, code=told.code, signal=told.signal, reason=reason)

    def _say_what_follows(self, generation: Generation, reason: str | None, transaction: Transaction) -> None:
        if self._loop.child.state is ChildState.UNAVAILABLE:
            self._useless = generation.program
            self.problem = _how_to_mend(reason or "")
            _log.error("child.unavailable", why=self.problem)
            self._loop.step_open(i.NoChildToAsk(self.problem), transaction)
            return
        failures = len(self._restarts.failures)
        payload = e.Child(generation=generation.number, failures=failures, delay_ms=round(self._pause_s * 1000))
        if self._loop.child.state is not ChildState.CRASH_LOOP:
            transaction.events.append(NewEvent(EventType.CHILD_BACKOFF, None, None, payload))
            return
        transaction.events.append(NewEvent(EventType.CHILD_CRASH_LOOP, None, None, payload))
        self.problem = (
            f"Codex ended {failures} times in a row; the child.exited events say how. It is tried again every 10"
            f" minutes, and at once by {BY_HAND}."
        )
        self._loop.step_open(i.NoChildToAsk("the child is in a crash loop"), transaction)


def _how_to_mend(reason: str) -> str:
    """What is wrong with the installed Codex, and what to do."""
    what = reason.removeprefix("cannot start: ")
    told = reason if what == reason else f"Codex cannot be started: {what}. Install it for this machine, or correct it."
    return f"{told} codexd looks at it again when that file changes, and at once by {BY_HAND}."
