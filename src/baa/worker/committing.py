"""What an agent did, taken down: the commit on its branch, and the diff against where the task began.

A commit is made of git's plumbing, on an index of our own: no hook runs, no lock that a killed git left is in the way,
and it lands on the task's branch also if the agent switched to another one.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import psutil

from baa.api.tasks import Workspace as Kind
from baa.worker import repository
from baa.worker.capped import readable
from baa.worker.git import CHECKOUT_SECONDS, Git, Trouble, WorkspaceFailed
from baa.worker.workspace import Workspace

DIFF_MAX: Final = 262_144
"""Bytes of a diff that are kept."""

STAT_MAX: Final = 16_384

_INDEX: Final = "baa-index"
_TRIES: Final = 3
_PLAIN: Final = ("--no-color", "--no-ext-diff", "--no-textconv", "--find-renames")


@dataclass(frozen=True, slots=True)
class Committed:
    """The branch's newest commit, None while nothing was changed; `notes` tell what could not be committed."""

    commit: str | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Diff:
    """What changed since the task began, to read: binary files are named, a long middle is left out."""

    text: str | None
    stat: str | None


async def commit(workspace: Workspace, message: str) -> Committed:
    """Commit all that a worktree holds to the task's branch; done twice it is done once. Raises WorkspaceFailed.

    A folder that is worked in itself is its owner's: nothing is committed there.
    """
    if workspace.kind is Kind.INPLACE:
        return Committed(None)
    for left in reversed(range(_TRIES)):
        try:
            return await _commit(workspace, message)
        except WorkspaceFailed as failed:  # a worker that was superseded may have moved the branch just now
            if failed.code is not Trouble.GIT_FAILED or not left:
                raise
    raise AssertionError("the last try returns or raises")


async def _commit(workspace: Workspace, message: str) -> Committed:
    assert workspace.git_dir is not None
    assert workspace.base is not None
    plain, branch = workspace.git, repository.head_ref(workspace.task_id)
    index = workspace.git_dir / f"{_INDEX}-{os.getpid()}"
    await asyncio.to_thread(_copy_index, workspace.git_dir / "index", index)
    git = replace(plain, variables={"GIT_INDEX_FILE": str(index)})
    notes = await _add_all(git)
    tree = (await git("write-tree")).text
    tip, _ = await repository.keep(plain, branch, workspace.base)
    parents = await _parents(plain, tip, await repository.commit_of(plain, "HEAD"))
    new = parents[0]
    if len(parents) > 1 or tree != await repository.tree_of(plain, new):
        signed = replace(plain, variables=await repository.identity(plain))
        between = [part for parent in parents for part in ("-p", parent)]
        new = (await signed("commit-tree", tree, *between, "-F", "-", stdin=message.encode())).text
    if new != tip:
        await plain("update-ref", "-m", "baa: a turn's work", branch, new, tip)
    await plain("symbolic-ref", "HEAD", branch)
    index.replace(workspace.git_dir / "index")
    return Committed(new if new != workspace.base else None, notes)


async def _parents(git: Git, tip: str, head: str | None) -> list[str]:
    """The agent may have committed elsewhere: what it made is not left out."""
    if head is None or head == tip or await repository.is_ancestor(git, head, tip):
        return [tip]
    return [head] if await repository.is_ancestor(git, tip, head) else [tip, head]


def _copy_index(now: Path, ours: Path) -> None:
    """Of ours are files in git's own directory of the worktree, one a process; those of dead processes go."""
    for old in ours.parent.glob(f"{_INDEX}-*"):
        pid = old.name.removeprefix(f"{_INDEX}-").removesuffix(".lock")
        if pid == str(os.getpid()) or not (pid.isdecimal() and psutil.pid_exists(int(pid))):
            old.unlink(missing_ok=True)
    with suppress(FileNotFoundError):
        shutil.copy2(now, ours)  # with its time: by it git knows which files may have changed since they were looked at
        return
    ours.unlink(missing_ok=True)


async def _add_all(git: Git) -> tuple[str, ...]:
    """Everything but repositories that the agent made in it: git cannot hold the one in the other."""
    others = (await git("ls-files", "--others", "--exclude-standard", "-z")).parts
    nested = [name.rstrip("/") for name in others if name.endswith("/")]
    excluded = "\0".join([":/", *(f":(top,literal,exclude){name}" for name in nested)])
    await git(
        "add",
        "--all",
        "--pathspec-from-file=-",
        "--pathspec-file-nul",
        stdin=os.fsencode(excluded),
        seconds=CHECKOUT_SECONDS,
    )
    return tuple(
        f"{readable(os.fsencode(name))} is a repository of its own: it is not in the commit." for name in nested
    )


async def diff(workspace: Workspace) -> Diff:
    """What the workspace holds more or less than its base; of a worktree: what its branch does. WorkspaceFailed."""
    if workspace.base is None:
        return Diff(None, None)
    if workspace.kind is Kind.WORKTREE:
        return await _compared(workspace.git, workspace.base, repository.head_ref(workspace.task_id))
    with tempfile.TemporaryDirectory(prefix="baa-") as folder:
        git = await _aside(workspace, Path(folder))
        await _add_all(git)
        return await _compared(git, "--cached", workspace.base)


async def _aside(workspace: Workspace, folder: Path) -> Git:
    """git with an index and an object store of its own: the owner's folder is looked at, and nothing is written."""
    assert workspace.git_dir is not None
    plain = workspace.git
    await asyncio.to_thread(_copy_index, workspace.git_dir / "index", folder / "index")
    objects = (await plain("rev-parse", "--path-format=absolute", "--git-path", "objects")).text
    (folder / "objects").mkdir()
    variables = {
        "GIT_INDEX_FILE": str(folder / "index"),
        "GIT_OBJECT_DIRECTORY": str(folder / "objects"),
        "GIT_ALTERNATE_OBJECT_DIRECTORIES": objects,
    }
    return replace(plain, variables=variables)


async def _compared(git: Git, *between: str) -> Diff:
    told = await git("diff", *_PLAIN, *between, "--", limit=DIFF_MAX)
    stat = await git("diff", *_PLAIN, "--stat=100", "--stat-count=100", *between, "--", limit=STAT_MAX)
    return Diff(told.text, stat.text)
