"""The tokens that a running server takes, and how it hears that they were changed: that needs no restart."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import structlog

from baa.api.errors import CannotStart
from baa.http.tokens import NAMES, Name, load_token

LOOK_S: Final = 1.0
"""Seconds after which a changed file is seen where no request looks at it."""

_log = structlog.get_logger("tokens")


class Keyring:
    """Tokens by their scope. `changed` is set, and replaced by another one, when they are others."""

    def __init__(self, known: Mapping[Name, str]) -> None:
        """These tokens, for ever."""
        self._known = known
        self.changed = asyncio.Event()

    def now(self) -> Mapping[Name, str]:
        """The tokens as they are at this moment."""
        return self._known


class TokenFiles(Keyring):
    """The tokens in a folder, read again when a file changes, which costs two looks at the folder a request.

    A file that cannot be used is no token: everybody is refused until it can be.
    """

    def __init__(self, folder: Path, names: tuple[Name, ...] = NAMES) -> None:
        """Read the files; one that cannot be used is told to the log."""
        super().__init__({})
        self._folder = folder
        self._names = names
        self._seen: list[tuple[int, ...] | None] | None = None
        self._read()

    def now(self) -> Mapping[Name, str]:
        """The tokens as the files hold them at this moment."""
        if self._look() != self._seen:
            self._read()
        return self._known

    async def watch(self) -> None:
        """Look from time to time, until cancelled, so that streams end that were opened with an old token."""
        while True:
            await asyncio.sleep(LOOK_S)
            self.now()

    def _look(self) -> list[tuple[int, ...] | None]:
        return [_state(self._folder / name) for name in self._names]

    def _read(self) -> None:
        before = None if self._seen is None else self._known
        self._seen = self._look()
        try:
            known = {name: load_token(self._folder / name) for name in self._names}
            if len(set(known.values())) < len(known):
                raise CannotStart(f"The tokens in {self._folder} are the same. Make new ones: baa token rotate")
        except CannotStart as unusable:
            _log.warning("tokens.refused", why=unusable.message)
            known = {}
        self._known = known
        if before is not None and before != known:
            _log.info("tokens.changed")
            changed, self.changed = self.changed, asyncio.Event()
            changed.set()


def _state(path: Path) -> tuple[int, ...] | None:
    """What is another when a file is another, or when others could read it."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return (found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_mode, found.st_uid)
