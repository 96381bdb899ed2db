"""git as the worker runs it: no prompt, no pager, no hook, no signature, its own environment, and a time limit.

Where a folder belongs to an agent, git is told its directory and its work tree by name, so that nothing the agent put
in their place is followed. What the repository's owner configured as filters (such as large files) is run: a checkout
would be wrong without.
"""

from __future__ import annotations

import asyncio
import os
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import Container, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from baa.worker.capped import Capped

SECONDS: Final = 120.0
"""For one git command; a checkout of a large repository has CHECKOUT_SECONDS."""

CHECKOUT_SECONDS: Final = 900.0

OUTPUT_MAX: Final = 16 << 20
"""Bytes of a command's output: what our questions are answered is far shorter."""

_STDERR_MAX: Final = 4096
_CHUNK: Final = 1 << 16

_KEPT: Final = ("HOME", "LOGNAME", "PATH", "TMPDIR", "USER", "XDG_CONFIG_HOME")
"""What git gets of our environment; a GIT_DIR of whoever started us would lead it elsewhere."""

_ENVIRONMENT: Final = {
    "GIT_ASKPASS": "true",
    "GIT_EDITOR": "true",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_PAGER": "cat",
    "GIT_TERMINAL_PROMPT": "0",
    "LC_ALL": "C",  # its messages are told apart below
    "SSH_ASKPASS": "true",
}

_SETTINGS: Final = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.splitIndex=false",
    "commit.gpgSign=false",
    "merge.verifySignatures=false",
    "submodule.recurse=false",
    "worktree.useRelativePaths=false",
    "gc.auto=0",
    "maintenance.auto=false",
)


class Trouble(StrEnum):
    """Why work on a workspace failed, in a word that programs may rely on: the reason of an attempt that it ended."""

    FOLDER_MISSING = "folder_missing"
    NOT_A_REPOSITORY = "not_a_repository"
    REF_UNKNOWN = "ref_unknown"
    BRANCH_IN_USE = "branch_in_use"
    BRANCH_TAKEN = "branch_taken"
    WORKTREE_IN_THE_WAY = "worktree_in_the_way"
    DIRTY = "uncommitted_work"
    UNMERGED = "unmerged_work"
    IN_USE = "workspace_in_use"
    DETACHED = "detached_head"
    CONFLICT = "conflict"
    NOTHING_TO_APPLY = "nothing_to_apply"
    DISK_FULL = "disk_full"
    GIT_MISSING = "git_missing"
    GIT_TOO_OLD = "git_too_old"
    GIT_TIMED_OUT = "git_timed_out"
    GIT_FAILED = "git_failed"


class WorkspaceFailed(Exception):
    """A workspace cannot be made, kept, applied or removed; `message` says what to do."""

    def __init__(self, code: Trouble, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Said:
    """What a git command answered."""

    code: int
    output: Capped
    error: str

    @property
    def text(self) -> str:
        """The output as one text, without the last end of line; it says where its middle was left out."""
        return self.output.text().removesuffix("\n")

    @property
    def parts(self) -> list[str]:
        """The output of a command with `-z`: names of files, whatever bytes they hold."""
        return [os.fsdecode(part) for part in self.output.data.split(b"\0") if part]


@dataclass(frozen=True, slots=True)
class Git:
    """git in one place: `folder` is where it looks for a repository; `git_dir` and `work_tree` name them instead."""

    folder: Path
    git_dir: Path | None = None
    work_tree: Path | None = None
    variables: Mapping[str, str] = field(default_factory=dict)

    async def __call__(
        self,
        *command: str,
        allow: Container[int] = (0,),
        seconds: float = SECONDS,
        limit: int = OUTPUT_MAX,
        stdin: bytes = b"",
    ) -> Said:
        """What it answered. Raises WorkspaceFailed for an exit code that is not allowed, and past its time."""
        process = await self._start(command)
        output, stderr = Capped(limit), Capped(_STDERR_MAX)
        try:
            async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
                group.create_task(_write(process, stdin), name="git-stdin")
                group.create_task(_read(process.stdout, output), name="git-stdout")
                group.create_task(_read(process.stderr, stderr), name="git-stderr")
            code = await process.wait()
        except TimeoutError:
            raise WorkspaceFailed(
                Trouble.GIT_TIMED_OUT,
                f"`git {command[0]}` in {self.folder} did not end in {seconds:.0f} s. Look whether its disk answers.",
            ) from None
        finally:
            await _end(process)
        said = Said(code, output, stderr.text().strip())
        if code not in allow:
            raise failure(self.folder, command, said)
        return said

    async def _start(self, command: tuple[str, ...]) -> Process:
        arguments = ["git", "--no-pager", "-C", str(self.folder)]
        arguments += [part for setting in _SETTINGS for part in ("-c", setting)]
        if self.git_dir is not None:
            arguments.append(f"--git-dir={self.git_dir}")
        if self.work_tree is not None:
            arguments.append(f"--work-tree={self.work_tree}")
        inherited = {name: os.environ[name] for name in _KEPT if name in os.environ}
        try:
            return await asyncio.create_subprocess_exec(
                *arguments,
                *command,
                env={**inherited, **_ENVIRONMENT, **self.variables},
                stdin=PIPE,
                stdout=PIPE,
                stderr=PIPE,
                start_new_session=True,
            )
        except FileNotFoundError:
            raise WorkspaceFailed(
                Trouble.GIT_MISSING, "git is not on the PATH of this worker. Install it, and start the worker again."
            ) from None


async def _write(process: Process, data: bytes) -> None:
    assert process.stdin is not None
    with suppress(ConnectionError):  # it read no more of it: its exit code tells
        process.stdin.write(data)
        await process.stdin.drain()
    process.stdin.close()


async def _read(stream: asyncio.StreamReader | None, into: Capped) -> None:
    assert stream is not None
    while data := await stream.read(_CHUNK):
        into.feed(data)


async def _end(process: Process) -> None:
    """Nothing of it runs on, whatever ended the wait for it."""
    if process.returncode is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        await asyncio.shield(process.wait())


def failure(folder: Path, command: tuple[str, ...], said: Said) -> WorkspaceFailed:
    """What git's own words mean to whoever runs a task."""
    told = said.error
    name = f"`git {command[0]}` in {folder}"
    if "No space left on device" in told or "Disk quota exceeded" in told:
        return WorkspaceFailed(Trouble.DISK_FULL, f"{name}: the disk is full. Make room, and try the task again.")
    if "not a git repository" in told or "must be run in a work tree" in told:
        return WorkspaceFailed(
            Trouble.NOT_A_REPOSITORY,
            f"{folder} is not in a git repository. Name one, or work in the folder itself (`inplace`).",
        )
    if "already checked out at" in told or "already used by worktree" in told:
        return WorkspaceFailed(Trouble.BRANCH_IN_USE, f"{name}: {told}. Switch that folder to another branch.")
    return WorkspaceFailed(Trouble.GIT_FAILED, f"{name} failed ({said.code}): {told or 'it said nothing'}")
