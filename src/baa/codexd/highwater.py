"""How far the log had come, kept outside of it: a log that lost its end without a word is found out by it.

SQLite takes a write-ahead file as far as its checksums hold, and what follows a damaged page is gone as if it had never
been. The mark says which event was the last: its seq and a hash of it. Two slots are written in turn, each with its
checksum, so a torn write costs no more than the last mark. It is written after the commits that it speaks of, at most
once a second and at the end: what was lost of the last second is not found out.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from pathlib import Path
from typing import Final, NamedTuple

import apsw
import structlog

MARK_S: Final = 1.0
"""Seconds between two marks."""

_SLOT: Final = 4096
_FIELDS: Final = struct.Struct("<4sQQ16s")  # magic, number of the mark, seq, hash of the event
_CRC: Final = struct.Struct("<I")
_MAGIC: Final = b"BAA1"

_log = structlog.get_logger("log")


class Mark(NamedTuple):
    """The `number`-th mark: the last event's seq, and the hash of its bytes."""

    number: int
    seq: int
    digest: bytes


def digest_of(body: object) -> bytes:
    """The hash of an event."""
    assert isinstance(body, bytes)
    return hashlib.blake2b(body, digest_size=16).digest()


class HighWater:
    """The mark of one log. Its methods may block, for a write and a sync."""

    def __init__(self, path: Path) -> None:
        """Read what is there; a file without one good slot is said, and is no mark."""
        self._path = path
        self._descriptor = -1
        self._complained = False
        self.mark = read(path)

    def contradicts(self, connection: apsw.Connection) -> str | None:
        """Why this log cannot be the one that the mark speaks of; None if it can."""
        if self.mark is None:
            return None
        ((head,),) = connection.execute("SELECT coalesce(max(seq), 0) FROM event")
        if head < self.mark.seq:
            return f"it ends at seq {head}, and had come to {self.mark.seq}"
        rows = connection.execute("SELECT body FROM event WHERE seq = ?", (self.mark.seq,)).fetchall()
        if rows and digest_of(rows[0][0]) != self.mark.digest:
            return f"its event {self.mark.seq} is not the one that was there"
        return None  # an event that is not there was let go of

    def put(self, seq: int, body: bytes, *, both: bool = False) -> None:
        """Say that the log has come to `seq`, into the older slot or into both. A failure is said, and is no fault."""
        number = 1 if self.mark is None else self.mark.number + 1
        mark = Mark(number, seq, digest_of(body))
        try:
            self._open()
            for slot in (number % 2, (number + 1) % 2) if both else (number % 2,):
                os.pwrite(self._descriptor, packed(mark), slot * _SLOT)
            os.fdatasync(self._descriptor) if hasattr(os, "fdatasync") else os.fsync(self._descriptor)
        except OSError as error:
            if not self._complained:
                _log.warning("log.mark_failed", why=str(error), file=str(self._path))
            self._complained = True
            return
        self._complained = False
        self.mark = mark

    def close(self) -> None:
        """Let go of the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _open(self) -> None:
        """The file may have been deleted, or another put in its place: then it is made again. Raises OSError."""
        if self._descriptor >= 0:
            held = os.fstat(self._descriptor)
            try:
                found = self._path.stat()
            except FileNotFoundError:
                found = None
            if found is not None and (found.st_dev, found.st_ino) == (held.st_dev, held.st_ino):
                return
            _log.warning("log.mark_gone", file=str(self._path))
            self.close()
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor = os.open(self._path, flags, 0o600)


def packed(mark: Mark) -> bytes:
    """The bytes of a slot."""
    fields = _FIELDS.pack(_MAGIC, *mark)
    return fields + _CRC.pack(zlib.crc32(fields))


def read(path: Path) -> Mark | None:
    """The newest good mark in the file; None if there is none, which is said if there should be one."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        _log.warning("log.mark_unreadable", why=str(error), file=str(path))
        return None
    found = [mark for at in (0, _SLOT) if (mark := _unpacked(content[at : at + _FIELDS.size + _CRC.size]))]
    if not found and content:
        _log.warning("log.mark_unreadable", why="neither of its slots is whole", file=str(path))
    return max(found, default=None)


def _unpacked(slot: bytes) -> Mark | None:
    if len(slot) < _FIELDS.size + _CRC.size:
        return None
    fields = slot[: _FIELDS.size]
    magic, *mark = _FIELDS.unpack(fields)
    good = magic == _MAGIC and _CRC.unpack(slot[_FIELDS.size :]) == (zlib.crc32(fields),)
    return Mark(*mark) if good else None
