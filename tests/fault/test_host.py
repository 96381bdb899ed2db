"""A machine that is not as one would wish: clocks that jump, sleep, and nothing left to open, start or allocate."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from socket import create_connection
from typing import NamedTuple

import httpx2
import psutil
import pytest

from baa.scripted import Hold, Say, ScriptedModel, when
from tests.support.asking import turn_of
from tests.support.faults import saw
from tests.support.moved_clock import under
from tests.support.node import PATIENCE_SECONDS, Node, moment, until, within
from tests.support.oracle import Oracle, flaws_of, numbered

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the tests look at /proc"),
    pytest.mark.timeout(180),  # later than any wait of ours gives up, so that a test that fails cleans up
]

SCENARIOS = (
    when("plain", Say("Fine.")),
    when("held", (Say.numbered(50), Hold("held"), Say.numbered(50, start=50))),
)
YEARS_S = 10 * 365 * 24 * 3600


class House(NamedTuple):
    """A node that serves, the model behind its Codex, and a reader of its events."""

    node: Node
    model: ScriptedModel
    oracle: Oracle


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[tuple[Node, ScriptedModel]]:
    async with ScriptedModel(SCENARIOS) as model, Node(tmp_path, model.base_url) as node:
        yield node, model


@pytest.fixture
async def house(node: tuple[Node, ScriptedModel]) -> AsyncIterator[House]:
    await node[0].start()
    async with Oracle(node[0]) as oracle:
        yield House(*node, oracle)
        await oracle.caught_up()
        assert flaws_of(oracle.events) == []


async def held_turn(node: Node, oracle: Oracle) -> str:
    turn_id = await node.turn(await node.session(), "held")
    await oracle.saw("item.delta", turn_id, count=50)
    return turn_id


async def goes_on(house: House, turn_id: str) -> None:
    house.model.release("held")
    assert (await house.oracle.end_of(turn_id))["type"] == "turn.completed"
    assert house.oracle.deltas(turn_id) == numbered(100)
    assert (await house.node.status())["child"]["generation"] == 1


# --- time


async def test_a_wall_clock_that_jumps_ends_nothing_and_orders_nothing(node: tuple[Node, ScriptedModel]) -> None:
    node_, model = node
    moved = node_.folder / "moved"
    moved.write_text("0")
    node_.command = under(moved, "baa.codexd")
    await node_.start()
    async with Oracle(node_) as oracle:
        waiting = await held_turn(node_, oracle)
        timed = await turn_of(node_, await node_.session(), "held", deadlineMs=3_600_000, leaseMs=3_600_000)
        await oracle.saw("item.delta", timed, count=50)
        years = []
        for jump in (YEARS_S, -YEARS_S, -3600):
            moved.write_text(str(jump))
            beside = await node_.play(await node_.session(), "plain")
            assert beside["status"] == "completed"
            years.append(datetime.fromisoformat(beside["endedAt"]).year)
        saw("F55", years[0] - years[1] in (19, 20), f"it was {years} by codexd's clock")
        assert [(await node_.ledger(turn_id))["status"] for turn_id in (waiting, timed)] == ["in_progress"] * 2
        model.release("held")
        for turn_id in (waiting, timed):
            assert (await oracle.end_of(turn_id))["type"] == "turn.completed"
            assert oracle.deltas(turn_id) == numbered(100)
        await oracle.caught_up()
        assert flaws_of(oracle.events) == []


async def test_a_codexd_that_stands_still_misses_nothing(house: House) -> None:
    node = house.node
    turn_id = await held_turn(node, house.oracle)
    node.signal(signal.SIGSTOP)
    try:
        house.model.release("held")
        await until(lambda: b'"turn/completed"' in node.spool)
        stopped = psutil.Process(node.pid).status()
        with pytest.raises(httpx2.TransportError):
            async with httpx2.AsyncClient(trust_env=False, timeout=0.5) as http:
                await http.get(f"{node.address}/healthz")
    finally:
        node.signal(signal.SIGCONT)
    saw("F03", stopped == psutil.STATUS_STOPPED, "codexd was stopped while a turn went on to its end")
    assert (await house.oracle.end_of(turn_id))["type"] == "turn.completed"
    assert house.oracle.deltas(turn_id) == numbered(100)


async def test_a_machine_that_slept_has_lost_nobody(node: tuple[Node, ScriptedModel]) -> None:
    """All of it stands still for longer than a hung child is given."""
    node_, model = node
    node_.settings["watch_ms"] = "200"
    await node_.start()
    async with Oracle(node_) as oracle:
        turn_id = await held_turn(node_, oracle)
        all_of_it = [node_.pid, node_.keeper, await node_.child()]
        for pid in all_of_it:
            os.kill(pid, signal.SIGSTOP)
        await moment(3)
        slept = [psutil.Process(pid).status() for pid in all_of_it]
        for pid in all_of_it:
            os.kill(pid, signal.SIGCONT)
        saw("F56", set(slept) == {psutil.STATUS_STOPPED}, "codexd, keeper and child stood still for 15 looks")
        before = node_.spool.count(b"child:ping:")
        await until(lambda: node_.spool.count(b"child:ping:") > before + 5)
        await goes_on(House(node_, model, oracle), turn_id)


# --- nothing left


async def test_without_descriptors_it_pauses_and_comes_back(house: House) -> None:
    node = house.node
    turn_id = await held_turn(node, house.oracle)
    codexd = psutil.Process(node.pid)
    host, port = node.address.removeprefix("http://").split(":")
    before = codexd.rlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as sockets:
        codexd.rlimit(resource.RLIMIT_NOFILE, (codexd.num_fds() + 5, before[1]))
        for _ in range(40):
            sockets.enter_context(create_connection((host, int(port))))
        with pytest.raises(OSError, match="Too many open files"):
            await until(lambda: _none_left(codexd))
            raise OSError("Too many open files")
        saw("F57", _none_left(codexd), f"codexd had {codexd.num_fds()} descriptors and no more")
        house.model.release("held")
        await within(house.oracle.end_of(turn_id))  # what is open works on
    codexd.rlimit(resource.RLIMIT_NOFILE, before)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (await node.get("/healthz")).status_code != 200:
            pass
    assert house.oracle.deltas(turn_id) == numbered(100)
    assert (await node.play((await node.ledger(turn_id))["sessionId"], "plain"))["finalMessage"] == "Fine."


def _none_left(process: psutil.Process) -> bool:
    return bool(process.num_fds() >= process.rlimit(resource.RLIMIT_NOFILE)[0])


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not here: apt-get install strace")
async def test_while_no_process_can_be_started_it_says_so_and_tries_again(node: tuple[Node, ScriptedModel]) -> None:
    node_, _ = node
    calls = "fork,vfork"
    inject = ("-e", f"trace={calls}", "-e", f"inject={calls}:error=EAGAIN:when=1..3")
    trace = node_.folder / "trace"
    node_.command = ("strace", "-D", "-f", "-b", "execve", "-o", str(trace), *inject, "--", *node_.command)
    await node_.start()
    child = await node_.child_is("ready")
    refused = trace.read_text().count("(INJECTED)")
    saw("F59", refused >= 1, f"{refused} processes could not be started: EAGAIN")
    assert child["restarts"] == 0 or "Resource temporarily unavailable" in str(await node_.events())
    assert (await node_.play(await node_.session(), "plain"))["finalMessage"] == "Fine."


async def test_a_codexd_without_memory_loses_nothing_that_it_answered(house: House) -> None:
    node, oracle = house.node, house.oracle
    turn_id = await held_turn(node, oracle)
    node.doomed = True
    codexd = psutil.Process(node.pid)
    codexd.rlimit(resource.RLIMIT_AS, (codexd.memory_info().vms + (4 << 20), -1))
    answered, failed = [turn_id], 0
    session_id = None
    for number in range(200):
        try:
            session_id = session_id or await node.session()
            answered.append(
                await turn_of(node, session_id, f"plain {'x' * 200_000}", key=f"{number}", onBusy="enqueue")
            )
        except (httpx2.TransportError, AssertionError):
            failed += 1
            if failed > 3:
                break
    saw("F58", failed, f"codexd got no more memory: {len(answered)} turns were answered, {failed} not")
    await node.kill()
    for told in (node.folder / "stderr", node.home / "logs" / "codexd" / "codexd.jsonl"):
        assert "memory" in told.read_text().lower() or "failed" not in told.read_text(), "what failed says why"
        told.write_text("")
    node.doomed = False
    await node.start()
    house.model.release("held")
    queued = {event["turnId"] for event in await node.events(types="turn.queued")}
    assert queued >= set(answered)
    for each in queued:  # what came to the log and was not answered, too
        await oracle.end_of(each)
    assert oracle.deltas(turn_id) == numbered(100)


async def test_it_starts_with_nothing_but_what_it_needs(node: tuple[Node, ScriptedModel]) -> None:
    """No HOME, no locale, no TMPDIR that can be written, and closed standard streams."""
    node_, _ = node
    codexd, sparse = (
        node_.command,
        ("/usr/bin/env", "-u", "HOME", "-u", "PATH", "LANG=C", "TMPDIR=/proc", "/bin/sh", "-c"),
    )
    node_.command = (*sparse, 'exec "$@" <&- 2>&-', "sh", *codexd)
    await node_.start()
    opened = {number: os.path.realpath(f"/proc/{node_.pid}/fd/{number}") for number in (0, 2)}
    variables = Path(f"/proc/{node_.pid}/environ").read_bytes()
    saw("F63", b"HOME=" not in variables.replace(b"BAA_HOME=", b""), f"closed streams, which are {opened} now")
    assert set(opened.values()) == {os.devnull}
    assert (await node_.play(await node_.session(), "plain"))["finalMessage"] == "Fine."
    await node_.stop()
    told = await asyncio.create_subprocess_exec(
        *(*sparse, 'exec "$@" <&- >&- 2>&-', "sh", *codexd, "--end-leftovers"), env=node_.environment()
    )
    assert await within(told.wait()) == 0, "what it has to say is said to nobody"
    node_.command = codexd
    await node_.start()
