"""Opening the log's file: one that is damaged is set aside, never deleted, and another begins in its place.

Boot checks what boot reads, and that is little. The events are checked while codexd serves, on a connection that only
reads (`check`): at a million of them that takes longer than a start may.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import apsw
import structlog

from baa.codexd import schema
from baa.codexd.ballast import Ballast
from baa.codexd.copies import file_time
from baa.sqlite import open_reader, open_writer

LARGE: Final = frozenset({"event", "item"})
"""The tables that grow with what Codex says: they are not read at boot."""

_log = structlog.get_logger("log")


def mark_of(path: Path) -> Path:
    """The file of a log's high-water mark."""
    return path.with_suffix(".mark")


def ballast_of(path: Path) -> Path:
    """The file of a log's ballast."""
    return path.with_suffix(".ballast")


def seal_of(path: Path) -> Path:
    """The file with the key to what stands closed in a log."""
    return path.with_suffix(".seal")


def damage_of(path: Path) -> Path:
    """The file in which a codexd says that its log is damaged, for the next one to set it aside."""
    return path.with_suffix(".damaged")


def opened(path: Path, prepare: Callable[[apsw.Connection], None]) -> tuple[apsw.Connection, str | None]:
    """The writing connection, its tables prepared; and why the log that was there is not this one, if so.

    A copy of an older log is kept beside it. Raises apsw.Error and OSError if the file cannot be opened or copied for
    another reason than its damage, and what `prepare` raises.
    """
    told = None
    why = _known_damage(path)
    if why is None:
        try:
            return _sound(path, prepare), None
        except (apsw.CorruptError, apsw.NotADBError) as error:
            why = str(error)
    told = set_aside(path, why)
    return _sound(path, prepare), told


def set_aside(path: Path, why: str) -> str:
    """Move the log with all that belongs to it into a folder of its own. What there is to say of that.

    Raises OSError.
    """
    folder = path.with_name(f"quarantine-{file_time()}")
    folder.mkdir(mode=0o700)
    # The mark and the word of the damage go last: whenever this is cut off, the next start sees what is amiss.
    for part in (f"{path}-shm", f"{path}-wal", path, mark_of(path), damage_of(path)):
        with suppress(FileNotFoundError):
            Path(part).rename(folder / Path(part).name)
    for changed in (folder, path.parent):
        _sync(changed)
    _log.error("log.set_aside", why=why, folder=str(folder))
    return f"The log was damaged ({why}). It is in {folder}, and a new one was begun. `baa restore` puts a backup back."


def put_down_damage(path: Path, why: str) -> None:
    """Have the next codexd set this log aside. Never raises OSError: what is damaged will be found again."""
    with suppress(OSError):
        damage_of(path).write_text(why)


async def check(path: Path) -> str | None:
    """What is wrong with the file, if anything is; looking costs a second a million events, in a thread."""
    connection = await asyncio.to_thread(open_reader, path)
    try:
        return await asyncio.to_thread(_flaw, connection, "PRAGMA quick_check(1)")
    except asyncio.CancelledError:
        connection.interrupt()
        raise


def _known_damage(path: Path) -> str | None:
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(path.lstat().st_mode):
            return "it is not a regular file"
    with suppress(OSError):
        return damage_of(path).read_text()
    return None


def _sound(path: Path, prepare: Callable[[apsw.Connection], None]) -> apsw.Connection:
    connection = _writer(path)
    try:
        ((version,),) = connection.execute("PRAGMA user_version")
        if 0 < version < schema.VERSION:
            keep_copy(connection, path, version)
        prepare(connection)
        tables = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
        for (table,) in tables:
            flaw = None if table in LARGE else _flaw(connection, f"PRAGMA quick_check({table})")
            if flaw is not None:
                raise apsw.CorruptError(flaw)
    except BaseException:  # boundary: opening. Whatever went wrong, nobody else closes it.
        connection.close()
        raise
    return connection


def _writer(path: Path) -> apsw.Connection:
    try:
        return open_writer(path)
    except (apsw.CorruptError, apsw.NotADBError):
        raise
    except apsw.Error:
        if not Ballast(ballast_of(path)).release():
            raise
        return open_writer(path)


def keep_copy(connection: apsw.Connection, path: Path, version: int) -> Path:
    """Copy a log beside itself before its schema is changed: `codexd.sqlite3.schema-N`, there only when it is whole.

    Raises apsw.Error and OSError.
    """
    copy = path.with_name(f"{path.name}.schema-{version}")
    part = copy.with_name(f"{copy.name}.part")
    part.unlink(missing_ok=True)
    try:
        connection.execute("VACUUM INTO ?", (str(part),))
        part.chmod(0o600)
        _sync(part)
        part.rename(copy)
        _sync(path.parent)
    finally:
        part.unlink(missing_ok=True)
    _log.info("log.copied", file=str(copy), why=f"its schema {version} is brought to {schema.VERSION}")
    return copy


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flaw(connection: apsw.Connection, pragma: str) -> str | None:
    try:
        found = str(next(connection.execute(pragma))[0])
    except apsw.InterruptError:
        return None
    return None if found == "ok" else " ".join(found.split())
