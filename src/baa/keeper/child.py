"""The app-server process, its pipes, and the buffer before its stdin."""

import os
import signal
from contextlib import suppress

from spool import Spool
from system import log, parent_and_start

READ_BYTES = 64 << 10  # what a pipe holds
STDERR_BYTES_MAX = 64 << 10  # the tail that tells why it died


class Child:
    """What it writes to stdout goes to the spool, of stderr the end is kept."""

    def __init__(self, spool: Spool) -> None:
        self.pid = self.start = self.signal = 0
        self.code = self.stdin = self.stdout = self.stderr = -1
        self.unsent, self.stderr_tail = bytearray(), b""
        self.spool = spool

    def spawn(self, argv: list[str], cwd: str) -> None:
        """Raises OSError if it cannot; the keeper ends then, and its descriptors with it."""
        (stdin, self.stdin), (self.stdout, stdout), (self.stderr, stderr) = os.pipe(), os.pipe(), os.pipe()
        os.chdir(cwd)
        self.pid = os.posix_spawn(
            argv[0],
            argv,
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, end, target) for target, end in enumerate((stdin, stdout, stderr))],
            setsid=True,  # a child that signals its whole group must not hit its keeper
            setsigmask=(),
            setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
        )
        self.start = parent_and_start(self.pid)[1]
        for ours, theirs in ((self.stdin, stdin), (self.stdout, stdout), (self.stderr, stderr)):
            os.set_blocking(ours, False)
            os.close(theirs)

    def feed(self) -> None:
        """Writes what the child's stdin takes now."""
        try:
            while self.unsent:
                del self.unsent[: os.write(self.stdin, self.unsent[:READ_BYTES])]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            log("the child has closed its stdin")  # which is not its death
            self.close_stdin()

    def close_stdin(self) -> None:
        if self.stdin >= 0:
            os.close(self.stdin)
        self.stdin = -1
        self.unsent.clear()

    def read(self, descriptor: int) -> int:
        """Takes what stdout or stderr has now; one at its end is closed and forgotten."""
        chunk = None
        with suppress(BlockingIOError):
            chunk = os.read(descriptor, READ_BYTES)
        if chunk == b"":
            os.close(descriptor)
            self.stdout, self.stderr = (-1 if end == descriptor else end for end in (self.stdout, self.stderr))
        elif chunk and descriptor == self.stdout:
            self.spool.keep(chunk)
        elif chunk:
            self.stderr_tail = (self.stderr_tail + chunk)[-STDERR_BYTES_MAX:]
        return len(chunk or b"")
