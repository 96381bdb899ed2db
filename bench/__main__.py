"""`make bench`: every figure, beside the bare app-server, in one run. `--short` is for its correctness only.

    python -m bench [--short] [--json FILE] [--plots FOLDER]

Prints one table. With `--plots` it draws what grows. Progress is told on stderr.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import sys
import tempfile
from pathlib import Path

import msgspec

from bench import alone, growth, plot, queue, side_by_side
from bench.codexd import CONNECTIONS, Codexd
from bench.growth import Series
from bench.model import script, served
from bench.row import Row, table

FULL = {
    "deltas": 20_000,
    "rounds": 7,
    "turns": 40,
    "deaths": 7,
    "fan_rounds": 7,
    "sessions": 1000,
    "grown_sessions": (1, 1000, 10_000),
    "events": (10_000, 100_000, 1_000_000),
    "subscribers": (1, 10, 100, 1000),
    "steady": 300,
    "tasks": 20,
    "finished": (10, 1000, 10_000, 100_000),
}
SHORT = {
    "deltas": 300,
    "rounds": 1,
    "turns": 1,
    "deaths": 1,
    "fan_rounds": 1,
    "sessions": 5,
    "grown_sessions": (1, 3),
    "events": (400, 800),
    "subscribers": (1, 10),
    "steady": 20,
    "tasks": 2,
    "finished": (1, 20),
}


def say(words: str) -> None:
    """Progress."""
    print(words, file=sys.stderr, flush=True)


def main() -> int:
    """Measure, print, write. The exit code is 0 also where a target is not met: this measures, it does not judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="a small form: every part once, no figure means anything")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--plots", type=Path, help="draw what grows, an SVG each, into this folder")
    given = parser.parse_args()
    sizes = SHORT if given.short else FULL
    room_for(2 * CONNECTIONS)
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        rows, series = _measured(Path(name), sizes)
    print(table(rows, side_by_side.CONTENDERS))
    if given.json is not None:
        machine = {"processors": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()}
        whole = {"machine": machine, "load": os.getloadavg(), "rows": rows, "series": series}
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_bytes(msgspec.json.format(msgspec.json.encode(whole)) + b"\n")
    if given.plots is not None:
        given.plots.mkdir(parents=True, exist_ok=True)
        for each in series:
            name = f"{each.name} by {each.x}".replace(" ", "-").replace(",", "").replace("'", "")
            (given.plots / f"{name}.svg").write_text(plot.svg(each))
    return 0


def room_for(descriptors: int) -> None:
    """Let the processes that are measured have so many files and sockets, as far as the system does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY:
        most = descriptors if hard == resource.RLIM_INFINITY else min(descriptors, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))


def _measured(folder: Path, sizes: dict[str, object]) -> tuple[list[Row], list[Series]]:
    s = msgspec.convert(sizes, Sizes)
    with served(folder, script(s.deltas, steady=s.steady)) as model:
        rows = side_by_side.measured(folder, model, deltas=s.deltas, rounds=s.rounds, turns=s.turns, say=say)
        rows += alone.restarts(folder, model, rounds=s.deaths, say=say)
        with Codexd(folder / "alone", model) as codexd:
            rows += alone.memory(codexd, sessions=s.sessions, say=say)
            rows += alone.fan_out(codexd, deltas=s.deltas, rounds=s.fan_rounds, say=say)
            rows += queue.measured(codexd, tasks=s.tasks, say=say)
        with Codexd(folder / "grown", model) as codexd:
            grown = growth.grown(
                codexd, sessions=s.grown_sessions, events=s.events, chunk=s.deltas, turns=max(s.turns // 2, 1), say=say
            )
            rows += grown.rows
            rows += alone.replay(codexd, say=say)
            fan = growth.subscribers(codexd, s.subscribers, deltas=s.deltas, say=say)
        with Codexd(folder / "queued", model) as codexd:
            queued = queue.grown(codexd, s.finished, tasks=s.tasks, say=say)
    return rows, [*grown.series, fan, *queued]


class Sizes(msgspec.Struct, frozen=True):
    """How much of everything."""

    deltas: int
    rounds: int
    turns: int
    deaths: int
    fan_rounds: int
    sessions: int
    grown_sessions: list[int]
    events: list[int]
    subscribers: list[int]
    steady: int
    tasks: int
    finished: list[int]


if __name__ == "__main__":
    sys.exit(main())
