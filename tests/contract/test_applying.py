"""A task's branch brought home on real git, and its worktree taken away: never over anybody's work."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Awaitable
from pathlib import Path

import pytest

from baa.api.tasks import SubmitTask
from baa.worker import committing
from baa.worker.applying import How, apply, remove, tasks_of
from baa.worker.git import Trouble, WorkspaceFailed
from baa.worker.workspace import Workspace, Workspaces
from tests.support.repositories import Repository, a_task

BOTH = pytest.mark.parametrize("how", [How.MERGE, How.PICK])


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    return Repository(tmp_path / "repo")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "trees"


async def worked(repo: Repository, root: Path, **files: str) -> tuple[str, Workspace, str]:
    """A task that wrote these files: its id, its workspace and its commit."""
    task = a_task()
    made = await Workspaces(root).prepare(task, SubmitTask(prompt="p", cwd=str(repo.folder)))
    for name, text in files.items():
        (made.folder / name).write_text(text)
    done = await committing.commit(made, "work")
    assert done.commit is not None
    return task, made, done.commit


async def fails(awaited: Awaitable[object]) -> WorkspaceFailed:
    with pytest.raises(WorkspaceFailed) as raised:
        await awaited
    return raised.value


def state(repo: Repository) -> tuple[str, str, str]:
    return repo.head, repo.git("status", "--porcelain"), repo.git("diff")


async def test_a_home_branch_that_stood_still_goes_forward(repo: Repository, root: Path) -> None:
    task, _, commit = await worked(repo, root, new="x\n")
    done = await apply(repo.folder, task, How.MERGE, "m")
    assert (done.commit, done.onto, done.already) == (commit, "main", False)
    assert (repo.folder / "new").read_text() == "x\n"
    assert repo.git("status", "--porcelain") == ""
    again = await apply(repo.folder, task, How.MERGE, "m")
    assert (again.commit, again.already) == (commit, True)


@BOTH
async def test_one_that_went_on_gets_a_merge_or_one_commit(repo: Repository, root: Path, how: How) -> None:
    task, _, commit = await worked(repo, root, new="x\n")
    repo.write("sub/code.py", "x = 2\n")
    before = repo.commit("meanwhile")
    done = await apply(repo.folder, task, how, "The task's title")
    parents = repo.git("log", "-1", "--format=%P").split()
    assert parents == ([before, commit] if how is How.MERGE else [before])
    assert repo.git("log", "-1", "--format=%s") == "The task's title"
    assert (done.commit, (repo.folder / "new").read_text()) == (repo.head, "x\n")
    assert (repo.folder / "sub" / "code.py").read_text() == "x = 2\n"
    assert (await apply(repo.folder, task, how, "m")).already


async def test_a_pick_takes_what_the_task_did_and_not_where_it_began(repo: Repository, root: Path) -> None:
    repo.git("checkout", "--quiet", "-b", "topic")
    repo.write("topic", "t\n")
    repo.commit("topic")
    task, _, _ = await worked(repo, root, new="x\n")
    repo.git("checkout", "--quiet", "main")
    await apply(repo.folder, task, How.PICK, "m")
    assert repo.git("ls-tree", "-r", "--name-only", "HEAD").split() == ["new", "readme", "sub/code.py"]


@BOTH
async def test_a_conflict_changes_nothing_and_names_its_files(repo: Repository, root: Path, how: How) -> None:
    task, _, _ = await worked(repo, root, readme="the task's\n", new="x\n")
    repo.write("readme", "mine\n")
    repo.commit("meanwhile")
    before = state(repo)
    failed = await fails(apply(repo.folder, task, how, "m"))
    assert (failed.code, "same places: readme." in failed.message) == (Trouble.CONFLICT, True)
    assert state(repo) == before
    assert not (repo.folder / ".git" / "MERGE_HEAD").exists()


@BOTH
@pytest.mark.parametrize("kind", ["changed", "staged", "in the way", "merging"])
async def test_nothing_is_applied_over_work_that_is_not_committed(
    repo: Repository, root: Path, how: How, kind: str
) -> None:
    task, _, _ = await worked(repo, root, new="x\n")
    match kind:
        case "changed":
            repo.write("readme", "mine\n")
        case "staged":
            repo.write("other", "mine\n")
            repo.git("add", "other")
        case "in the way":
            repo.write("new", "mine\n")
        case _:
            (repo.folder / ".git" / "MERGE_HEAD").write_text(repo.head + "\n")
    before = state(repo)
    failed = await fails(apply(repo.folder, task, how, "m"))
    assert failed.code is Trouble.DIRTY
    assert state(repo) == before
    if kind == "in the way":
        assert (repo.folder / "new").read_text() == "mine\n"


async def test_files_that_nobody_committed_and_nobody_needs_stay(repo: Repository, root: Path) -> None:
    task, _, _ = await worked(repo, root, new="x\n")
    repo.write("notes", "mine\n")
    await apply(repo.folder, task, How.MERGE, "m")
    assert (repo.folder / "notes").read_text() == "mine\n"


async def test_what_cannot_be_applied_is_told(repo: Repository, root: Path, tmp_path: Path) -> None:
    assert (await fails(apply(repo.folder, a_task(), How.MERGE, "m"))).code is Trouble.NOTHING_TO_APPLY
    idle = a_task()
    await Workspaces(root).prepare(idle, SubmitTask(prompt="p", cwd=str(repo.folder)))
    assert (await fails(apply(repo.folder, idle, How.MERGE, "m"))).code is Trouble.NOTHING_TO_APPLY
    task, _, _ = await worked(repo, root, new="x\n")
    repo.git("checkout", "--quiet", "--detach")
    assert (await fails(apply(repo.folder, task, How.MERGE, "m"))).code is Trouble.DETACHED
    repo.git("clone", "--quiet", "--bare", str(repo.folder), str(tmp_path / "bare"))
    assert (await fails(apply(tmp_path / "bare", task, How.MERGE, "m"))).code is Trouble.NOT_A_REPOSITORY


@BOTH
async def test_what_was_applied_is_taken_away_whole(repo: Repository, root: Path, how: How) -> None:
    task, made, _ = await worked(repo, root, new="x\n")
    repo.write("readme", "two\n")
    repo.commit("meanwhile")
    await apply(repo.folder, task, how, "m")
    await remove(repo.folder, root, task)
    assert not made.folder.exists()
    assert repo.refs() == ["refs/heads/main"]
    await remove(repo.folder, root, task)  # done twice it is done once
    (root / task).mkdir()
    assert (await Workspaces(root).prepare(task, SubmitTask(prompt="p", cwd=str(repo.folder)))).base == repo.head


async def test_what_would_be_lost_stays(repo: Repository, root: Path, tmp_path: Path) -> None:
    task, made, _ = await worked(repo, root, new="x\n")
    before = repo.refs()
    assert (await fails(remove(repo.folder, root, task))).code is Trouble.UNMERGED
    await apply(repo.folder, task, How.MERGE, "m")
    (made.folder / "later").write_text("not committed")
    assert (await fails(remove(repo.folder, root, task))).code is Trouble.DIRTY
    (made.folder / "later").unlink()
    with subprocess.Popen(["sleep", "60"], cwd=made.folder) as inside:  # noqa: ASYNC220
        try:
            failed = await fails(remove(repo.folder, root, task))
            assert (failed.code, str(inside.pid) in failed.message) == (Trouble.IN_USE, True)
        finally:
            inside.kill()
    repo.git("checkout", "--quiet", "-b", "own", at=made.folder)
    (made.folder / "own").write_text("x")
    repo.git("add", "own", at=made.folder)
    repo.git("commit", "--quiet", "-m", "own", at=made.folder)
    repo.git("checkout", "--quiet", "--detach", at=made.folder)
    repo.git("branch", "-D", "own")
    assert (await fails(remove(repo.folder, root, task))).code is Trouble.UNMERGED
    assert made.folder.exists()
    assert set(before) < set(repo.refs())


async def test_what_was_pushed_is_not_lost(repo: Repository, root: Path, tmp_path: Path) -> None:
    task, made, _ = await worked(repo, root, new="x\n")
    repo.git("init", "--quiet", "--bare", str(tmp_path / "far"))
    repo.git("remote", "add", "far", str(tmp_path / "far"))
    repo.git("push", "--quiet", "far", f"baa/{task}:refs/heads/theirs")
    assert os.listdir(made.folder)
    await remove(repo.folder, root, task)
    assert not made.folder.exists()


async def test_what_was_brought_home_and_taken_away_is_known_as_long_as_it_shall_be(
    repo: Repository, root: Path
) -> None:
    task, made, _ = await worked(repo, root, new="x\n")
    assert await tasks_of(repo.folder) == [task]
    await apply(repo.folder, task, How.PICK, "m")
    await remove(repo.folder, root, task, look=True)
    assert made.folder.exists()
    await remove(repo.folder, root, task, remember=True)
    assert not made.folder.exists()
    assert repo.refs() == [f"refs/baa/{task}/applied", f"refs/baa/{task}/home", "refs/heads/main"]
    assert (await apply(repo.folder, task, How.PICK, "m")).already
    assert await tasks_of(repo.folder) == [task]
    await remove(repo.folder, root, task)
    assert (await tasks_of(repo.folder), repo.refs()) == ([], ["refs/heads/main"])


@pytest.mark.parametrize("how", list(How))
async def test_what_was_brought_home_and_undone_there_is_not_taken_away_and_can_be_brought_again(
    repo: Repository, root: Path, how: How
) -> None:
    task, made, _ = await worked(repo, root, new="x\n")
    repo.write("other", "meanwhile\n")
    before = repo.commit("meanwhile")
    await apply(repo.folder, task, how, "m")
    repo.git("reset", "--quiet", "--hard", before)
    assert (await fails(remove(repo.folder, root, task))).code is Trouble.UNMERGED
    assert made.folder.exists()
    assert not (await apply(repo.folder, task, how, "m")).already
    assert repo.shown("main:new") == "x"
    await remove(repo.folder, root, task)
    assert not made.folder.exists()


async def test_a_worktree_in_another_folder_stays(repo: Repository, root: Path, tmp_path: Path) -> None:
    task, made, _ = await worked(repo, root, new="x\n")
    await apply(repo.folder, task, How.MERGE, "m")
    assert (await fails(remove(repo.folder, tmp_path / "elsewhere", task))).code is Trouble.IN_USE
    assert made.folder.exists()
