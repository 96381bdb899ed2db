"""What an interrupted turn left running: looked for, ended where it is surely the turn's own, else named.

Codex leaves a running command alive after an interrupt, and its own cleaning misses what took a session of its own.
Every command of Codex's carries the thread's id in its environment; a process that shed it is the turn's only if it
descends from this child, was born during the turn, works in its folder, and no other turn runs.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import psutil
import structlog

from baa.codexd.leftovers import Recorded, start_of

LOOKS: Final = 20
"""How often it is looked before what is left is only named."""

BETWEEN_LOOKS_S: Final = 0.1
"""Seconds between two looks: what Codex was told to end needs 0.03 to be gone."""

ROOT_THREAD: Final = "CODEX_SESSION_ID"
"""The variable by which Codex tells each command whose it is: the thread of ours, also for a sub-agent's command."""

OWN_THREAD: Final = "CODEX_THREAD_ID"
"""Releases before 0.154 only tell this one: the command's own thread, which for a sub-agent is none of ours."""

NAMED_MAX: Final = 20
COMMAND_CHARS: Final = 200

BORN_BEFORE_S: Final = 1.0
"""Seconds that a birth may lie before the turn's beginning: the kernel counts it in hundredths, from another clock."""

_log = structlog.get_logger("aftermath")


@dataclass(frozen=True, slots=True)
class Whose:
    """A turn that Codex interrupted: what its processes are known by. `began` is UTC, in seconds."""

    session_id: str
    turn_id: str
    thread_id: str
    cwd: str
    began: float
    child: Recorded
    keeper_pid: int
    only_turn: bool


@dataclass(frozen=True, slots=True)
class Left:
    """A process that outlived its turn. `own`: it is surely the turn's."""

    process: Recorded
    command: str
    own: bool

    def told(self) -> dict[str, Any]:
        """As evidence."""
        return {"pid": self.process.pid, "command": self.command}


class Aftermath:
    """Looks for what turns left, each in its own task."""

    def __init__(self, done: Callable[[Whose, dict[str, Any]], Awaitable[None]]) -> None:
        """`done` is told what was found."""
        self._done = done
        self._asked: asyncio.Queue[Whose] = asyncio.Queue()

    def look(self, whose: Whose) -> None:
        """Look for what this turn left."""
        self._asked.put_nowait(whose)

    async def run(self) -> None:
        """Look, for ever."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                whose = await self._asked.get()
                tasks.create_task(self._look(whose), name=f"aftermath of {whose.turn_id}")

    async def _look(self, whose: Whose) -> None:
        await self._done(whose, await end_left(whose))


async def end_left(whose: Whose) -> dict[str, Any]:
    """End what is surely the turn's; the evidence: `ended` was ended by us, `left` still runs."""
    ended: dict[Recorded, Left] = {}
    found: list[Left] = []
    for look in range(LOOKS):
        found = await asyncio.to_thread(lambda: list(left_of(whose)))
        own = [left for left in found if left.own]
        if not own:
            break
        if look > 0:  # what Codex was just told to end needs a moment to be gone
            ended |= {left.process: left for left in own}
            for left in own:
                left.process.kill()
        await asyncio.sleep(BETWEEN_LOOKS_S)
    evidence: dict[str, Any] = {}
    if ended:
        evidence["ended"] = [left.told() for left in list(ended.values())[:NAMED_MAX]]
        _log.info("left.ended", turn_id=whose.turn_id, pids=[process.pid for process in ended])
    if found:
        evidence["left"] = [left.told() for left in found[:NAMED_MAX]]
        _log.warning("left.running", turn_id=whose.turn_id, pids=[left.process.pid for left in found])
    return evidence


def left_of(whose: Whose) -> Iterator[Left]:
    """The processes that the turn seems to have left, as they are now."""
    ours = _descendants(whose)
    for process in psutil.process_iter():
        pid = process.pid
        if pid in (whose.child.pid, whose.keeper_pid, os.getpid()):
            continue
        with suppress(psutil.Error, OSError):
            if process.create_time() < whose.began - BORN_BEFORE_S or process.status() == psutil.STATUS_ZOMBIE:
                continue
            own = _is_own(process, whose, descends=pid in ours)
            if own is not None:
                yield Left(Recorded(pid, start_of(pid)), _command(process)[:COMMAND_CHARS], own)


def _is_own(process: psutil.Process, whose: Whose, *, descends: bool) -> bool | None:
    """Whether a process is the turn's: True = surely, False = perhaps, None = it is not."""
    try:
        told = process.environ()
    except (psutil.AccessDenied, OSError):
        told = {}
    root = told.get(ROOT_THREAD)
    if root is None and told.get(OWN_THREAD) == whose.thread_id:
        return True
    if root is not None:
        return True if root == whose.thread_id else None
    if not descends or os.getsid(process.pid) == os.getsid(whose.child.pid):
        return None  # a server of Codex's own, such as MCP's, has Codex's session
    try:
        cwd = process.cwd()
    except psutil.AccessDenied:  # another user's by now: it is only named
        return False
    return whose.only_turn and (cwd == whose.cwd or cwd.startswith(whose.cwd.rstrip("/") + "/"))


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.AccessDenied:  # on macOS, of another user's
        return process.name()


def _descendants(whose: Whose) -> set[int]:
    """What descends from the child, or came to its keeper when its parent ended."""
    try:
        return {process.pid for process in psutil.Process(whose.keeper_pid).children(recursive=True)}
    except psutil.Error:
        return set()
