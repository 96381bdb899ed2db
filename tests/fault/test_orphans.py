"""What a child leaves when its keeper is killed: nothing, before another child is started and after a stop."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from baa.scripted import Run, Say, ScriptedModel, when
from tests.support.faults import saw
from tests.support.keeper_client import alive, environment_of, wait_until
from tests.support.node import MARKER, Node, end, until, within
from tests.support.oracle import Oracle, flaws_of

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the tests look at /proc"),
    pytest.mark.timeout(180),  # later than any wait of ours gives up, so that a test that fails cleans up
]

BEHIND = "exec tail -f /dev/null >behind 2>&1"
AWAY = f"setsid sh -c 'echo $$ >pid; {BEHIND}' & until [ -s pid ]; do :; done"
BARE = f"env -i PATH=$PATH setsid sh -c 'echo $$ >pid; {BEHIND}' & until [ -s pid ]; do :; done"
# A new process every 2 ms, each gone before /proc tells of it.
HOP = "import os, time; [os.fork() and os._exit(0) or time.sleep(0.002) for _ in iter(int, 1)]"
HOPS = f'setsid "{sys.executable}" -I -S -c "{HOP}" >hops 2>&1 </dev/null & echo $! >pid'
SCENARIOS = (
    when("plain", Say("Fine.")),
    when("runs on", Run(f"{AWAY}; tail -f /dev/null", yield_time_ms=30_000)),
    when("hops", Run(f"{HOPS}; tail -f /dev/null", yield_time_ms=30_000)),
    when("sheds all", Run(f"{BARE}; tail -f /dev/null", yield_time_ms=30_000)),
)
CGROUPS = Path("/sys/fs/cgroup/unified") if Path("/sys/fs/cgroup/unified").exists() else Path("/sys/fs/cgroup")
FREEZER = Path("/sys/fs/cgroup/freezer")


class House(NamedTuple):
    """A node that serves, and a reader of its events."""

    node: Node
    oracle: Oracle


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with ScriptedModel(SCENARIOS) as model, Node(tmp_path, model.base_url) as node:
        yield node


@pytest.fixture
async def house(node: Node) -> AsyncIterator[House]:
    await node.start()
    async with Oracle(node) as oracle:
        yield House(node, oracle)
        await oracle.caught_up()
        assert flaws_of(oracle.events) == []


async def running(node: Node, prompt: str = "runs on") -> tuple[str, int]:
    """A turn whose command started another one in a session of its own: the turn, and the pid of that."""
    turn_id = await node.turn(await node.session(), prompt)
    file = node.work / "pid"
    await until(lambda: file.exists() and file.read_text().strip())
    return turn_id, int(file.read_text())


@contextmanager
def stranger(keeper_id: str) -> Iterator[subprocess.Popen[bytes]]:
    """The same program as the command's, with the marker of a keeper that is none of this node's."""
    with subprocess.Popen(["tail", "-f", "/dev/null"], env={"BAA_KEEPER_ID": keeper_id}) as started:
        try:
            yield started
        finally:
            started.kill()


@pytest.mark.parametrize("codexd_dies", [False, True])
async def test_what_outlived_a_killed_keeper_is_ended_before_the_next_child(house: House, codexd_dies: bool) -> None:
    node, oracle = house
    turn_id, left = await running(node)
    (marker,) = [entry for entry in environment_of(Path(f"/proc/{left}/environ")) if entry.startswith(MARKER)]
    with stranger(marker.partition(b"=")[2].decode() + "x") as untouched:
        if codexd_dies:
            await node.kill()
        await end(node.keeper)
        if codexd_dies:
            await until(lambda: node.running("app-server") == [])
            saw("F15", alive(left), "a command in a session of its own outlived keeper, child and codexd")
            await node.start()
        await oracle.saw("child.ready", count=2)
        assert not alive(left)
        assert untouched.poll() is None
    assert (await oracle.end_of(turn_id))["type"] == "turn.interrupted"
    assert (await node.play(await node.session(), "plain"))["finalMessage"] == "Fine."


@pytest.mark.parametrize("keeper_dies", [False, True])
async def test_a_stop_ends_what_a_running_turn_sent_away(house: House, keeper_dies: bool) -> None:
    node, oracle = house
    turn_id, left = await running(node)
    if keeper_dies:
        os.kill(node.keeper, signal.SIGKILL)
    assert await node.stop() == 0
    assert not alive(left)
    assert node.left() == []
    await node.start()
    assert (await oracle.end_of(turn_id))["type"] == "turn.interrupted"


async def test_leftovers_of_a_dead_codexd_and_a_dead_keeper_are_ended_on_request(house: House) -> None:
    node, oracle = house
    turn_id, left = await running(node)
    await node.kill()
    await end(node.keeper)
    command = (sys.executable, "-m", "baa.codexd", "--end-leftovers")
    process = await asyncio.create_subprocess_exec(*command, env=node.environment(), stdout=asyncio.subprocess.PIPE)
    said, _ = await within(process.communicate())
    assert (process.returncode, str(left) in said.decode()) == (0, True)
    assert node.left() == []
    await node.start()
    assert (await oracle.end_of(turn_id))["type"] == "turn.interrupted"


async def test_a_command_of_a_living_child_is_not_touched_by_another_codexd(house: House) -> None:
    node, oracle = house
    turn_id, left = await running(node)
    child = await node.child()
    await node.kill()
    await node.start()
    await oracle.saw("child.adopted")
    assert (await node.child(), alive(left)) == (child, True)
    assert (await node.post(f"/v1/codexd/turn/{turn_id}/interrupt", {})).status_code == 202
    await oracle.end_of(turn_id)


@pytest.mark.skipif(not os.access(FREEZER, os.W_OK), reason="only a frozen process (cgroup v1) outlives SIGKILL")
async def test_while_something_cannot_be_ended_there_is_no_child_and_the_status_names_it(house: House) -> None:
    node, oracle = house
    _, left = await running(node)
    frozen = FREEZER / f"baa-{os.getpid()}"
    frozen.mkdir()
    try:
        (frozen / "cgroup.procs").write_text(str(left))
        (frozen / "freezer.state").write_text("FROZEN")
        await until(lambda: (frozen / "freezer.state").read_text() == "FROZEN\n")
        await end(node.keeper)
        child = await node.child_is("unavailable")
        assert f"kill -9 {left}" in child["problem"]
        assert (child["generation"], child["pid"]) == (1, None)
        answer = await node.post("/v1/codexd/turn", {"sessionId": await node.session(), "prompt": "plain"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "child_unavailable")
    finally:
        (frozen / "freezer.state").write_text("THAWED")
        await until(lambda: not (frozen / "cgroup.procs").read_text())
        frozen.rmdir()
    await oracle.saw("child.ready", count=2)
    assert (await node.status())["child"]["problem"] is None


@pytest.fixture
def cgroup() -> Iterator[Path]:
    made = CGROUPS / f"baa-test-{os.getpid()}"
    try:
        made.mkdir()
        (made / "cgroup.kill").write_text("1")
    except OSError as refused:
        with suppress(OSError):
            made.rmdir()
        pytest.skip(f"no cgroup v2 of our own: {refused}")
    yield made
    if made.exists():
        (made / "cgroup.kill").write_text("1")
        wait_until(lambda: "populated 0" in (made / "cgroup.events").read_text())
        for below in made.glob("codex-*"):
            below.rmdir()
        made.rmdir()


@pytest.mark.parametrize("prompt", ["sheds all", "hops"])
async def test_in_a_cgroup_of_its_own_nothing_escapes_whatever_it_sheds(node: Node, cgroup: Path, prompt: str) -> None:
    code = 'echo $$ >"$0"/cgroup.procs && exec "$@"'
    node.command = ("sh", "-c", code, str(cgroup), *node.command)
    await node.start()
    child = await node.child()
    _, left = await running(node, prompt)
    marked = any(entry.startswith(MARKER) for entry in environment_of(Path(f"/proc/{left}/environ")))
    assert not (marked and prompt == "sheds all")
    (own,) = cgroup.glob("codex-kpr_*")
    inside = {int(pid) for pid in (own / "cgroup.procs").read_text().split()}
    assert child in inside
    assert node.keeper not in inside
    await node.kill()
    await end(node.keeper)
    await until(lambda: not alive(child))
    assert "populated 1" in (own / "cgroup.events").read_text(), "it was ended by something else: this shows nothing"
    await node.start()
    await node.child()
    assert not alive(left)
    assert not own.exists()  # one that holds a process cannot be removed
    assert await node.stop() == 0
    assert list(cgroup.glob("codex-*")) == []
    await until(lambda: not (cgroup / "cgroup.procs").read_text())
    cgroup.rmdir()
