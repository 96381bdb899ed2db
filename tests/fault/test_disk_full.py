"""A disk that is full, under the real Codex: what would write is refused, all else goes on, and nothing is lost.

State folder, log and spool are on a small tmpfs, which a file of the test fills to the last byte.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import apsw
import pytest

from baa.clock import SystemClock
from baa.codexd.eventlog import EventLog, Transaction
from baa.scripted import Hold, Say, ScriptedModel, when
from tests.support.asking import TURN, refusal_of
from tests.support.disk import MIB, Disk, needs_disk
from tests.support.faults import saw
from tests.support.node import Node, log_is, until
from tests.support.oracle import Oracle, deltas, flaws_of, numbered
from tests.unit.test_eventlog import committed, opened, stored, warning
from tests.unit.test_log_file import facts, older

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the tests look at /proc"),
    needs_disk,
    pytest.mark.timeout(180),  # later than any wait of ours gives up, so that a test that fails cleans up
]

SCENARIOS = (when("plain", Say("Fine.")), when("held", (Say.numbered(50), Hold("held"), Say.numbered(3000, start=50))))
FULL = (507, "storage_full")


class House(NamedTuple):
    """A node with its state on a small disk, the model behind its Codex, and the disk."""

    node: Node
    model: ScriptedModel
    disk: Disk


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with ScriptedModel(SCENARIOS) as model:
        node = Node(tmp_path, model.base_url, codex_home=str(tmp_path / "codex-home"))
        node.codex_home = tmp_path / "codex-home"
        with Disk(node.state, size=64 * MIB) as disk:
            async with node:
                await node.start()
                yield House(node, model, disk)


async def fill(house: House) -> None:
    """Fill the disk, and ask until codexd has met that."""
    node, _, disk = house
    disk.fill()
    status = 201
    while status == 201:
        body = {"cwd": str(node.work), "sandbox": "danger-full-access", "developerInstructions": "x" * 4000}
        answer = await node.post("/v1/codexd/sessions", body)
        status = answer.status_code
    assert refusal_of(answer) == FULL
    assert str(node.state) in answer.json()["error"]["message"]
    assert answer.headers["retry-after"] == "10"
    disk.fill()  # half of the ballast was given back, for others to take


async def test_a_full_disk_refuses_what_is_new_and_loses_nothing_of_what_runs(house: House) -> None:
    node, model, disk = house
    session_id = await node.session()
    async with Oracle(node) as oracle:
        turn_id = await node.turn(session_id, "held")
        await oracle.saw("item.delta", turn_id, count=50)
        await fill(house)
        log = await log_is(node, "full")
        saw("F40", "No space left on device" in log["problem"], "507 on a disk without a byte of space")
        model.release("held")  # what is said now waits in the spool, in the keeper and in the pipe

        body = {"sessionId": session_id, "prompt": "plain", "onBusy": "enqueue"}
        for _ in range(3):
            assert refusal_of(await node.post(TURN, body, key="once")) == FULL
        assert refusal_of(await node.post(f"{TURN}/{turn_id}/interrupt", {})) == FULL
        assert (await node.get("/healthz")).status_code == 200
        assert (await node.ledger(turn_id))["status"] == "in_progress"
        assert len(await node.events()) == (await node.status())["log"]["head"]
        assert (await node.get("/v1/codexd/sessions")).status_code == 200
        assert len(deltas(oracle.events, turn_id)) == 50

        disk.clear()
        assert (await log_is(node, "ok"))["problem"] is None
        assert (await node.end_of_turn(turn_id))["status"] == "completed"
        await oracle.end_of(turn_id)
        assert deltas(oracle.events, turn_id) == numbered(3050)
        first = (await node.post(TURN, body, key="once")).json()["data"]["turn"]["turnId"]
        assert (await node.post(TURN, body, key="once")).json()["data"]["turn"]["turnId"] == first
        assert (await node.end_of_turn(first))["status"] == "completed"
        await oracle.caught_up()
        assert flaws_of(oracle.events) == []
    assert node.starts == 1


async def test_codexd_starts_on_a_full_disk_and_goes_on_when_there_is_space(house: House) -> None:
    node, model, disk = house
    session_id = await node.session()
    async with Oracle(node) as oracle:
        turn_id = await node.turn(session_id, "held")
        await oracle.saw("item.delta", turn_id, count=50)
        await fill(house)
        await node.kill()
        disk.fill()
        await node.start()
        log = await log_is(node, "full")
        assert log["epoch"] == oracle.cursor.partition(":")[0]
        saw("F40", "No space left on device" in log["problem"], "started without a byte of space")
        assert refusal_of(await node.post(TURN, {"sessionId": session_id, "prompt": "plain"})) == FULL
        assert (await node.ledger(turn_id))["status"] == "in_progress"
        model.release("held")
        disk.clear()
        await log_is(node, "ok")
        assert (await node.end_of_turn(turn_id))["status"] == "completed"
        await oracle.end_of(turn_id)
        assert deltas(oracle.events, turn_id) == numbered(3050)
        await oracle.caught_up()
        assert flaws_of(oracle.events) == []


async def test_without_any_ballast_it_reads_on_and_stops_with_nothing_left_and_nothing_lost(house: House) -> None:
    node, _, disk = house
    session_id = await node.session()
    turn_id = await node.turn(session_id, "held")
    async with Oracle(node) as oracle:
        await oracle.saw("item.delta", turn_id, count=50)
    await fill(house)
    await node.kill()
    (node.state / "codexd.ballast").write_bytes(b"")
    disk.fill()
    await node.start()
    await log_is(node, "full")
    assert (await node.ledger(turn_id))["status"] == "in_progress"
    assert refusal_of(await node.post(TURN, {"sessionId": session_id, "prompt": "plain"})) == FULL

    assert await node.stop() == 74
    assert "No space left on device" in node.stderr
    (node.folder / "stderr").unlink()
    await until(lambda: not node.left())
    disk.clear()
    await node.start()
    turn = await node.end_of_turn(turn_id)
    assert (turn["status"], turn["reason"]) == ("interrupted", "child_exited")
    assert flaws_of(await node.events()) == []


# --- the log alone


async def test_a_checkpoint_that_finds_no_space_loses_no_row_and_is_made_up_for(tmp_path: Path) -> None:
    with Disk(tmp_path / "disk", size=30 * MIB) as disk:
        path = disk.path / "log.sqlite3"
        wal = Path(f"{path}-wal")
        async with opened(path) as log:
            written = 0
            while log.full is None and written < 60:
                await committed(log, Transaction([warning("x" * MIB)]))
                written += 1
            grown = wal.stat().st_size
            saw("F40", log.full and grown > 17 * MIB, f"no checkpoint for want of space, at {grown} bytes to copy")
            assert [row[0] for row in stored(path)] == list(range(1, written + 1))
            disk.resize(90 * MIB)
            await until(lambda: log.full is None)
            await committed(log, Transaction([warning("after")]))
            assert path.stat().st_size > written * MIB
            assert len(stored(path)) == written + 1


async def test_an_upgrade_that_finds_no_space_changes_nothing_and_is_made_up_for(tmp_path: Path) -> None:
    with Disk(tmp_path / "disk", size=30 * MIB) as disk:
        path = disk.path / "log.sqlite3"
        await older(path, 2, size=6 * MIB)
        before = facts(path)
        disk.fill()
        with pytest.raises((apsw.FullError, apsw.IOError, OSError)) as caught:
            EventLog(path, clock=SystemClock())
        saw("F40", "full" in str(caught.value), f"an upgrade met: {caught.value}")
        assert facts(path) == before
        disk.clear()
        async with opened(path) as log:
            assert (log.head, log.problem) == (7, None)
        assert facts(path)[:-1] == before[:-1]
