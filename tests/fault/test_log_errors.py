"""A disk that fails, is slow or read-only, and files that vanish, under the real Codex."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import httpx2
import pytest

from baa.scripted import Hold, Say, ScriptedModel, when
from tests.support.asking import TURN, refusal_of, turn_of
from tests.support.disk import MIB, Disk, needs_disk
from tests.support.faults import saw
from tests.support.keeper_client import alive
from tests.support.node import Node, log_is, until
from tests.support.oracle import Oracle, deltas, flaws_of, numbered

pytestmark = [
    pytest.mark.skipif(
        sys.platform != "linux" or shutil.which("strace") is None, reason="strace is not here: apt-get install strace"
    ),
    pytest.mark.timeout(180),  # later than any wait of ours gives up, so that a test that fails cleans up
]

SCENARIOS = (when("plain", Say("Fine.")), when("held", (Say.numbered(50), Hold("held"), Say.numbered(50, start=50))))


class House(NamedTuple):
    """A node that is not started yet, the model behind its Codex, and where the trace of its calls goes."""

    node: Node
    model: ScriptedModel
    trace: Path

    def inject(self, call: str, what: str, *, of: Path) -> None:
        """From its next start on the node's codexd meets this at these calls on this file."""
        only = ("-P", str(of), "-e", f"trace={call}", "-e", f"inject={call}:{what}")
        self.node.command = ("strace", "-D", "-f", "-b", "execve", "-qqq", "-o", str(self.trace), *only, "--", *PLAIN)

    @property
    def met(self) -> list[str]:
        """The calls of the trace that something was done to."""
        return [line for line in self.trace.read_text().splitlines() if "(INJECTED)" in line or "(DELAYED)" in line]


PLAIN = (sys.executable, "-m", "baa.codexd")


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with ScriptedModel(SCENARIOS) as model, Node(tmp_path, model.base_url) as node:
        await node.start()
        await node.stop()  # its log is made, and its folders
        yield House(node, model, tmp_path / "trace")


def wal(node: Node) -> Path:
    return Path(f"{node.database}-wal")


async def test_after_a_failed_sync_nothing_is_acknowledged_and_nothing_tried_again(house: House) -> None:
    node, model, trace = house
    await node.start()
    session_id = await node.session()
    async with Oracle(node) as oracle:
        turn_id = await node.turn(session_id, "held")
        await oracle.saw("item.delta", turn_id, count=50)
        keeper = node.keeper
        node.doomed = True
        await node.kill()
        house.inject("fdatasync", "error=EIO:when=6", of=wal(node))
        await node.start()
        answered: list[str] = []
        with suppress(httpx2.TransportError):
            while True:
                answered.append(await turn_of(node, session_id, "plain", key=str(len(answered)), onBusy="enqueue"))
        assert await node.ended() == 74
        calls = [line for line in trace.read_text().splitlines() if "fdatasync(" in line]
        saw("F42", "EIO" in calls[-1], f"a sync of the log failed after {len(answered)} answers")
        assert len(house.met) == 1, "the sync was tried again"
        assert "cannot be written" in node.stderr
        (node.folder / "stderr").unlink()
        assert alive(keeper)
        node.command, node.doomed = PLAIN, False
        await node.start()
        assert node.keeper == keeper
        model.release("held")
        assert (await node.end_of_turn(turn_id))["status"] == "completed"
        for number, waiting in enumerate(answered):
            assert await turn_of(node, session_id, "plain", key=str(number), onBusy="enqueue") == waiting
        for event in await node.events(types="turn.queued"):  # one that was not answered may be in the log
            assert (await node.end_of_turn(event["turnId"]))["status"] == "completed"
        await oracle.caught_up()
        assert deltas(oracle.events, turn_id) == numbered(100)
        assert flaws_of(oracle.events) == []


async def test_a_folder_that_becomes_read_only_is_met_as_a_full_disk_is(house: House) -> None:
    node, _, _ = house
    house.inject("pwrite64", "error=EROFS:when=40..49", of=wal(node))
    await node.start()
    session_id = await node.session()
    body = {"sessionId": session_id, "prompt": "plain", "onBusy": "enqueue"}

    async def ask_on() -> None:
        while (await node.post(TURN, body)).status_code == 202:
            pass

    async with asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(ask_on(), name="asking")  # the last one waits until it can be committed
        await log_is(node, "full")
        answer = await node.post(TURN, body)
        assert refusal_of(answer) == (507, "storage_full")
        asking.cancel()
    saw("F41", "EROFS" in house.met[0], "a write to the log was refused by a read-only file system")
    assert "Read-only file system" in answer.json()["error"]["message"]
    await log_is(node, "ok")
    turn_id = await turn_of(node, session_id, "plain", onBusy="enqueue")
    assert (await node.end_of_turn(turn_id))["status"] == "completed"
    assert flaws_of(await node.events()) == []


async def test_slow_writes_cost_time_and_nothing_else(house: House) -> None:
    node, model, _ = house
    house.inject("pwrite64", "delay_exit=20000", of=wal(node))
    await node.start()
    model.release("held")
    async with Oracle(node) as oracle:
        turn_id = await node.turn(await node.session(), "held")
        await oracle.end_of(turn_id)
        assert deltas(oracle.events, turn_id) == numbered(100)
        assert flaws_of(oracle.events) == []
    saw("F43", len(house.met) > 20, f"{len(house.met)} writes to the log took 20 ms more")


async def test_without_its_lock_codexd_ends_and_the_next_one_goes_on(house: House) -> None:
    node, model, _ = house
    await node.start()
    turn_id = await node.turn(await node.session(), "held")
    await node.child()
    keeper = node.keeper
    lock = node.state / "daemon.lock"
    node.doomed = True
    lock.unlink()
    assert await node.ended() == 74
    saw("F51", str(lock) in node.stderr, "the lock was removed while codexd ran")
    (node.folder / "stderr").unlink()
    assert alive(keeper)
    node.doomed = False
    await node.start()
    assert node.keeper == keeper
    model.release("held")
    assert (await node.end_of_turn(turn_id))["status"] == "completed"


async def test_the_mark_may_go_while_codexd_runs_and_is_made_again(house: House) -> None:
    node, _, _ = house
    await node.start()
    mark = node.database.with_suffix(".mark")
    await until(mark.exists)
    mark.unlink()
    saw("F51", not mark.exists(), "the mark was removed while codexd ran")
    await node.session()
    await until(mark.exists)


@needs_disk
async def test_codexd_does_not_start_on_a_read_only_folder_and_says_why(tmp_path: Path) -> None:
    async with ScriptedModel(SCENARIOS) as model:
        node = Node(tmp_path, model.base_url, codex_home=str(tmp_path / "codex-home"))
        node.codex_home = tmp_path / "codex-home"
        with Disk(node.state, size=64 * MIB) as disk:
            async with node:
                await node.start()
                await node.stop()
                before = sorted(os.listdir(node.state))
                disk.freeze()
                code, said = await node.another()
                saw("F41", "Read-only file system" in said, "the state folder was mounted read-only")
                assert code == 73
                assert str(node.state) in said
                assert re.search("Make the folder writable", said)
                assert sorted(os.listdir(node.state)) == before


@needs_disk
async def test_without_inodes_what_runs_goes_on_and_new_turns_too(tmp_path: Path) -> None:
    async with ScriptedModel(SCENARIOS) as model:
        node = Node(tmp_path, model.base_url, codex_home=str(tmp_path / "codex-home"))
        node.codex_home = tmp_path / "codex-home"
        with Disk(node.state, size=64 * MIB, inodes=200) as disk:
            async with node:
                await node.start()
                session_id = await node.session()
                await node.child()
                made = disk.fill_inodes()
                saw("F50", made > 0, f"no file can be made after {made} more")
                assert (await node.play(session_id, "plain"))["finalMessage"] == "Fine."
                assert flaws_of(await node.events()) == []
