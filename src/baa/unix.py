"""Unix sockets below folders of any depth: an address takes 100 bytes, and a state folder's path may have more."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

ADDRESS_MAX: Final = 100
"""Bytes of a Unix socket's address: Linux takes 108, macOS 104."""


@contextmanager
def reachable(address: Path) -> Iterator[Path]:
    """`address`, or a path to it that is short enough to bind or connect; good for as long as the context lasts."""
    if len(os.fsencode(address)) < ADDRESS_MAX:
        yield address
        return
    with tempfile.TemporaryDirectory(prefix="baa-", dir="/tmp") as short:
        link = Path(short) / "k"
        link.symlink_to(address.parent)
        yield link / address.name
