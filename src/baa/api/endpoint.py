"""`$BAA_HOME/state/endpoint.json`: where the programs of a node listen. The programs write it, clients read it."""

from __future__ import annotations

from msgspec import Struct


class Program(Struct, rename="camel", frozen=True):
    """A program that listens: `address` is its base URL."""

    address: str
    pid: int
    daemon_id: str
    started_at: str


class Endpoint(Struct, rename="camel", frozen=True):
    """The whole file; null = the program does not run, or did not come that far."""

    codexd: Program | None = None
    conductor: Program | None = None
    status_api: Program | None = None
