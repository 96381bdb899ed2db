"""What codexd is measured in by itself: many readers, a child that dies, replay, memory."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import floor
from bench.appserver import Stdio
from bench.codexd import DELTA, Codexd
from bench.contender import BARE, OURS, Say, cpu_s, rss_mib
from bench.model import SMALL, STEADY, flood
from bench.row import Row, row

MANY = 100
EVENT_BYTES = 235
"""An event of a flood, as it is told."""


@contextmanager
def readers(codexd: Codexd, count: int, until: int, *, deaf: int = 0) -> Iterator[subprocess.Popen[str]]:
    """So many subscribers, connected."""
    token = (codexd.folder / "baa" / "state" / "tokens" / "read").read_text().strip()
    command = (sys.executable, "-m", "bench.readers", codexd.address, token, str(count), str(deaf), str(until))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())["ready"] == count
            yield process
        finally:
            process.terminate()


def told(process: subprocess.Popen[str], deltas: int) -> tuple[int, list[list[float]]]:
    """How many missed something of so many deltas; and for each turn, the ages of events that were looked at, in ms."""
    assert process.stdout is not None
    found = json.loads(process.stdout.readline())
    return found["missed"] + (found["deltas"] != deltas), found["ages"]


def fan_out(codexd: Codexd, *, deltas: int, rounds: int, say: Say) -> list[Row]:
    """A turn with one subscriber and with a hundred, in turn."""
    took: dict[int, list[float]] = {1: [], MANY: []}
    fast: dict[int, list[float]] = {1: [], MANY: []}
    calm: dict[int, list[float]] = {1: [], MANY: []}
    cost: dict[str, list[float]] = {"1": [], str(MANY): [], f"the {MANY} readers": []}
    alone: list[float] = []
    missed = 0
    for _ in range(rounds):
        for count, times in took.items():
            with readers(codexd, count, until=2) as process:
                thread = codexd.thread()
                before = cpu_s(codexd.pids()[1]), cpu_s([process.pid])
                played = codexd.play(thread, flood(deltas))
                after = cpu_s(codexd.pids()[1]), cpu_s([process.pid])
                steady = codexd.play(thread, STEADY)
                missing, ages = told(process, played.deltas + steady.deltas)
            times.append((played.ended - played.asked) * 1000)
            fast[count] += ages[0]
            calm[count] += ages[1]
            missed += missing
            cost[str(count)].append((after[0] - before[0]) / deltas * 1e6)
            if count == MANY:
                cost[f"the {MANY} readers"].append((after[1] - before[1]) / deltas * 1e6)
            say(f"{count} subscribers: {played.deltas_per_s:,.0f} deltas/s to each")
        alone.append(floor.cpu_s(MANY, EVENT_BYTES * deltas) / deltas * 1e6)
    slower = statistics.median(b / a for a, b in zip(took[1], took[MANY], strict=True)) - 1
    return [
        row(
            f"a turn of {deltas:,} deltas, with so many subscribers more",
            "ms",
            {str(count): times for count, times in took.items()},
            of="slowdown, %",
            figure=slower * 100,
            at_most=10,
        ),
        row("CPU a delta of codexd and keeper, with so many subscribers more", "µs", cost),
        row(f"CPU a delta to write and read its bytes at {MANY} sockets, with nothing else", "µs", {OURS: alone}),
        row("subscribers that missed an event", "", {OURS: [missed]}, of="all", figure=missed, at_most=0),
        *(
            row(
                f"an event's age when read, {count} subscribers, {speed}",
                "ms",
                {OURS: ages_[count]},
                of="p50, from its commit",
                figure=statistics.median(ages_[count]),
                at_most=bound,
            )
            for speed, ages_ in (("100 deltas/s", calm), ("full speed", fast))
            for count, bound in ((1, 3), (MANY, 50))
        ),
    ]


def restarts(folder: Path, model: str, *, rounds: int, say: Say) -> list[Row]:
    """A child that is killed beside a bare app-server that starts cold.

    A codexd of its own for each: after several deaths in a row codexd waits before it starts another, by design.
    """
    cold: list[float] = []
    again: list[float] = []
    for number in range(rounds):
        with Stdio(folder / f"cold-{number}", model) as bare:
            cold.append(bare.started_s * 1000)
        with Codexd(folder / f"dies-{number}", model) as codexd:
            codexd.play(codexd.thread(), SMALL)
            ((child,), _) = codexd.pids()
            began = time.perf_counter()
            os.kill(child, signal.SIGKILL)
            while codexd.wait_ready()["child"]["pid"] == child:
                pass
            again.append((time.perf_counter() - began) * 1000)
    say(f"{rounds} deaths of the child")
    return [
        row(
            "kill -9 of the child until ready; bare: a cold start",
            "ms",
            {BARE: cold, OURS: again},
            of="codexd ÷ bare",
            figure=statistics.median(again) / statistics.median(cold),
            at_most=2,
        )
    ]


def replay(codexd: Codexd, *, say: Say) -> list[Row]:
    """The whole log, from its beginning, to one reader."""
    log = codexd.ask("GET", "/v1/codexd/status")["log"]
    events = log["head"] - (log["oldest"] or 0)
    socket = codexd.subscriber(after="0")
    began = time.perf_counter()
    deltas = size = 0
    wanted = f'"next":"{log["epoch"]}:'.encode()
    for message in socket.messages():
        size += len(message)
        deltas += message.count(DELTA)
        at = message.find(wanted)
        if at >= 0 and int(message[at + len(wanted) : message.index(b'"', at + len(wanted))]) >= log["head"]:
            break
    rate = events / (time.perf_counter() - began)
    socket.close()
    say(f"{events:,} events replayed, {size / events:.0f} bytes each")
    return [
        row(f"replay of {events:,} stored events", "1/s", {OURS: [rate]}, of="codexd", figure=rate, at_least=100_000)
    ]


def memory(codexd: Codexd, *, sessions: int, say: Say) -> list[Row]:
    """Resident memory, idle, and what sessions add that never ran."""
    _, ours = codexd.pids()
    idle = rss_mib(ours)
    for _ in range(sessions):
        codexd.thread()
    each = (rss_mib(ours) - idle) * 1024 / sessions
    say(f"{sessions} idle sessions")
    return [
        row("RSS idle, codexd and keeper", "MiB", {OURS: [idle]}, of="codexd", figure=idle, at_most=100),
        row("RSS an idle session", "KiB", {OURS: [each]}, of=f"{sessions:,} of them", figure=each, at_most=20),
    ]
