"""A log that is damaged under a living keeper: what was lost is said, cursors expire, and no child of it lives on."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from baa.scripted import Hold, Say, ScriptedModel, when
from baa.sqlite import open_reader, open_writer
from tests.support.asking import refusal_of
from tests.support.faults import saw
from tests.support.keeper_client import alive
from tests.support.node import Node, until
from tests.support.oracle import Oracle, flaws_of

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the tests look at /proc"),
    pytest.mark.timeout(180),  # later than any wait of ours gives up, so that a test that fails cleans up
]

SCENARIOS = (when("plain", Say("Fine.")), when("held", (Say.numbered(50), Hold("held"))))
FRAME = 24 + 4096
"""Bytes of a page in the write-ahead file."""


class House(NamedTuple):
    """A node with a turn in progress, that turn, and a cursor behind its deltas."""

    node: Node
    turn_id: str
    cursor: str


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with ScriptedModel(SCENARIOS) as model, Node(tmp_path, model.base_url) as node:
        await node.start()
        turn_id = await node.turn(await node.session(), "held")
        async with Oracle(node) as oracle:
            await oracle.saw("item.delta", turn_id, count=50)
            head = oracle.events[-1]["seq"]
        # The next mark comes within a second of the last commit, so it speaks of a head that is known by then.
        await node.session()
        await until(lambda: marked(node) > head)
        yield House(node, turn_id, await node.head())


def marked(node: Node) -> int:
    """The seq of the mark, or of either slot."""
    mark = node.database.with_suffix(".mark")
    content = mark.read_bytes() if mark.exists() else b""
    return max((int.from_bytes(content[at + 12 : at + 20], "little") for at in (0, 4096)), default=0)


async def test_a_log_that_lost_its_end_is_another_log_and_its_open_turns_are_lost(house: House) -> None:
    node, turn_id, cursor = house
    keeper = node.keeper
    await node.kill()
    had = int(cursor.partition(":")[2])
    head, wal = had, Path(f"{node.database}-wal")
    while head >= had:
        os.truncate(wal, wal.stat().st_size - FRAME)
        with closing(open_reader(node.database)) as log:
            ((head,),) = log.execute("SELECT max(seq) FROM event")
    saw("F44", head < had, f"the write-ahead file ends at seq {head}, not at {cursor}")
    await node.start()

    assert not alive(keeper)
    assert refusal_of(await node.get("/v1/codexd/events", after=cursor)) == (410, "cursor_expired")
    log_status = (await node.status())["log"]
    assert log_status["epoch"] != cursor.partition(":")[0]
    assert f"it ends at seq {head}" in log_status["problem"]
    turn = await node.end_of_turn(turn_id)
    assert (turn["status"], turn["reason"]) == ("lost", "log_went_back")
    assert f"it ends at seq {head}" in str(turn["evidence"])
    assert flaws_of(await node.events()) == []
    assert (await node.play(await node.session(), "plain"))["status"] == "completed"
    assert await node.stop() == 0
    await node.start()
    assert (await node.status())["log"]["problem"] is None


async def test_a_log_whose_beginning_is_gone_is_set_aside_and_its_child_ended(house: House) -> None:
    node, _, cursor = house
    keeper = node.keeper
    await node.kill()
    with node.database.open("r+b") as file:
        file.write(bytes(100))
    Path(f"{node.database}-wal").unlink()  # or it would be put right from there
    await node.start()

    problem = (await node.status())["log"]["problem"]
    saw("F45", "file is not a database" in problem, "the log's header was zeroed")
    (aside,) = node.state.glob("quarantine-*")
    assert str(aside) in problem
    assert (aside / "codexd.sqlite3").stat().st_size > 0
    assert not alive(keeper)
    assert refusal_of(await node.get("/v1/codexd/events", after=cursor)) == (410, "cursor_expired")
    assert (await node.play(await node.session(), "plain"))["status"] == "completed"


async def test_damage_that_boot_does_not_meet_ends_codexd_and_the_next_one_sets_the_log_aside(house: House) -> None:
    node, _, _ = house
    assert await node.stop() == 0
    with closing(open_writer(node.database)) as log:
        log.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        leaves = "SELECT pageno FROM dbstat WHERE name = 'event' AND pagetype = 'leaf' ORDER BY pageno"
        ((page,), *_) = log.execute(leaves)
        ((size,),) = log.execute("PRAGMA page_size")
    with node.database.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * 200)
    node.doomed = True
    await node.spawn()
    assert await node.ended() == 74
    node.doomed = False
    saw("F45", "damaged" in node.stderr, "a page of events was overwritten")
    (node.folder / "stderr").unlink()
    await node.start()
    assert "damaged" in (await node.status())["log"]["problem"]
    assert (await node.play(await node.session(), "plain"))["status"] == "completed"
