"""A task's branch brought home, and its worktree taken away: what `baa task apply` and its cleaning up do.

What the result will be is worked out beside the work tree first, and then taken in one step that goes forward only: a
conflict changes nothing, and nothing that is not committed is touched.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

import psutil

from baa.api import ids
from baa.worker import repository
from baa.worker.git import Git, Trouble, WorkspaceFailed

_OPERATIONS = ("MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD", "rebase-merge", "rebase-apply", "BISECT_LOG")


class How(StrEnum):
    """`merge`: the branch's own commits, with a merge commit where the home branch went on. `pick`: as one commit."""

    MERGE = "merge"
    PICK = "pick"


@dataclass(frozen=True, slots=True)
class Applied:
    """What came of it: `commit` is where the home branch stands. `already`: it held all of it before."""

    commit: str
    onto: str
    already: bool


async def apply(home: Path, task_id: str, how: How, message: str) -> Applied:
    """Bring the task's branch into the branch that is checked out in `home`; done twice it is done once.

    Raises WorkspaceFailed: `uncommitted_work`, `conflict`, `detached_head`, `nothing_to_apply`, `not_a_repository`.
    """
    located = await repository.locate(home)
    if located.top is None:
        raise WorkspaceFailed(Trouble.NOT_A_REPOSITORY, f"{home} is a bare repository: no branch is checked out there.")
    git = Git(located.top)
    tip = await _tip(git, task_id)
    onto = (await git("symbolic-ref", "--quiet", "--short", "HEAD", allow=(0, 1))).text
    if not onto:
        raise WorkspaceFailed(
            Trouble.DETACHED, f"No branch is checked out in {located.top}. `git switch` to the one it shall come to."
        )
    head = await repository.required(git, "HEAD")
    if tip is None:  # its branch was taken away, once it was brought home
        return Applied(head, onto, already=True)
    became = await _became(git, task_id, tip)
    if await repository.is_ancestor(git, tip, head) or (became and await repository.is_ancestor(git, became, head)):
        return Applied(head, onto, already=True)
    await _must_be_clean(git, located.top)
    new = await _result(git, task_id, how, head, tip, message)
    # One that died before it wrote down that it had brought it home: one commit more would be an empty one.
    there = how is How.PICK and await repository.tree_of(git, new) == await repository.tree_of(git, head)
    if not there:
        await _forward(git, located.top, new)
    became = head if there else new
    refs = f"update {repository.applied_ref(task_id)} {tip}\nupdate {repository.home_ref(task_id)} {became}\n"
    await git("update-ref", "--stdin", stdin=refs.encode())
    return Applied(became, onto, already=there)


async def _became(git: Git, task_id: str, commit: str) -> str | None:
    """The commit that the task's `commit` was brought home as, though that may have been undone since; or None."""
    if commit != await repository.commit_of(git, repository.applied_ref(task_id)):
        return None
    return await repository.commit_of(git, repository.home_ref(task_id))


async def _tip(git: Git, task_id: str) -> str | None:
    """The branch's commit; None where all that is left of it is that it was brought home."""
    tip = await repository.commit_of(git, repository.head_ref(task_id))
    if tip is None and await repository.commit_of(git, repository.applied_ref(task_id)) is not None:
        return None
    base = await repository.commit_of(git, repository.base_ref(task_id))
    if tip is None or tip == base:
        branch = repository.branch_of(task_id)
        told = f"has no branch {branch}" if tip is None else f"has nothing on {branch} that its base does not have"
        raise WorkspaceFailed(Trouble.NOTHING_TO_APPLY, f"{git.folder} {told}. `baa task show` tells where it ran.")
    return tip


async def _must_be_clean(git: Git, top: Path) -> None:
    for name in _OPERATIONS:
        path = Path((await git("rev-parse", "--path-format=absolute", "--git-path", name)).text)
        if path.exists():
            raise WorkspaceFailed(
                Trouble.DIRTY, f"{top} is in the middle of something ({name}). Finish or abort that first."
            )
    if changed := await repository.unsaved(git, untracked=False):
        raise WorkspaceFailed(
            Trouble.DIRTY,
            f"{top} has {len(changed)} changes that are not committed. Commit or stash them: nothing was applied.",
        )


async def _result(git: Git, task_id: str, how: How, head: str, tip: str, message: str) -> str:
    """The commit to go forward to, made beside the work tree."""
    if how is How.MERGE and await repository.is_ancestor(git, head, tip):
        return tip
    signed = replace(git, variables=await repository.identity(git))
    ours, theirs = head, tip
    if how is How.PICK:
        base = await repository.required(git, repository.base_ref(task_id))
        ours, theirs = await _as_siblings(signed, base, head, tip)
    merged = await git("merge-tree", "--write-tree", "--name-only", "-z", ours, theirs, allow=(0, 1, 129))
    if merged.code == 129:
        raise WorkspaceFailed(Trouble.GIT_TOO_OLD, "This needs git 2.38 or newer (`git merge-tree --write-tree`).")
    tree, *conflicts = merged.output.data.decode(errors="replace").split("\0")
    if merged.code == 1:
        names = conflicts[: conflicts.index("")] if "" in conflicts else conflicts
        raise WorkspaceFailed(
            Trouble.CONFLICT,
            f"{repository.branch_of(task_id)} and {git.folder} changed the same places: {', '.join(names[:10])}."
            " Nothing was changed. Merge the branch by hand, or give the task another try from the newer state.",
        )
    parents = ("-p", head, "-p", tip) if how is How.MERGE else ("-p", head)
    return (await signed("commit-tree", tree, *parents, "-F", "-", stdin=message.encode())).text


async def _as_siblings(git: Git, base: str, head: str, tip: str) -> tuple[str, str]:
    """Two commits on one that holds the task's base: so the three trees are merged, whatever history they have."""

    async def commit(of: str, *parent: str) -> str:
        tree = await repository.tree_of(git, of)
        return (await git("commit-tree", tree, *parent, "-m", "beside")).text

    root = await commit(base)
    return await commit(head, "-p", root), await commit(tip, "-p", root)


async def _forward(git: Git, top: Path, new: str) -> None:
    said = await git("merge", "--ff-only", "--quiet", "--no-autostash", new, allow=(0, 1, 128))
    if said.code != 0:
        raise WorkspaceFailed(
            Trouble.DIRTY,
            f"git did not bring it into {top}, and changed nothing: {said.error or 'it said nothing'}. Move away"
            " what is in the way.",
        )


async def remove(home: Path, worktrees: Path, task_id: str, *, remember: bool = False, look: bool = False) -> None:
    """Take away a task's worktree, its branch and its refs. Raises WorkspaceFailed, and leaves all, if work would go.

    `remember`: what was brought home is still known, so that to apply it again does nothing. `look`: only see whether
    it could be done.

    Work is what is not committed (files that git ignores do not count), what no other branch holds as it is or as
    applied, and what a process is in. Only for a task that has ended: between the turns of another, nothing tells.
    """
    located = await repository.locate(home)
    git, folder = located.git, worktrees / task_id
    directory = repository.directory_of(located.common, folder)
    for marker, of in _markers(located.common):
        if of == task_id and marker.parent != directory:
            told = f"Its worktree is not {folder}: see `git worktree list`. It stays."
            raise WorkspaceFailed(Trouble.IN_USE, told)
    if directory is not None and folder.exists():
        inside = Git(folder, git_dir=directory, work_tree=folder)
        if await repository.unsaved(inside, untracked=True):
            raise WorkspaceFailed(Trouble.DIRTY, f"{folder} holds what is not committed. Look at it; it stays.")
        if pids := await asyncio.to_thread(_inside, folder):
            told = ", ".join(map(str, pids))
            raise WorkspaceFailed(Trouble.IN_USE, f"Processes are in {folder}: {told}. End them first; it stays.")
        head = await repository.commit_of(inside, "HEAD")
        await _must_be_held(git, task_id, head)
    tip = await repository.commit_of(git, repository.head_ref(task_id))
    await _must_be_held(git, task_id, tip)
    if look:
        return
    if directory is not None:
        await git("worktree", "remove", str(folder))
    if tip is not None:
        await git("update-ref", "-d", repository.head_ref(task_id), tip)
    refs = [repository.base_ref(task_id)] + (
        [] if remember else [repository.applied_ref(task_id), repository.home_ref(task_id)]
    )
    for ref in refs:
        await git("update-ref", "-d", ref)


async def tasks_of(home: Path) -> list[str]:
    """The tasks of which the repository has a worktree, a branch or a ref, oldest first. Raises WorkspaceFailed."""
    located = await repository.locate(home)
    listed = await located.git("for-each-ref", "--format=%(refname)", "refs/baa", "refs/heads/baa")
    named = {part for ref in listed.text.split("\n") for part in ref.split("/")}
    named |= {of for _, of in _markers(located.common)}
    return sorted(name for name in named if ids.is_id(name, ids.TASK))


def _markers(common: Path) -> list[tuple[Path, str]]:
    # The marker of each worktree that we made, and the task in it; git's own side of a repository is asked.
    found = []
    for marker in sorted((common / "worktrees").glob(f"*/{repository.MARKER}")):
        with suppress(OSError):
            found.append((marker, marker.read_text().strip()))
    return found


async def _must_be_held(git: Git, task_id: str, commit: str | None) -> None:
    """Another branch, here or as it was last seen at a remote, holds it, or what it was brought home as."""
    if commit is None or commit == await repository.commit_of(git, repository.base_ref(task_id)):
        return
    own = repository.head_ref(task_id)
    for each in (commit, await _became(git, task_id, commit)):
        if each is None:
            continue
        held = await git("for-each-ref", f"--contains={each}", "--format=%(refname)", "refs/heads", "refs/remotes")
        if [ref for ref in held.text.split("\n") if ref and ref != own]:
            return
    raise WorkspaceFailed(
        Trouble.UNMERGED,
        f"No other branch holds {commit[:12]} of {repository.branch_of(task_id)}. `baa task apply` it, or merge or"
        " push it; it stays.",
    )


def _inside(folder: Path) -> list[int]:
    """The processes whose working folder it is, as far as we may see."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if Path(process.cwd()).is_relative_to(folder):
                found.append(process.pid)
    return found
