"""The child's stdout as files: segments, each named by the offset at which it begins, so that an offset is one number.

codexd removes a segment once it has committed all that it read of it. What is still there is all that tells how much it
has read: when the spool is full, that is looked at again until there is room.
"""

import ctypes
import errno
import fcntl
import os
import struct

from system import DARWIN, log

UNSPOOLED_BYTES_MAX = 1 << 20  # kept in memory of a spool that cannot be written


def reserve(file: int, size: int) -> None:
    """Room that a disk that fills up later cannot take away. The file's end stays: it tells what was written.

    Where that cannot be had (no space, not this file system), each write finds out for itself.
    """
    if DARWIN:
        try:
            fcntl.fcntl(file, 42, struct.pack("Iiqqq", 4, 3, 0, size, 0))  # F_PREALLOCATE, all of it, from the end
        except OSError as failure:
            log(f"no room could be reserved: {failure}")
    elif ctypes.CDLL(None, use_errno=True).fallocate(file, 1, ctypes.c_int64(0), ctypes.c_int64(size)):  # KEEP_SIZE
        log(f"no room could be reserved: {os.strerror(ctypes.get_errno())}")


class Spool:
    """Written to its bound; what cannot be written waits in memory, and what does not fit there is dropped."""

    def __init__(self, segment_bytes: int, segments_max: float) -> None:
        """In the working folder. Raises FileExistsError if there is one."""
        os.mkdir("spool")
        os.chmod("spool", 0o700)
        self.folder = os.open("spool", os.O_RDONLY | os.O_DIRECTORY)  # the child has a working folder of its own
        self.segment_bytes, self.segments_max = segment_bytes, segments_max
        self.file, self.began, self.size = -1, 0, 0
        self.unspooled, self.dropped = bytearray(), 0
        self.begin_segment()

    def begin_segment(self) -> None:
        if len(os.listdir(self.folder)) >= self.segments_max:
            raise OSError(errno.EDQUOT, "codexd has to read first")
        file = os.open(str(self.size), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self.folder)
        reserve(file, self.segment_bytes)
        full, self.file, self.began = self.file, file, self.size
        if full >= 0:
            os.close(full)

    def keep(self, chunk: bytes = b"") -> None:
        """Spools. What cannot be written is kept, in order, for the next time."""
        if self.dropped or len(self.unspooled) + len(chunk) > UNSPOOLED_BYTES_MAX:
            self.dropped += len(chunk)  # after one dropped byte all are: the spool may end early, but has no hole
        else:
            self.unspooled += chunk
        try:
            while self.unspooled:
                room = self.began + self.segment_bytes - self.size
                if not room:
                    self.begin_segment()
                    continue
                whole = len(self.unspooled) <= room
                written = os.write(self.file, self.unspooled if whole else self.unspooled[:room])
                self.size += written
                del self.unspooled[:written]
        except OSError as failure:
            if chunk:
                log(f"the spool cannot be written, trying on: {failure}")

    def give_up(self) -> None:
        """What could not be written is dropped."""
        self.dropped += len(self.unspooled)
        self.unspooled.clear()
