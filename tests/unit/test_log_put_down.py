"""What is committed is put down in the log file as well, by the writer's thread, and nobody waits for that."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path

from baa.codexd.eventlog import UNPUT_MAX, Transaction
from baa.codexd.stored import Stored
from tests.support.house import until
from tests.unit.test_eventlog import WAIT_S, committed, opened, warning


async def test_what_is_committed_is_put_down_in_the_log_file_and_neither_callers_nor_the_loop_wait_for_it(
    tmp_path: Path,
) -> None:
    heard: list[str] = []
    read = threading.Event()

    def put_down(events: Sequence[Stored]) -> None:
        read.wait(WAIT_S)
        heard.extend(event.type for event in events)

    async with opened(tmp_path / "log.sqlite3") as log:
        log.on_events = put_down
        transaction = Transaction([warning("x")])
        heads: list[tuple[int, list[str]]] = []
        transaction.done.append(lambda _: heads.append((log.head, list(heard))))
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(log.wait_past(0), name="reader")
            await committed(log, transaction)
            await waiting
        read.set()

    assert heads == [(1, [])]
    assert heard == ["codex.warning"]


async def test_what_has_piled_up_is_committed_in_parts_so_that_the_first_of_it_is_told_soon(tmp_path: Path) -> None:
    heads: list[int] = []
    loop, holds, given = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    def put_down(_: Sequence[Stored]) -> None:
        loop.call_soon_threadsafe(holds.set)
        given.wait(WAIT_S)

    async with opened(tmp_path / "log.sqlite3") as log:
        log.on_events, log.on_news = put_down, lambda: heads.append(log.head)
        await committed(log, Transaction([warning("first")]))
        await holds.wait()
        for _ in range(7):
            log.submit(Transaction([warning("x")] * 200, done=[lambda _: None]))
        given.set()
        await log.wait_past(1400)
    assert heads == [1, 601, 1201, 1401]


async def test_the_log_file_is_told_of_all_that_was_committed_when_the_log_is_closed(tmp_path: Path) -> None:
    put: list[int] = []
    async with opened(tmp_path / "log.sqlite3") as log:
        log.on_events = lambda events: put.extend(event.seq for event in events)
        await committed(log, *(Transaction([warning("x")] * 300) for _ in range(5)))
    assert put == list(range(1, 1501))


async def test_it_is_put_down_soon_though_the_writer_never_rests(tmp_path: Path) -> None:
    slow = (
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)"
        " INSERT OR REPLACE INTO meta (key, value) SELECT 'k', max(i) FROM n",
        (),
    )
    put: list[int] = []
    given: list[Transaction] = []
    async with opened(tmp_path / "log.sqlite3") as log:
        log.on_events = lambda events: put.extend(event.seq for event in events)

        def go_on(_: int) -> None:
            if not put and len(given) < UNPUT_MAX - 1:
                given.append(Transaction([warning("x")], [slow], [go_on]))
                log.submit(given[-1])

        for _ in range(4):
            go_on(0)
        await until(lambda: bool(put) or log.head == UNPUT_MAX - 1)
        assert put
        assert log.head < UNPUT_MAX - 1
