"""Attempts whose worker, codexd or keeper is killed in mid-turn: they go on where they were, or tell what is lost."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from baa.api.tasks import Attempt, AttemptState, Check, Task, TaskState
from baa.scripted import Hold, Run, Say, ScriptedModel, when
from tests.support.node import Node, moment, until, within
from tests.support.station import Station, a_station

pytestmark = pytest.mark.timeout(180)

SCENARIOS = (
    when("An earlier attempt at this task ended as lost", Run("echo two >> result"), Say("Went on.")),
    when("toil", Run("echo one >> result"), (Hold("gate"), Say("Done."))),
    when("quick", Run("echo one >> result"), Say("Quick.")),
)


@asynccontextmanager
async def a_place(folder: Path) -> AsyncIterator[Station]:
    async with ScriptedModel(SCENARIOS) as model, Node(folder / "node", model.base_url) as node:
        await node.start()
        async with a_station(folder, model, node) as station:
            yield station


@asynccontextmanager
async def a_worker(here: Station, attempt: Attempt, folder: Path) -> AsyncIterator[int]:
    """A worker as a process, which runs the attempt; its pid. It is killed at the end."""
    command = (sys.executable, "-m", "tests.support.station", str(folder / "engine.sqlite3"))
    given = (attempt.task_id, str(attempt.number), f"life-{here.lives}")
    process = await asyncio.create_subprocess_exec(*command, *given, env=here.node.environment())
    try:
        yield process.pid
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def last(task: Task) -> Attempt:
    assert task.attempts is not None
    return task.attempts[-1]


async def turns_of(here: Station) -> list[str]:
    """Every turn that codexd was ever given."""
    return [event["turnId"] for event in await here.node.events(types="turn.queued")]


async def test_a_worker_killed_in_mid_turn_is_followed_by_another_and_the_turn_is_one(tmp_path: Path) -> None:
    async with a_place(tmp_path) as here:
        attempt = await here.assigned(prompt="toil", checks=[Check(command="grep -c one result")])
        async with a_worker(here, attempt, tmp_path):
            await within(here.model.held("gate"))
        await here.registered()
        async with asyncio.TaskGroup() as group:
            running = group.create_task(here.run(attempt), name="attempt")
            await until(lambda: here.node.running("gate") == [])
            here.model.release("gate")
            task = await within(running)
        assert (task.state, task.attempt_count) == (TaskState.SUCCEEDED, 1)
        done = last(task)
        assert [turn.turn_id for turn in done.evidence.turns] == await turns_of(here)
        assert (done.owner, [check.output for check in done.evidence.checks]) == ("life-2", ["1\n"])
        assert (await here.told(task.task_id)).count("attempt.resumed") == 1


AT_EACH_WRITE = {
    "before": (1, 2, 3, 4, 4, 3, 0),
    "after": (-1, -2, -2, -2, -3, -2, -2, 0),
}
"""Which write each life of the worker is killed at: workspace, session, turn, the look before the commit, what the turn
did, check, end. The first is written by every life anew, and 0 is killed nowhere."""


@pytest.mark.parametrize("when_", ["before", "after"])
async def test_a_worker_killed_at_each_of_its_writes_leaves_one_of_everything(tmp_path: Path, when_: str) -> None:
    """Before: session, turn, commit and check are made, and none is written. After: it was not heard that they are."""
    async with a_place(tmp_path) as here:
        attempt = await here.assigned(prompt="quick", checks=[Check(command="grep -c one result")])
        codes = []
        for write in AT_EACH_WRITE[when_]:
            codes.append(await _killed_at(here, attempt, tmp_path, write))
            await here.registered()
        assert codes == [*[-signal.SIGKILL] * (len(codes) - 1), 0]
        task = await here.engine.task(attempt.task_id)
        assert (task.state, task.attempt_count) == (TaskState.SUCCEEDED, 1)
        done = last(task).evidence
        assert [turn.turn_id for turn in done.turns] == await turns_of(here)
        assert len(await here.node.events(types="session.registered")) == 1
        assert [check.output for check in done.checks] == ["1\n"]
        assert here.repo.git("rev-list", "--count", f"{done.base_commit}..baa/{task.task_id}") == "1"
        told = await here.told(task.task_id)
        assert [told.count(each) for each in ("attempt.check", "attempt.ended", "task.succeeded")] == [1, 1, 1]
        assert told.count("attempt.turn") == 2, "its begin and its end"


async def _killed_at(here: Station, attempt: Attempt, folder: Path, write: int) -> int:
    """A worker's process, killed at that write, if there is one of that number; its exit code."""
    command = (sys.executable, "-m", "tests.support.station", str(folder / "engine.sqlite3"))
    given = (attempt.task_id, str(attempt.number), f"life-{here.lives}", str(write))
    process = await asyncio.create_subprocess_exec(*command, *given, env=here.node.environment())
    try:
        code = await within(process.wait())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return code


async def test_one_that_was_stopped_and_comes_back_touches_nothing(tmp_path: Path) -> None:
    async with a_place(tmp_path) as here:
        attempt = await here.assigned(prompt="toil")
        async with a_worker(here, attempt, tmp_path) as pid:
            await within(here.model.held("gate"))
            os.kill(pid, signal.SIGSTOP)
            await here.registered()
            async with asyncio.TaskGroup() as group:
                running = group.create_task(here.run(attempt), name="attempt")
                os.kill(pid, signal.SIGCONT)
                here.model.release("gate")
                task = await within(running)
            await until(lambda: not Path(f"/proc/{pid}/fd").exists() or os.listdir(f"/proc/{pid}/fd") == [])
        assert (task.state, last(task).owner) == (TaskState.SUCCEEDED, "life-2")
        assert len(await turns_of(here)) == 1
        assert (await here.told(task.task_id)).count("attempt.ended") == 1


async def test_codexd_killed_in_mid_turn_is_waited_for(tmp_path: Path) -> None:
    async with a_place(tmp_path) as here:
        attempt = await here.assigned(prompt="toil")
        async with asyncio.TaskGroup() as group:
            running = group.create_task(here.run(attempt), name="attempt")
            await within(here.model.held("gate"))
            await here.node.kill()
            here.model.release("gate")
            await here.node.start()
            task = await within(running)
        assert task.state is TaskState.SUCCEEDED
        assert len(await turns_of(here)) == 1


async def test_a_turn_that_is_lost_ends_the_attempt_and_the_next_is_told(tmp_path: Path) -> None:
    """The keeper dies with the line of the second turn in its hands: nobody can say what Codex did."""
    async with a_place(tmp_path) as here:
        await here.node.child()
        keeper = here.node.keeper
        check = Check(command=f"test -e stopped || {{ touch stopped; kill -STOP {keeper}; exit 1; }}")
        attempt = await here.assigned(prompt="quick", checks=[check])
        async with asyncio.TaskGroup() as group:
            running = group.create_task(here.run(attempt), name="attempt")
            async with asyncio.timeout(60):
                while len(await here.node.events(types="turn.accepted")) < 2:
                    await moment(0.02)
            os.kill(keeper, signal.SIGKILL)
            task = await within(running)
        assert (task.state, task.reason) == (TaskState.QUEUED, "keeper_died")
        lost = last(task)
        assert (lost.state, [turn.status for turn in lost.evidence.turns]) == (AttemptState.LOST, ["completed", "lost"])
        again = await here.run(await here.next_of(task.task_id))
        assert (again.state, again.final_message) == (TaskState.SUCCEEDED, "Went on.")
        assert here.repo.shown(f"baa/{task.task_id}:result") == "one\ntwo"
        assert last(again).session_id != lost.session_id


async def test_a_cancel_ends_an_attempt_whose_codexd_is_away(tmp_path: Path) -> None:
    async with a_place(tmp_path) as here:
        await here.node.kill()
        attempt = await here.assigned(prompt="quick")
        async with asyncio.TaskGroup() as group:
            running = group.create_task(here.run(attempt), name="attempt")
            async with asyncio.timeout(60):
                while not await _has_workspace(here, attempt):
                    await moment(0.02)
            await here.engine.cancel(attempt.task_id)
            task = await within(running)
        assert (task.state, last(task).evidence.turns) == (TaskState.CANCELED, [])
        await here.node.start()


async def _has_workspace(here: Station, attempt: Attempt) -> bool:
    return last(await here.engine.task(attempt.task_id)).evidence.workspace is not None


async def test_a_codex_that_cannot_run_lets_the_task_wait(tmp_path: Path) -> None:
    """A while later another attempt is made, here or on a node whose Codex works."""
    missing = str(tmp_path / "no-codex")
    async with ScriptedModel() as model, Node(tmp_path / "node", model.base_url, server_command=missing) as node:
        await node.start()
        await node.child_is("unavailable")
        async with a_station(tmp_path, model, node) as here:
            task, attempt = await here.done(prompt="quick")
        assert (task.state, task.reason, attempt.state) == (TaskState.QUEUED, "child_unavailable", AttemptState.FAILED)
        assert task.not_before is not None
