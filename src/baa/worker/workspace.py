"""Where a task's agent works: a git worktree on a branch of its own, or the folder itself.

Making a workspace is idempotent, also after a crash at any moment: what is whole is found as it is, what was left half
made (no agent has worked in it) is made anew. The order: `refs/baa/TASK/base`, the branch, git's worktree, our marker.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from baa.api import ids
from baa.api.tasks import SubmitTask
from baa.api.tasks import Workspace as Kind
from baa.worker import repository
from baa.worker.git import CHECKOUT_SECONDS, Git, Trouble, WorkspaceFailed
from baa.worker.repository import Located


@dataclass(frozen=True, slots=True)
class Workspace:
    """A workspace that is whole. `folder` is all of it, `cwd` where the agent begins.

    `home` is the repository's path and `base` the commit (of an empty repository: the tree) where the task began; both
    are None outside of git. `git_dir` is git's own directory of `folder`. `found`: it was there before this call.
    """

    task_id: str
    kind: Kind
    folder: Path
    cwd: Path
    home: Path | None = None
    git_dir: Path | None = None
    base: str | None = None
    found: bool = False
    notes: tuple[str, ...] = ()

    @property
    def branch(self) -> str | None:
        """The branch that takes the work home; None where the agent works in the folder itself."""
        return repository.branch_of(self.task_id) if self.kind is Kind.WORKTREE else None

    @property
    def git(self) -> Git:
        """git in this workspace, whatever the agent made of the `.git` in it."""
        assert self.git_dir is not None
        return Git(self.folder, git_dir=self.git_dir, work_tree=self.folder)


class Workspaces:
    """The workspaces of a node; worktrees are made below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.realpath(root))
        self._held: list[Path] = []
        self._freed = asyncio.Condition()

    @asynccontextmanager
    async def hold(self, folder: Path, unless: asyncio.Event) -> AsyncIterator[bool]:
        """Inside it nobody else of this worker works in that folder, in one above or in one below.

        Whoever comes second waits, `unless` that is set: then it is not held, and False. One worker runs all tasks of a
        node, so that they need no other lock.
        """
        async with asyncio.TaskGroup() as group:
            waking = group.create_task(self._wake_when(unless), name="hold-unless")
            async with self._freed:
                await self._freed.wait_for(lambda: unless.is_set() or not self.in_use(folder))
                held = not unless.is_set()
                if held:
                    self._held.append(folder)
            waking.cancel()
        try:
            yield held
        finally:
            if held:
                self._held.remove(folder)
                async with self._freed:
                    self._freed.notify_all()

    async def _wake_when(self, event: asyncio.Event) -> None:
        await event.wait()
        async with self._freed:
            self._freed.notify_all()

    def in_use(self, folder: Path) -> bool:
        """Whether an attempt of this worker works there."""
        return any(folder.is_relative_to(held) or held.is_relative_to(folder) for held in self._held)

    async def place(self, request: SubmitTask) -> tuple[Kind, Path]:
        """What kind of workspace a task gets, and the folder that `hold` is to be given before `prepare`."""
        folder = _folder_of(request)
        if request.workspace is Kind.WORKTREE:
            return Kind.WORKTREE, folder
        try:
            located = await repository.locate(folder)
        except WorkspaceFailed as failed:
            if failed.code is not Trouble.NOT_A_REPOSITORY:
                raise
            return Kind.INPLACE, Path(os.path.realpath(folder))
        if request.workspace is None:
            return Kind.WORKTREE, folder
        return Kind.INPLACE, located.home

    async def prepare(self, task_id: str, request: SubmitTask) -> Workspace:
        """The workspace of a task, made or found. Raises WorkspaceFailed."""
        if not ids.is_id(task_id, ids.TASK):  # it names a folder and a branch
            raise ValueError(f"{task_id!r} is no id of a task")
        kind, folder = await self.place(request)
        try:
            if kind is Kind.INPLACE:
                return await _inplace(task_id, request, folder)
            return await self._worktree(task_id, request, await repository.locate(folder))
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                told = "the disk is full. Make room, and try the task again."
                raise WorkspaceFailed(Trouble.DISK_FULL, f"{error.filename}: {told}") from error
            raise WorkspaceFailed(Trouble.GIT_FAILED, f"The workspace cannot be made: {error}") from error

    async def _worktree(self, task_id: str, request: SubmitTask, located: Located) -> Workspace:
        git, folder = located.git, self.root / task_id
        base = await _base(git, task_id, request.ref or "HEAD")
        if located.prefix and (await git("cat-file", "-t", f"{base}:{located.prefix}", allow=(0, 128))).text != "tree":
            raise WorkspaceFailed(
                Trouble.FOLDER_MISSING,
                f"{located.prefix}/ is not in the commit {base[:12]}, of which the worktree is made. Commit it first.",
            )
        directory = repository.directory_of(located.common, folder)
        whole = directory is not None and (directory / repository.MARKER).exists()
        found = whole and (folder / ".git").exists()
        if not found:
            if directory is not None:
                await asyncio.to_thread(_clear, directory, folder, half_made=not whole)
            directory = await self._add(git, task_id, folder, located)
        assert directory is not None
        return Workspace(
            task_id=task_id,
            kind=Kind.WORKTREE,
            folder=folder,
            cwd=folder / located.prefix,
            home=located.home,
            git_dir=directory,
            base=base,
            found=found,
            notes=("The worktree was gone; it was made again from its branch.",) if whole and not found else (),
        )

    async def _add(self, git: Git, task_id: str, folder: Path, located: Located) -> Path:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise WorkspaceFailed(
                Trouble.WORKTREE_IN_THE_WAY,
                f"{folder} is there, and git knows no worktree of it. Look what it holds, and move it away.",
            )
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        branch = repository.branch_of(task_id)
        await git("worktree", "add", "--quiet", str(folder), branch, seconds=CHECKOUT_SECONDS)
        directory = repository.directory_of(located.common, folder)
        if directory is None:
            raise WorkspaceFailed(Trouble.GIT_FAILED, f"git made no worktree at {folder}, and said nothing.")
        repository.write_marker(directory, task_id)
        return directory


def _folder_of(request: SubmitTask) -> Path:
    named = request.cwd or request.repository
    if named is None:
        raise WorkspaceFailed(Trouble.FOLDER_MISSING, "The task names neither `cwd` nor `repository`.")
    return Path(named)


async def _base(git: Git, task_id: str, ref: str) -> str:
    """Where the task begins, the same at every call; its branch is there then."""
    known = await repository.commit_of(git, repository.base_ref(task_id))
    if known is not None:
        await repository.keep(git, repository.head_ref(task_id), known)
        return known
    if await repository.commit_of(git, repository.head_ref(task_id)) is not None:
        branch = repository.branch_of(task_id)
        raise WorkspaceFailed(
            Trouble.BRANCH_TAKEN,
            f"The branch {branch} of {git.folder} is there, and not from this task. Give it another name.",
        )
    base, _ = await repository.keep(git, repository.base_ref(task_id), await repository.required(git, ref))
    await repository.keep(git, repository.head_ref(task_id), base)
    return base


def _clear(directory: Path, folder: Path, *, half_made: bool) -> None:
    """Take away what git knows of a worktree that is not there, and a folder in which nobody has worked yet."""
    if half_made and folder.exists():
        shutil.rmtree(folder)
    shutil.rmtree(directory)


async def _inplace(task_id: str, request: SubmitTask, folder: Path) -> Workspace:
    cwd = Path(os.path.realpath(_folder_of(request)))
    if not cwd.is_dir():
        raise WorkspaceFailed(Trouble.FOLDER_MISSING, f"There is no folder {cwd} on this node.")
    try:
        located = await repository.locate(cwd)
    except WorkspaceFailed as failed:
        if failed.code is not Trouble.NOT_A_REPOSITORY:
            raise
        told = "The folder is in no git repository: there is no diff, and nothing can be taken back."
        return Workspace(task_id, Kind.INPLACE, folder, cwd, notes=(told,))
    if located.top is None:
        raise WorkspaceFailed(Trouble.NOT_A_REPOSITORY, f"{cwd} is a bare repository: nothing can be edited in it.")
    base, found = await _base_inplace(located, task_id)
    git_dir = Path((await located.git("rev-parse", "--absolute-git-dir")).text)
    return Workspace(task_id, Kind.INPLACE, located.top, cwd, located.top, git_dir, base, found)


async def _base_inplace(located: Located, task_id: str) -> tuple[str, bool]:
    git, ref = located.git, repository.base_ref(task_id)
    known = await git("rev-parse", "--verify", "--quiet", ref, allow=(0, 1, 128))
    if known.code == 0:  # an earlier attempt began here: what is not committed is its own
        return known.text, True
    if changed := await repository.unsaved(git, untracked=True):
        names = ", ".join(entry[3:] for entry in changed[:3]) + (", …" if len(changed) > 3 else "")
        raise WorkspaceFailed(
            Trouble.DIRTY,
            f"{located.top} has changes that are not committed ({names}): the agent's could not be told"
            " from them. Commit or stash them, or let the task have a worktree.",
        )
    head = await repository.commit_of(git, "HEAD")
    base = head or (await git("hash-object", "-w", "-t", "tree", "--stdin")).text
    return (await repository.keep(git, ref, base))[0], False
