"""The nodes: one life of a worker each, alive by its heartbeat; and the guard of everything that a worker writes."""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa
from msgspec import Struct

from baa.api.conductor import Node, NodeState
from baa.api.errors import Code, Rejected
from baa.api.tasks import QueueEventType
from baa.engine.database import Transaction
from baa.engine.events import tell
from baa.engine.leases import VALID

_COLUMNS: Final = f"""node_id, incarnation, version, slots, CASE WHEN {VALID} THEN state ELSE 'gone' END AS state,
  pid, started_at, seen_at"""


class Beat(Struct, frozen=True):
    """The answer to a heartbeat, true while this incarnation may go on: neither superseded nor given up as gone.

    `drain`: the node was told to take no further work.
    """

    alive: bool
    drain: bool = False

    def __bool__(self) -> bool:
        return self.alive


class Lost(Exception):
    """The attempt is not this worker's any more, or its node was given up: nothing was written, and it must stop."""


def register(tx: Transaction, node: Node, *, ttl_ms: int, turn_lease_ms: int) -> None:
    """Write a node down as alive for `ttl_ms`; an earlier incarnation of it is superseded, and a drain is over."""
    row: dict[str, Any] = {
        "node_id": node.node_id,
        "incarnation": node.incarnation,
        "version": node.version,
        "slots": node.slots,
        "state": str(node.state),
        "pid": node.pid,
        "ttl_ms": ttl_ms,
        "turn_lease_ms": turn_lease_ms,
        "started_at": node.started_at,
        "seen_at": node.seen_at,
    }
    tx.run(
        """INSERT INTO node (node_id, incarnation, version, slots, state, drain, pid, boot_id, registered_ms,
          expires_ms, ttl_ms, turn_lease_ms, started_at, seen_at)
        VALUES (:node_id, :incarnation, :version, :slots, :state, 0, :pid, boot_id(), now_ms(), now_ms() + :ttl_ms,
          :ttl_ms, :turn_lease_ms, :started_at, :seen_at)
        ON CONFLICT (node_id) DO UPDATE SET incarnation = excluded.incarnation, version = excluded.version,
          slots = excluded.slots, state = excluded.state, drain = 0, pid = excluded.pid, boot_id = excluded.boot_id,
          registered_ms = excluded.registered_ms, expires_ms = excluded.expires_ms, ttl_ms = excluded.ttl_ms,
          turn_lease_ms = excluded.turn_lease_ms, started_at = excluded.started_at, seen_at = excluded.seen_at""",
        **row,
    )
    told = {"incarnation": node.incarnation, "version": node.version, "slots": node.slots}
    tell(tx, QueueEventType.NODE_REGISTERED, node_id=node.node_id, payload=told)


def heartbeat(tx: Transaction, node_id: str, incarnation: str, state: NodeState, *, ttl_ms: int) -> Beat:
    """Say that this incarnation is alive and in `state`, or that it leaves (`gone`)."""
    found = tx.row(
        "SELECT state, drain FROM node WHERE node_id = :node_id AND incarnation = :incarnation AND state <> 'gone'",
        lock="UPDATE",
        node_id=node_id,
        incarnation=incarnation,
    )
    if found is None:
        return Beat(alive=False)
    if state is NodeState.ACTIVE and found.drain:
        state = NodeState.DRAINING
    tx.run(
        """UPDATE node SET state = :state, boot_id = boot_id(), expires_ms = now_ms() + :ttl_ms, seen_at = :now
        WHERE node_id = :node_id""",
        state=str(state),
        ttl_ms=0 if state is NodeState.GONE else ttl_ms,
        now=tx.now,
        node_id=node_id,
    )
    if state is NodeState.DRAINING and found.state != state:
        tell(tx, QueueEventType.NODE_DRAINING, node_id=node_id)
    if state is NodeState.GONE:
        tell(tx, QueueEventType.NODE_GONE, node_id=node_id, payload={"incarnation": incarnation, "reason": "stopped"})
    return Beat(alive=True, drain=bool(found.drain))


def drain(tx: Transaction, node_id: str) -> Node:
    """Give the node no further work, for as long as this worker lives. Raises Rejected: `node_not_found`."""
    row = tx.row(f"SELECT {_COLUMNS}, drain FROM node WHERE node_id = :node_id", lock="UPDATE", node_id=node_id)
    if row is None:
        raise Rejected(Code.NODE_NOT_FOUND, f"There is no node {node_id}. `baa node list` names those there are.")
    if row.state == NodeState.ACTIVE:
        sql = "UPDATE node SET drain = 1, state = 'draining' WHERE node_id = :node_id"
        tx.run(sql, node_id=node_id)
        tell(tx, QueueEventType.NODE_DRAINING, node_id=node_id)
        row = tx.row(f"SELECT {_COLUMNS} FROM node WHERE node_id = :node_id", node_id=node_id)
        assert row is not None
    return _node(row)


def nodes(tx: Transaction) -> list[Node]:
    """All nodes that ever registered, by id. One whose heartbeat expired is `gone`, whatever it said last."""
    return [_node(row) for row in tx.rows(f"SELECT {_COLUMNS} FROM node ORDER BY node_id")]


def guard(tx: Transaction, owner: str) -> str:
    """Keep the worker's node as it is to the end of the transaction; the node's id. Raises Lost.

    One whose heartbeat expired may still write, as long as nobody gave it up: giving up takes the same row.
    """
    sql = "SELECT node_id FROM node WHERE incarnation = :owner AND state <> 'gone'"
    found = tx.row(sql, lock="SHARE", owner=owner)
    if found is None:
        raise Lost("the node was given up, or another worker runs for it")
    node_id: str = found.node_id
    return node_id


def _node(row: sa.Row[Any]) -> Node:
    return Node(
        node_id=row.node_id,
        incarnation=row.incarnation,
        version=row.version,
        slots=row.slots,
        state=NodeState(row.state),
        pid=row.pid,
        started_at=row.started_at,
        seen_at=row.seen_at,
    )
