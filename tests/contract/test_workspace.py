"""Workspaces on real git: made once, found again after a crash at any moment, and what of them is committed."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from baa.api.tasks import SubmitTask
from baa.api.tasks import Workspace as Kind
from baa.worker import committing
from baa.worker.git import Git, Trouble, WorkspaceFailed
from baa.worker.workspace import Workspaces
from tests.support.repositories import Repository, a_task, killed_by_git

PREPARE = """
import asyncio, sys
from pathlib import Path
from baa.api.tasks import SubmitTask
from baa.worker.workspace import Workspaces
asyncio.run(Workspaces(Path(sys.argv[1])).prepare(sys.argv[2], SubmitTask(prompt="p", cwd=sys.argv[3])))
"""


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    monkeypatch.setenv("GIT_DIR", "/nonexistent")  # whoever started us may have had one: it leads nobody astray
    return Repository(tmp_path / "repo")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "trees"


def in_(repo: Repository, sub: str = "", **asked: object) -> SubmitTask:
    return SubmitTask(prompt="p", cwd=str(repo.folder / sub), **asked)  # type: ignore[arg-type]


async def fails(awaited: object) -> WorkspaceFailed:
    with pytest.raises(WorkspaceFailed) as raised:
        await awaited  # type: ignore[misc]
    return raised.value


async def test_a_worktree_is_made_from_where_the_folder_is_and_found_again(repo: Repository, root: Path) -> None:
    task = a_task()
    made = await Workspaces(root).prepare(task, in_(repo, "sub"))
    assert (made.kind, made.folder, made.cwd) == (Kind.WORKTREE, root / task, root / task / "sub")
    assert (made.branch, made.base, made.home, made.found) == (f"baa/{task}", repo.head, repo.folder, False)
    assert repo.git("branch", "--show-current", at=made.folder) == f"baa/{task}"
    (made.cwd / "new").write_text("work")
    repo.write("readme", "two\n")
    moved = repo.commit("HEAD moves on")
    again = await Workspaces(root).prepare(task, in_(repo, "sub"))
    assert (again.found, again.base, again.folder) == (True, made.base, made.folder)
    assert again.base != moved
    assert (made.cwd / "new").read_text() == "work"


async def test_a_ref_and_a_bare_repository(repo: Repository, root: Path, tmp_path: Path) -> None:
    first = repo.head
    repo.write("readme", "two\n")
    repo.commit("second")
    repo.git("clone", "--quiet", "--bare", str(repo.folder), str(tmp_path / "bare"))
    asked = SubmitTask(prompt="p", repository=str(tmp_path / "bare"), ref="main~1")
    made = await Workspaces(root).prepare(a_task(), asked)
    assert made.base == first
    assert (made.folder / "readme").read_text() == "one\n"


@pytest.mark.parametrize("calls", range(4, 13))
async def test_killed_before_any_command_of_git_the_next_call_makes_it_whole(
    repo: Repository, root: Path, tmp_path: Path, calls: int
) -> None:
    task = a_task()
    command = (sys.executable, "-c", PREPARE, str(root), task, str(repo.folder))
    killed = await asyncio.create_subprocess_exec(*command, env=killed_by_git(tmp_path, calls))
    await killed.wait()
    assert killed.returncode == (-signal.SIGKILL if calls < 12 else 0)
    repo.write("readme", "two\n")
    repo.commit("HEAD moves on")
    whole = await Workspaces(root).prepare(task, in_(repo))
    assert repo.git("status", "--porcelain", at=whole.folder) == ""
    assert repo.git("rev-parse", "HEAD", at=whole.folder) == whole.base
    assert whole.base in (repo.of("main"), repo.of("main~1"))
    assert (await Workspaces(root).prepare(task, in_(repo))).found


@pytest.mark.parametrize("left", ["no folder", "no files", "a lock"])
async def test_what_git_left_half_made_is_made_anew(repo: Repository, root: Path, left: str) -> None:
    task = a_task()
    made = await Workspaces(root).prepare(task, in_(repo))
    assert made.git_dir is not None
    (made.git_dir / "baa-task").unlink()
    match left:
        case "no folder":
            shutil.rmtree(made.folder)
        case "no files":
            (made.folder / "readme").unlink()
            (made.git_dir / "index").unlink()
        case _:
            (made.git_dir / "locked").write_text("initializing")
            (made.git_dir / "index.lock").write_text("")
    again = await Workspaces(root).prepare(task, in_(repo))
    assert not again.found
    assert repo.git("status", "--porcelain", at=again.folder) == ""


async def test_a_worktree_that_a_person_removed_comes_back_from_its_branch(repo: Repository, root: Path) -> None:
    task, workspaces = a_task(), Workspaces(root)
    made = await workspaces.prepare(task, in_(repo))
    (made.folder / "new").write_text("work")
    done = await committing.commit(made, "work")
    shutil.rmtree(made.folder)
    again = await workspaces.prepare(task, in_(repo))
    assert (again.folder / "new").read_text() == "work"
    assert (again.base, again.notes) == (made.base, ("The worktree was gone; it was made again from its branch.",))
    assert repo.of(f"baa/{task}") == done.commit


async def test_what_stands_in_the_way_is_left_there_and_told(repo: Repository, root: Path, tmp_path: Path) -> None:
    task, workspaces = a_task(), Workspaces(root)
    (root / task).mkdir(parents=True)
    (root / task / "precious").write_text("x")
    assert (await fails(workspaces.prepare(task, in_(repo)))).code is Trouble.WORKTREE_IN_THE_WAY
    assert (root / task / "precious").read_text() == "x"

    other = a_task()
    repo.git("branch", f"baa/{other}")
    assert (await fails(workspaces.prepare(other, in_(repo)))).code is Trouble.BRANCH_TAKEN

    third = a_task()
    made = await workspaces.prepare(third, in_(repo))
    shutil.rmtree(made.folder)
    repo.git("worktree", "prune")
    repo.git("checkout", "--quiet", f"baa/{third}")
    assert (await fails(workspaces.prepare(third, in_(repo)))).code is Trouble.BRANCH_IN_USE


async def test_what_cannot_be_worked_in_is_told_by_a_code(repo: Repository, root: Path, tmp_path: Path) -> None:
    workspaces, task = Workspaces(root), a_task()
    plain, empty = tmp_path / "plain", tmp_path / "empty"
    plain.mkdir()
    worktree = Kind.WORKTREE
    absent = SubmitTask(prompt="p", cwd=str(tmp_path / "absent"))
    assert (await fails(workspaces.prepare(task, absent))).code is Trouble.FOLDER_MISSING
    assert (await fails(workspaces.prepare(task, SubmitTask(prompt="p")))).code is Trouble.FOLDER_MISSING
    not_one = SubmitTask(prompt="p", cwd=str(plain), workspace=worktree)
    assert (await fails(workspaces.prepare(task, not_one))).code is Trouble.NOT_A_REPOSITORY
    assert (await fails(workspaces.prepare(task, in_(repo, ref="nowhere")))).code is Trouble.REF_UNKNOWN
    assert (await fails(workspaces.prepare(task, in_(repo, ref="--help")))).code is Trouble.REF_UNKNOWN
    repo.git("init", "--quiet", str(empty))
    unborn = await fails(workspaces.prepare(task, SubmitTask(prompt="p", cwd=str(empty))))
    assert (unborn.code, "no commit yet" in unborn.message) == (Trouble.REF_UNKNOWN, True)
    repo.write("later/file", "x")
    assert (await fails(workspaces.prepare(a_task(), in_(repo, "later")))).code is Trouble.FOLDER_MISSING


async def test_git_that_is_not_there_or_hangs_is_told(
    repo: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git = Git(repo.folder)
    repo.git("config", "alias.hang", "!sleep 1000")
    assert (await fails(git("hang", seconds=0.2))).code is Trouble.GIT_TIMED_OUT
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (await fails(git("status"))).code is Trouble.GIT_MISSING


async def test_a_commit_holds_all_of_it_once_and_runs_nothing_of_the_repository(
    repo: Repository, root: Path, tmp_path: Path
) -> None:
    hooked = tmp_path / "hooked"
    for hook in ("pre-commit", "post-commit", "post-checkout", "reference-transaction", "commit-msg"):
        path = repo.folder / ".git" / "hooks" / hook
        path.write_text(f"#!/bin/sh\ntouch {hooked}\nexit 1\n")
        path.chmod(0o755)
    repo.git("config", "commit.gpgSign", "true")
    repo.git("config", "gpg.program", "/bin/false")
    repo.write(".gitignore", "built\n")
    repo.git("-c", "core.hooksPath=/dev/null", "add", ".gitignore")
    repo.git("-c", "core.hooksPath=/dev/null", "-c", "commit.gpgSign=false", "commit", "-qm", "ignore")
    repo.git("config", "core.fsmonitor", f"touch {hooked}; false")
    repo.git("config", "diff.external", "false")
    task = a_task()
    made = await Workspaces(root).prepare(task, in_(repo))
    assert (await committing.commit(made, "nothing")).commit is None
    (made.folder / "readme").unlink()
    (made.folder / "n\new\xff".encode("utf-8", "surrogateescape").decode()).write_text("x")
    (made.folder / "binary").write_bytes(bytes(range(256)))
    (made.folder / "built").write_text("ignored")
    (made.folder / "away").symlink_to("/etc/passwd")
    done = await committing.commit(made, "Title\n\nBody")
    assert done.commit == repo.of(f"baa/{task}")
    assert (await committing.commit(made, "again")).commit == done.commit
    assert (
        repo.git("log", "-1", "--format=%an <%ae> %s", f"baa/{task}") == "baa-conductor <baa-conductor@localhost> Title"
    )
    assert not hooked.exists()
    assert (made.folder / "built").exists()
    told = await committing.diff(made)
    assert told.text is not None
    assert "Binary files /dev/null and b/binary differ" in told.text
    assert "-one" in told.text
    assert told.stat is not None
    assert "4 files changed" in told.stat
    assert not hooked.exists()
    assert repo.git("-c", "core.fsmonitor=false", "status", "--porcelain", at=made.folder) == ""


async def test_a_file_of_the_same_size_changed_in_the_same_second_is_seen(repo: Repository, root: Path) -> None:
    made = await Workspaces(root).prepare(a_task(), in_(repo))
    for text in ("two\n", "six\n", "ten\n"):
        (made.folder / "readme").write_text(text)
        done = await committing.commit(made, text)
        assert repo.shown(f"{done.commit}:readme") == text.strip()


async def test_the_repositorys_own_author_commits(repo: Repository, root: Path) -> None:
    repo.git("config", "user.name", "Ada")
    repo.git("config", "user.email", "ada@example.org")
    task = a_task()
    made = await Workspaces(root).prepare(task, in_(repo))
    (made.folder / "new").write_text("x")
    await committing.commit(made, "m")
    assert repo.git("log", "-1", "--format=%an %ae %cn", f"baa/{task}") == "Ada ada@example.org Ada"


async def test_whatever_the_agent_did_to_git_its_work_is_on_the_branch(repo: Repository, root: Path) -> None:
    task = a_task()
    made = await Workspaces(root).prepare(task, in_(repo))
    repo.git("checkout", "--quiet", "-b", "elsewhere", at=made.folder)
    (made.folder / "own").write_text("the agent's commit")
    repo.git("add", "own", at=made.folder)
    repo.git("commit", "--quiet", "-m", "own", at=made.folder)
    (made.folder / "more").write_text("not committed")
    assert made.git_dir is not None
    for left in ("index.lock", f"baa-index-{os.getpid()}.lock", "baa-index-0x", "baa-index-99999999"):
        (made.git_dir / left).write_text("a git was killed here")
    done = await committing.commit(made, "m")
    assert done.commit == repo.of(f"baa/{task}")
    assert repo.shown(f"{done.commit}:own") == "the agent's commit"
    assert repo.shown(f"{done.commit}:more") == "not committed"
    assert repo.git("branch", "--show-current", at=made.folder) == f"baa/{task}"

    (made.folder / ".git").unlink()
    (made.folder / ".git").write_text(f"gitdir: {repo.folder / '.git'}\n")
    (made.folder / "third").write_text("behind a .git of the agent's")
    main = repo.of("main")
    third = await committing.commit(made, "m")
    assert repo.shown(f"{third.commit}:third") == "behind a .git of the agent's"
    assert repo.of("main") == main


@pytest.mark.parametrize("commits", [False, True])
async def test_a_repository_in_the_worktree_is_told_and_the_rest_committed(
    repo: Repository, root: Path, commits: bool
) -> None:
    made = await Workspaces(root).prepare(a_task(), in_(repo))
    repo.git("init", "--quiet", str(made.folder / "sub" / "in ner"))
    (made.folder / "sub" / "in ner" / "file").write_text("x")
    if commits:
        repo.git("add", "file", at=made.folder / "sub" / "in ner")
        repo.git("commit", "--quiet", "-m", "m", at=made.folder / "sub" / "in ner")
    (made.folder / "new").write_text("x")
    done = await committing.commit(made, "m")
    assert done.notes == ("sub/in ner is a repository of its own: it is not in the commit.",)
    assert repo.git("ls-tree", "-r", "--name-only", str(done.commit)).split() == ["new", "readme", "sub/code.py"]


async def test_a_long_diff_keeps_its_beginning_and_its_end(repo: Repository, root: Path) -> None:
    made = await Workspaces(root).prepare(a_task(), in_(repo))
    (made.folder / "a").write_text("first line\n")
    (made.folder / "b").write_text("x" * 99 + "\n" + "many\n" * 200_000)
    (made.folder / "z").write_bytes(b"last \xff\xfe line\n")
    await committing.commit(made, "m")
    told = (await committing.diff(made)).text
    assert told is not None
    assert "first line" in told
    assert told.endswith("line")
    assert "bytes are left out here" in told
    assert len(told) < committing.DIFF_MAX + 200


async def test_in_place_is_the_folder_itself_and_nothing_is_written_to_git(repo: Repository, root: Path) -> None:
    task, workspaces = a_task(), Workspaces(root)
    asked = in_(repo, "sub", workspace=Kind.INPLACE)
    made = await workspaces.prepare(task, asked)
    assert (made.folder, made.cwd, made.branch) == (repo.folder, repo.folder / "sub", None)
    repo.write("readme", "two\n")
    repo.write("sub/new", "x\n")
    before = (repo.git("status", "--porcelain"), repo.git("count-objects", "-v"))
    assert (await committing.commit(made, "m")).commit is None
    told = await committing.diff(made)
    assert (repo.git("status", "--porcelain"), repo.git("count-objects", "-v")) == before
    assert told.text is not None
    assert {"+two", "+x"} <= set(told.text.split("\n"))
    assert (await workspaces.prepare(task, asked)).found  # its own changes do not stand in its way
    another = await fails(workspaces.prepare(a_task(), asked))
    assert (another.code, "readme" in another.message) == (Trouble.DIRTY, True)


async def test_in_place_outside_of_git(tmp_path: Path, root: Path) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    made = await Workspaces(root).prepare(a_task(), SubmitTask(prompt="p", cwd=str(plain)))
    assert (made.kind, made.folder, made.base) == (Kind.INPLACE, plain, None)
    assert made.notes
    assert await committing.diff(made) == committing.Diff(None, None)


async def test_tasks_in_one_folder_or_one_below_it_wait_for_each_other(tmp_path: Path) -> None:
    workspaces = Workspaces(tmp_path / "trees")
    done: list[str] = []
    unless = asyncio.Event()

    def at(name: str) -> Path:
        return tmp_path / name

    async def work(name: str, holds: asyncio.Event | None, may_end: asyncio.Event) -> None:
        async with workspaces.hold(at(name), unless) as held:
            assert held
            if holds is not None:
                holds.set()
            await may_end.wait()
            done.append(name)

    async def hold_is(expected: bool, folder: Path, unless: asyncio.Event) -> None:
        async with workspaces.hold(folder, unless) as held:
            assert held is expected

    holds, may_end, free = asyncio.Event(), asyncio.Event(), asyncio.Event()
    free.set()
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        group.create_task(work("a/b", holds, may_end), name="first")
        await holds.wait()
        for name in ("a", "a/b", "a/b/c"):
            group.create_task(work(name, None, free), name=name)
        await group.create_task(work("other", None, free), name="other")
        assert done == ["other"]
        assert workspaces.in_use(at("a/b/c"))
        given_up = asyncio.Event()
        giving_up = group.create_task(hold_is(False, at("a"), given_up), name="gives up")
        given_up.set()
        await giving_up
        may_end.set()
    assert sorted(done[1:]) == ["a", "a/b", "a/b", "a/b/c"]
    assert not workspaces.in_use(at("a"))
