"""codexd's figures in Prometheus' text format. Pure: they are read off the status and the counters."""

from __future__ import annotations

from collections.abc import Mapping

from baa.api.status import ChildState, Status
from baa.http.prometheus import Metric, gauge


def metrics(
    status: Status, *, waiting: int, waits: int, counted: Mapping[str, int], refused: Mapping[str, int]
) -> tuple[Metric, ...]:
    """The figures.

    `waiting` commands are not decided yet; `waits` answers wait for something (`waitMs`); `counted` messages changed
    nothing, by why; `refused` requests never reached the application, by their error's code.
    """
    child, counts, log = status.child, status.counts, status.log
    states = {state.value: int(state is child.state) for state in ChildState}
    turns = {"queued": counts.turns_queued, "running": counts.turns_running, "ended": counts.turns_ended}
    return (
        Metric("codexd_info", "gauge", "codexd's version.", {status.daemon.version: 1}, "version"),
        Metric("codexd_child_state", "gauge", "1 for the state that the child is in.", states, "state"),
        gauge(
            "codexd_child_generation", "The child's generation: how many were started on this log.", child.generation
        ),
        Metric(
            "codexd_child_restarts_total", "counter", "Children started again by this codexd.", {"": child.restarts}
        ),
        gauge("codexd_sessions", "Sessions in the tables.", counts.sessions),
        Metric("codexd_turns", "gauge", "Turns in the tables, by where they stand.", turns, "status"),
        gauge("codexd_open_interactions", "Questions of Codex's that wait for an answer.", counts.open_interactions),
        gauge("codexd_subscribers", "Readers of the live stream.", counts.subscribers),
        gauge("codexd_waits", "Answers that wait for an event or for a turn's end.", waits),
        gauge("codexd_log_head", "The seq of the newest event.", log.head),
        gauge("codexd_log_oldest", "The seq of the oldest event that is kept.", log.oldest),
        Metric("codexd_log_bytes", "gauge", "Bytes of the events that are kept, once counted.", _known(log.bytes)),
        gauge("codexd_inbox", "Commands that wait to be decided.", waiting),
        Metric(
            "codexd_uneventful_total",
            "counter",
            "Messages that changed nothing since codexd started, by why.",
            dict(sorted(counted.items())),
            "why",
        ),
        Metric(
            "codexd_refused_total",
            "counter",
            "Requests and handshakes refused at the door since codexd started, by code.",
            dict(sorted(refused.items())),
            "code",
        ),
    )


def _known(value: int | None) -> dict[str, int]:
    return {} if value is None else {"": value}
