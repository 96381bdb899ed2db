"""The events of the fleet, on SQLite and on PostgreSQL: numbered as they are committed, without a gap, each once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from baa.api.errors import Code, Rejected
from baa.api.tasks import AttemptState, QueueEventType
from baa.engine.store import Engine, Lost
from tests.support.engines import Fleet, fleet_on, join, lead, running, submit

pytestmark = pytest.mark.timeout(150)


@pytest.fixture
async def fleet(engine_url: str) -> AsyncIterator[Fleet]:
    async with fleet_on(engine_url) as fleet:
        yield fleet


def codexd(*numbers: int, session: str | None = None) -> list[dict[str, Any]]:
    """codexd's events, as its API tells them."""
    return [
        {
            "seq": number,
            "at": "2026-01-01T00:00:00.000Z",
            "type": "turn.started",
            "sessionId": session,
            "turnId": "trn_1" if session else None,
            "payload": {"number": number},
        }
        for number in numbers
    ]


async def test_numbers_have_no_gap_and_readers_miss_nothing_whoever_writes_at_once(fleet: Fleet) -> None:
    writers = [await fleet.open() for _ in range(3)]
    reader = await fleet.open()
    owners = [await join(engine, f"node{number}") for number, engine in enumerate(writers)]
    attempts = [
        await running(engine, owner, f"node{number}")
        for number, (engine, owner) in enumerate(zip(writers, owners, strict=True))
    ]
    start = (await reader.head()).head
    rounds = 12
    seen: list[int] = []

    async def write(engine: Engine, owner: str, attempt_id: str) -> None:
        for number in range(rounds):
            told = [(QueueEventType.ATTEMPT_TURN, {"number": number}), (QueueEventType.ATTEMPT_CHECK, {})]
            await engine.record(owner, attempt_id, events=told)

    async def follow() -> None:
        after = start
        while len(seen) < rounds * 2 * len(writers):
            assert await reader.wait(after) > after
            page, after = await reader.events(after, 7)
            seen.extend(event.seq for event in page)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(follow())
        for engine, owner, attempt in zip(writers, owners, attempts, strict=True):
            tasks.create_task(write(engine, owner, attempt.attempt_id))
    assert seen == list(range(start + 1, start + 1 + rounds * 2 * len(writers)))


async def test_pages_are_by_type_and_task_and_go_past_what_is_left_out(fleet: Fleet) -> None:
    engine = await fleet.open()
    owner = await join(engine)
    attempt = await running(engine, owner)
    await submit(engine)
    head = await engine.head()
    page, after = await engine.events(0, 100, task_id=attempt.task_id)
    assert [(event.type, event.attempt) for event in page] == [
        ("task.queued", None),
        ("task.started", 1),
        ("attempt.assigned", 1),
        ("attempt.started", 1),
    ]
    assert after == head.head
    page, after = await engine.events(0, 1, types=["task.queued", "node.registered"])
    assert ([event.type for event in page], after) == (["node.registered"], 1)
    page, after = await engine.events(after, 100, types=["nothing"])
    assert (page, after) == ([], head.head)
    assert await engine.events(head.head, 10) == ([], head.head)
    with pytest.raises(Rejected) as ahead:
        await engine.events(head.head + 1, 10)
    assert (ahead.value.code, ahead.value.details) == (Code.CURSOR_AHEAD, {"head": head.head})


async def test_what_codexd_tells_is_taken_over_once_with_its_cursor(fleet: Fleet) -> None:
    engine = await fleet.open()
    owner = await join(engine)
    attempt = await running(engine, owner)
    await engine.record(owner, attempt.attempt_id, session_id="ses_1")
    assert await engine.feed_cursor("here") is None
    start = (await engine.head()).head
    await engine.append_codexd(owner, "here", "one", 9, codexd(3, 5, session="ses_1") + codexd(6))
    assert await engine.feed_cursor("here") == "one:9"
    await engine.append_codexd(owner, "here", "one", 9, codexd(3, 5, session="ses_1"))
    await engine.append_codexd(owner, "here", "one", 12, codexd(6, 11))
    page, _ = await engine.events(start, 100)
    assert [event.source for event in page] == ["codexd:one:3", "codexd:one:5", "codexd:one:6", "codexd:one:11"]
    assert [(event.task_id, event.attempt) for event in page[:3]] == [(attempt.task_id, 1)] * 2 + [(None, None)]
    assert page[0].payload == codexd(3, session="ses_1")[0]
    assert (page[0].session_id, page[0].turn_id, page[0].at) == ("ses_1", "trn_1", "2026-01-01T00:00:00.000Z")

    await engine.append_codexd(owner, "here", "two", 1, codexd(1), missed={"from": "one:12"})
    page, _ = await engine.events(start + 4, 100)
    assert [(event.type, event.source) for event in page] == [
        ("node.events_missed", "engine"),
        ("turn.started", "codexd:two:1"),
    ]
    await join(engine, incarnation="here-2")
    for wrong in (owner, await join(engine, "there")):
        with pytest.raises(Lost):
            await engine.append_codexd(wrong, "here", "two", 2, codexd(2))
    assert await engine.feed_cursor("here") == "two:1"


async def test_old_events_go_from_the_front_and_never_those_of_a_task_that_is_open(fleet: Fleet) -> None:
    engine = await fleet.open()
    term, owner = await lead(engine), await join(engine)
    ended = await running(engine, owner)
    await engine.finish(owner, ended.attempt_id, AttemptState.SUCCEEDED)
    stays = await running(engine, owner)
    before = await engine.head()
    assert await engine.prune(term, keep_ms=1000) == 0, "all are young"
    fleet.later(1001)
    gone = await engine.prune(term, keep_ms=1000)
    page, _ = await engine.events(gone, 1000)
    assert page[0].task_id == stays.task_id
    assert (await engine.head()).oldest == page[0].seq == gone + 1
    assert await engine.prune(term, keep_ms=1000) == 0
    with pytest.raises(Rejected) as expired:
        await engine.events(gone - 1, 10)
    assert (expired.value.code, expired.value.details) == (Code.CURSOR_EXPIRED, {"oldest": gone + 1})
    await engine.finish(owner, stays.attempt_id, AttemptState.FAILED)
    await engine.prune(term, keep_ms=1000)
    page, _ = await engine.events(before.head, 1000)
    assert [event.type for event in page] == ["attempt.ended", "task.failed"], "these are young"
    fleet.later(1001)
    await engine.prune(term, keep_ms=1000)
    head = await engine.head()
    assert (head.oldest, head.epoch) == (head.head + 1, before.epoch)
    assert await engine.events(head.head, 10) == ([], head.head)


async def test_who_waits_hears_of_this_program_and_of_others(fleet: Fleet) -> None:
    one, two = await fleet.open(), await fleet.open()
    head = (await one.head()).head
    async with asyncio.TaskGroup() as tasks:
        waiting = [tasks.create_task(engine.wait(head)) for engine in (one, two) for _ in range(20)]
        await submit(one)
    assert {each.result() for each in waiting} == {head + 1}
    assert await one.wait(0) == head + 1
