"""`baa backup` and `baa restore`: the log as a verified copy, and a copy as the log."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from baa import config as configuration
from baa.api.errors import EX_TEMPFAIL, BaaError, CannotStart, Code
from baa.api.status import Backup
from baa.cli.plain import plain
from baa.client.codexd import Codexd
from baa.client.discovery import Unreachable
from baa.codexd import copies
from baa.codexd.daemon import hold
from baa.config import Config

EX_SOFTWARE: Final = 70

EXIT: Final = {
    Code.INVALID_REQUEST: copies.EX_CANTCREAT,
    Code.STORAGE_FULL: copies.EX_IOERR,
    Code.OVERLOADED: EX_TEMPFAIL,
    Code.DRAINING: EX_TEMPFAIL,
}


def backup(to: Path | None, *, config_file: Path | None, as_json: bool) -> int:
    """Make a backup, by codexd if it runs; the exit code."""

    def do() -> dict[str, Any]:
        config = configuration.load(config_file)
        made = asyncio.run(_backup(config, None if to is None else to.expanduser().absolute()))
        return {"backup": msgspec.to_builtins(made)}

    return _told(do, as_json, lambda did: f"{did['backup']['path']}: {_held(did['backup']['manifest'])}, verified.")


async def _backup(config: Config, to: Path | None) -> Backup:
    try:
        async with Codexd(config, patience_s=0) as codexd:
            return await codexd.backup(None if to is None else str(to))
    except Unreachable as away:
        if away.maybe_done:
            raise CannotStart(away.message, exit_code=EX_TEMPFAIL) from None
    except BaaError as refused:
        raise CannotStart(refused.message, exit_code=EXIT.get(refused.code, EX_SOFTWARE)) from None
    return await asyncio.to_thread(_make, config, to)


def _make(config: Config, to: Path | None) -> Backup:
    """Make one of a log that no codexd writes."""
    database = config.state_dir / copies.DATABASE
    if not database.exists():
        raise CannotStart(f"There is no log to back up: {database} is not there.", exit_code=copies.EX_NOINPUT)
    os.umask(0o077)
    if to is None:
        config.backups_dir.mkdir(parents=True, exist_ok=True)
        to = config.backups_dir / copies.file_time()
    return Backup(path=str(to), manifest=copies.make(database, to))


def restore(backup_folder: Path, *, config_file: Path | None, as_json: bool) -> int:
    """Put a backup in the log's place; the exit code."""

    def do() -> dict[str, Any]:
        config = configuration.load(config_file)
        os.umask(0o077)
        config.state_dir.mkdir(parents=True, exist_ok=True)
        try:
            lock = hold(config.state_dir / "daemon.lock")
        except CannotStart as held:
            raise CannotStart(
                f"codexd runs on {config.state_dir}, and it would not notice. Stop it (`baa service stop`, or Ctrl-C of"
                " `baa up`), then restore.",
                exit_code=held.exit_code,
            ) from None
        try:
            manifest, aside = copies.install(backup_folder, config.state_dir)
        finally:
            os.close(lock)
        restored = msgspec.to_builtins(manifest)
        return {
            "restored": restored,
            "stateDir": str(config.state_dir),
            "setAside": None if aside is None else str(aside),
        }

    def say(did: dict[str, Any]) -> str:
        aside = "" if did["setAside"] is None else f"\nThe log that was there is in {did['setAside']}."
        return (
            f"{did['stateDir']}: {_held(did['restored'])}.{aside}\nStart codexd: turns that had not ended then are told"
            " as lost, and every cursor of before as expired."
        )

    return _told(do, as_json, say)


def _held(manifest: dict[str, Any]) -> str:
    return f"the log up to event {manifest['head']}, as it was at {manifest['at']} ({manifest['bytes']} bytes)"


def _told(do: Callable[[], dict[str, Any]], as_json: bool, say: Callable[[dict[str, Any]], str]) -> int:
    did = do()  # a refusal is told as every other one, by main
    print(msgspec.json.encode({"ok": True, **did}).decode() if as_json else plain(say(did)))
    return 0
