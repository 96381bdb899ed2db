"""What grows: sessions, events, subscribers. Each figure at several sizes, so that a bend can be seen."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from msgspec import Struct

from bench.alone import readers, told
from bench.codexd import Codexd
from bench.contender import OURS, Say, cpu_s, rss_mib
from bench.model import SMALL, flood
from bench.row import Row, row


class Series(Struct, frozen=True, kw_only=True):
    """One line of a plot: what is measured at which sizes."""

    name: str
    x: str
    unit: str
    points: list[tuple[float, float]]


class Grown(Struct, frozen=True):
    """Lines for the plots, and the rows that have a target."""

    series: list[Series]
    rows: list[Row]


def grown(codexd: Codexd, *, sessions: Sequence[int], events: Sequence[int], chunk: int, turns: int, say: Say) -> Grown:
    """Fill the log step by step, then make sessions on it, and look at each step; then start anew on all of it."""
    empty = _turn_ms(codexd, turns)
    turn_events: list[tuple[float, float]] = []
    cost_events: list[tuple[float, float]] = []
    starts: list[tuple[float, float]] = []
    for size in events:
        while (head := _head(codexd)) < size:
            codexd.play(codexd.thread(), flood(chunk))
            if head // (10 * chunk) != _head(codexd) // (10 * chunk):
                say(f"{_head(codexd):,} events")
        cost_events.append((size, _cost_us(codexd, chunk)))
        turn_events.append((size, _turn_ms(codexd, turns)))
        codexd.stop()
        codexd.start()
        starts.append((size, codexd.started_s * 1000))
        say(f"{size:,} events: {cost_events[-1][1]:.1f} µs of CPU a delta, started in {starts[-1][1]:.0f} ms")
    turn: list[tuple[float, float]] = []
    cost: list[tuple[float, float]] = []
    memory: list[tuple[float, float]] = []
    made = 0
    for size in sessions:
        while made < size:
            codexd.thread()
            made += 1
        codexd.listen()
        memory.append((size, rss_mib(codexd.pids()[1])))
        turn.append((size, _turn_ms(codexd, turns)))
        cost.append((size, _cost_us(codexd, chunk)))
        say(f"{size:,} sessions: a small turn {turn[-1][1]:.1f} ms, {cost[-1][1]:.1f} µs of CPU a delta")
    codexd.stop()
    codexd.start()
    full = _turn_ms(codexd, turns)
    return Grown(
        [
            Series(name="a small turn", x="sessions", unit="ms", points=turn),
            Series(name="CPU of codexd and keeper a delta", x="sessions", unit="µs", points=cost),
            Series(name="memory of codexd and keeper", x="sessions", unit="MiB", points=memory),
            Series(name="CPU of codexd and keeper a delta", x="events in the log", unit="µs", points=cost_events),
            Series(name="a small turn", x="events in the log", unit="ms", points=turn_events),
            Series(name="codexd's start until ready", x="events in the log", unit="ms", points=starts),
        ],
        [
            row(
                f"start until ready, {events[-1]:,} events and {made:,} sessions",
                "ms",
                {OURS: [codexd.started_s * 1000]},
                of="codexd",
                figure=codexd.started_s * 1000,
                at_most=1500,
            ),
            row(
                "a small turn then",
                "ms",
                {OURS: [full]},
                of="÷ on an empty log",
                figure=full / empty,
                at_most=1.2,
            ),
        ],
    )


def subscribers(codexd: Codexd, counts: Sequence[int], *, deltas: int, say: Say) -> Series:
    """A turn's time with so many subscribers, a tenth of which never read."""
    points: list[tuple[float, float]] = []
    for count in counts:
        with readers(codexd, count, until=1, deaf=10) as process:
            played = codexd.play(codexd.thread(), flood(deltas))
            missed, _ = told(process, deltas)
        assert not missed, f"{missed} readers missed events"
        points.append((count, played.ms))
        say(f"{count} subscribers: {played.ms:.0f} ms")
    return Series(name=f"a turn of {deltas:,} deltas", x="subscribers, a tenth deaf", unit="ms", points=points)


def _turn_ms(codexd: Codexd, turns: int) -> float:
    thread = codexd.thread()
    codexd.play(thread, SMALL)
    return statistics.median(codexd.play(thread, SMALL).ms for _ in range(turns))


def _cost_us(codexd: Codexd, deltas: int) -> float:
    """CPU of codexd and keeper for each delta of a flood."""
    _, ours = codexd.pids()
    before = cpu_s(ours)
    codexd.play(codexd.thread(), flood(deltas))
    return (cpu_s(ours) - before) / deltas * 1e6


def _head(codexd: Codexd) -> int:
    head: int = codexd.ask("GET", "/v1/codexd/status")["log"]["head"]
    return head
