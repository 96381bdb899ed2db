"""git repositories of a test's, made and looked at with git itself."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from baa.api import ids

QUIET = {
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "A",
    "GIT_COMMITTER_EMAIL": "a@example.org",
}


KILLER = """#!/bin/sh
echo >> {count}
if [ "$(wc -l < {count})" -gt {calls} ]; then kill -9 $PPID; exit 1; fi
exec {git} "$@"
"""


def killed_by_git(folder: Path, calls: int) -> dict[str, str]:
    """An environment in which whoever runs git so many times is killed before the next time."""
    shim, count = folder / f"bin-{calls}", folder / f"count-{calls}"
    shim.mkdir()
    (shim / "git").write_text(KILLER.format(calls=calls, git=shutil.which("git"), count=count))
    (shim / "git").chmod(0o755)
    return {**os.environ, "PATH": f"{shim}:{os.environ['PATH']}"}


def a_task() -> str:
    """A new task's id."""
    return ids.new_id(ids.TASK, 1_700_000_000_000)


class Repository:
    """A repository with one commit: `readme` and `sub/code.py` on `main`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self.git("init", "--quiet", "--initial-branch=main")
        self.write("readme", "one\n")
        self.write("sub/code.py", "x = 1\n")
        self.commit("first")

    def git(self, *command: str, at: Path | None = None) -> str:
        """What git answers here, or in another folder."""
        environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **QUIET}
        done = subprocess.run(
            ["git", "-C", str(at or self.folder), *command],
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout.strip()

    def write(self, name: str, text: str) -> Path:
        """A file of the work tree."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def commit(self, message: str) -> str:
        """All that changed, as a commit."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)
        return self.head

    @property
    def head(self) -> str:
        """The commit that is checked out."""
        return self.of("HEAD")

    def of(self, name: str) -> str:
        """The commit that a name means."""
        return self.git("rev-parse", "--verify", name)

    def shown(self, name: str) -> str:
        """A file of a commit: `commit:path`."""
        return self.git("show", name)

    def refs(self) -> list[str]:
        """Every ref's name."""
        return self.git("for-each-ref", "--format=%(refname)").split("\n")
