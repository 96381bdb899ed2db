"""The node's two bearer tokens, `tokens/{read,drive}` in the state folder: made once, checked whenever they change.

Who can read `drive` can run commands as this user, so a file that others might have read or planted is refused.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, TypeAlias

from baa.api.errors import CannotStart

Name: TypeAlias = Literal["read", "drive"]
NAMES: Final[tuple[Name, ...]] = ("read", "drive")

MIN_TOKEN_CHARS: Final = 43  # 256 bits in base64, as token_urlsafe(32) gives.
MAX_TOKEN_FILE_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class Tokens:
    """`read` may look, `drive` may do everything. Neither shows in a repr, and so not in a log."""

    read: str = field(repr=False)
    drive: str = field(repr=False)


def ensure_tokens(folder: Path) -> Tokens:
    """The tokens in `folder`, made if missing. Programs that start together agree: one makes them, all read them."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        _check_folder(folder)
        with _locked(folder):
            for name in NAMES:
                if not os.path.lexists(folder / name):
                    _create(folder, name, secrets.token_urlsafe(32))
    except OSError as error:
        raise CannotStart(f"Cannot make the tokens in {folder}: {error.strerror}.") from error
    return load_tokens(folder)


def rotate_tokens(folder: Path, names: tuple[Name, ...] = NAMES) -> Tokens:
    """New tokens in place of those named; who holds an old one is refused from then on. Raises CannotStart.

    A server sees the file change at its next request, and within a second where nothing is asked of it.
    """
    ensure_tokens(folder)
    try:
        with _locked(folder):
            for name in names:
                _create(folder, name, secrets.token_urlsafe(32))
    except OSError as error:
        raise CannotStart(f"Cannot make new tokens in {folder}: {error.strerror}.") from error
    return load_tokens(folder)


def load_tokens(folder: Path) -> Tokens:
    """The tokens in `folder`, which must be there and be nobody else's."""
    _check_folder(folder)
    tokens = Tokens(read=load_token(folder / "read"), drive=load_token(folder / "drive"))
    if tokens.read == tokens.drive:
        raise CannotStart(f"{folder}/read and {folder}/drive hold the same token. Delete both: new ones are made.")
    return tokens


def load_token(path: Path) -> str:
    """One token from its file, for a client that needs no more."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise CannotStart(f"There is no token file {path}. Start codexd once: it makes the file.") from None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):
            raise _refused(path, "is a symbolic link") from None
        raise CannotStart(f"Cannot read the token file {path}: {error.strerror}.") from None
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise _refused(path, "is not a regular file")
        if found.st_uid != os.geteuid():
            raise _refused(path, f"belongs to user id {found.st_uid}, not to {os.geteuid()}")
        if found.st_mode & 0o077:
            raise _refused(path, f"has mode {stat.S_IMODE(found.st_mode):04o}, so others may have read it")
        if found.st_nlink != 1:
            raise _refused(path, "has a second name (a hard link)")
        content = os.read(fd, MAX_TOKEN_FILE_BYTES)
    finally:
        os.close(fd)
    token = content.decode("ascii", "replace").strip()
    if len(token) < MIN_TOKEN_CHARS or not token.replace("-", "").replace("_", "").isalnum() or not token.isascii():
        raise _refused(path, f"does not hold a token of at least {MIN_TOKEN_CHARS} letters and digits")
    return token


def _check_folder(folder: Path) -> None:
    try:
        found = folder.lstat()
    except OSError as error:
        raise CannotStart(f"Cannot use the token folder {folder}: {error.strerror}.") from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise CannotStart(f"The token folder {folder} is not a folder of this user. Move it away: a new one is made.")
    if found.st_mode & 0o077:
        raise CannotStart(
            f"The token folder {folder} is open to others (mode {stat.S_IMODE(found.st_mode):04o}). "
            f"Run: chmod 700 '{folder}', and delete the files in it if others use this machine: new ones are made."
        )


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder against other programs that make tokens; it takes as long as writing two small files."""
    fd = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _create(folder: Path, name: str, token: str) -> None:
    """Write beside and rename, under the lock: a reader sees the whole token or no file."""
    draft = folder / f".{name}.new"
    draft.unlink(missing_ok=True)
    fd = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, token.encode() + b"\n")
        os.fsync(fd)
    finally:
        os.close(fd)
    draft.rename(folder / name)
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _refused(path: Path, why: str) -> CannotStart:
    return CannotStart(f"The token file {path} {why}. Delete it: a new one is made at the next start.")
