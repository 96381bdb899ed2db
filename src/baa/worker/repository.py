"""What the worker knows of a git repository: where it is, what its names mean, and what of ours is in it.

Of ours are the branch `baa/TASK`, the ref `refs/baa/TASK/base` (where the task began; it is made first, so that a HEAD
that moves changes nothing after a crash) and `refs/baa/TASK/applied` (what of the branch was brought home).
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from baa.worker.git import Git, Trouble, WorkspaceFailed

MARKER: Final = "baa-task"
"""A file in git's own directory of a worktree: the worktree is whole, and an agent may have worked in it."""

FALLBACK_NAME: Final = "baa-conductor"
FALLBACK_EMAIL: Final = "baa-conductor@localhost"

_ABSENT: Final = ""  # `update-ref` takes it for "the ref must not exist"


@dataclass(frozen=True, slots=True)
class Located:
    """Where a folder lies: `top` is the work tree that holds it (None in a bare repository), `prefix` its path there.

    `common` is what all work trees of the repository share.
    """

    folder: Path
    top: Path | None
    common: Path
    prefix: str

    @property
    def git(self) -> Git:
        """git, in that folder."""
        return Git(self.folder)

    @property
    def home(self) -> Path:
        """The path by which people know the repository."""
        return self.top or self.common


def branch_of(task_id: str) -> str:
    """The branch of a task."""
    return f"baa/{task_id}"


def head_ref(task_id: str) -> str:
    """The full name of its branch."""
    return f"refs/heads/{branch_of(task_id)}"


def base_ref(task_id: str) -> str:
    """The ref that keeps where a task began."""
    return f"refs/baa/{task_id}/base"


def applied_ref(task_id: str) -> str:
    """The ref that keeps which commit of its branch was brought home."""
    return f"refs/baa/{task_id}/applied"


def home_ref(task_id: str) -> str:
    """The ref that keeps what that became where it was brought to: whether it is still there can be asked."""
    return f"refs/baa/{task_id}/home"


async def locate(folder: Path) -> Located:
    """The repository that a folder is in. Raises WorkspaceFailed: `folder_missing`, `not_a_repository`."""
    if not folder.is_absolute() or not folder.is_dir():
        raise WorkspaceFailed(
            Trouble.FOLDER_MISSING, f"There is no folder {folder} on this node. A task names an absolute path."
        )
    git = Git(folder)
    asked = ("--path-format=absolute", "--is-bare-repository", "--git-common-dir", "--show-prefix")
    bare, common, prefix, *_ = (*(await git("rev-parse", *asked)).text.split("\n"), "")
    if bare == "true":
        return Located(folder, None, Path(common), "")
    top = (await git("rev-parse", "--path-format=absolute", "--show-toplevel")).text
    return Located(folder, Path(top), Path(common), prefix.rstrip("/"))


async def commit_of(git: Git, ref: str) -> str | None:
    """The commit that a name means; None if it means none."""
    said = await git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}", allow=(0, 1, 128))
    return said.text if said.code == 0 else None


async def required(git: Git, ref: str) -> str:
    """The commit that a name means. Raises WorkspaceFailed: `ref_unknown`."""
    found = await commit_of(git, ref)
    if found is None:
        means = "It has no commit yet: make one" if ref == "HEAD" else "Name a branch, a tag or a commit that it has"
        raise WorkspaceFailed(Trouble.REF_UNKNOWN, f"{ref!r} is no commit of the repository {git.folder}. {means}.")
    return found


async def tree_of(git: Git, commit: str) -> str:
    """The tree of a commit."""
    return (await git("rev-parse", "--verify", f"{commit}^{{tree}}")).text


async def keep(git: Git, ref: str, object_id: str) -> tuple[str, bool]:
    """Make a ref if it is not there: what it names then, and whether it was made now."""
    made = await git("update-ref", ref, object_id, _ABSENT, allow=(0, 128))
    found = await git("rev-parse", "--verify", "--quiet", ref, allow=(0, 1, 128))
    if found.code != 0:
        raise WorkspaceFailed(Trouble.GIT_FAILED, f"git does not take the ref {ref} in {git.folder}: {made.error}")
    return found.text, made.code == 0


async def is_ancestor(git: Git, older: str, newer: str) -> bool:
    """Whether `newer` holds all of `older`."""
    return (await git("merge-base", "--is-ancestor", older, newer, allow=(0, 1))).code == 0


async def unsaved(git: Git, *, untracked: bool) -> list[str]:
    """What `git status` tells of a work tree: changes that no commit holds."""
    kind = "all" if untracked else "no"
    return (await git("status", "--porcelain", "-z", f"--untracked-files={kind}")).parts


async def identity(git: Git) -> dict[str, str]:
    """Variables with which a commit has the repository's own author, or ours where it names none."""

    async def configured(key: str, otherwise: str) -> str:
        return (await git("config", "--get", key, allow=(0, 1))).text or otherwise

    name, email = await configured("user.name", FALLBACK_NAME), await configured("user.email", FALLBACK_EMAIL)
    return {f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER") for what, value in _both(name, email)}


def _both(name: str, email: str) -> tuple[tuple[str, str], tuple[str, str]]:
    return ("NAME", name), ("EMAIL", email)


def directory_of(common: Path, worktree: Path) -> Path | None:
    """git's own directory of a worktree, found from the repository's side: what lies in the worktree is not asked."""
    for entry in sorted((common / "worktrees").glob("*")):
        with suppress(OSError):
            told = (entry / "gitdir").read_text().strip()
            if told and Path(os.path.normpath(entry / told)) == worktree / ".git":
                return entry
    return None


def write_marker(directory: Path, task_id: str) -> None:
    """The worktree is whole."""
    new = directory / f"{MARKER}.new"
    with new.open("w") as file:
        file.write(f"{task_id}\n")
        file.flush()
        os.fsync(file.fileno())
    new.replace(directory / MARKER)
