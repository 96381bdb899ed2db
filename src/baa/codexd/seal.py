"""What codexd must keep as it is and may not have in its log: closed with a key that no copy of the log holds.

A prompt may hold a secret, and Codex must get it as it is, perhaps only after codexd's own death. So it stands in the
log's file as bytes that say nothing without `codexd.seal`, a file for its owner only, and goes when it is no longer
needed. That is against what leaves this machine (a backup, a file sent with a report), not against who can read both.

Each value is closed with the key stream of SHAKE-256 over the key and 16 random bytes, and carries a keyed BLAKE2b.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
from pathlib import Path
from typing import Final

import structlog

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 16
TAG_BYTES: Final = 16

MARK: Final = b"\x00sealed:"
"""What a closed value begins with, and no line of JSON does."""

TEXT_MARK: Final = "sealed:"

_log = structlog.get_logger("seal")


class Seal:
    """Closes and opens values with one key."""

    def __init__(self, key: bytes) -> None:
        """`key` is KEY_BYTES of chance."""
        self._key = key

    def close(self, data: bytes) -> bytes:
        """The data, closed."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        closed = self._mixed(nonce, data)
        return MARK + nonce + self._tag(nonce + closed) + closed

    def open(self, stored: bytes) -> bytes | None:
        """What was closed; None if that was with another key. What was never closed is given back as it is."""
        if not stored.startswith(MARK):
            return stored
        begin = len(MARK)
        nonce, tag = stored[begin : begin + NONCE_BYTES], stored[begin + NONCE_BYTES : begin + NONCE_BYTES + TAG_BYTES]
        closed = stored[begin + NONCE_BYTES + TAG_BYTES :]
        return self._mixed(nonce, closed) if hmac.compare_digest(tag, self._tag(nonce + closed)) else None

    def close_text(self, text: str) -> str:
        """The text, closed, as a text."""
        return TEXT_MARK + base64.b64encode(self.close(text.encode())).decode()

    def open_text(self, stored: str) -> str | None:
        """What was closed as a text; None if that was with another key. Any other text is given back as it is."""
        if not stored.startswith(TEXT_MARK):
            return stored
        opened = self.open(base64.b64decode(stored.removeprefix(TEXT_MARK)))
        return None if opened is None else opened.decode()

    def _mixed(self, nonce: bytes, data: bytes) -> bytes:
        stream = hashlib.shake_256(self._key + nonce).digest(len(data))
        return (int.from_bytes(data, "big") ^ int.from_bytes(stream, "big")).to_bytes(len(data), "big")

    def _tag(self, data: bytes) -> bytes:
        return hashlib.blake2b(data, key=self._key, digest_size=TAG_BYTES).digest()


def seal_of(path: Path) -> Seal:
    """The seal whose key is in this file; it is made if it is not there.

    One that cannot be kept (a full disk) is good for this life of codexd: what it closed, the next one cannot open.
    """
    try:
        return Seal(_key(path))
    except OSError as error:
        _log.error("seal.not_kept", file=str(path), why=str(error))
        return Seal(secrets.token_bytes(KEY_BYTES))


def _key(path: Path) -> bytes:
    try:
        return _read(path)
    except FileNotFoundError:
        pass
    draft = path.with_name(f"{path.name}.new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, secrets.token_bytes(KEY_BYTES))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    draft.rename(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return _read(path)


def _read(path: Path) -> bytes:
    """Raises FileNotFoundError also for a file that holds no whole key: another is made then."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        key = os.read(descriptor, KEY_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(key) != KEY_BYTES:
        raise FileNotFoundError(f"{path} holds no key")
    return key
