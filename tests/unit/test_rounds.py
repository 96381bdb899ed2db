"""When readers are told: none misses the last event, whatever comes between."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from baa.api.events import Cursor
from baa.codexd.eventlog import EventLog
from baa.codexd.subscriptions import FEW, Subscriptions, Wanted, _Rounds, begun

EVENTS = 60


class Head:
    """Of a log, what rounds look at."""

    def __init__(self) -> None:
        self.head = 0
        self.oldest = 1
        self.epoch = "e"
        self.on_news: Callable[[], None] = lambda: None

    def cursor(self, seq: int) -> Cursor:
        return Cursor(self.epoch, seq)


def rounds_of(log: Head) -> _Rounds:
    return _Rounds(cast("EventLog", cast("Any", log)))


def ready() -> asyncio.Future[None]:
    """Done once all that is ready now has been run."""
    loop = asyncio.get_running_loop()
    turn = loop.create_future()
    loop.call_soon(turn.set_result, None)
    return turn


async def test_a_pause_that_ends_while_a_reader_asks_for_it_is_not_waited_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = Head()
    rounds = rounds_of(log)
    rounds.together = True
    rounds._told(asyncio.get_running_loop().time() - 1)
    log.head = 1
    until = rounds._until
    looks: Iterator[float] = iter((until - 0.001, until, until))
    with monkeypatch.context() as patch:
        patch.setattr(asyncio.get_running_loop(), "time", lambda: next(looks))
        waiting = begun(rounds.past(0))
    assert waiting is None, "the round began at once, and so the reader is told in it"


@pytest.mark.parametrize("seed", range(30))
async def test_every_reader_comes_to_the_last_event_however_many_there_are_meanwhile(seed: int) -> None:
    dice = random.Random(seed)
    log = Head()
    rounds = rounds_of(log)

    async def read() -> None:
        at = 0
        while at < EVENTS:
            await rounds.past(at)
            assert log.head > at
            at = dice.randint(at + 1, log.head)  # a frame may end anywhere

    async with asyncio.timeout(50), asyncio.TaskGroup() as tasks:
        for number in range(dice.randint(1, 6)):
            tasks.create_task(read(), name=f"reader {number}")
        while log.head < EVENTS:
            rounds.together = dice.random() < 0.7  # others come and go
            log.head += dice.randint(1, min(3, EVENTS - log.head))
            log.on_news()
            for _ in range(dice.randint(0, 4)):
                await ready()
        rounds.together = dice.random() < 0.5


async def test_few_readers_are_told_at_once_and_only_many_rest_between_rounds() -> None:
    log = Head()
    subscriptions = Subscriptions(cast("EventLog", cast("Any", log)))
    gone = asyncio.Event()

    async def receive() -> dict[str, Any]:
        await gone.wait()
        return {"type": "websocket.disconnect"}

    async def tell(*_: object) -> None:
        return

    rests: list[bool] = []
    async with asyncio.TaskGroup() as tasks:
        for _ in range(FEW + 1):
            tasks.create_task(subscriptions._follow(Wanted(Cursor("e", 0), None, None), receive, tell))
            await ready()
            rests.append(subscriptions._rounds.together)
        gone.set()
    assert rests == [False] * FEW + [True]
    assert not subscriptions._rounds.together
