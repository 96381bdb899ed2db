"""Which secrets a program knows: those of its environment, our tokens, and Codex's login, as they are at the moment."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from baa.redaction import Redactor, in_document, in_environment

TOKENS: Final = ("read", "drive", "shared")
LOGINS: Final = ("auth.json", ".credentials.json")
"""The files of our tokens in their folder, and those of CODEX_HOME that hold Codex's login and its MCP servers'."""

FILE_MAX: Final = 1 << 20
KNOWN_MAX: Final = 1000
"""How many are remembered: one that was replaced may still be told of."""


class KnownSecrets:
    """The secrets that a running program knows. It looks at the files whenever it is asked, and forgets none.

    Asked from several threads it may look twice, and that is all.
    """

    def __init__(self, tokens: Path | None, codex_home: Path | None, environ: Mapping[str, str] = os.environ) -> None:
        """`tokens` is the folder of our tokens; both may be missing or not there yet."""
        self._files = [
            *([] if tokens is None else [tokens / name for name in TOKENS]),
            *([] if codex_home is None else [codex_home / name for name in LOGINS]),
        ]
        self._seen: dict[Path, tuple[int, ...]] = {}
        self._redactor = Redactor(in_environment(environ))

    def redactor(self) -> Redactor:
        """What finds all secrets that are known now. Four looks at files; they are read only if they have changed."""
        for path in self._files:
            seen = _state(path)
            if seen is not None and self._seen.get(path) != seen:
                self._seen[path] = seen
                self._learn(_secrets_in(path))
        return self._redactor

    def _learn(self, found: Iterable[str]) -> None:
        known = self._redactor.known
        new = [secret for secret in found if secret not in known]
        if new and len(known) < KNOWN_MAX:
            self._redactor = Redactor(known.union(new))


def _state(path: Path) -> tuple[int, ...] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_ino, found.st_mtime_ns, found.st_size)


def _secrets_in(path: Path) -> frozenset[str]:
    """The secrets in one of these files; one that is just being written is read again when it has changed."""
    try:
        with path.open("rb") as file:
            content = file.read(FILE_MAX)
        if path.name in LOGINS:
            return in_document(msgspec.json.decode(content))
        return frozenset({content.decode().strip()})
    except (OSError, UnicodeDecodeError, msgspec.DecodeError):
        return frozenset()
