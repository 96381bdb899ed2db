"""A disk of a few megabytes for a test, which can be filled to the last byte and made free again (Linux, as root)."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

needs_disk = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="only root can mount a small disk (tmpfs): run as root"
)

MIB = 1 << 20


class Disk:
    """A context manager: a tmpfs on `path`, gone at the end even if it is still in use."""

    def __init__(self, path: Path, *, size: int, inodes: int = 0) -> None:
        """Nothing is mounted yet. `size` in bytes; `inodes`: how many files, 0 = any number."""
        self.path = path
        self._options = f"size={size},nr_inodes={inodes},mode=0700"
        self._filler = path / "filler"

    def __enter__(self) -> Self:
        self.path.mkdir(mode=0o700, parents=True)
        _run("mount", "-t", "tmpfs", "-o", self._options, "tmpfs", str(self.path))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        _run("umount", "--lazy", str(self.path))

    @property
    def free(self) -> int:
        """Bytes that are free."""
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    def fill(self) -> None:
        """Take every byte that is left."""
        with self._filler.open("ab", buffering=0) as file, pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            while True:
                file.write(bytes(65536))
        assert self.free == 0

    def fill_inodes(self) -> int:
        """Make files until there can be no more; how many."""
        made = 0
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            while True:
                (self.path / f"empty-{made}").touch(exist_ok=False)
                made += 1
        return made

    def freeze(self) -> None:
        """Make it read-only: nothing may have a file of it open for writing."""
        _run("mount", "-o", "remount,ro", str(self.path))

    def resize(self, size: int) -> None:
        """Make the disk larger or smaller, in bytes."""
        _run("mount", "-o", f"remount,size={size}", str(self.path))

    def clear(self) -> None:
        """Give back what was taken."""
        self._filler.unlink()


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
