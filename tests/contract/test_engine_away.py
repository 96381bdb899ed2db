"""The engine's server goes away, freezes and comes back; and a program freezes while the server waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy import event

from baa.api.errors import CannotStart
from baa.api.tasks import AttemptState, TaskState
from baa.engine.database import Database, Transaction, open_postgres
from baa.engine.store import EngineFailed, open_engine
from tests.support.engines import TTL, TURN_LEASE, Fleet, beat, fleet_on, join, lead, running, submit
from tests.support.node import until
from tests.support.outside import outside
from tests.support.postgres import PostgreSQL

pytestmark = pytest.mark.timeout(150)


@pytest.fixture
async def fleet(postgres_url: str) -> AsyncIterator[Fleet]:
    async with fleet_on(postgres_url) as fleet:
        yield fleet


async def test_a_server_that_was_killed_is_met_again_and_nothing_committed_is_lost(
    fleet: Fleet, postgres: PostgreSQL
) -> None:
    engine = await fleet.open()
    owner = await join(engine)
    attempt = await running(engine, owner)
    postgres.kill()
    with pytest.raises(EngineFailed) as failed:
        await engine.task(attempt.task_id)
    assert failed.value.passing
    assert "test_" not in str(failed.value).partition("database")[0], "no statement and no value is told"
    for asking in (engine.probe("me"), beat(engine, owner), engine.wait(10_000), engine.events(0, 10)):
        with pytest.raises(EngineFailed):
            await asking
    postgres.start()
    assert (await engine.task(attempt.task_id)).state is TaskState.RUNNING
    assert await beat(engine, owner)
    assert (await engine.finish(owner, attempt.attempt_id, AttemptState.SUCCEEDED)).state is TaskState.SUCCEEDED


async def test_what_a_worker_must_write_down_waits_for_the_server(fleet: Fleet, postgres: PostgreSQL) -> None:
    engine = await fleet.open()
    owner = await join(engine)
    attempt = await running(engine, owner)
    postgres.kill()
    async with asyncio.TaskGroup() as tasks:
        finishing = tasks.create_task(engine.finish(owner, attempt.attempt_id, AttemptState.SUCCEEDED))
        with pytest.raises(EngineFailed):
            await engine.probe("me")
        assert not finishing.done()
        await asyncio.to_thread(postgres.start)
    assert finishing.result().state is TaskState.SUCCEEDED


async def test_a_commit_whose_answer_is_lost_counts_once(fleet: Fleet) -> None:
    """The connection is cut after the server committed, and before its answer is heard; or before it committed."""
    engine = await fleet.open()
    owner = await join(engine)
    attempt = await running(engine, owner)
    sql = open_postgres(fleet.url, 5000)
    cut: list[str] = []

    def commit(connection: sa.Connection) -> None:
        driver = connection.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        if cut:
            if cut.pop() == "after":
                driver.commit()
            driver.pgconn.finish()

    event.listen(sql, "commit", commit)
    threads = ThreadPoolExecutor(1)
    database = Database(sql, threads, fleet.machine, lambda tx: 0)

    def work(tx: Transaction) -> int:
        tx.run("UPDATE attempt SET tokens = tokens + 1")
        return tx.number("SELECT tokens FROM attempt WHERE attempt_id = :id", id=attempt.attempt_id)

    cut.append("after")
    assert await database.write(work) == 1
    cut.append("before")
    assert await database.write(work) == 2
    assert fleet.sql("SELECT tokens FROM attempt") == [(2,)]
    await database.close()


async def test_a_program_that_freezes_in_a_transaction_holds_up_nobody_for_long(fleet: Fleet) -> None:
    engine = await fleet.open()
    term = await lead(engine)
    frozen = open_postgres(fleet.url, 4000)
    with frozen.connect() as connection:
        connection.exec_driver_sql("SELECT * FROM head FOR UPDATE")
        connection.exec_driver_sql("SELECT * FROM lease FOR UPDATE")
        task = await submit(engine)  # once the server has let go of it
        assert await lead(engine) == term
        with pytest.raises(sa.exc.DBAPIError, match="idle-in-transaction timeout"):
            connection.exec_driver_sql("SELECT 1")
        connection.invalidate()
    frozen.dispose()
    assert (await engine.task(task.task_id)).state is TaskState.QUEUED


async def test_a_close_waits_for_what_its_caller_does_not_wait_for_and_leaves_no_connection(fleet: Fleet) -> None:
    engine = await fleet.open()
    ours = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'baa' AND datname = current_database()"
    with psycopg.connect(fleet.url) as holding, psycopg.connect(fleet.url, autocommit=True) as looking:
        holding.execute("SELECT * FROM baa.head FOR UPDATE")
        async with asyncio.TaskGroup() as tasks:
            submitting = tasks.create_task(submit(engine))
            await until(lambda: looking.execute(f"{ours} AND wait_event_type = 'Lock'").fetchone() == (1,))
            submitting.cancel()
        async with asyncio.TaskGroup() as tasks:
            closing = tasks.create_task(engine.close())
            await asyncio.sleep(0)
            assert not closing.done()
            holding.rollback()
        await until(lambda: looking.execute(ours).fetchone() == (0,))
    (state,) = fleet.sql("SELECT state FROM task")
    assert state == ("queued",), "it was done, though nobody heard of it"


async def test_the_servers_own_clock_moves_and_its_boot_is_always_the_same(postgres_url: str) -> None:
    one = await open_engine(postgres_url)
    two = await open_engine(postgres_url)
    first = await one.acquire("leader", holder="a", node_id="a", ttl_ms=1)
    assert first.valid
    while (found := await two.acquire("leader", holder="b", node_id="b", ttl_ms=TTL)).holder != "b":
        pass
    assert (found.term, (await one.acquire("leader", holder="a", node_id="a", ttl_ms=TTL)).holder) == (2, "b")
    await one.close()
    await two.close()


async def test_a_server_that_cannot_be_reached_is_told_at_the_start_without_its_password(postgres_url: str) -> None:
    wrong = postgres_url.replace("baa:", "baa:wrong")
    with pytest.raises(CannotStart, match="cannot be opened") as refused:
        await open_engine(wrong)
    assert "wrong" not in refused.value.message
    assert refused.value.exit_code == 69


async def test_a_newer_releases_schema_is_refused(fleet: Fleet) -> None:
    await fleet.open()
    fleet.sql("UPDATE version SET version = 99")
    with pytest.raises(CannotStart, match="schema is version 99") as newer:
        await open_engine(fleet.url)
    assert newer.value.exit_code == 78


async def test_a_fleet_that_starts_at_once_makes_one_schema(fleet: Fleet) -> None:
    async with asyncio.TaskGroup() as tasks:
        opening = [tasks.create_task(open_engine(fleet.url)) for _ in range(8)]
    for each in opening:
        await each.result().close()
    assert fleet.sql("SELECT count(*) FROM version") == [(1,)]


async def test_a_file_that_is_locked_fails_and_works_again(tmp_path: Path) -> None:
    async with fleet_on(f"sqlite://{tmp_path}/e") as fleet:
        engine = await fleet.open()
        owner = await join(engine)
        attempt = await running(engine, owner)
        with outside(tmp_path / "e") as sql:
            sql.exec_driver_sql("BEGIN IMMEDIATE")
            assert (await engine.task(attempt.task_id)).state is TaskState.RUNNING, "who reads need not wait"
            async with asyncio.TaskGroup() as tasks:
                finishing = tasks.create_task(engine.finish(owner, attempt.attempt_id, AttemptState.SUCCEEDED))
                with pytest.raises(EngineFailed, match="locked") as failed:
                    await engine.probe("me")
                assert failed.value.passing
                sql.exec_driver_sql("ROLLBACK")
        assert finishing.result().state is TaskState.SUCCEEDED


async def test_a_leader_that_waited_for_a_row_sees_what_happened_to_it_meanwhile(fleet: Fleet) -> None:
    """A successor takes the attempt up while the leader is about to end it."""
    engine = await fleet.open()
    attempt = await running(engine, await join(engine))
    fleet.later(TTL + TURN_LEASE)
    term = await lead(engine)
    other = open_postgres(fleet.url, 30_000)
    async with asyncio.TaskGroup() as tasks:
        with other.begin() as connection:
            connection.exec_driver_sql("SELECT * FROM task FOR UPDATE")
            connection.exec_driver_sql("UPDATE attempt SET owner = 'here-2'")
            reaping = tasks.create_task(engine.reap(term))
            while await asyncio.to_thread(fleet.sql, "SELECT count(*) FROM pg_locks WHERE NOT granted") == [(0,)]:
                pass
    other.dispose()
    assert reaping.result() == []
    assert (await engine.task(attempt.task_id)).state is TaskState.RUNNING
