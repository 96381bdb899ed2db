"""What was heard of the programs, put together as one answer. Pure."""

from __future__ import annotations

from collections import Counter

from msgspec import UNSET, Struct

from baa import __version__
from baa.api.conductor import Node, NodeState, Readiness, Role
from baa.api.overview import Child, CodexdView, ConductorView, Detail, NodeCounts, Overview
from baa.api.status import Status

UNKNOWN = "unknown"


class FromCodexd(Struct, frozen=True, kw_only=True):
    """One answer of codexd."""

    status: Status


class FromConductor(Struct, frozen=True, kw_only=True):
    """One round of answers of the conductor. `nodes` is None where it does not tell them."""

    role: Role
    readiness: Readiness | None
    nodes: list[Node] | None


class Heard(Struct, frozen=True, kw_only=True):
    """What is known of a program: its last answer and when; `problem`: why it gave none the last time it was asked."""

    at: str | None = None
    codexd: FromCodexd | None = None
    conductor: FromConductor | None = None
    problem: str | None = "it was not asked yet"


def overview(codexd: Heard, conductor: Heard, *, now: str, with_detail: bool) -> Overview:
    """The answer at `now`: last known values with their own time where a program did not answer."""
    status = None if codexd.codexd is None else codexd.codexd.status
    nodes = None if conductor.conductor is None else conductor.conductor.nodes
    return Overview(
        as_of=now,
        stale=codexd.problem is not None or conductor.problem is not None,
        version=__version__,
        codexd=_codexd(codexd),
        conductor=_conductor(conductor),
        counts=None if status is None else status.counts,
        nodes=None if nodes is None else _counted(nodes),
        detail=_detail(codexd, conductor) if with_detail else UNSET,
    )


def _codexd(heard: Heard) -> CodexdView:
    stale = heard.problem is not None
    if heard.codexd is None:
        return CodexdView(state=UNKNOWN, stale=stale, as_of=heard.at)
    status = heard.codexd.status
    child = Child(
        state=status.child.state,
        codex_version=status.child.codex_version,
        support=status.child.support,
        restarts=status.child.restarts,
        logged_in=status.codex.logged_in,
    )
    version = status.daemon.version
    return CodexdView(state=status.daemon.state, stale=stale, as_of=heard.at, version=version, child=child)


def _conductor(heard: Heard) -> ConductorView:
    stale = heard.problem is not None
    if heard.conductor is None:
        return ConductorView(state=UNKNOWN, stale=stale, as_of=heard.at)
    role, ready = heard.conductor.role, heard.conductor.readiness
    state = "not_ready" if ready is None or ready.status != "ready" else "ready"
    return ConductorView(state=state, stale=stale, as_of=heard.at, version=role.version, role=role.role, term=role.term)


def _counted(nodes: list[Node]) -> NodeCounts:
    count = Counter(node.state for node in nodes)
    return NodeCounts(active=count[NodeState.ACTIVE], draining=count[NodeState.DRAINING], gone=count[NodeState.GONE])


def _detail(codexd: Heard, conductor: Heard) -> Detail:
    last = conductor.conductor
    problems = {"codexd": codexd.problem, "conductor": conductor.problem}
    return Detail(
        codexd=None if codexd.codexd is None else codexd.codexd.status,
        role=None if last is None else last.role,
        readiness=None if last is None else last.readiness,
        nodes=None if last is None else last.nodes,
        problems={name: problem for name, problem in problems.items() if problem is not None},
    )
