"""The conductor's figures in Prometheus' text format. Pure: they are read off the counts and the counters."""

from __future__ import annotations

from collections.abc import Mapping

from baa.api.conductor import Role, RoleName
from baa.engine.store import Counts
from baa.http.prometheus import Metric, gauge


def metrics(
    role: Role, counts: Counts | None, *, subscribers: int, waits: int, refused: Mapping[str, int]
) -> tuple[Metric, ...]:
    """The figures. `counts` is None while the database does not answer: what only it knows is left out.

    `waits` answers wait for something (`waitMs`); `refused` requests never reached the application, by their code.
    """
    return (
        Metric("conductor_info", "gauge", "The conductor's version.", {role.version: 1}, "version"),
        gauge("conductor_leads", "1 while this conductor leads.", int(role.role is RoleName.LEADER)),
        gauge("conductor_term", "The term of the last leader that this conductor knows of.", role.term),
        gauge("conductor_engine_answers", "1 while the database answers.", int(counts is not None)),
        *(() if counts is None else _of_the_queue(counts)),
        gauge("conductor_subscribers", "Readers of the live stream.", subscribers),
        gauge("conductor_waits", "Answers that wait for an event.", waits),
        Metric(
            "conductor_refused_total",
            "counter",
            "Requests and handshakes refused at the door since the conductor started, by code.",
            dict(sorted(refused.items())),
            "code",
        ),
    )


def _of_the_queue(counts: Counts) -> tuple[Metric, ...]:
    """The same from every conductor of a fleet."""
    return (
        Metric("conductor_tasks", "gauge", "Tasks, by where they stand.", counts.tasks, "state"),
        Metric("conductor_attempts", "gauge", "Attempts that have not ended.", counts.attempts, "state"),
        Metric("conductor_nodes", "gauge", "Nodes that ever registered.", counts.nodes, "state"),
        gauge("conductor_slots", "Tasks that the nodes which live may run at once.", counts.slots),
        gauge("conductor_paused", "1 while the queue is paused.", int(counts.paused)),
        gauge("conductor_events_head", "The seq of the newest event.", counts.head),
        gauge("conductor_events_oldest", "The seq of the oldest event that is kept.", counts.oldest),
    )
