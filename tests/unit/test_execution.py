"""What a worker makes of the engine's answers about the attempts that it runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from baa.engine.store import EngineFailed, Lost, Standing
from baa.worker.execution import Execution
from tests.support.node import within

MINE = Standing(cancel_asked=False, owned=True)
NOT_YET = Standing(cancel_asked=False, owned=False)
CANCELED = Standing(cancel_asked=True, owned=True)


@dataclass
class Answers:
    """An engine that says one thing until it is told another; None: it is away."""

    says: Standing | None = MINE
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    async def standing(self, owner: str, attempt_ids: Sequence[str]) -> dict[str, Standing]:
        assert owner == "a"
        self.asked.set()
        if self.says is None:
            raise EngineFailed("away")
        return dict.fromkeys(attempt_ids, self.says)

    async def heard(self, says: Standing | None) -> None:
        """From now on it says that, and did so twice: what the first answer did has been done."""
        self.says = says
        for _ in range(2):
            self.asked.clear()
            await within(self.asked.wait())


@dataclass
class Attempt:
    """One attempt, which goes on until the test ends it or its end is asked for."""

    done: asyncio.Event = field(default_factory=asyncio.Event)
    told: list[str] = field(default_factory=list)

    async def run(self, task_id: str, number: int, cancel: asyncio.Event) -> None:
        self.told.append(f"begin {task_id}:{number}")
        try:
            async with asyncio.TaskGroup() as tasks:
                asked = tasks.create_task(cancel.wait())
                done = tasks.create_task(self.done.wait())
                await asyncio.wait((asked, done), return_when=asyncio.FIRST_COMPLETED)
                self.told.append("canceled" if asked.done() else "done")
                asked.cancel()
                done.cancel()
        except asyncio.CancelledError:
            self.told.append("left")
            raise


@asynccontextmanager
async def running(engine: Answers, attempt: Attempt, *, mine: bool = True) -> AsyncIterator[asyncio.Task[None]]:
    async def is_mine() -> bool:
        return mine

    execution = Execution(engine, attempt, owner="a", is_mine=is_mine)

    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(execution.watch())
        one = tasks.create_task(execution.run("task_1", 2))
        yield one
        await within(one)
        watching.cancel()


async def test_what_is_ours_goes_on_also_before_it_is_claimed_and_while_the_engine_is_away() -> None:
    engine, attempt = Answers(NOT_YET), Attempt()
    async with running(engine, attempt):
        for says in (NOT_YET, MINE, None, MINE):
            await engine.heard(says)
        assert attempt.told == ["begin task_1:2"]
        attempt.done.set()
    assert attempt.told[1:] == ["done"]


async def test_an_end_that_is_asked_for_is_passed_on() -> None:
    engine, attempt = Answers(), Attempt()
    async with running(engine, attempt):
        engine.says = CANCELED
    assert attempt.told[1:] == ["canceled"]


async def test_what_is_taken_away_is_left_at_once_and_stays_on_the_queue() -> None:
    engine, attempt = Answers(), Attempt()
    with pytest.RaisesGroup(Lost):
        async with running(engine, attempt):
            await engine.heard(MINE)
            engine.says = NOT_YET
    assert attempt.told[1:] == ["left"]


async def test_one_that_came_to_nothing_since_another_worker_runs_stays_on_the_queue() -> None:
    engine, attempt = Answers(), Attempt()
    attempt.done.set()
    with pytest.RaisesGroup(Lost):
        async with running(engine, attempt, mine=False):
            pass
