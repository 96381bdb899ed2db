"""A task is canceled in every state it can be in, over HTTP, while real processes work on it: on both databases.

One set of processes for all of it. At its end nothing of what was canceled may have gone on.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from baa import config
from baa.api.errors import Code, Rejected
from baa.api.tasks import Attempt, AttemptState, Check, Task, TaskState
from baa.client.conductor import Conductor
from baa.scripted import Hold, Limits, Refuse, Run, Say, ScriptedModel, when
from tests.support.fleet import Fleet, Member, a_fleet
from tests.support.keeper_client import environment_of
from tests.support.node import PATIENCE_SECONDS, moment, until, within
from tests.support.repositories import Repository

pytestmark = pytest.mark.timeout(180)

LONG = 30_000  # Codex waits so long for a command before it goes on without its end
TTL_MS = 60_000  # no node shall be given up here, however long a step takes
SCENARIOS = (
    when("toil", Run("echo one >> result; touch toils; sleep 7501", yield_time_ms=LONG), Say("Done.")),
    when("quick", Run("echo one >> result"), Say("Quick.")),
    when("filtered", Run("echo one > filtered"), Say("Done.")),
    when("limited", Run("echo one >> result"), (Limits(100, 4_000_000_000), Refuse.usage_limit())),
    when("down", Refuse(500)),
    *(when(f"wait {gate}", Run("echo one >> result"), (Hold(gate), Say("Done."))) for gate in ("a", "b", "c", "d")),
)
MOMENTS = ("task.queued", "attempt.assigned", "attempt.started", "attempt.turn", "attempt.check", "attempt.ended")


@dataclass
class Place:
    """A node with its conductor, a repository, and what was canceled there so far."""

    fleet: Fleet
    conductor: Conductor
    repo: Repository
    canceled: dict[str, list[str]] = field(default_factory=dict)

    @property
    def here(self) -> Member:
        """The one node."""
        return self.fleet.members["here"]

    async def asked(self, prompt: str, **given: object) -> str:
        """A new task in the repository; its id."""
        return await self.fleet.asked(**{"prompt": prompt, "cwd": str(self.repo.folder), **given})

    async def becomes(self, task_id: str, fact: Callable[[Task], object]) -> Task:
        """The task, once that is so."""
        while not fact(task := await self.fleet.engine.task(task_id)):
            await moment(0.02)
        return task

    async def told(self, task_id: str) -> list[str]:
        """What the queue told of a task; codexd's own events may come later."""
        return [each for each in await self.fleet.told(task_id) if each.startswith(("task.", "attempt."))]

    async def cancels(self, task_id: str, *states: AttemptState) -> Task:
        """Cancel it, and wait for its end: once, after attempts that ended so, and with a worktree as it is told."""
        await self.conductor.cancel(task_id)
        return await self.was_canceled(task_id, *states)

    async def was_canceled(self, task_id: str, *states: AttemptState) -> Task:
        """What `cancels` says, of one that was asked to end."""
        task = await self.fleet.ended(task_id)
        assert (task.state, [each.state for each in task.attempts or ()]) == (TaskState.CANCELED, list(states))
        await self.has_ended(task_id, TaskState.CANCELED)
        told = self.canceled[task_id] = await self.told(task_id)
        assert [each for each in told if each in {"task.canceled", "task.failed", "task.succeeded"}] == [
            "task.canceled"
        ]
        assert told.count("attempt.ended") == len(states)
        self.truthful(task)
        return task

    async def has_ended(self, task_id: str, state: TaskState) -> None:
        """A cancel is refused, and told how the task ended."""
        with pytest.raises(Rejected) as refused:
            await self.conductor.cancel(task_id)
        assert (refused.value.code, refused.value.details["state"]) == (Code.TASK_ENDED, state)

    def truthful(self, task: Task) -> None:
        """The worktree, if one was made, is where it is said to be, and its branch holds what is said to be done."""
        made = [each.evidence for each in task.attempts or () if each.evidence.workspace]
        branch = f"baa/{task.task_id}"
        if not made:
            assert f"refs/heads/{branch}" not in self.repo.refs()
            return
        last = made[-1]
        if last.branch is None:
            return
        folder = Path(last.workspace or "")
        assert (last.branch, self.repo.git("symbolic-ref", "HEAD", at=folder)) == (branch, f"refs/heads/{branch}")
        assert self.repo.of(branch) == (last.commit or last.base_commit)
        assert self.repo.git("status", "--porcelain", "--untracked-files=no", at=folder) == ""


def only(task: Task) -> Attempt:
    assert task.attempts is not None
    (attempt,) = task.attempts
    return attempt


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite://{tmp_path_factory.mktemp('engine') / 'engine.sqlite3'}"
        return
    from tests.support.postgres import database_of

    with database_of(request.getfixturevalue("postgres")) as found:
        yield found


@pytest.fixture(scope="module")
async def place(url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    folder = tmp_path_factory.mktemp("cancel")
    async with (
        ScriptedModel(SCENARIOS) as model,
        a_fleet(
            folder, url, model, nodes=("here",), conductors=("lead",), ttl_ms=TTL_MS, slots=len(MOMENTS) + 1
        ) as fleet,
        Conductor(config.load(environ=fleet.conductors["lead"].environment)) as conductor,
    ):
        place = Place(fleet, conductor, Repository(fleet.members["here"].node.work / "repo"))
        yield place
        await nothing_went_on(place)


async def nothing_went_on(place: Place) -> None:
    """After another task was done: what was canceled is as it was, no turn is unknown, and no process is left."""
    assert (await place.fleet.ended(await place.asked("quick"))).state is TaskState.SUCCEEDED
    assert {task_id: await place.told(task_id) for task_id in place.canceled} == place.canceled
    tasks, more = await place.fleet.engine.tasks(state=None, limit=100, after=None)
    assert more is None
    assert [task.task_id for task in tasks if task.ended_at is None] == []
    known = {
        turn.turn_id
        for task in tasks
        for attempt in await place.fleet.attempts(task.task_id)
        for turn in attempt.evidence.turns
    }
    node = place.here.node
    assert {event["turnId"] for event in await node.events(types="turn.queued")} == known
    assert (await node.status())["counts"]["turnsEnded"] == len(known)
    assert node.running("sleep") == []
    assert [pid for task_id in place.canceled for pid in checks_of(task_id)] == []


def checks_of(task_id: str) -> list[int]:
    """The processes of a task's checks."""
    mark = f"BAA_CHECK={task_id}:".encode()
    processes = Path("/proc").glob("[0-9]*/environ")
    return [int(path.parent.name) for path in processes if any(e.startswith(mark) for e in environment_of(path))]


async def test_one_that_is_queued(place: Place) -> None:
    task = await place.cancels(await place.asked("quick", node="nowhere"))
    assert task.reason == "canceled"


async def test_one_that_waits_for_another(place: Place) -> None:
    before = await place.asked("wait a")
    await within(place.fleet.model.held("a"))
    await place.cancels(await place.asked("quick", depends_on=[before]))
    place.fleet.model.release("a")
    assert (await place.fleet.ended(before)).state is TaskState.SUCCEEDED


async def test_one_that_a_worker_was_given_and_has_not_taken_up(place: Place) -> None:
    await place.here.worker.kill()
    task_id = await place.asked("quick")
    await within(place.becomes(task_id, lambda task: task.attempts))
    assert only(await place.cancels(task_id, AttemptState.CANCELED)).started_at is None
    await place.here.worker.start()


async def test_one_that_begins_while_codexd_is_away(place: Place) -> None:
    await place.here.node.kill()
    task_id = await place.asked("quick")
    await within(place.becomes(task_id, lambda task: task.attempts and task.attempts[0].evidence.workspace))
    assert only(await place.cancels(task_id, AttemptState.CANCELED)).evidence.turns == []
    await place.here.node.start()


async def test_one_that_waits_for_its_folder(place: Place) -> None:
    folder = place.here.node.work / "plain"
    folder.mkdir()
    before = await place.asked("wait b", cwd=str(folder))
    await within(place.fleet.model.held("b"))
    task_id = await place.asked("quick", cwd=str(folder))
    await within(place.becomes(task_id, lambda task: task.attempts and task.attempts[0].started_at))
    assert only(await place.cancels(task_id, AttemptState.CANCELED)).evidence.workspace is None
    place.fleet.model.release("b")
    assert (await place.fleet.ended(before)).state is TaskState.SUCCEEDED
    assert (folder / "result").read_text() == "one\n"


async def test_one_whose_turn_runs(place: Place) -> None:
    node = place.here.node
    task_id = await place.asked("toil")
    await until(lambda: node.running("7501"))
    evidence = only(await place.cancels(task_id, AttemptState.CANCELED)).evidence
    assert node.running("7501") == []
    (turn,) = evidence.turns
    assert (turn.status, turn.reason) == ("interrupted", "requested")
    assert place.repo.shown(f"baa/{task_id}:result") == "one", "what it did until then is kept"


async def test_one_whose_check_runs(place: Place) -> None:
    check = Check(command="(setsid sleep 7502 &) ; sleep 7503 & touch began; wait")
    task_id = await place.asked("quick", checks=[check])
    begun = await within(place.becomes(task_id, lambda task: task.attempts and task.attempts[0].evidence.workspace))
    await until((Path(only(begun).evidence.workspace or "") / "began").exists, PATIENCE_SECONDS)
    assert len(checks_of(task_id)) == 3
    evidence = only(await place.cancels(task_id, AttemptState.CANCELED)).evidence
    assert (evidence.checks, [turn.status for turn in evidence.turns]) == ([], ["completed"])
    assert checks_of(task_id) == []


async def test_one_whose_work_is_being_committed(place: Place) -> None:
    """git waits in a filter of the repository's owner. The commit is made, and no check begins after it."""
    slow = place.fleet.folder / "filter"
    slow.mkdir()
    command = f"touch {slow}/began; until test -e {slow}/go; do sleep 0.02; done; cat"
    place.repo.git("config", "filter.slow.clean", f"sh -c '{command}'")
    (place.repo.folder / ".git" / "info" / "attributes").write_text("filtered filter=slow\n")
    task_id = await place.asked("filtered", checks=[Check(command="true")])
    await until((slow / "began").exists, PATIENCE_SECONDS)
    assert (await place.conductor.cancel(task_id)).cancel_asked
    (slow / "go").touch()
    evidence = only(await place.was_canceled(task_id, AttemptState.CANCELED)).evidence
    assert (evidence.commit, evidence.checks) == (place.repo.of(f"baa/{task_id}"), [])
    assert place.repo.shown(f"baa/{task_id}:filtered") == "one"


async def test_one_that_waits_for_its_model_between_two_turns(place: Place) -> None:
    task_id = await place.asked("down")
    await within(place.becomes(task_id, lambda task: task.attempts and _failed_once(task.attempts[0])))
    await place.cancels(task_id, AttemptState.CANCELED)


def _failed_once(attempt: Attempt) -> bool:
    return [turn.status for turn in attempt.evidence.turns][:1] == ["failed"]


async def test_one_that_is_parked_by_a_usage_limit(place: Place) -> None:
    task_id = await place.asked("limited")
    parked = await within(place.becomes(task_id, lambda task: task.not_before))
    assert (parked.state, parked.reason) == (TaskState.QUEUED, "usage_limit")
    await place.cancels(task_id, AttemptState.FAILED)


async def test_one_between_two_attempts(place: Place) -> None:
    task_id = await place.asked("wait c", stall_ms=2500)
    await within(place.fleet.model.held("c"))
    await place.conductor.pause()  # so that no further attempt begins
    await within(place.becomes(task_id, lambda task: task.state is TaskState.QUEUED))
    assert only(await place.cancels(task_id, AttemptState.STALLED)).reason == "stalled"
    await place.conductor.resume()
    place.fleet.model.release("c")


async def test_one_that_has_ended(place: Place) -> None:
    done = await place.asked("quick")
    assert (await place.fleet.ended(done)).state is TaskState.SUCCEEDED
    await place.has_ended(done, TaskState.SUCCEEDED)
    failed = await place.asked("quick", checks=[Check(command="false")], max_turns=1)
    assert (await place.fleet.ended(failed)).state is TaskState.FAILED
    await place.has_ended(failed, TaskState.FAILED)
    for task_id in (done, failed):
        assert "task.cancel_asked" not in await place.told(task_id)


async def test_one_at_every_step_that_is_told_of_it(place: Place) -> None:
    """Whatever it is doing just then: it ends once, and a cancel that was taken as too late says so."""
    wanted: dict[str, str] = {}
    for step in MOMENTS:
        wanted[await place.asked("quick", checks=[Check(command="true")])] = step
    refused: set[str] = set()
    open_ = dict(wanted)
    while open_:
        for task_id, step in list(open_.items()):
            if step in await place.told(task_id):
                del open_[task_id]
                if await _refusal(place.conductor.cancel(task_id)) is not None:
                    refused.add(task_id)
    for task_id, step in wanted.items():
        task = await place.fleet.ended(task_id)
        ends = [
            each for each in await place.told(task_id) if each in {"task.canceled", "task.succeeded", "task.failed"}
        ]
        assert len(ends) == 1, step
        assert task.state in {TaskState.SUCCEEDED, TaskState.CANCELED}, step
        if task_id in refused:
            assert task.state is TaskState.SUCCEEDED, step
        place.canceled[task_id] = await place.told(task_id)
        place.truthful(task)


async def _refusal(cancel: Awaitable[Task]) -> str | None:
    """How the task had ended, where it was too late."""
    try:
        await cancel
    except Rejected as error:
        return str(error.details["state"])
    return None
