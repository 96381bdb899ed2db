"""What the child wrote, read from the keeper's files: segments, each named by the offset at which it begins."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import structlog

from baa.codexd.appserver.jsonrpc import LineSplitter

_log = structlog.get_logger("spool")

CHUNK: Final = 128 * 1024
"""Bytes of the spool taken at once: enough to be worth a commit, little enough that the loop goes on answering."""


class Spool:
    """Reads the spool from `offset` on. `offset` moves past whole lines only, and counts over all segments.

    The keeper begins a segment when the one before is full; `let_go` removes those that nobody needs any more. A
    keeper of version 1 has one file, of the spool's own name.
    """

    def __init__(self, path: Path, offset: int) -> None:
        """Nothing is opened before the first read: the keeper makes the files."""
        self._path = path
        self._start = offset
        self._at = offset
        self._begins = 0
        self._passed: list[int] = []
        self._file: int | None = None
        self._splitter = LineSplitter()

    @property
    def offset(self) -> int:
        """Bytes of the spool that were given out as whole lines or skipped."""
        return self._start + self._splitter.consumed

    @property
    def read_to(self) -> int:
        """Bytes of the spool that were read, those of an unfinished line included."""
        return self._at

    @property
    def unfinished(self) -> int:
        """Bytes read of a line that has not ended."""
        return self._splitter.pending

    @property
    def oversize(self) -> int:
        """How many lines were too long to be read."""
        return self._splitter.oversize

    @property
    def missing(self) -> bool:
        """Whether what stands at the offset is there no more: who removed it had read it, and we do not know of it."""
        segments = self._segments()
        return bool(segments) and segments[0] > self._at

    @property
    def passed(self) -> bool:
        """Whether there are segments that were read to their end."""
        return bool(self._passed)

    def read(self) -> tuple[list[bytes], bool]:
        """The next lines, and whether there may be more at once. Raises OSError."""
        if self._file is None:
            segments = self._segments()
            if not segments:
                return [], False
            here = max((begins for begins in segments if begins <= self._at), default=segments[0])
            self._passed = [begins for begins in segments if begins < here]
            self._open(here)
        data = self._read()
        if not data:
            following = [begins for begins in self._segments() if begins > self._begins]
            data = self._read()  # where one follows, this one is whole
            if following and not data:
                self._passed.append(self._begins)
                self._open(following[0])
                data = self._read()
        # A segment that follows is named by the place where this one ends, and was not rung for by itself.
        more = len(data) == CHUNK or (bool(data) and os.path.exists(f"{self._path}/{self._at}"))
        return self._splitter.feed(data), more

    def _read(self) -> bytes:
        assert self._file is not None
        data = os.pread(self._file, CHUNK, self._at - self._begins)
        self._at += len(data)
        return data

    def _open(self, begins: int) -> None:
        self.close()
        path = self._path / str(begins) if self._path.is_dir() else self._path
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._begins = begins
        if begins > self._at:  # a power cut took what stood between, or somebody who had read it
            self._splitter.drop()
            self._start += begins - self._at
            self._at = begins

    def let_go(self, committed: int) -> None:
        """Remove the segments that end at or before an offset that is in the log: the keeper may write on instead."""
        while self._passed and [*self._passed[1:], self._begins][0] <= committed:
            try:
                (self._path / str(self._passed[0])).unlink(missing_ok=True)
            except OSError as error:  # it is tried again with the next one
                _log.warning("spool.not_removed", segment=self._passed[0], why=str(error))
                return
            del self._passed[0]

    def size(self) -> int:
        """How far the spool goes now, in bytes."""
        segments = self._segments()
        if not segments:
            return 0
        path = self._path / str(segments[-1]) if self._path.is_dir() else self._path
        return segments[-1] + path.stat().st_size

    def _segments(self) -> list[int]:
        """Where the segments that there are begin, in their order."""
        try:
            return sorted(int(name) for name in os.listdir(self._path) if name.isdecimal())
        except FileNotFoundError:
            return []
        except NotADirectoryError:
            return [0]

    def close(self) -> None:
        """Let go of the file that is read."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
