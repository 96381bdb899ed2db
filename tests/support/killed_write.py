"""A program that does one write of the engine and is killed at its commit: run by `fault.test_engine_killed`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any

import sqlalchemy as sa

from baa.engine.store import Engine, open_engine
from tests.support.engines import Machine, node

OWNER = node().incarnation
SESSION = "ses_1"


def told(seq: int) -> dict[str, Any]:
    """An event as codexd tells it."""
    return {"seq": seq, "at": "2026-01-01T00:00:00.000Z", "type": "turn.started", "sessionId": SESSION}


async def write(engine: Engine, name: str, term: int, task_id: str) -> None:
    """Do the write of this name."""
    match name:
        case "claim":
            await engine.claim(task_id, 1, node_id="here", owner=OWNER)
        case "append":
            await engine.append_codexd(OWNER, "here", "e", 2, [told(0), told(1)])
        case "fail":
            await engine.fail(term, task_id, "dependency_failed")
        case "reap":
            await engine.reap(term)
        case "prune":
            await engine.prune(term, keep_ms=1000)
        case "forget":
            await engine.forget(term, keep_ms=1000)
        case _:
            raise ValueError(name)


def _die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def main(url: str, now: str, name: str, term: str, task_id: str, when: str) -> None:
    """Die right before the commit is sent, or right after its answer; `never`: do the write."""
    machine = Machine()
    machine.now = int(now)
    engine = await open_engine(url, clock=machine, now_ms=lambda: machine.now, boot_id=lambda: machine.boot)
    if when == "before":
        sa.event.listen(sa.Engine, "commit", _die)
    elif when == "after":
        sa.event.listen(sa.Pool, "checkin", _die)
    await write(engine, name, int(term), task_id)
    await engine.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
