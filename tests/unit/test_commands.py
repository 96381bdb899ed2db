"""Commands that come at the wrong time, on a main loop and a log that run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import pytest

from baa.api.errors import Code, Rejected
from baa.api.sessions import OnBusy, TextInput
from baa.codexd.commands import TurnAnswer, TurnGone
from tests.support.bench import ASKED, Bench, answer, bench, of_turn
from tests.support.script import SETTINGS

MORE = (TextInput("more"),)


@pytest.fixture
async def codexd(tmp_path: Path) -> AsyncIterator[Bench]:
    async with bench(tmp_path) as made:
        yield made


async def refused(asked: Awaitable[object]) -> tuple[Code, dict[str, Any]]:
    with pytest.raises(Rejected) as told:
        await asked
    return told.value.code, dict(told.value.details)


async def next_turn(codexd: Bench, turn_id: str, on_busy: OnBusy = OnBusy.ENQUEUE) -> TurnAnswer:
    return await codexd.commands.start_turn("ses_a", turn_id, ASKED, on_busy=on_busy)


async def test_what_is_asked_of_a_turn_that_is_gone_is_refused_and_the_loop_goes_on(codexd: Bench) -> None:
    commands = codexd.commands
    for asked in (commands.interrupt("trn_a"), commands.renew("trn_a", 1000), commands.steer("trn_a", MORE)):
        with pytest.raises(TurnGone):
            await asked
    await codexd.loop.settle()


# --- a steer that comes too early: refused at once, for the bench gives it no time to wait


async def test_a_turn_that_waits_in_line_is_not_steered(codexd: Bench) -> None:
    await codexd.start()
    await codexd.run_turn()
    await next_turn(codexd, "trn_b")
    before = codexd.types()
    told = (Code.TURN_NOT_RUNNING, {"turnId": "trn_b", "status": "queued"})
    assert await refused(codexd.commands.steer("trn_b", MORE)) == told
    assert (codexd.types(), codexd.loop.steering) == (before, {})


async def test_a_turn_that_waits_for_a_child_is_not_steered(codexd: Bench) -> None:
    await codexd.commands.create_session("ses_a", SETTINGS)
    await codexd.turn("trn_a")
    told = (Code.TURN_NOT_RUNNING, {"turnId": "trn_a", "status": "queued"})
    assert await refused(codexd.commands.steer("trn_a", MORE)) == told
    assert await refused(next_turn(codexd, "trn_b", OnBusy.STEER)) == told


async def test_a_turn_whose_thread_is_being_opened_is_steered_once_it_runs(codexd: Bench) -> None:
    await codexd.start()
    await codexd.turn("trn_a")
    async with asyncio.TaskGroup() as tasks:
        steer = tasks.create_task(codexd.commands.steer("trn_a", MORE), name="steer")
        await codexd.loop.settle()
        await codexd.says(answer("ses_a:open:4", thread={"id": "thread"}))
        assert not any("steer" in str(line.get("id")) for line in codexd.sent())
        await codexd.says(of_turn("turn/started", turn={"id": "codex"}))
        (line,) = [line for line in codexd.sent() if "steer" in str(line.get("id"))]
        assert (line["params"]["expectedTurnId"], steer.done()) == ("codex", False)
        await codexd.says(answer(line["id"], turnId="codex"))
    assert codexd.types()[-1] == "turn.steered"


# --- and one that comes too late


async def test_a_turn_that_is_ending_takes_no_more_and_the_input_is_a_turn_of_its_own(codexd: Bench) -> None:
    await codexd.start()
    await codexd.run_turn()
    await codexd.says(of_turn("turn/completed", turn={"id": "codex", "status": "interrupted"}))
    told = (Code.TURN_NOT_RUNNING, {"turnId": "trn_a", "status": "in_progress"})
    assert await refused(codexd.commands.steer("trn_a", MORE)) == told
    head = codexd.log.head
    assert await next_turn(codexd, "trn_b", OnBusy.STEER) == TurnAnswer("trn_b", head)
    assert [turn.turn_id for turn in codexd.loop.sessions.all["ses_a"].turns] == ["trn_a", "trn_b"]


async def test_a_turn_whose_child_died_takes_no_more_and_the_input_waits_for_its_end(codexd: Bench) -> None:
    await codexd.start()
    await codexd.run_turn()
    await codexd.loop.change(lambda transaction: codexd.loop.died(codexd.generation, None, False, transaction))
    assert (await refused(codexd.commands.steer("trn_a", MORE)))[0] is Code.TURN_NOT_RUNNING
    assert (await next_turn(codexd, "trn_b", OnBusy.STEER)).turn_id == "trn_b"
