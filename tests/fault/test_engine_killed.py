"""Programs killed at the commit of what they write to the engine: all of it is there or nothing, and again is once.

On SQLite, where the text of each write is the same as on PostgreSQL. What a worker writes of an attempt in its hands is
in `test_attempts`.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import pytest

from baa.api.tasks import AttemptState, TaskState
from tests.support.engines import TTL, TURN_LEASE, Fleet, assigned, fleet_on, join, lead, running, submit
from tests.support.killed_write import SESSION
from tests.support.node import within

TABLES = {
    "task": "task_id",
    "attempt": "attempt_id",
    "dependency": "task_id",
    "node": "node_id",
    "head": "name",
    "event": "seq",
    "feed": "node_id",
}


def rows(fleet: Fleet) -> dict[str, list[tuple[object, ...]]]:
    """All that the engine knows."""
    return {table: fleet.sql(f"SELECT * FROM {table} ORDER BY {key}") for table, key in TABLES.items()}


async def prepared(fleet: Fleet, name: str) -> tuple[int, str]:
    """A fleet in which there is something for this write to do; the leader's term, and the task that it is about."""
    engine = await fleet.open()
    owner = await join(engine)
    if name == "claim":
        return await lead(engine), (await assigned(engine)).task_id
    if name == "fail":
        return await lead(engine), (await submit(engine)).task_id
    attempt = await running(engine, owner)
    await engine.record(owner, attempt.attempt_id, session_id=SESSION)
    if name == "reap":
        fleet.later(TTL + TURN_LEASE + 1)
    elif name in ("prune", "forget"):
        await engine.finish(owner, attempt.attempt_id, AttemptState.SUCCEEDED)
        fleet.later(2000)
    return await lead(engine), attempt.task_id


async def write(fleet: Fleet, name: str, term: int, task_id: str, when: str) -> int:
    """The write, by a program of its own; its exit code."""
    given = (fleet.url, str(fleet.machine.now), name, str(term), task_id, when)
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.support.killed_write", *given)
    try:
        return await within(process.wait())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize("name", ["claim", "append", "fail", "reap", "prune", "forget"])
async def test_a_program_killed_at_the_commit_of_a_write_leaves_all_of_it_or_nothing(tmp_path: Path, name: str) -> None:
    async with fleet_on(f"sqlite://{tmp_path / 'engine.sqlite3'}") as fleet:
        term, task_id = await prepared(fleet, name)
        before = rows(fleet)
        assert await write(fleet, name, term, task_id, "before") == -signal.SIGKILL
        assert rows(fleet) == before
        assert await write(fleet, name, term, task_id, "after") == -signal.SIGKILL
        after = rows(fleet)
        assert after != before
        assert await write(fleet, name, term, task_id, "never") == 0
        assert rows(fleet) == after, "the same again, by who did not hear of it"
        seqs = [row[0] for row in after["event"]]
        ((_, _, head, oldest),) = after["head"]
        assert seqs == list(range(int(str(oldest)), int(str(head)) + 1)), "no number is missing"


async def test_what_codexd_told_is_there_with_its_cursor_or_not_at_all(tmp_path: Path) -> None:
    async with fleet_on(f"sqlite://{tmp_path / 'engine.sqlite3'}") as fleet:
        engine = await fleet.open()
        term, task_id = await prepared(fleet, "append")
        for when, cursor, count in (("before", None, 0), ("after", "e:2", 2)):
            await write(fleet, "append", term, task_id, when)
            events, _ = await engine.events(0, 100, types=["turn.started"])
            assert (await engine.feed_cursor("here"), len(events)) == (cursor, count)
            assert {event.task_id for event in events} <= {task_id}
        assert (await engine.task(task_id)).state is TaskState.RUNNING
