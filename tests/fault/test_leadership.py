"""Two conductors on one engine, SQLite and PostgreSQL, as real processes that are killed, stopped and frozen."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.faults import saw
from tests.support.node import Json
from tests.support.programs import Program

pytestmark = [
    pytest.mark.timeout(150),
]


def conductor(folder: Path, name: str, engine_url: str) -> Program:
    return Program("conductor", folder / name, BAA_ENGINE_URL=engine_url, BAA_NODE_ID=name)


def leads(data: Json) -> bool:
    return bool(data["role"] == "leader")


@pytest.fixture
async def pair(tmp_path: Path, engine_url: str) -> AsyncIterator[tuple[Program, Program]]:
    async with conductor(tmp_path, "one", engine_url) as one, conductor(tmp_path, "two", engine_url) as two:
        assert (await one.get("/rolez"))["role"] == "leader"
        role = await two.get("/rolez")
        assert (role["role"], role["leaderId"], role["term"]) == ("standby", "one", 1)
        yield one, two


async def test_the_standby_takes_over_when_the_leader_is_killed(pair: tuple[Program, Program]) -> None:
    one, two = pair
    await one.kill()
    role = await two.becomes("/rolez", leads)
    saw("F16", role["term"] == 2, "the holder of the lease was killed")
    assert (role["leaderId"], role["term"]) == ("two", 2)
    await one.start()
    role = await one.get("/rolez")
    assert (role["role"], role["leaderId"], role["term"]) == ("standby", "two", 2)


async def test_a_leader_that_stops_lets_go(pair: tuple[Program, Program]) -> None:
    one, two = pair
    assert await one.stop() == (0, "")
    role = await two.becomes("/rolez", leads)
    assert role["term"] == 2
    assert '"event":"role.standby"' in one.log


async def test_a_frozen_leader_comes_back_as_standby(pair: tuple[Program, Program]) -> None:
    one, two = pair
    one.signal(signal.SIGSTOP)
    try:
        assert (await two.becomes("/rolez", leads))["term"] == 2
    finally:
        one.signal(signal.SIGCONT)
    seen = []

    def settled(data: Json) -> bool:
        seen.append(data["role"])
        return bool(data["leaderId"] == "two")

    assert (await one.becomes("/rolez", settled))["term"] == 2
    assert "leader" not in seen, "not for a moment"
    saw("F78", seen, "a leader was frozen beyond its lease, and came back as standby")
