"""Who listens on a port of this machine, as far as the system tells this user."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

import psutil
from msgspec import Struct

EVERYWHERE: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared with, not bound
"""Addresses whose listener takes the port of every other one, too."""


class Holder(Struct, frozen=True, kw_only=True):
    """A process that listens. `pid` is None where the system does not tell: then it is another user's."""

    told: str
    pid: int | None = None
    argv: tuple[str, ...] = ()

    @property
    def cure(self) -> str:
        """How its port becomes free."""
        if self.pid is None:
            return "stop that program (as root, `ss -ltnp` or `lsof -i` names it)"
        return f"stop that program (kill {self.pid})"


def holder_of(host: str, port: int) -> Holder | None:
    """Who listens there, or where it is in the way of that; None if nobody does, or the system does not tell."""
    for address, number, pid in _listening():
        if number != port or address not in {host, *EVERYWHERE}:
            continue
        try:
            if pid:
                process = psutil.Process(pid)
                return Holder(told=f"{process.name()} (pid {pid})", pid=pid, argv=tuple(process.cmdline()))
        except psutil.NoSuchProcess:
            continue
        except psutil.Error:
            pass
        return Holder(told="one of another user's")
    return None


def _listening() -> Iterator[tuple[str, int, int | None]]:
    """Address, port and process of everything that listens."""
    found: list[tuple[Any, int | None]] = []
    try:
        found = [(connection, connection.pid) for connection in psutil.net_connections("tcp")]
    except (psutil.Error, OSError):  # macOS tells all of them only to root, and each user the own ones
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                found += [(connection, process.pid) for connection in process.net_connections("tcp")]
    for connection, pid in found:
        if connection.status == psutil.CONN_LISTEN and connection.laddr:
            yield connection.laddr.ip, connection.laddr.port, pid
