"""The lease of the leader, and the guard of everything that a leader writes."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from baa.clock import rfc3339
from baa.engine.database import Transaction

LEADER: Final = "leader"

VALID: Final = "(boot_id = boot_id() AND expires_ms > now_ms())"
"""Of a lease or a node: it has not expired."""


class Lease(Struct, frozen=True, kw_only=True):
    """A lease as it was committed. `valid`: it had not expired, by the database's clock, when it was read."""

    holder: str
    node_id: str
    term: int
    valid: bool
    expires_at: str


class Fenced(Exception):
    """This term is over, or its lease ran out: nothing was written, and whoever asked leads no longer."""


def acquire(tx: Transaction, name: str, *, holder: str, node_id: str, ttl_ms: int) -> Lease:
    """Take the lease if it is free, expired or this holder's; the lease as it stands then, whoever's it is."""
    tx.run(
        """INSERT INTO lease (name, holder, node_id, term, boot_id, expires_ms, expires_at)
        VALUES (:name, '', '', 0, '', 0, '') ON CONFLICT (name) DO NOTHING""",
        name=name,
    )
    sql = f"SELECT holder, node_id, term, {VALID} AS valid, expires_at FROM lease WHERE name = :name"
    found = tx.row(sql, lock="UPDATE", name=name)
    assert found is not None
    if found.valid and found.holder != holder:
        return Lease(
            holder=found.holder, node_id=found.node_id, term=found.term, valid=True, expires_at=found.expires_at
        )
    term = found.term + (not found.valid)
    expires_at = rfc3339(tx.utc_ms + ttl_ms)
    tx.run(
        """UPDATE lease SET holder = :holder, node_id = :node_id, term = :term, boot_id = boot_id(),
        expires_ms = now_ms() + :ttl_ms, expires_at = :expires_at WHERE name = :name""",
        holder=holder,
        node_id=node_id,
        term=term,
        ttl_ms=ttl_ms,
        expires_at=expires_at,
        name=name,
    )
    return Lease(holder=holder, node_id=node_id, term=term, valid=True, expires_at=expires_at)


def release(tx: Transaction, name: str, *, holder: str, term: int) -> None:
    """Let go of the lease, if it is this holder's in this term. The term stays, so that the next one is higher."""
    sql = "UPDATE lease SET expires_ms = 0 WHERE name = :name AND holder = :holder AND term = :term"
    tx.run(sql, name=name, holder=holder, term=term)


def guard(tx: Transaction, term: int) -> None:
    """Keep the lead to the end of the transaction, which takes this lock before any other. Raises Fenced."""
    sql = f"SELECT term FROM lease WHERE name = :name AND term = :term AND {VALID}"
    if tx.row(sql, lock="UPDATE", name=LEADER, term=term) is None:
        raise Fenced(f"term {term} is over")
