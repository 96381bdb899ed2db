"""A backup and a restore killed at each of their calls that matter: what is there afterwards is whole, old or new."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from baa.codexd import copies
from baa.sqlite import open_reader
from tests.support.judge import stored
from tests.support.world import World

pytestmark = [
    pytest.mark.skipif(
        sys.platform != "linux" or shutil.which("strace") is None, reason="strace is not here: apt-get install strace"
    ),
    pytest.mark.timeout(180),
]

MAKE = "import sys; from pathlib import Path; from baa.codexd import copies; copies.make(*map(Path, sys.argv[1:]))"
INSTALL = MAKE.replace("copies.make", "copies.install")


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder as a killed codexd leaves it: a part of its log stands in the write-ahead file."""

    async def live() -> Path:
        world = World(3, tmp_path_factory.mktemp("world"))
        await world.run(lives=2, steps=100)
        return world.path

    path, folder = asyncio.run(live()), tmp_path_factory.mktemp("state")
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", folder / f"{copies.DATABASE}{suffix}")
    assert (folder / f"{copies.DATABASE}-wal").stat().st_size > 0
    return folder


def killed(program: str, call: str, *words: Path) -> Iterator[int]:
    """Run the program again and again, killed on the way into its first such call, then its second, until it has none.

    Yields the number of each call, once the program is dead.
    """
    for number in itertools.count(1):
        kill = f"inject=/^({call})$:signal=SIGKILL:when={number}"
        traced = ("strace", "-D", "-f", "-qqq", "-o", os.devnull, "-e", f"trace=/^({call})$", "-e", kill, "--")
        code = subprocess.run((*traced, sys.executable, "-B", "-c", program, *words), check=False).returncode
        if code == 0:
            assert number > 1, f"it makes no call {call}"
            return
        assert code == -signal.SIGKILL
        yield number


def tables_of(path: Path) -> object:
    with closing(open_reader(path)) as connection:
        return stored(connection), [seq for (seq,) in connection.execute("SELECT seq FROM event ORDER BY seq")]


@pytest.mark.parametrize("call", ["mkdir|mkdirat", "fsync|fdatasync", "rename|renameat|renameat2"])
def test_a_backup_that_was_killed_has_no_name_and_the_next_removes_it(lived: Path, tmp_path: Path, call: str) -> None:
    state = shutil.copytree(lived, tmp_path / "state")
    folder = tmp_path / "safe"
    folder.mkdir()
    for _ in killed(MAKE, call, state / copies.DATABASE, folder / "backup"):
        if (folder / "backup").exists():  # it has its name: then only its parent's sync was missing
            copies.verified(folder / "backup")
            shutil.rmtree(folder / "backup")
    assert [path.name for path in folder.iterdir()] == ["backup"]
    copies.verified(folder / "backup")


@pytest.mark.parametrize(
    "call", ["mkdir|mkdirat", "link|linkat", "unlink|unlinkat", "fsync|fdatasync", "rename|renameat|renameat2"]
)
def test_a_restore_that_was_killed_leaves_the_old_log_or_the_new_one(lived: Path, tmp_path: Path, call: str) -> None:
    whole, backup = tables_of(shutil.copytree(lived, tmp_path / "whole") / copies.DATABASE), tmp_path / "backup"
    copies.make(tmp_path / "whole" / copies.DATABASE, backup)
    state = shutil.copytree(lived, tmp_path / "state")
    for _ in killed(INSTALL, call, backup, state):
        assert copies.flaws(state / copies.DATABASE) == []
        assert tables_of(state / copies.DATABASE) == whole  # old and new hold the same here, but for a mark
        with closing(open_reader(state / copies.DATABASE)) as log:
            is_new = bool(list(log.execute("SELECT 1 FROM meta WHERE key = 'went_back'")))
        aside = [tables_of(path) for path in state.glob(f"set-aside-*/{copies.DATABASE}")]
        assert not is_new or whole in aside
        shutil.rmtree(state)
        shutil.copytree(lived, state)
    assert [path.name for path in state.iterdir() if "set-aside" not in path.name] == [copies.DATABASE]
