"""Workers of the queue that are killed, frozen and cut off from their database, as real processes on both databases."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from baa.engine.queue import Queue, library_url, open_queue
from baa.engine.store import EngineFailed
from tests.support.node import until
from tests.support.postgres import PostgreSQL
from tests.support.queue_worker import QueueWorker

pytestmark = pytest.mark.timeout(180)

TASK = "task_1"


@pytest.fixture
def url(engine_url: str, tmp_path: Path) -> str:
    """The library's database."""
    return library_url(engine_url, tmp_path)


@pytest.fixture
async def queue(url: str) -> AsyncIterator[Queue]:
    opened = await open_queue(url)
    yield opened
    await opened.close()


async def test_what_a_killed_worker_had_goes_on_once_in_the_next_incarnation_of_its_node(
    queue: Queue, url: str, tmp_path: Path
) -> None:
    await queue.put("here", TASK, 1)
    async with QueueWorker(tmp_path, url, "a") as first:
        await first.saw(f"begin {TASK}:1")
        await first.kill()
    async with (
        QueueWorker(tmp_path, url, "elsewhere", node="elsewhere") as stranger,
        QueueWorker(tmp_path, url, "b") as second,
    ):
        async with asyncio.TaskGroup() as tasks:
            again = [tasks.create_task(queue.recover("here", "b")) for _ in range(8)]
            tasks.create_task(stranger.tell("recover"))
        assert sorted(found for each in again for found in each.result()) == [f"{TASK}:1"]
        await second.saw(f"begin {TASK}:1")
        await stranger.saw("recovered")
        assert await queue.recover("here", "b") == [], "its own stays with it"
        await second.tell(f"finish {TASK}:1")
        await second.saw(f"end {TASK}:1")
        assert second.count("begin") == {f"{TASK}:1": 1}
        assert stranger.count("begin") == {}


async def test_a_frozen_worker_that_comes_back_puts_nothing_down_of_what_it_lost(
    queue: Queue, url: str, tmp_path: Path
) -> None:
    await queue.put("here", TASK, 1)
    async with QueueWorker(tmp_path, url, "a") as one, QueueWorker(tmp_path, url, "b") as other:
        await until(lambda: one.count("begin") or other.count("begin"))  # both take from the node's queue
        frozen, living = (one, other) if one.count("begin") else (other, one)
        frozen.signal(signal.SIGSTOP)
        await living.tell("recover")
        await living.saw(f"recovered {TASK}:1")
        await living.saw(f"begin {TASK}:1")
        frozen.signal(signal.SIGCONT)
        await frozen.tell(f"finish {TASK}:1")
        await frozen.saw(f"end {TASK}:1")
        await frozen.tell("drain 1")
        await frozen.saw("drained")
        assert await queue.prune(-1000) == 0, "its end was not put down"
        await living.tell(f"finish {TASK}:1")
        await living.saw(f"end {TASK}:1")
        while not await queue.prune(-1000):
            pass
        assert frozen.count("begin") + living.count("begin") == {f"{TASK}:1": 2}


async def test_a_killed_database_interrupts_nothing_that_runs(
    postgres: PostgreSQL, postgres_url: str, tmp_path: Path
) -> None:
    queue = await open_queue(postgres_url)
    await queue.put("here", "over_it", 1)
    await queue.put("here", "in_it", 1)
    async with QueueWorker(tmp_path, postgres_url, "a") as worker:
        await worker.saw("begin over_it:1")
        await worker.saw("begin in_it:1")
        postgres.kill()
        with pytest.raises(EngineFailed):
            await queue.put("here", "late", 1)
        await worker.tell("finish in_it:1")
        await worker.saw("end in_it:1")
        postgres.start()
        await queue.put("here", "late", 1)
        await worker.saw("begin late:1")
        for name in ("late:1", "over_it:1"):
            await worker.tell(f"finish {name}")
            await worker.saw(f"end {name}")
        pruned = 0
        while pruned < 3:  # each end is put down once the database is back
            pruned += await queue.prune(-1000)
        assert worker.count("begin") == {"over_it:1": 1, "in_it:1": 1, "late:1": 1}
        assert "Traceback" not in worker.log, worker.log
    await queue.close()


async def test_a_worker_leaves_in_time_while_the_database_is_away(
    postgres: PostgreSQL, postgres_url: str, tmp_path: Path
) -> None:
    queue = await open_queue(postgres_url)
    await queue.put("here", TASK, 1)
    async with QueueWorker(tmp_path, postgres_url, "a") as worker:
        await worker.saw(f"begin {TASK}:1")
        postgres.kill()
        await worker.tell("drain 0")
        await worker.saw(f"cancel {TASK}:1")
        await worker.saw("drained")
        assert psutil.Process(worker.pid).name()
    postgres.start()
    assert await queue.recover("here", "b") == [f"{TASK}:1"]
    await queue.close()
