"""How the queue stands, in numbers: for the conductor's metrics."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from baa.api.conductor import NodeState
from baa.api.tasks import AttemptState, TaskState
from baa.engine import events, tasks
from baa.engine.database import Transaction
from baa.engine.leases import VALID


class Counts(Struct, frozen=True):
    """Tasks, open attempts and nodes by state, the slots of nodes that live, and how far the events go."""

    tasks: Mapping[str, int]
    attempts: Mapping[str, int]
    nodes: Mapping[str, int]
    slots: int
    paused: bool
    head: int
    oldest: int


def counts(tx: Transaction) -> Counts:
    """The counts of one moment. A node whose heartbeat expired is `gone`, whatever it said last."""
    open_ = (AttemptState.ASSIGNED, AttemptState.RUNNING)
    of_tasks = {row.state: row.n for row in tx.rows("SELECT state, count(*) AS n FROM task GROUP BY state")}
    sql = "SELECT state, count(*) AS n FROM attempt WHERE state IN :open GROUP BY state"
    of_attempts = {row.state: row.n for row in tx.rows(sql, open=[str(each) for each in open_])}
    of_nodes = tx.rows(
        f"""SELECT stands, count(*) AS n, sum(slots) AS slots FROM (
          SELECT CASE WHEN {VALID} THEN state ELSE 'gone' END AS stands, slots FROM node) AS seen GROUP BY stands"""
    )
    by_state = {row.stands: row.n for row in of_nodes}
    stands = events.head(tx)
    return Counts(
        tasks={state.value: of_tasks.get(state, 0) for state in TaskState},
        attempts={state.value: of_attempts.get(state, 0) for state in open_},
        nodes={state.value: by_state.get(state, 0) for state in NodeState},
        slots=sum(int(row.slots) for row in of_nodes if row.stands != NodeState.GONE),
        paused=tasks.paused(tx),
        head=stands.head,
        oldest=stands.oldest,
    )
