"""What status-api's `GET /v1/status` says: the node at a glance, as far as its programs were heard of late.

The open part holds states, counts and versions: no path, id, title or prompt. The rest is `detail`.
"""

from __future__ import annotations

from msgspec import UNSET, Struct, UnsetType

from baa.api.conductor import Node, Readiness, Role
from baa.api.status import Counts, Status, Support


class Child(Struct, rename="camel", kw_only=True, frozen=True):
    """codexd's child. `support`: whether codexd is tested with this version of Codex."""

    state: str
    codex_version: str | None
    support: Support
    restarts: int
    logged_in: bool | None


class CodexdView(Struct, rename="camel", kw_only=True, frozen=True):
    """codexd as it was last heard, at `as_of` (null: never). `stale`: it did not answer the last time it was asked."""

    state: str
    stale: bool
    as_of: str | None
    version: str | None = None
    child: Child | None = None


class ConductorView(Struct, rename="camel", kw_only=True, frozen=True):
    """The conductor, likewise."""

    state: str
    stale: bool
    as_of: str | None
    version: str | None = None
    role: str | None = None
    term: int | None = None


class NodeCounts(Struct, rename="camel", kw_only=True, frozen=True):
    """How many nodes there are in each state."""

    active: int
    draining: int
    gone: int


class Detail(Struct, rename="camel", kw_only=True, frozen=True):
    """What takes the read token. `problems`: why a program that did not answer did not."""

    codexd: Status | None
    role: Role | None
    readiness: Readiness | None
    nodes: list[Node] | None
    problems: dict[str, str]


class Overview(Struct, rename="camel", kw_only=True, frozen=True):
    """The whole answer. `stale`: at least one program did not answer, so that some of this is older than `as_of`."""

    as_of: str
    stale: bool
    version: str
    codexd: CodexdView
    conductor: ConductorView
    counts: Counts | None
    nodes: NodeCounts | None
    detail: Detail | UnsetType = UNSET
