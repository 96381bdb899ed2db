"""How a program writes itself into `endpoint.json`, beside the others of its node, and out of it again."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from baa.api.endpoint import Endpoint, Program

Name: TypeAlias = Literal["codexd", "conductor", "status_api"]


def publish(path: Path, name: Name, program: Program) -> None:
    """Write `program` down as the `name` of this node. Raises OSError."""
    with _locked(path):
        _write(path, msgspec.structs.replace(_read(path), **{name: program}))


def forget(path: Path, name: Name, pid: int) -> None:
    """Take `name` out, if it is still the process `pid`; the file goes with the last one. Never raises OSError."""
    with contextlib.suppress(OSError), _locked(path):
        told = _read(path)
        found: Program | None = getattr(told, name)
        if found is None or found.pid != pid:
            return
        told = msgspec.structs.replace(told, **{name: None})
        if told == Endpoint():
            path.unlink()
        else:
            _write(path, told)


def _read(path: Path) -> Endpoint:
    """What the file says; nothing, if it is torn or not there: then every program writes itself anew when it starts."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Endpoint)
    except (FileNotFoundError, msgspec.DecodeError):
        return Endpoint()


def _write(path: Path, told: Endpoint) -> None:
    draft = path.with_suffix(f".{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.encode(told))
    draft.replace(path)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the file against the other programs, for as long as writing a small file takes."""
    descriptor = os.open(path.with_suffix(".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
