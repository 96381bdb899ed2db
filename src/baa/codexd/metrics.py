"""codexd's figures in Prometheus' text format. Pure: they are read off the status and the counters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from baa.api.status import ChildState, Status

MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric: its samples by their label's value; one without labels has the value ""."""

    name: str
    type: Literal["gauge", "counter"]
    help: str
    samples: Mapping[str, int]
    label: str = field(default="")


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
        _gauge(
            "codexd_child_generation", "The child's generation: how many were started on this log.", child.generation
        ),
        Metric(
            "codexd_child_restarts_total", "counter", "Children started again by this codexd.", {"": child.restarts}
        ),
        _gauge("codexd_sessions", "Sessions in the tables.", counts.sessions),
        Metric("codexd_turns", "gauge", "Turns in the tables, by where they stand.", turns, "status"),
        _gauge("codexd_open_interactions", "Questions of Codex's that wait for an answer.", counts.open_interactions),
        _gauge("codexd_subscribers", "Readers of the live stream.", counts.subscribers),
        _gauge("codexd_waits", "Answers that wait for an event or for a turn's end.", waits),
        _gauge("codexd_log_head", "The seq of the newest event.", log.head),
        _gauge("codexd_log_oldest", "The seq of the oldest event that is kept.", log.oldest),
        Metric("codexd_log_bytes", "gauge", "Bytes of the events that are kept, once counted.", _known(log.bytes)),
        _gauge("codexd_inbox", "Commands that wait to be decided.", waiting),
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


def text(told: tuple[Metric, ...]) -> str:
    """The page that Prometheus reads."""
    return "".join(f"{line}\n" for metric in told for line in _lines(metric))


def _gauge(name: str, about: str, value: int) -> Metric:
    return Metric(name, "gauge", about, {"": value})


def _known(value: int | None) -> dict[str, int]:
    return {} if value is None else {"": value}


def _lines(metric: Metric) -> Iterator[str]:
    yield f"# HELP {metric.name} {metric.help}"
    yield f"# TYPE {metric.name} {metric.type}"
    for of, value in metric.samples.items():
        labels = f'{{{metric.label}="{_escaped(of)}"}}' if metric.label else ""
        yield f"{metric.name}{labels} {value}"


def _escaped(text_: str) -> str:
    return text_.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
