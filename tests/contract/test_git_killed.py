"""What commits and applies is killed before each command of git in turn; done again, it is done once and whole."""

from __future__ import annotations

import asyncio
import signal
import sys
from itertools import count
from pathlib import Path

import pytest

from baa.api.tasks import SubmitTask
from baa.worker import committing
from baa.worker.applying import How, apply
from baa.worker.workspace import Workspaces
from tests.support.node import within
from tests.support.repositories import Repository, a_task, killed_by_git

pytestmark = pytest.mark.timeout(120)

APPLY = """
import asyncio, sys
from pathlib import Path
from baa.worker.applying import How, apply
asyncio.run(apply(Path(sys.argv[1]), sys.argv[2], How(sys.argv[3]), "applied"))
"""

COMMIT = """
import asyncio, sys
from pathlib import Path
from baa.api.tasks import SubmitTask
from baa.worker.committing import commit
from baa.worker.workspace import Workspaces

async def main():
    made = await Workspaces(Path(sys.argv[3])).prepare(sys.argv[2], SubmitTask(prompt="p", cwd=sys.argv[1]))
    await commit(made, "work")

asyncio.run(main())
"""


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    return Repository(tmp_path / "repo")


async def killed_until_done(folder: Path, script: str, *arguments: str) -> int:
    """Run it again and again, each time killed one command of git later; how often it was killed."""
    for calls in count(6):  # what comes before only looks
        command = (sys.executable, "-c", script, *arguments)
        process = await asyncio.create_subprocess_exec(*command, env=killed_by_git(folder, calls))
        if (code := await within(process.wait())) == 0:
            return calls
        assert code == -signal.SIGKILL
    raise AssertionError("it does not end")


async def test_a_commit(repo: Repository, tmp_path: Path) -> None:
    task, trees = a_task(), tmp_path / "trees"
    made = await Workspaces(trees).prepare(task, SubmitTask(prompt="p", cwd=str(repo.folder)))
    (made.folder / "new").write_text("x\n")
    assert await killed_until_done(tmp_path, COMMIT, str(repo.folder), task, str(trees)) > 10
    assert repo.git("rev-list", "--count", f"{made.base}..baa/{task}") == "1"
    assert repo.shown(f"baa/{task}:new") == "x"
    assert repo.git("status", "--porcelain", at=made.folder) == ""
    assert not list((repo.folder / ".git").glob("worktrees/*/baa-index*")), "no index of a dead one is left"


@pytest.mark.parametrize(("how", "commits"), [(How.MERGE, 2), (How.PICK, 1)])
async def test_an_apply(repo: Repository, tmp_path: Path, how: How, commits: int) -> None:
    task = a_task()
    made = await Workspaces(tmp_path / "trees").prepare(task, SubmitTask(prompt="p", cwd=str(repo.folder)))
    (made.folder / "new").write_text("x\n")
    await committing.commit(made, "work")
    repo.write("sub/code.py", "x = 2\n")
    before = repo.commit("meanwhile")
    assert await killed_until_done(tmp_path, APPLY, str(repo.folder), task, str(how)) > 10
    assert repo.git("rev-list", "--count", f"{before}..main") == str(commits)
    assert (repo.shown("main:new"), repo.shown("main:sub/code.py")) == ("x", "x = 2")
    assert repo.git("status", "--porcelain") == ""
    assert (await apply(repo.folder, task, how, "again")).already
