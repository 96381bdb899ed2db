"""The leader's rounds on real databases: what it gives away, takes back, and does no longer once its term is over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from baa.api.conductor import RoleName
from baa.api.tasks import Attempt, AttemptState, TaskState
from baa.conductor.dispatch import ATTEMPTS_KEPT_MS, Dispatch
from baa.conductor.leader import Leader
from baa.engine.store import Engine, EngineFailed
from tests.support.engines import TTL, TURN_LEASE, Fleet, beat, fleet_on, join, lead, running, submit
from tests.support.faults import saw
from tests.support.node import within

HISTORY = 600_000
HOUR = 3_600_000


class Remembers:
    """A queue that remembers what it was given."""

    def __init__(self, leading: Leading) -> None:
        self._leading = leading

    async def put(self, attempt: Attempt) -> None:
        if self._leading.refuses:
            raise EngineFailed("the queue is away", passing=True)
        self._leading.put.append(attempt.attempt_id)

    async def prune(self, older_than_ms: int) -> int:
        self._leading.pruned.append(older_than_ms)
        return 0


class Leading:
    """A conductor's leader on a fleet: its lease, its rounds, and a queue that only remembers."""

    def __init__(self, engine: Engine, fleet: Fleet, name: str = "one") -> None:
        self.engine = engine
        self.fleet = fleet
        self.put: list[str] = []
        self.pruned: list[int] = []
        self.refuses = False
        self.leader = Leader(engine, holder=name, node_id=name, clock=fleet.machine)
        self.dispatch = Dispatch(
            engine, self.leader, Remembers(self), fleet.machine, node_ttl_ms=TTL, history_ms=HISTORY
        )

    async def leads(self) -> None:
        """Acquire or renew the lease, and do a round."""
        await self.leader.try_once()
        await self.dispatch.round()

    async def after(self, ms: int, *, step: int = 1000) -> None:
        """Lead on for so long."""
        for _ in range(0, ms, step):
            self.fleet.machine.seconds += step / 1000
            self.fleet.later(step)
            await self.leads()


@pytest.fixture
async def fleet(engine_url: str) -> AsyncIterator[Fleet]:
    async with fleet_on(engine_url) as fleet:
        yield fleet


@pytest.fixture
async def leading(fleet: Fleet) -> Leading:
    return Leading(await fleet.open(), fleet)


async def state(leading: Leading, task_id: str) -> tuple[TaskState, str | None]:
    task = await leading.engine.task(task_id)
    return task.state, task.reason


async def test_what_waits_is_given_to_free_slots_and_put_on_the_queue_once(leading: Leading) -> None:
    engine = leading.engine
    first = await submit(engine)
    leading.fleet.later(1)  # of one millisecond, either may be the older
    second = await submit(engine)
    leading.fleet.later(1)
    third = await submit(engine)
    urgent = await submit(engine, priority=5)
    await leading.leads()
    assert leading.put == [], "there is no node yet"
    await join(engine, slots=2)
    await leading.leads()
    assert leading.put == [f"{urgent.task_id}:1", f"{first.task_id}:1"]
    await leading.after(3000)
    assert len(leading.put) == 2, "they are on the queue, whatever became of them there"
    assert await state(leading, second.task_id) == (TaskState.QUEUED, None)
    await join(engine, "other", slots=5)
    await leading.leads()
    assert leading.put[2:] == [f"{second.task_id}:1", f"{third.task_id}:1"]


async def test_a_dependency_that_failed_fails_all_that_follow_in_one_round(leading: Leading) -> None:
    engine = leading.engine
    first = await submit(engine)
    second = await submit(engine, depends_on=[first.task_id])
    third = await submit(engine, depends_on=[second.task_id], priority=9)
    await leading.leads()
    assert await state(leading, second.task_id) == (TaskState.QUEUED, None)
    await engine.cancel(first.task_id)
    await leading.leads()
    for task in (second, third):
        assert await state(leading, task.task_id) == (TaskState.FAILED, "dependency_failed")


async def test_a_pause_holds_back_and_ends(leading: Leading) -> None:
    engine = leading.engine
    await join(engine)
    await engine.pause(True)
    task = await submit(engine)
    await leading.after(2000)
    assert leading.put == []
    await engine.pause(False)
    await leading.leads()
    assert leading.put == [f"{task.task_id}:1"]


async def test_what_was_assigned_and_not_queued_is_queued_by_the_next_leader(fleet: Fleet, leading: Leading) -> None:
    await join(leading.engine)
    task = await submit(leading.engine)
    leading.refuses = True
    await leading.leads()
    assert (await leading.engine.task(task.task_id)).state is TaskState.RUNNING
    leading.refuses = False
    await leading.leader.release()
    other = Leading(await fleet.open(), fleet, "two")
    await other.leads()
    assert (leading.put, other.put) == ([], [f"{task.task_id}:1"])


async def test_a_queue_that_was_away_gets_it_later(leading: Leading) -> None:
    await join(leading.engine)
    task = await submit(leading.engine)
    leading.refuses = True
    await leading.leads()
    await leading.after(1000)
    leading.refuses = False
    await leading.after(2000)
    assert leading.put == [f"{task.task_id}:1"]


async def test_a_leader_whose_term_is_over_writes_nothing_and_steps_down(fleet: Fleet, leading: Leading) -> None:
    """It was stopped for a while, and goes on where it was: to itself it still leads."""
    await join(leading.engine)
    await leading.leads()
    fleet.later(TTL + 1)
    other = Leading(await fleet.open(), fleet, "two")
    await join(other.engine)
    await other.leads()
    assert other.leader.role().role is RoleName.LEADER
    task = await submit(leading.engine, depends_on=[])
    assert leading.leader.leads()
    await leading.dispatch.round()
    assert not leading.leader.leads()
    saw("F78", other.leader.leads(), "a leader whose term was over tried to write, and was refused")
    assert leading.leader.role().role is RoleName.STANDBY
    assert leading.put == []
    assert await state(leading, task.task_id) == (TaskState.QUEUED, None)
    await other.leads()
    assert other.put == [f"{task.task_id}:1"]


async def test_a_standby_does_nothing(fleet: Fleet, leading: Leading) -> None:
    await leading.leads()
    standby = Leading(await fleet.open(), fleet, "two")
    await join(standby.engine)
    await submit(standby.engine)
    await standby.leads()
    assert standby.put == []


async def test_what_a_dead_node_had_is_taken_back_once_its_turns_must_have_ended(leading: Leading) -> None:
    engine = leading.engine
    await leading.leads()
    owner = await join(engine)
    task = await submit(engine)
    await leading.leads()
    assert await engine.claim(task.task_id, 1, node_id="here", owner=owner) is not None
    await leading.after(TTL + TURN_LEASE - 1000)
    assert (await engine.task(task.task_id)).attempts[0].state is AttemptState.RUNNING  # type: ignore[index]
    await leading.after(3000)
    ended = (await engine.task(task.task_id)).attempts[0]  # type: ignore[index]
    assert (ended.state, ended.reason) == (AttemptState.LOST, "node_gone")
    assert await state(leading, task.task_id) == (TaskState.QUEUED, "node_gone")
    await join(engine, "other")
    await leading.leads()
    assert leading.put == [f"{task.task_id}:1", f"{task.task_id}:2"]


async def test_a_new_leader_takes_nothing_back_before_every_node_could_say_that_it_lives(leading: Leading) -> None:
    """The database was away, or the machine slept: every heartbeat has expired, and nobody is dead."""
    engine = leading.engine
    owner = await join(engine)
    task = await submit(engine)
    await leading.leads()
    assert await engine.claim(task.task_id, 1, node_id="here", owner=owner) is not None
    leading.fleet.later(TTL + TURN_LEASE + 60_000)
    leading.fleet.machine.seconds += 78
    await leading.after(TTL - 1000)
    assert (await engine.task(task.task_id)).attempts[0].state is AttemptState.RUNNING  # type: ignore[index]
    await leading.after(2000)
    assert (await engine.task(task.task_id)).attempts[0].state is AttemptState.LOST  # type: ignore[index]


async def test_a_leader_that_stood_still_begins_to_count_anew(leading: Leading) -> None:
    """Its lease was still good, the nodes' heartbeats were not: all of this machine may have stood still."""
    engine = leading.engine
    await leading.after(TTL)
    owner = await join(engine)
    task = await submit(engine)
    await leading.leads()
    assert await engine.claim(task.task_id, 1, node_id="here", owner=owner) is not None
    leading.fleet.machine.seconds += 3.5
    leading.fleet.later(TTL + TURN_LEASE)
    await leading.leads()
    assert (await engine.task(task.task_id)).attempts[0].state is AttemptState.RUNNING  # type: ignore[index]


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
async def test_a_databases_clock_that_is_set_takes_nothing_from_who_lives(leading: Leading, jump: int) -> None:
    """Forward: every lease has expired at once, the leader's too. Back: each is good again from its next renewal on."""
    engine = leading.engine
    leading.fleet.later(2 * HOUR)
    owner = await join(engine)
    attempt = await running(engine, owner)
    await engine.release("leader", holder="leader", term=await lead(engine))
    await leading.leads()
    led = leading.leader.term()
    leading.fleet.later(jump)
    for _ in range(0, 3 * TTL, 2000):
        await leading.after(2000, step=2000)
        assert await beat(engine, owner), "the leader looked first, and gave nobody up"
    assert leading.leader.term() == led if jump < 0 else (leading.leader.term() or 0) > (led or 0)
    ended = await engine.finish(owner, attempt.attempt_id, AttemptState.SUCCEEDED)
    assert (ended.state, ended.attempt_count) == (TaskState.SUCCEEDED, 1)
    await leading.after(TTL + TURN_LEASE)
    assert [each.state for each in await engine.nodes()] == ["gone"], "silence counts as ever"


async def test_a_submit_wakes_the_leader(leading: Leading) -> None:
    await join(leading.engine)
    await leading.leader.try_once()
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(leading.dispatch.run(), name="dispatch")
        task = await submit(leading.engine)
        seen = 0
        while not leading.put:
            seen = await within(leading.engine.wait(seen))
        running.cancel()
    assert leading.put == [f"{task.task_id}:1"]


async def test_what_ended_long_ago_is_forgotten_with_its_events_and_what_is_needed_stays(fleet: Fleet) -> None:
    engine = await fleet.open()
    one = Leading(engine, fleet)
    old, needed = (await submit(engine)).task_id, (await submit(engine)).task_id
    for task_id in (old, needed):
        await engine.cancel(task_id)
    needs = (await submit(engine, depends_on=[needed])).task_id  # fails, because of what it depends on
    waits = (await submit(engine, node="nowhere")).task_id
    await one.leads()
    assert (await engine.task(needs)).state is TaskState.FAILED
    await one.after(HISTORY - 120_000, step=60_000)

    async def there() -> set[str]:
        return {task.task_id for task in (await engine.tasks())[0]}

    assert await there() == {old, needed, needs, waits}
    await one.after(180_000, step=60_000)
    assert await there() == {waits}
    assert (await engine.task(waits)).state is TaskState.QUEUED
    page, _ = await engine.events((await engine.head()).oldest - 1, 1000)
    assert [event.task_id for event in page if event.type == "task.queued"] == [waits]
    assert set(one.pruned) == {ATTEMPTS_KEPT_MS}, "the library's rows go too"


async def test_what_another_task_needs_is_not_forgotten_before_it(fleet: Fleet) -> None:
    engine = await fleet.open()
    term, owner = await lead(engine), await join(engine)
    done = await running(engine, owner)
    await engine.finish(owner, done.attempt_id, AttemptState.SUCCEEDED)
    waits = (await submit(engine, depends_on=[done.task_id], node="nowhere")).task_id
    fleet.later(2000)
    assert await engine.forget(term, keep_ms=1000) == 0
    await engine.cancel(waits)
    assert await engine.forget(term, keep_ms=1000) == 0, "it can be tried again"
    fleet.later(1001)
    assert (await engine.forget(term, keep_ms=1000), await engine.forget(term, keep_ms=1000)) == (1, 1)
    assert await engine.forget(term, keep_ms=1000) == 0
    assert fleet.sql("SELECT count(*) FROM attempt") == fleet.sql("SELECT count(*) FROM dependency") == [(0,)]
