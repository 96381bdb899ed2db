"""The leader's side of the lease: it says standby in time, whatever the engine does."""

from __future__ import annotations

from pathlib import Path

import pytest

from baa.api.conductor import RoleName
from baa.conductor.leader import Leader
from baa.engine.store import Engine, open_engine
from tests.support.outside import outside


class Time:
    """A clock that the test moves; the database's is the same one."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def monotonic(self) -> float:
        return self.seconds

    def utc_ms(self) -> int:
        return round(self.seconds * 1000)


async def engine_in(folder: Path, time: Time) -> Engine:
    return await open_engine(folder / "e", clock=time, now_ms=time.utc_ms, boot_id=lambda: "boot")


def leader(engine: Engine, name: str, time: Time) -> Leader:
    return Leader(engine, holder=name, node_id=f"node-{name}", clock=time)


async def test_the_first_leads_the_second_waits_and_follows(tmp_path: Path) -> None:
    time = Time()
    engine = await engine_in(tmp_path, time)
    one, two = leader(engine, "one", time), leader(engine, "two", time)
    assert (one.role().role, one.role().term, one.role().leader_id) == (RoleName.STANDBY, 0, None)
    await one.try_once()
    await two.try_once()
    assert (one.role().role, two.role().role) == (RoleName.LEADER, RoleName.STANDBY)
    assert (two.role().leader_id, two.role().term, two.role().node_id) == ("node-one", 1, "node-two")

    await one.release()
    assert one.role().role is RoleName.STANDBY
    await two.try_once()
    assert (two.role().role, two.role().term) == (RoleName.LEADER, 2)
    await engine.close()


async def test_a_leader_that_does_not_renew_calls_itself_standby_before_the_lease_ends(tmp_path: Path) -> None:
    time = Time()
    engine = await engine_in(tmp_path, time)
    one, two = leader(engine, "one", time), leader(engine, "two", time)
    await one.try_once()
    time.seconds += 3.9
    assert one.leads()
    time.seconds += 0.2
    assert not one.leads()
    assert (one.role().role, one.role().leader_id) == (RoleName.STANDBY, None)
    await two.try_once()
    assert two.role().role is RoleName.STANDBY, "for the lease itself is good for another two seconds"
    await one.try_once()
    assert (one.leads(), one.role().term) == (True, 1)

    time.seconds += 6
    await two.try_once()
    assert (two.leads(), two.role().term) == (True, 2)
    await one.try_once()
    assert (one.leads(), one.role().leader_id) == (False, "node-two")
    await engine.close()


async def test_trouble_with_the_engine_ends_neither_loop_nor_truth(tmp_path: Path) -> None:
    time = Time()
    engine = await engine_in(tmp_path, time)
    one = leader(engine, "one", time)
    await one.try_once()
    with outside(tmp_path / "e") as sql:
        sql.exec_driver_sql("ALTER TABLE lease RENAME TO away")
        time.seconds += 3
        await one.try_once()
        assert one.leads(), "the lease that it has is still good"
        time.seconds += 2
        await one.try_once()
        assert not one.leads()
        sql.exec_driver_sql("ALTER TABLE away RENAME TO lease")
    await one.try_once()
    assert one.leads()
    await engine.close()


async def test_a_lease_must_outlast_two_renewals(tmp_path: Path) -> None:
    time = Time()
    engine = await engine_in(tmp_path, time)
    with pytest.raises(ValueError, match="outlast two renewals"):
        Leader(engine, holder="x", node_id="x", clock=time, ttl_ms=4000, renew_ms=2000)
    await engine.close()
