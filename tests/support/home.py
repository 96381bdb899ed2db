"""A user's home folder, in which it is asked for work to be done."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from baa.api.sessions import Sandbox
from baa.codexd.policy import Policy


class Home:
    """A home folder with a root in it, our state in that, and things beside."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "user"
        self.state = self.path / ".local" / "share" / "baa"
        self.project = self.path / "work" / "project"
        self.beside = folder / "adam"
        for made in (self.state / "state", self.project, self.beside, self.path / ".ssh", self.path / "a.b" / "..c"):
            made.mkdir(parents=True)
        (self.path / "file").touch()
        os.mkfifo(self.path / "fifo")
        with suppress(OSError):  # macOS has no such names
            os.mkdir(os.fsencode(self.path) + b"/bad\xff")
            (self.path / "odd").symlink_to(os.fsdecode(b"bad\xff"))
        for name, target in (("out", self.beside), ("in", self.project), ("hidden", self.path / ".ssh"),
                             ("dangling", folder / "nowhere"), ("loop", self.path / "loop")):  # fmt: skip
            (self.path / name).symlink_to(target)
        self.policy = Policy(sandbox=Sandbox.WORKSPACE_WRITE, roots=(self.path,), private=(self.state,))
