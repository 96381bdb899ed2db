"""What the conductor says of itself and of its nodes: roles, readiness, nodes."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct


class RoleName(StrEnum):
    """A conductor leads, or stands by."""

    LEADER = "leader"
    STANDBY = "standby"


class Role(Struct, rename="camel", kw_only=True, frozen=True):
    """The answer of `/rolez`; `version` is the conductor's.

    `leader_id`: the leader's node, null while none is known; term 0 = nobody has led.
    """

    role: RoleName
    node_id: str
    leader_id: str | None
    term: int
    expires_at: str | None
    version: str


class Checked(Struct, rename="camel", kw_only=True, frozen=True):
    """One of the things that must hold; `message` says what was seen, and what to do if it does not."""

    ok: bool
    message: str


class Readiness(Struct, rename="camel", kw_only=True, frozen=True):
    """The answer of `/readyz`: the engine was written and read back, and codexd is ready to run a turn."""

    status: str
    engine: Checked
    codexd: Checked


class NodeState(StrEnum):
    """`gone`: it left, or was not heard for longer than its heartbeat is good for."""

    ACTIVE = "active"
    DRAINING = "draining"
    GONE = "gone"


class Node(Struct, rename="camel", kw_only=True, frozen=True):
    """A node that runs tasks; `incarnation` is one life of its worker."""

    node_id: str
    incarnation: str
    version: str
    slots: int
    state: NodeState
    pid: int
    started_at: str
    seen_at: str
