"""A main loop that runs on a real log, with one child whose side of the spool is written by the test."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from baa.api.sessions import TurnRequest
from baa.clock import SystemClock
from baa.codexd import restore
from baa.codexd.appserver.spool import Spool
from baa.codexd.commands import Commands, TurnAnswer
from baa.codexd.eventlog import EventLog, Transaction
from baa.codexd.generation import Generation
from baa.codexd.machines.child import ChildChange
from baa.codexd.main_loop import MainLoop
from tests.support.judge import Told, told
from tests.support.script import SETTINGS

WAIT_S = 20
HOP_S = 1.0
ASKED = TurnRequest(prompt="go")
Message = dict[str, Any]


class MovedClock:
    """The machine's clock, and what the test adds to it: `wall_ms` to what people set, `ahead_s` to what nobody can."""

    def __init__(self) -> None:
        self.ahead_s = 0.0
        self.wall_ms = 0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead_s

    def utc_ms(self) -> int:
        return SystemClock().utc_ms() + self.wall_ms + round(self.ahead_s * 1000)


class Bench:
    """A main loop that runs, with one child: `says` is what the child writes, `sent` what codexd has for it."""

    def __init__(self, log: EventLog, loop: MainLoop, folder: Path, clock: MovedClock) -> None:
        self.log = log
        self.loop = loop
        self.clock = clock
        self.commands = Commands(loop, clock=SystemClock())
        self.spool = folder / "spool"
        self.generation = Generation(1, "kpr", folder, Spool(self.spool, 0), SystemClock())

    async def start(self, *, session_id: str = "ses_a") -> None:
        """A child that is ready, and a session."""
        self.spool.touch()

        def begin(transaction: Transaction) -> None:
            self.loop.change_child(ChildChange.START, generation=1)
            self.generation.begin(transaction)

        await self.loop.change(begin)
        self.loop.use(self.generation)
        await self.says(answer("child:initialize:1", userAgent="baa/1.2.3"))
        await self.commands.create_session(session_id, SETTINGS)

    async def run_turn(self) -> None:
        """A turn with an open item is with Codex."""
        await self.turn("trn_a")
        await self.says(answer("ses_a:open:4", thread={"id": "thread"}))
        await self.says(of_turn("turn/started", turn={"id": "codex"}))
        await self.says(of_turn("item/started", item={"id": "item", "type": "agentMessage"}))

    async def turn(
        self, turn_id: str, *, session_id: str = "ses_a", key: str | None = None, body: str = ""
    ) -> TurnAnswer:
        return await self.commands.start_turn(session_id, turn_id, ASKED, key=key, body_hash=body)

    async def says(self, *messages: Message | bytes) -> None:
        with self.spool.open("ab") as spool:
            spool.write(
                b"".join(m + b"\n" if isinstance(m, bytes) else msgspec.json.encode(m) + b"\n" for m in messages)
            )
        while self.generation.spool.read_to < self.spool.stat().st_size:
            self.loop.wake()
            await self.loop.change(lambda _: None)
        await self.loop.change(lambda _: None)  # what was read last is in the log before this

    async def passes(self, seconds: float) -> None:
        """Let time pass, in hops of which none is so long that codexd would think it slept."""
        while seconds > 0:
            self.clock.ahead_s += min(HOP_S, seconds)
            seconds -= HOP_S
            self.loop.wake()
            for _ in range(3):
                await self.loop.change(lambda _: None)

    def events(self) -> list[Told]:
        return told(self.log.reader())

    def types(self, after: int = 0) -> list[str]:
        return [event.type for event in self.events()[after:]]

    def sent(self) -> list[Message]:
        rows = self.log.reader().execute("SELECT line FROM outbox ORDER BY number")
        return [msgspec.json.decode(line) for (line,) in rows]


@asynccontextmanager
async def bench(folder: Path) -> AsyncIterator[Bench]:
    clock = MovedClock()
    log = EventLog(folder / "log.sqlite3", clock=clock)
    loop = MainLoop(log, restore.restore(log.reader(), clock, log.seal), clock=clock)
    try:
        async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as tasks:
            running = tasks.create_task(loop.run(), name="main loop")
            failing = tasks.create_task(failure_of(log), name="log")
            yield Bench(log, loop, folder, clock)
            running.cancel()
            failing.cancel()
    finally:
        await asyncio.to_thread(log.close)


async def failure_of(log: EventLog) -> None:
    await log.failed


def answer(request_id: str, **result: object) -> Message:
    return {"id": request_id, "result": result}


def of_turn(method: str, **params: object) -> Message:
    return {"method": method, "params": {"threadId": "thread", "turnId": "codex", **params}}
