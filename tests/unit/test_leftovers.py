"""Processes that were left behind: found by what they hold or by pid and start, never by a pid alone. All are real."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from baa.codexd.leftovers import Recorded, Swept, end_keeper, keeper_of, start_of, sweep

WAIT_S = 20

SLEEPER = "import signal, sys; print('up', flush=True); signal.pause()"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEPER}"
KEEPER = f"""\
import fcntl, os, sys
lock = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(lock, fcntl.LOCK_EX)
os.write(lock, (sys.argv[2] if len(sys.argv) > 2 else f"{{os.getpid()}} start").encode())
{SLEEPER}
"""


@contextmanager
def process(code: str, *arguments: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """A Python that has come as far as its `up`."""
    command = [sys.executable, "-I", "-S", "-c", code, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as started:
        assert started.stdout is not None
        try:
            assert started.stdout.readline() == b"up\n"
            yield started
        finally:
            started.kill()


def recorded(started: subprocess.Popen[bytes]) -> Recorded:
    return Recorded(started.pid, start_of(started.pid))


# --- by pid and start


def test_a_process_is_found_by_its_pid_and_its_start() -> None:
    with process(SLEEPER) as started:
        found = recorded(started).find()

        assert found is not None
        assert found.pid == started.pid


@pytest.mark.parametrize("start", ["", "0", "1", "yesterday"])
def test_another_process_of_the_same_pid_is_not_found(start: str) -> None:
    with process(SLEEPER) as started:
        assert Recorded(started.pid, start).find() is None


@pytest.mark.parametrize("pid", [0, -1, 2**22 + 1, 2**31 - 1, 2**40])
def test_a_pid_that_nobody_has_is_not_found(pid: int) -> None:
    assert Recorded(pid, start_of(pid)).find() is None
    assert asyncio.run(Recorded(pid, "").gone(WAIT_S))


def test_a_process_that_is_dead_but_not_reaped_is_not_found() -> None:
    with process(SLEEPER) as started:
        mine = recorded(started)
        started.kill()
        os.waitid(os.P_PID, started.pid, os.WEXITED | os.WNOWAIT)

        assert mine.find() is None
        assert asyncio.run(mine.gone(WAIT_S))


async def test_the_end_of_a_process_is_waited_for_and_no_longer_than_told() -> None:
    with process(SLEEPER) as started:
        mine = recorded(started)
        assert not await mine.gone(0.01)
        started.kill()
        started.wait()
        assert await mine.gone(WAIT_S)


def test_two_processes_have_two_starts_or_two_pids() -> None:
    with process(SLEEPER) as one, process(SLEEPER) as other:
        assert recorded(one) != recorded(other)
        assert recorded(one) == recorded(one)
        assert recorded(one).start


# --- by the lock that a keeper holds


def test_the_keeper_of_a_folder_is_who_holds_its_lock(tmp_path: Path) -> None:
    with process(KEEPER, tmp_path / "lock") as keeper:
        assert keeper_of(tmp_path) == recorded(keeper)


@pytest.mark.parametrize("content", [None, b"", b"1 0\n", b"garbage"])
def test_a_lock_that_nobody_holds_is_no_keeper_whatever_stands_in_it(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "lock").write_bytes(content)

    assert keeper_of(tmp_path) is None
    assert keeper_of(tmp_path / "not there") is None


def test_a_keeper_that_died_holds_nothing(tmp_path: Path) -> None:
    with process(KEEPER, tmp_path / "lock") as keeper:
        keeper.kill()
        keeper.wait()

        assert keeper_of(tmp_path) is None


async def test_a_keeper_that_did_not_write_who_it_is_is_known_to_be_there_and_is_not_ended(tmp_path: Path) -> None:
    with process(KEEPER, tmp_path / "lock", "") as keeper:
        found = keeper_of(tmp_path)
        assert found == Recorded(0, "")
        await end_keeper(found)

        assert keeper.poll() is None


# --- ending them


async def test_a_keeper_is_asked_to_end(tmp_path: Path) -> None:
    with process(KEEPER, tmp_path / "lock") as keeper:
        mine = recorded(keeper)
        await end_keeper(mine)

        assert mine.find() is None


async def test_one_that_does_not_hear_is_killed_at_once_if_that_was_said(tmp_path: Path) -> None:
    with process(STUBBORN) as keeper:
        mine = recorded(keeper)
        await end_keeper(mine, at_once=True)

        assert mine.find() is None


async def test_a_stranger_of_a_recorded_pid_is_left_alone() -> None:
    with process(SLEEPER) as stranger:
        await end_keeper(Recorded(stranger.pid, "1"))
        await end_keeper(Recorded(stranger.pid, "1"), at_once=True)

        assert stranger.poll() is None


async def test_every_keeper_is_ended_but_the_recorded_one(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("1-a", "2-b", "3-c", "4-d")]
    for folder in folders:
        folder.mkdir()
    (tmp_path / "a file").touch()
    with (
        process(KEEPER, folders[0] / "lock") as one,
        process(KEEPER, folders[1] / "lock") as mine,
        process(KEEPER, folders[2] / "lock") as three,
    ):
        assert await sweep(tmp_path, folders[1]) == Swept(
            [one.pid, three.pid], newest=4, keeper_ids=["a", "c", "d", ""]
        )
        assert mine.poll() is None
        assert [folder.exists() for folder in folders] == [False, True, False, False]
        assert await sweep(tmp_path, None) == Swept([mine.pid], newest=2, keeper_ids=["b", ""])
    assert await sweep(tmp_path, None) == Swept([], newest=0, keeper_ids=[""])
