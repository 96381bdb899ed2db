"""Clocks that are set, and time in which nobody ran: neither ends anything, and what is due comes when it is due."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from baa.api.sessions import TurnRequest
from baa.codexd import restore
from baa.codexd.eventlog import Transaction
from baa.codexd.main_loop import GRACE_S
from baa.codexd.timers import Timers
from tests.support.bench import Bench, answer, bench, of_turn
from tests.support.faults import saw

YEARS_MS = 10 * 365 * 86_400_000
JUMPS = (YEARS_MS, -YEARS_MS, -3_600_000)
MINUTE_MS = 60_000
MOMENT_MS = 5_000


@pytest.fixture
async def codexd(tmp_path: Path) -> AsyncIterator[Bench]:
    """Time is the test's."""
    async with bench(tmp_path) as made:
        await made.start()
        made.loop.start_clocks()
        yield made


async def run(codexd: Bench, *, deadline_ms: int | None = None, stall_ms: int | None = None) -> None:
    """A turn with these times is with Codex, and has an item."""
    asked = TurnRequest(prompt="go", deadline_ms=deadline_ms, stall_ms=stall_ms)
    await codexd.commands.start_turn("ses_a", "trn_a", asked)
    await codexd.says(answer("ses_a:open:4", thread={"id": "thread"}))
    await codexd.says(of_turn("turn/started", turn={"id": "codex"}))
    await codexd.says(of_turn("item/started", item={"id": "item", "type": "agentMessage"}))


def set_by_more_than_a_minute(codexd: Bench) -> bool:
    return abs(codexd.clock.wall_ms) > MINUTE_MS


def wanted(codexd: Bench) -> str | None:
    """Why the turn is to be ended, if it is."""
    turn = codexd.loop.sessions.all["ses_a"].running
    return None if turn is None or turn.stop is None else turn.stop.reason


@pytest.mark.parametrize("jump_ms", JUMPS)
async def test_a_wall_clock_that_is_set_ends_no_turn_and_puts_off_no_end(codexd: Bench, jump_ms: int) -> None:
    await run(codexd, deadline_ms=MINUTE_MS, stall_ms=MINUTE_MS // 2)
    codexd.clock.wall_ms += jump_ms
    saw("F55", set_by_more_than_a_minute(codexd), f"the wall clock jumped by {jump_ms} ms")
    await codexd.passes(20)
    await codexd.says(of_turn("item/agentMessage/delta", itemId="item", delta="a"))
    await codexd.passes(20)
    await codexd.says(of_turn("item/agentMessage/delta", itemId="item", delta="b"))
    await codexd.passes(15)
    assert wanted(codexd) is None
    await codexd.passes(10)
    assert wanted(codexd) == "deadline"


@pytest.mark.parametrize("jump_ms", JUMPS)
@pytest.mark.parametrize("away", [False, True], ids=["while codexd ran", "while it was away"])
async def test_the_next_codexd_knows_how_long_a_turn_was_silent(codexd: Bench, jump_ms: int, away: bool) -> None:
    await run(codexd, stall_ms=MINUTE_MS)
    codexd.clock.wall_ms += jump_ms
    if not away:
        await codexd.passes(2)
        await codexd.says(of_turn("item/agentMessage/delta", itemId="item", delta="a"))
    await codexd.passes(20)
    if away:
        codexd.clock.wall_ms += jump_ms
    restored = restore.restore(codexd.log.reader(), codexd.clock, codexd.log.seal)
    saw("F55", set_by_more_than_a_minute(codexd), f"the wall clock jumped by {jump_ms} ms")
    silent_ms = restored.silent_ms["trn_a"]
    assert 20_000 <= silent_ms < 20_000 + MOMENT_MS


async def test_after_a_reboot_the_wall_clock_tells_how_long_it_was_silent(codexd: Bench) -> None:
    await run(codexd, stall_ms=MINUTE_MS)

    def forget(transaction: Transaction) -> None:
        told = '{"boot_id": "another", "jumps": [[0, 0]]}'
        transaction.statements.append(("UPDATE meta SET value = ? WHERE key = 'clock'", (told,)))

    await codexd.loop.change(forget)
    codexd.clock.wall_ms += 30_000
    silent_ms = restore.restore(codexd.log.reader(), codexd.clock, codexd.log.seal).silent_ms["trn_a"]
    assert 30_000 <= silent_ms < 30_000 + MOMENT_MS


@pytest.mark.parametrize("jump_ms", JUMPS)
async def test_a_stored_deadline_comes_when_it_was_to_come(codexd: Bench, jump_ms: int) -> None:
    await run(codexd, deadline_ms=MINUTE_MS)
    await codexd.passes(20)
    codexd.clock.wall_ms += jump_ms
    next_one = Timers(codexd.clock)
    next_one.restore(restore.restore(codexd.log.reader(), codexd.clock, codexd.log.seal).timers)
    due_in = next_one.next_in()
    assert due_in is not None
    assert 40 - MOMENT_MS / 1000 < due_in <= 40


# --- time in which nobody ran


async def slept(codexd: Bench, seconds: float) -> None:
    """codexd was stopped for so long, and goes on."""
    codexd.clock.ahead_s += seconds
    codexd.loop.wake()
    for _ in range(3):
        await codexd.loop.change(lambda _: None)


async def test_what_fell_due_in_a_sleep_waits_for_what_was_on_its_way(codexd: Bench) -> None:
    await run(codexd, stall_ms=MINUTE_MS)
    await codexd.commands.renew("trn_a", MINUTE_MS)
    await slept(codexd, 600)
    assert wanted(codexd) is None
    await codexd.passes(GRACE_S - 2)
    assert wanted(codexd) is None
    await codexd.commands.renew("trn_a", MINUTE_MS)
    await codexd.says(of_turn("item/agentMessage/delta", itemId="item", delta="a"))
    await codexd.passes(30)
    assert wanted(codexd) is None


async def test_what_nobody_put_off_is_due_after_all(codexd: Bench) -> None:
    await run(codexd, stall_ms=MINUTE_MS)
    await slept(codexd, 600)
    await codexd.passes(GRACE_S + 1)
    assert wanted(codexd) == "stalled"


async def test_sleep_upon_sleep_does_not_put_off_for_ever(codexd: Bench) -> None:
    await run(codexd, deadline_ms=MINUTE_MS)
    for _ in range(20):
        await slept(codexd, 5)
    assert wanted(codexd) == "deadline"
