"""The queue's contract, on both databases: what the library promises us, and what we promise of it to the engine."""

from __future__ import annotations

import asyncio
import stat
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from baa.engine.queue import Queue, library_url, open_queue
from baa.engine.store import EngineFailed
from tests.support.node import until, within
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


async def test_the_same_attempt_put_50_times_at_once_runs_once(queue: Queue, url: str, tmp_path: Path) -> None:
    async with asyncio.TaskGroup() as tasks:
        for _ in range(50):
            tasks.create_task(queue.put("here", TASK, 1))
    async with QueueWorker(tmp_path, url, "a") as worker:
        await worker.saw(f"begin {TASK}:1")
        await queue.put("here", TASK, 1)
        await worker.tell(f"finish {TASK}:1")
        await worker.saw(f"end {TASK}:1")
        await queue.put("here", TASK, 1)
        await queue.put("here", TASK, 2)  # a retry is another attempt
        await worker.saw(f"begin {TASK}:2")
        assert worker.count("begin") == {f"{TASK}:1": 1, f"{TASK}:2": 1}


async def test_a_node_gets_its_own_and_no_more_than_its_slots_by_priority(
    queue: Queue, url: str, tmp_path: Path
) -> None:
    await queue.put("elsewhere", "task_9", 1, priority=1000)
    for number in range(4):
        await queue.put("here", f"task_{number}", 1, priority=number - 1000)
    async with QueueWorker(tmp_path, url, "a", slots=2) as worker:
        await worker.saw("begin task_3:1")
        await worker.saw("begin task_2:1")
        await worker.tell("finish task_3:1")
        await worker.saw("begin task_1:1")
        assert set(worker.count("begin")) == {"task_3:1", "task_2:1", "task_1:1"}
        for name in ("task_1:1", "task_2:1"):
            await worker.tell(f"finish {name}")
        await worker.saw("begin task_0:1")
        running = most = 0
        for line in worker.lines:
            running += {"begin": 1, "end": -1}.get(line.split()[0], 0)
            most = max(most, running)
        assert most == 2


async def test_what_is_dropped_is_not_begun_or_is_cancelled_and_says_so_in_no_traceback(
    queue: Queue, url: str, tmp_path: Path
) -> None:
    await queue.put("here", "waits", 1)
    await queue.drop("waits", 1)
    await queue.drop("never_put", 1)
    await queue.put("here", "runs", 1)
    async with QueueWorker(tmp_path, url, "a", slots=1) as worker:
        await worker.saw("begin runs:1")
        await queue.drop("runs", 1)
        await worker.saw("cancel runs:1")
        await queue.put("here", "next", 1)
        await worker.saw("begin next:1")
        await worker.tell("finish next:1")
        await worker.saw("end next:1")
        await queue.drop("next", 1)
        await worker.tell("recover")
        await worker.saw("recovered")
        assert set(worker.count("begin")) == {"runs:1", "next:1"}
        assert "Traceback" not in worker.log


async def test_a_drain_finishes_what_runs_and_takes_nothing_more(queue: Queue, url: str, tmp_path: Path) -> None:
    await queue.put("here", "runs", 1)
    async with QueueWorker(tmp_path, url, "a") as worker:
        await worker.saw("begin runs:1")
        await worker.tell("drain 60")
        await worker.saw("draining")
        await queue.put("here", "late", 1)
        await worker.tell("finish runs:1")
        await worker.saw("drained")
        assert await worker.ended() == 0
        assert worker.lines[-2:] == ["end runs:1", "drained"]
    async with QueueWorker(tmp_path, url, "b") as worker:
        await worker.tell("recover")
        await worker.saw("begin late:1")
        assert set(worker.count("begin")) == {"late:1"}, "the one that ended has ended"


async def test_what_outlasts_a_drain_is_cancelled_and_goes_on_in_the_next_incarnation(
    queue: Queue, url: str, tmp_path: Path
) -> None:
    await queue.put("here", "runs", 1)
    async with QueueWorker(tmp_path, url, "a") as worker:
        await worker.saw("begin runs:1")
        await worker.tell("drain 0.01")
        assert await worker.ended() == 0
        assert worker.lines[-2:] == ["cancel runs:1", "drained"]
    async with QueueWorker(tmp_path, url, "b") as worker:
        await worker.tell("recover")
        await worker.saw("recovered runs:1")
        await worker.saw("begin runs:1")
        await worker.tell("finish runs:1")
        await worker.saw("end runs:1")


async def test_a_mistake_in_one_attempt_is_logged_and_the_others_go_on(queue: Queue, url: str, tmp_path: Path) -> None:
    await queue.put("here", "mistake", 1)
    await queue.put("here", "runs", 1)
    async with QueueWorker(tmp_path, url, "a") as worker:
        await worker.saw("begin mistake:1")
        await worker.saw("begin runs:1")
        await until(lambda: '"event":"attempt.failed"' in worker.log)
        assert "a mistake of ours" in worker.log


async def test_one_that_no_incarnation_survives_is_left_lying_at_last(
    queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    begun = asyncio.Event()

    async def run(task_id: str, number: int) -> None:
        begun.set()
        await asyncio.Event().wait()

    await queue.put("here", TASK, 1)
    for life in range(7):
        begun.clear()
        async with queue.taking(node_id="here", incarnation=f"life{life}", slots=1, run=run):
            assert await queue.recover("here", f"life{life}") == ([f"{TASK}:1"] if life else [])
            if life < 6:
                await within(begun.wait())
            else:
                await until(lambda: "Error executing workflow" in caplog.text)
    assert not begun.is_set()
    assert await queue.recover("here", "life7") == []


async def test_what_ended_long_ago_is_forgotten_and_nothing_else(queue: Queue, url: str, tmp_path: Path) -> None:
    for name in ("ended", "runs", "waits"):
        await queue.put("here" if name != "waits" else "elsewhere", name, 1)
    await queue.put("elsewhere", "dropped", 1)
    await queue.drop("dropped", 1)
    async with QueueWorker(tmp_path, url, "a") as worker:
        await worker.saw("begin runs:1")
        await worker.tell("finish ended:1")
        await worker.saw("end ended:1")
        assert await queue.prune(3_600_000) == 0
        forgotten = 0
        while forgotten < 2:
            forgotten += await queue.prune(-1000)
        assert forgotten == 2
        assert await queue.prune(-1000) == 0
        await queue.put("here", "ended", 1)
        await worker.tell("finish runs:1")
        await worker.saw("end runs:1")


async def test_programs_may_open_an_empty_database_at_once(url: str) -> None:
    async with asyncio.TaskGroup() as tasks:
        opening = [tasks.create_task(open_queue(url)) for _ in range(4)]
    for each in opening:
        await each.result().put("here", TASK, 1)
        await each.result().close()
    if url.startswith("sqlite"):
        file = Path(url.removeprefix("sqlite:///"))
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert file.read_bytes()[18:20] == b"\x02\x02", "in WAL"


async def test_the_library_speaks_to_nobody_but_the_database(url: str, tmp_path: Path) -> None:
    async with QueueWorker(tmp_path, url, "a") as worker:
        ends = [tuple(each.raddr) for each in psutil.Process(worker.pid).net_connections("inet")]
        ports = {end[1] for end in ends if end}
        assert ports == (set() if url.startswith("sqlite") else {int(url.rpartition(":")[2].partition("/")[0])})
        assert worker.log == "", "and has nothing to say"


async def test_it_is_fast_enough(queue: Queue, url: str, tmp_path: Path) -> None:
    async with QueueWorker(tmp_path, url, "a", slots=50) as worker:
        took = []
        for number in range(20):
            began = time.monotonic()
            await queue.put("here", f"task_{number}", 1)
            await worker.saw(f"begin task_{number}:1")
            took.append(time.monotonic() - began)
    took.sort()
    print(f"put to begun: p50 {took[10] * 1000:.0f} ms, longest {took[-1] * 1000:.0f} ms of {len(took)}")


async def test_a_database_that_is_not_there_is_told_and_not_waited_for() -> None:
    with pytest.raises(EngineFailed, match="refused") as failed:
        await open_queue("postgresql://baa:secret@127.0.0.1:9/baa")
    assert "secret" not in str(failed.value)


def test_the_librarys_file_lies_beside_the_engines(tmp_path: Path) -> None:
    assert library_url("", tmp_path) == f"sqlite:///{tmp_path}/state/queue.sqlite3"
    for given in ("sqlite:///var/engine.sqlite3", "sqlite:////var/engine.sqlite3"):
        assert library_url(given, tmp_path) == "sqlite:////var/queue.sqlite3"
    assert library_url("postgresql://baa@db/baa", tmp_path) == "postgresql://baa@db/baa"
