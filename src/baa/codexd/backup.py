"""Backups while codexd runs: each is made and verified by a process of its own, so that it is in nobody's way."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Final

import msgspec
import structlog

from baa.api.errors import BaaError, Code, Rejected, Unavailable
from baa.api.status import Backup, MakeBackup, Manifest
from baa.codexd import copies
from baa.http.patience import Patience

LONGEST_MS: Final = 6 * 3_600_000
"""Milliseconds for a backup at most: many times what the largest log takes on a slow disk."""

_log = structlog.get_logger("backup")


class Backups:
    """The backups of one log. One is made at a time."""

    def __init__(self, database: Path, folder: Path, patience: Patience) -> None:
        """Those for which nobody names another place go into `folder`."""
        self._database = database
        self._folder = folder
        self._patience = patience
        self._making = False

    async def make(self, asked: MakeBackup) -> Backup:
        """Make one, and return once it is on disk and verified.

        Raises Rejected (422) for a place that cannot be, Unavailable (429, 503, 507).
        """
        if self._making:
            raise Unavailable(Code.OVERLOADED, "A backup is being made already. Try again when it is done.")
        folder = self._place(asked.to)
        self._making = True
        try:
            manifest = await self._copy(folder)
        except OSError as error:
            raise Unavailable(
                Code.OVERLOADED, f"The process that makes a backup cannot be started ({error}). Try again."
            ) from error
        finally:
            self._making = False
        _log.info("backup.made", path=str(folder), head=manifest.head, bytes=manifest.bytes)
        return Backup(path=str(folder), manifest=manifest)

    def _place(self, to: str | None) -> Path:
        if to is None:
            try:
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise Unavailable(
                    Code.STORAGE_FULL, f"{self._folder} cannot be made ({error}). Mend that, or name another place."
                ) from error
            return self._folder / copies.file_time()
        if not Path(to).is_absolute() or "\0" in to:
            raise Rejected(
                Code.INVALID_REQUEST, "`to` must be an absolute path: codexd has a working folder of its own."
            )
        return Path(to)

    async def _copy(self, folder: Path) -> Manifest:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "baa.codexd.copies", str(self._database), str(folder)),
            stdin=PIPE,  # it ends with it, and so with codexd
            stdout=PIPE,
            stderr=PIPE,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            async with self._patience.wait(LONGEST_MS):
                told, wrong = await process.stdout.read(), await process.stderr.read()
                await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
            code = await process.wait()
        if code == 0:
            return msgspec.json.decode(told, type=Manifest)
        if code < 0:
            copies.remove_leftovers(folder.parent)
            raise Unavailable(Code.DRAINING, "codexd stops, and the backup with it. Ask the next codexd.")
        raise _refusal(code, wrong.decode("utf-8", "replace"))


def _refusal(code: int, message: str) -> BaaError:
    if code == copies.EX_CANTCREAT:
        return Rejected(Code.INVALID_REQUEST, message)
    _log.error("backup.failed", code=code, why=message)
    if code == copies.EX_IOERR:
        return Unavailable(Code.STORAGE_FULL, message)
    return BaaError(Code.INTERNAL_ERROR, "The backup is not kept: it failed, and codexd's log says how.")
