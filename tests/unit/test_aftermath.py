"""What an interrupted turn left: real processes, known by what they carry, by whom they descend from, or not at all."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from baa.codexd.aftermath import OWN_THREAD, ROOT_THREAD, Aftermath, Left, Whose, end_left, left_of
from baa.codexd.leftovers import Recorded, start_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the tests look at /proc")

THREAD = f"thread-of-{os.getpid()}"


class Turn:
    """A turn of a child that is a mere sleeper, with this process for its keeper; it starts what is to be left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._started: list[subprocess.Popen[bytes]] = []
        child = self.process(ROOT_THREAD, cwd="/")  # it carries no thread: the name stands there as any other word
        self.whose = Whose(
            session_id="ses_a",
            turn_id="trn_a",
            thread_id=THREAD,
            cwd=str(folder),
            began=time.time(),
            child=Recorded(child, start_of(child)),
            keeper_pid=os.getpid(),
            only_turn=True,
        )

    def process(
        self,
        word: str,
        *,
        thread: str | None = None,
        alone: bool = True,
        cwd: str | None = None,
        variable: str = ROOT_THREAD,
    ) -> int:
        """A process that waits for its stdin to end, of a session of its own if `alone`."""
        process = subprocess.Popen(
            [sys.executable, "-ISc", "import sys; print(flush=True); sys.stdin.read()", word],
            env={} if thread is None else {variable: thread},
            cwd=cwd or self.folder,
            start_new_session=alone,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        return process.pid

    def left(self, **changed: object) -> dict[int, Left]:
        return {left.process.pid: left for left in left_of(replace(self.whose, **changed))}  # type: ignore[arg-type]

    def close(self) -> None:
        for process in self._started:
            process.kill()
            process.communicate()


@pytest.fixture
def turn(tmp_path: Path) -> Iterator[Turn]:
    made = Turn(tmp_path.resolve())
    yield made
    made.close()


def living(pid: int) -> bool:
    return Recorded(pid, start_of(pid)).find() is not None


def test_what_carries_the_thread_is_the_turns_wherever_it_went(turn: Turn) -> None:
    pid = turn.process("mine", thread=THREAD, cwd="/")
    found = turn.left(keeper_pid=turn.whose.child.pid, only_turn=False)
    assert found.keys() == {pid}
    left = found[pid]
    assert (left.own, left.process, left.told()["pid"]) == (True, Recorded(pid, start_of(pid)), pid)
    assert left.command.endswith(" mine")


def test_an_old_codex_names_the_commands_own_thread_which_may_be_a_sub_agents(turn: Turn) -> None:
    mine = turn.process("mine", thread=THREAD, variable=OWN_THREAD)
    agents = turn.process("agents", thread="another thread", variable=OWN_THREAD)
    assert {pid: left.own for pid, left in turn.left(only_turn=False).items()} == {mine: True, agents: False}


def test_what_carries_another_thread_is_not(turn: Turn) -> None:
    turn.process("other", thread="another thread")
    assert turn.left() == {}


def test_what_shed_it_is_the_turns_only_if_nothing_else_can_be(turn: Turn) -> None:
    pid = turn.process("shed")
    (turn.folder / "below").mkdir()
    below = turn.process("below", cwd=str(turn.folder / "below"))
    elsewhere = turn.process("elsewhere", cwd="/")
    assert {pid: left.own for pid, left in turn.left().items()} == {pid: True, below: True, elsewhere: False}
    assert {left.own for left in turn.left(only_turn=False).values()} == {False}
    assert turn.left(keeper_pid=turn.whose.child.pid) == {}, "nothing descends from it"
    assert turn.left(began=time.time() + 60) == {}, "they were there before"


def test_a_folder_that_begins_alike_is_another(turn: Turn) -> None:
    beside = turn.folder.parent / f"{turn.folder.name}-2"
    beside.mkdir()
    pid = turn.process("beside", cwd=str(beside))
    assert {pid: left.own for pid, left in turn.left().items()} == {pid: False}
    assert turn.left(cwd="/")[pid].own


def test_a_server_of_codexs_own_is_left_alone(turn: Turn) -> None:
    pid = turn.process("server", alone=False)
    own = Recorded(os.getpid(), start_of(os.getpid()))
    assert turn.left(child=own).keys() == {turn.whose.child.pid}, "and not the server, which has its session"
    assert turn.left().keys() == {pid}, "of another session than the child's"


@pytest.mark.skipif(os.geteuid() != 0, reason="it takes another user: run the tests as root")
def test_what_cannot_be_looked_into_is_named(turn: Turn) -> None:
    """As what a turn started by sudo is, to a codexd that is not root."""
    pid = turn.process("roots", thread=THREAD)
    told = as_nobody(lambda: repr([(left.process.pid, left.own) for left in left_of(turn.whose)]))
    assert told == repr([(pid, False)])


def as_nobody(look: Callable[[], str]) -> str:
    """What another user sees."""
    answer, told = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setuid(65534)
            os.write(told, look().encode())
        finally:
            os._exit(0)
    os.close(told)
    os.waitpid(child, 0)
    with os.fdopen(answer) as file:
        return file.read()


async def test_what_is_surely_the_turns_is_ended_and_what_may_be_is_named(turn: Turn) -> None:
    mine = turn.process("mine", thread=THREAD)
    perhaps = turn.process("perhaps", cwd="/")
    evidence = await end_left(turn.whose)
    assert [told["pid"] for told in evidence["ended"]] == [mine]
    assert [told["pid"] for told in evidence["left"]] == [perhaps]
    assert (living(mine), living(perhaps), living(turn.whose.child.pid)) == (False, True, True)


async def test_nothing_left_is_no_evidence(turn: Turn) -> None:
    assert await end_left(turn.whose) == {}


async def test_of_two_turns_each_is_told_its_own(turn: Turn) -> None:
    one, two = turn.process("one", thread="one"), turn.process("two", thread="two")
    told: dict[str, list[int]] = {}
    both = asyncio.Event()

    async def done(whose: Whose, evidence: dict[str, list[dict[str, int]]]) -> None:
        told[whose.turn_id] = [left["pid"] for left in evidence["ended"]]
        if len(told) == 2:
            both.set()

    aftermath = Aftermath(done)
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        looking = group.create_task(aftermath.run(), name="aftermath")
        for turn_id in ("one", "two"):
            aftermath.look(replace(turn.whose, turn_id=turn_id, thread_id=turn_id))
        await both.wait()
        looking.cancel()
    assert told == {"one": [one], "two": [two]}
