"""An attempt and its workers, on SQLite and on PostgreSQL: one writes, whoever comes back too late writes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from baa.api.conductor import NodeState
from baa.api.errors import Code, Rejected
from baa.api.tasks import AttemptState, Evidence, TaskState
from baa.engine.leading import NODE_GONE, NOT_RESUMED
from baa.engine.store import Engine, Fenced, Lost, Standing
from tests.support.engines import TTL, TURN_LEASE, Fleet, assigned, beat, fleet_on, join, lead, node, running, submit

pytestmark = pytest.mark.timeout(150)


@pytest.fixture
async def fleet(engine_url: str) -> AsyncIterator[Fleet]:
    async with fleet_on(engine_url) as fleet:
        yield fleet


async def kinds(engine: Engine, prefix: str) -> list[str]:
    events, _ = await engine.events(0, 1000)
    return [event.type for event in events if event.type.startswith(prefix)]


async def writes_nothing(fleet: Fleet, engine: Engine, owner: str, attempt_id: str) -> None:
    """Whatever this worker tries with the attempt, it is told that it lost it, and nothing is changed."""
    tables = [fleet.sql(f"SELECT * FROM {table} ORDER BY 1") for table in ("task", "attempt", "event", "node")]
    tries: list[Callable[[], Awaitable[object]]] = [
        lambda: engine.record(owner, attempt_id, tokens=1_000_000, events=[("attempt.check", {})]),
        lambda: engine.finish(owner, attempt_id, AttemptState.SUCCEEDED, evidence=Evidence(branch="zombie")),
        lambda: engine.finish(owner, attempt_id, AttemptState.LOST),
    ]
    for each in tries:
        with pytest.raises(Lost):
            await each()
    assert (await engine.standing(owner, [attempt_id]))[attempt_id].owned is False
    assert tables == [fleet.sql(f"SELECT * FROM {table} ORDER BY 1") for table in ("task", "attempt", "event", "node")]


async def test_an_attempt_is_taken_up_by_its_node_alone(fleet: Fleet) -> None:
    engine = await fleet.open()
    owner, other = await join(engine), await join(engine, "there")
    attempt = await assigned(engine)
    assert await engine.claim(attempt.task_id, 1, node_id="there", owner=other) is None
    assert await engine.claim(attempt.task_id, 1, node_id="here", owner=other) is None
    assert await engine.claim(attempt.task_id, 2, node_id="here", owner=owner) is None
    assert await engine.claim("tsk_none", 1, node_id="here", owner=owner) is None
    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(engine.claim(attempt.task_id, 1, node_id="here", owner=owner)) for _ in range(10)]
    assert {answer[1].owner for each in asked if (answer := each.result())} == {owner}, "it is the same again"
    assert (await kinds(engine, "attempt.")).count("attempt.started") == 1
    assert fleet.sql("SELECT tries FROM task") == [(1,)]
    with pytest.raises(Lost):
        await engine.record(other, attempt.attempt_id)
    with pytest.raises(Lost):
        await engine.finish(other, attempt.attempt_id, AttemptState.SUCCEEDED)
    with pytest.raises(Lost):
        await engine.record(owner, f"{attempt.task_id}:9")
    found = await engine.standing(owner, [attempt.attempt_id, "tsk_none:1"])
    assert found == {
        attempt.attempt_id: Standing(cancel_asked=False, owned=True),
        "tsk_none:1": Standing(cancel_asked=False, owned=False),
    }
    assert await engine.standing(owner, []) == {}


async def test_the_next_life_of_a_node_goes_on_and_the_last_one_writes_nothing(fleet: Fleet) -> None:
    engine = await fleet.open()
    old = await join(engine)
    attempt = await running(engine, old)
    await engine.record(old, attempt.attempt_id, session_id="ses_1", turn_id="trn_1", tokens=3)
    fleet.later(100)
    new = await join(engine, incarnation="here-2")
    await writes_nothing(fleet, engine, old, attempt.attempt_id)
    (orphan,) = await engine.orphans("here", new)
    assert (orphan.attempt_id, orphan.session_id, orphan.owner) == (attempt.attempt_id, "ses_1", old)
    assert await engine.claim(attempt.task_id, 1, node_id="here", owner=old) is None
    claimed = await engine.claim(attempt.task_id, 1, node_id="here", owner=new)
    assert claimed is not None
    assert (claimed[1].owner, claimed[1].turn_id, claimed[1].started_at) == (new, "trn_1", attempt.started_at)
    assert (claimed[1].time_ms, claimed[0].time_ms) == (100, 0), "its age is the database's to say"
    assert await engine.orphans("here", new) == []
    assert (await kinds(engine, "attempt."))[-1] == "attempt.resumed"
    await writes_nothing(fleet, engine, old, attempt.attempt_id)
    assert not await beat(engine, old)
    task = await engine.finish(new, attempt.attempt_id, AttemptState.SUCCEEDED)
    assert (task.state, task.tokens, task.time_ms) == (TaskState.SUCCEEDED, 3, 100)
    assert fleet.sql("SELECT tries FROM task") == [(1,)], "going on is no further try"


async def test_a_finish_whose_answer_was_lost_is_the_same_again_and_no_other_is_accepted(fleet: Fleet) -> None:
    engine = await fleet.open()
    owner = await join(engine)
    attempt = await running(engine, owner)
    first = await engine.finish(owner, attempt.attempt_id, AttemptState.STALLED)
    again = await engine.finish(owner, attempt.attempt_id, AttemptState.STALLED)
    assert first == again
    assert (first.state, first.reason) == (TaskState.QUEUED, "stalled")
    with pytest.raises(Lost):
        await engine.finish(owner, attempt.attempt_id, AttemptState.SUCCEEDED)
    with pytest.raises(Lost):
        await engine.record(owner, attempt.attempt_id, tokens=1)
    assert (await kinds(engine, "task."))[-1] == "task.requeued"


async def test_a_dead_node_keeps_what_it_runs_until_its_turns_have_ended(fleet: Fleet) -> None:
    engine = await fleet.open()
    owner, other = await join(engine, slots=9), await join(engine, "there")
    works, waits = await running(engine, owner), await assigned(engine)
    fleet.later(TTL - 1)
    assert await beat(engine, other, "there")
    assert await engine.reap(await lead(engine)) == []
    fleet.later(1)
    (ended,) = await engine.reap(await lead(engine))
    assert (ended.attempt_id, ended.state, ended.reason) == (waits.attempt_id, AttemptState.LOST, NODE_GONE)
    assert [each.state for each in await engine.nodes()] == [NodeState.GONE, NodeState.ACTIVE]
    await writes_nothing(fleet, engine, owner, works.attempt_id)
    assert not await beat(engine, owner), "its worker is told to leave"
    fleet.later(TURN_LEASE - 1)
    assert await beat(engine, other, "there")
    assert await engine.reap(await lead(engine)) == []
    fleet.later(1)
    (ended,) = await engine.reap(await lead(engine))
    assert (ended.attempt_id, ended.state, ended.owner) == (works.attempt_id, AttemptState.LOST, owner)
    assert await engine.reap(await lead(engine)) == []
    assert await kinds(engine, "node.gone") == ["node.gone"]
    for attempt in (works, waits):
        task = await engine.task(attempt.task_id)
        assert (task.state, task.reason, task.attempt_count) == (TaskState.QUEUED, NODE_GONE, 1)
    assert fleet.sql("SELECT tries FROM task ORDER BY tries") == [(0,), (1,)], "what nobody took up was no try"
    assert await engine.assign(await lead(engine), works.task_id, "there") is not None
    await writes_nothing(fleet, engine, owner, works.attempt_id)


async def test_a_node_that_comes_back_in_time_keeps_what_it_ran(fleet: Fleet) -> None:
    engine = await fleet.open()
    attempt = await running(engine, await join(engine))
    fleet.later(TTL)
    assert await engine.reap(await lead(engine)) == []
    fleet.later(TURN_LEASE - 1)
    new = await join(engine, incarnation="here-2")
    assert await engine.claim(attempt.task_id, 1, node_id="here", owner=new) is not None
    fleet.later(TURN_LEASE)
    assert await beat(engine, new)
    assert await engine.reap(await lead(engine)) == []
    assert (await engine.finish(new, attempt.attempt_id, AttemptState.SUCCEEDED)).state is TaskState.SUCCEEDED


async def test_what_a_successor_does_not_take_up_is_ended(fleet: Fleet) -> None:
    engine = await fleet.open()
    attempt = await running(engine, await join(engine), max_attempts=1)
    new = await join(engine, incarnation="here-2")
    for passed in (TURN_LEASE // 3, TURN_LEASE // 3, TURN_LEASE // 3, TTL - 1):
        fleet.later(passed)
        assert await beat(engine, new)
        assert await engine.reap(await lead(engine)) == []
    fleet.later(1)
    (ended,) = await engine.reap(await lead(engine))
    assert (ended.attempt_id, ended.reason) == (attempt.attempt_id, NOT_RESUMED)
    assert await engine.claim(attempt.task_id, 1, node_id="here", owner=new) is None
    assert (await engine.task(attempt.task_id)).state is TaskState.FAILED


async def test_a_node_that_drains_begins_nothing_and_finishes_what_runs(fleet: Fleet) -> None:
    engine = await fleet.open()
    owner = await join(engine, slots=9)
    works, waits = await running(engine, owner), await assigned(engine)
    task = await submit(engine)
    with pytest.raises(Rejected) as caught:
        await engine.drain("nowhere")
    assert caught.value.code is Code.NODE_NOT_FOUND
    for _ in range(2):
        assert (await engine.drain("here")).state is NodeState.DRAINING
    told = await engine.heartbeat("here", owner, NodeState.ACTIVE, ttl_ms=TTL)
    assert (told.alive, told.drain) == (True, True)
    assert [each.state for each in await engine.nodes()] == [NodeState.DRAINING]
    assert (await engine.schedulable(10)).nodes == []
    assert await engine.assign(await lead(engine), task.task_id, "here") is None
    assert await engine.claim(waits.task_id, 1, node_id="here", owner=owner) is None
    (ended,) = await engine.reap(await lead(engine))
    assert ended.attempt_id == waits.attempt_id
    assert (await engine.finish(owner, works.attempt_id, AttemptState.SUCCEEDED)).state is TaskState.SUCCEEDED
    assert await engine.heartbeat("here", owner, NodeState.GONE, ttl_ms=TTL)
    assert not await beat(engine, owner)
    assert await kinds(engine, "node.") == ["node.registered", "node.draining", "node.gone"]
    await join(engine, incarnation="here-2")
    assert [each.state for each in await engine.nodes()] == [NodeState.ACTIVE]


async def test_a_leader_whose_term_is_over_writes_nothing(fleet: Fleet) -> None:
    """Two leaders by hand: the one believes that it still leads."""
    one, two = await fleet.open(), await fleet.open()
    owner = await join(one, slots=9)
    old = await lead(one)
    attempt = await running(one, owner, max_attempts=1)
    task = await submit(one)
    given = await assigned(one, node_id="here")
    assert (await one.acquire("leader", holder="two", node_id="two", ttl_ms=TTL)).holder == "leader"
    fleet.later(TTL)
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: one.assign(old, task.task_id, "here"),
        lambda: one.fail(old, task.task_id, "dependency_failed"),
        lambda: one.unqueued(old),
        lambda: one.reap(old),
        lambda: one.prune(old, keep_ms=0),
    ]
    before = [fleet.sql(f"SELECT * FROM {table} ORDER BY 1") for table in ("task", "attempt", "event", "node", "head")]
    for follower in (False, True):
        if follower:
            assert await lead(two, "two") == old + 1
        for each in calls:
            with pytest.raises(Fenced):
                await each()
    after = [fleet.sql(f"SELECT * FROM {table} ORDER BY 1") for table in ("task", "attempt", "event", "node", "head")]
    assert before == after
    fleet.later(TURN_LEASE)
    ended = {each.attempt_id for each in await two.reap(await lead(two, "two"))}
    assert ended == {attempt.attempt_id, given.attempt_id}


async def test_of_the_reaper_and_a_worker_that_ends_its_attempt_one_wins(fleet: Fleet) -> None:
    """The worker's heartbeat expired, and it writes the end of its attempts while the leader gives it up."""
    leader, worker = await fleet.open(), await fleet.open()
    owner = await join(worker, slots=20)
    attempts = [await running(worker, owner) for _ in range(12)]
    fleet.later(TTL)
    term = await lead(leader)
    finished: set[str] = set()

    async def finish(attempt_id: str) -> None:
        try:
            await worker.finish(owner, attempt_id, AttemptState.SUCCEEDED)
        except Lost:
            return
        finished.add(attempt_id)

    async with asyncio.TaskGroup() as tasks:
        for number, attempt in enumerate(attempts):
            tasks.create_task(finish(attempt.attempt_id))
            if number == 5:
                tasks.create_task(leader.reap(term))
    fleet.later(TURN_LEASE)
    reaped = {each.attempt_id for each in await leader.reap(await lead(leader))}
    assert finished | reaped == {each.attempt_id for each in attempts}
    assert not finished & reaped
    for attempt in attempts:
        state = (await leader.task(attempt.task_id)).state
        assert state == ("succeeded" if attempt.attempt_id in finished else "queued")
    ends = await kinds(leader, "attempt.ended")
    assert len(ends) == len(attempts)


async def test_a_reaper_and_a_successor_never_both_have_an_attempt(fleet: Fleet) -> None:
    leader, worker = await fleet.open(), await fleet.open()
    owner = await join(worker, slots=20)
    attempts = [await running(worker, owner) for _ in range(8)]
    fleet.later(TTL + TURN_LEASE)
    term = await lead(leader)
    taken: set[str] = set()

    async def take(task_id: str) -> None:
        found = await worker.claim(task_id, 1, node_id="here", owner="here-2")
        if found is not None:
            taken.add(found[1].attempt_id)

    async with asyncio.TaskGroup() as tasks:
        reaping = tasks.create_task(leader.reap(term))
        await worker.register(node(incarnation="here-2", slots=20), ttl_ms=TTL, turn_lease_ms=TURN_LEASE)
        for attempt in attempts:
            tasks.create_task(take(attempt.task_id))
    reaped = {each.attempt_id for each in reaping.result()}
    assert not taken & reaped
    assert taken | reaped == {each.attempt_id for each in attempts}


async def test_terms_never_go_back(fleet: Fleet) -> None:
    engines = {name: await fleet.open() for name in "abc"}
    holders: dict[int, str] = {}
    last = 0
    for step in range(24):
        async with asyncio.TaskGroup() as tasks:
            asked = [
                tasks.create_task(engine.acquire("leader", holder=name, node_id=name, ttl_ms=TTL))
                for name, engine in engines.items()
            ]
        leases = [each.result() for each in asked]
        assert len({(lease.holder, lease.term) for lease in leases}) == 1
        lease = leases[0]
        assert lease.term >= last
        assert holders.setdefault(lease.term, lease.holder) == lease.holder
        last = lease.term
        if step % 3 == 0:
            await engines[lease.holder].release("leader", holder=lease.holder, term=lease.term)
        elif step % 3 == 1:
            fleet.later(TTL)
    assert last >= 12
