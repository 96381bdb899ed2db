"""Copies of the log: making one while codexd writes on, verifying it, and putting one in the log's place.

A backup is a folder with `codexd.sqlite3` and `manifest.json`. It has its name only once it is on disk and verified:
its file is sound, and its tables are what its events say. A log that is replaced is set aside, never deleted.

`python -m baa.codexd.copies DATABASE FOLDER` makes one in a process of its own, so that it is in nobody's way, and ends
with its stdin.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final

import apsw
import msgspec

from baa import __version__
from baa.api.errors import EX_CONFIG, EX_TEMPFAIL, CannotStart
from baa.api.status import Manifest
from baa.clock import SystemClock, rfc3339
from baa.codexd import schema, tables
from baa.sqlite import open_reader

DATABASE: Final = "codexd.sqlite3"
MANIFEST: Final = "manifest.json"
PARTIAL: Final = ".baa-partial"

BESIDE: Final = (".mark", ".damaged")
"""The suffixes of files beside a log that speak of it: how far it had come, and that it is damaged."""

EX_DATAERR: Final = 65
EX_NOINPUT: Final = 66
EX_CANTCREAT: Final = 73
EX_IOERR: Final = 74

NICER: Final = 10
"""How much less a copy in a process of its own may have of a busy processor."""


def make(database: Path, folder: Path) -> Manifest:
    """Make a backup of the log in `database`, codexd running or not. `folder` is there when all of it holds.

    Raises CannotStart: 73 if the folder cannot be made, 74 if reading or writing fails, 65 if what was copied is wrong.
    """
    _must_be_new(folder)
    remove_leftovers(folder.parent)
    try:
        with _partial(folder) as partial:
            copy = partial / DATABASE
            with closing(open_reader(database)) as log:
                log.execute("VACUUM INTO ?", (str(copy),))
            wrong = flaws(copy)
            if wrong:
                raise CannotStart(f"The copy is not kept: {'; '.join(wrong)}.", exit_code=EX_DATAERR)
            manifest = _described(copy)
            (partial / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
            for path in (copy, partial / MANIFEST, partial):
                _sync(path)
            _must_be_new(folder)
            partial.rename(folder)
            _sync(folder.parent)
    except (OSError, apsw.Error) as error:
        raise CannotStart(
            f"The backup cannot be written to {folder}: {error}. Nothing is kept of it; free space there, or name"
            " another place.",
            exit_code=EX_IOERR,
        ) from error
    return manifest


def _must_be_new(folder: Path) -> None:
    if os.path.lexists(folder) or not folder.parent.is_dir():
        raise CannotStart(
            f"A backup goes into a new folder in one that exists, and {folder} is not. Name another.",
            exit_code=EX_CANTCREAT,
        )


@contextmanager
def _partial(folder: Path) -> Iterator[Path]:
    """A folder for what is not complete, beside the one that it becomes; locked as long as somebody works on it."""
    partial = folder.with_name(f".{folder.name}{PARTIAL}")
    try:
        partial.mkdir(mode=0o700)
    except OSError as error:
        raise CannotStart(f"{folder} cannot be made ({error}). Name another.", exit_code=EX_CANTCREAT) from None
    lock = os.open(partial, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield partial
    finally:
        os.close(lock)
        shutil.rmtree(partial, ignore_errors=True)


def remove_leftovers(parent: Path) -> None:
    """Remove what one that was killed had begun here."""
    for path in parent.glob(f".*{PARTIAL}"):
        lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
        except BlockingIOError:
            continue
        finally:
            os.close(lock)


def _described(copy: Path) -> Manifest:
    with closing(open_reader(copy)) as log:
        meta = dict(log.execute("SELECT key, value FROM meta"))
        (version,) = next(log.execute("PRAGMA user_version"))
        (head,) = next(log.execute("SELECT coalesce(max(seq), 0) FROM event"))
    return Manifest(
        epoch=meta["epoch"],
        head=head,
        oldest=int(meta.get("oldest", 1)),
        schema=version,
        bytes=copy.stat().st_size,
        sha256=_sha256(copy),
        version=__version__,
        at=rfc3339(SystemClock().utc_ms()),
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


# --- is it right?


def flaws(copy: Path) -> list[str]:
    """What is wrong with the log in this file: as a file, and as tables that follow from their events.

    Raises apsw.Error if it cannot even be read.
    """
    with closing(open_reader(copy)) as log:
        found = [str(told) for (told,) in log.execute("PRAGMA quick_check(5)") if told != "ok"]
        if found or next(log.execute("PRAGMA user_version")) != (schema.VERSION,):
            return found  # what the tables of another release must hold, that release knows
        (oldest,) = next(log.execute("SELECT value FROM meta WHERE key = 'oldest'"))
        with closing(apsw.Connection(":memory:")) as fresh:
            fresh.execute(schema.FOLDING)
            with fresh:
                tables.fold(fresh, log)
            fresh.execute("ATTACH ? AS copy", (str(copy),))
            return _differences(fresh, int(oldest))


def _differences(fresh: apsw.Connection, oldest: int) -> list[str]:
    found = []
    for table, born in schema.BORN.items():
        for one, other, what in (("main", "copy", "miss or differ in"), ("copy", "main", "have no events for")):
            rows = f"SELECT * FROM {one}.{table} WHERE {born.format(log=one)} EXCEPT SELECT * FROM {other}.{table}"
            (count,) = next(fresh.execute(f"SELECT count(*) FROM ({rows})", (oldest,)))
            if count:
                found.append(f"the tables {what} {count} of {table}")
    return found


def verified(folder: Path) -> Manifest:
    """The manifest of a backup that is whole and right.

    Raises CannotStart: 66 if there is no backup, 65 if it is damaged, 78 if a later release made it.
    """
    try:
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
        size = (folder / DATABASE).stat().st_size
    except (OSError, msgspec.DecodeError) as error:
        raise CannotStart(
            f"{folder} is no backup ({error}). Name a folder that `baa backup` made.", exit_code=EX_NOINPUT
        ) from None
    if manifest.schema > schema.VERSION:
        raise CannotStart(
            f"The backup has schema {manifest.schema}, this release knows {schema.VERSION}. Install release"
            f" {manifest.version} first.",
            exit_code=EX_CONFIG,
        )
    try:
        same = size == manifest.bytes and _sha256(folder / DATABASE) == manifest.sha256
        wrong = flaws(folder / DATABASE) if same else ["its file is not the one that the manifest tells of"]
    except (OSError, apsw.Error) as error:
        wrong = [str(error)]
    if wrong:
        raise CannotStart(
            f"The backup {folder} is damaged: {'; '.join(wrong)}. Take another one; nothing was changed.",
            exit_code=EX_DATAERR,
        )
    return manifest


# --- back in its place


def install(folder: Path, state_dir: Path) -> tuple[Manifest, Path | None]:
    """Put the log of a backup in the place of the one that is there. Its manifest; where that one is now.

    Whoever calls it holds the state folder. The next codexd takes the log for one that went back. Raises CannotStart.
    """
    manifest = verified(folder)
    database, new = state_dir / DATABASE, state_dir / f".{DATABASE}.new"
    try:
        new.unlink(missing_ok=True)
        shutil.copyfile(folder / DATABASE, new)
        _mark(new, f"restored from a backup of {manifest.at}")
        _sync(new)
        aside = _set_aside(database)
        new.replace(database)
        _sync(state_dir)
    except (OSError, apsw.Error) as error:
        raise CannotStart(
            f"The backup cannot be put into {state_dir}: {error}. Mend that, and restore it again.", exit_code=EX_IOERR
        ) from error
    return manifest, aside


def _mark(new: Path, why: str) -> None:
    """Have the next codexd take it for a log that went back; the child that it tells of is none of ours any more."""
    at = rfc3339(SystemClock().utc_ms())
    with closing(apsw.Connection(str(new))) as log, log:
        log.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('went_back', ?)", (why,))
        log.execute("UPDATE generation SET ended_at = ?, reason = ? WHERE ended_at IS NULL", (at, why))
        log.execute("DELETE FROM outbox")


def _set_aside(database: Path) -> Path | None:
    """Give the log that is there a second name, in a folder of its own. Its write-ahead file must not meet the new."""
    parts = [database, *(Path(f"{database}{suffix}") for suffix in ("-wal", "-shm"))]
    parts += [database.with_suffix(suffix) for suffix in BESIDE]
    with suppress(apsw.Error), closing(apsw.Connection(str(database), flags=apsw.SQLITE_OPEN_READWRITE)) as log:
        log.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # then the one file is all of it
    if not any(part.exists() for part in parts):
        return None
    aside = database.with_name(f"set-aside-{file_time()}")
    aside.mkdir(mode=0o700)
    for part in parts:
        if part.exists():
            os.link(part, aside / part.name)
    _sync(aside)
    _sync(database.parent)
    for part in parts[1:]:
        part.unlink(missing_ok=True)
    return aside


def file_time() -> str:
    """Now, as a name for a file."""
    return rfc3339(SystemClock().utc_ms()).replace(":", "-").replace(".", "-")


# --- in a process of its own


def main(database: Path, folder: Path) -> int:
    """Make a backup and print its manifest; the exit code. Ends when stdin does: then nobody waits for it."""

    def watch() -> None:
        sys.stdin.buffer.read()
        os._exit(EX_TEMPFAIL)

    threading.Thread(target=watch, daemon=True).start()
    os.nice(NICER)
    try:
        manifest = make(database, folder)
    except CannotStart as refused:
        sys.stderr.write(refused.message)
        sys.stderr.flush()
        return refused.exit_code
    sys.stdout.buffer.write(msgspec.json.encode(manifest))
    sys.stdout.flush()
    return 0


if __name__ == "__main__":  # its other thread waits for stdin, and would be waited for
    os._exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
