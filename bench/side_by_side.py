"""What is measured beside the bare app-server and the peers: deltas, turns, threads. Interleaved, A B A B."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import psutil

from bench import limits
from bench.appserver import Listener, Stdio
from bench.codexd import Codexd
from bench.contender import BARE, OURS, Contender, Say, cpu_s, fsync_ms
from bench.model import SMALL, flood
from bench.row import Row, row
from bench.sdk import Sdk

CONTENDERS = (BARE, "ws listener", "python sdk", OURS)


def measured(folder: Path, model: str, *, deltas: int, rounds: int, turns: int, say: Say) -> list[Row]:
    """All rows that compare."""
    with ExitStack() as stack:
        running: list[Contender] = []
        kinds: tuple[Callable[[Path, str], Contender], ...] = (Stdio, Listener, Sdk, Codexd)
        for name, kind in zip(CONTENDERS, kinds, strict=True):
            say(f"starting {name}")
            running.append(stack.enter_context(kind(folder / name.replace(" ", "-"), model)))
        return [
            *_floods(running, deltas, rounds, say),
            *_turns(running, turns, folder, model, say),
            *_threads(running, max(turns // 2, 1), say),
        ]


def _floods(running: Sequence[Contender], deltas: int, rounds: int, say: Say) -> list[Row]:
    rates: dict[str, list[float]] = {who.name: [] for who in running}
    codexs: dict[str, list[float]] = {who.name: [] for who in running}
    beside: dict[str, list[float]] = {who.name: [] for who in running}
    whole: dict[str, list[float]] = {who.name: [] for who in running}
    busy: dict[str, list[float]] = {who.name: [] for who in running}
    threads = {who.name: who.thread() for who in running}
    for who in running:
        who.play(threads[who.name], SMALL)
    model = [process.pid for process in psutil.Process().children() if "baa.scripted" in process.cmdline()]
    others = [os.getpid(), *model]  # the clients are this process
    for number in range(rounds):
        for who in running if number % 2 == 0 else reversed(running):
            theirs, ours = who.pids()
            all_of_it = [*theirs, *ours, *others]
            before = cpu_s(theirs), cpu_s(ours), cpu_s(all_of_it)
            played = who.play(threads[who.name], flood(deltas))
            used = cpu_s(all_of_it) - before[2]
            assert played.deltas == deltas, f"{who.name} saw {played.deltas} of {deltas} deltas"
            rates[who.name].append(played.deltas_per_s)
            codexs[who.name].append((cpu_s(theirs) - before[0]) / deltas * 1e6)
            beside[who.name].append((cpu_s(ours) - before[1]) / deltas * 1e6)
            whole[who.name].append(used / deltas * 1e6)
            busy[who.name].append(used / (played.ended - played.asked))
            say(f"round {number + 1}/{rounds}: {who.name} {played.deltas_per_s:,.0f} deltas/s")
            threads[who.name] = who.thread()  # A thread's history is sent with each turn: all begin alike.
    paired = [ours / bare for ours, bare in zip(rates[OURS], rates[BARE], strict=True)]
    costs = [ours / codexs for ours, codexs in zip(beside[OURS], codexs[OURS], strict=True)]
    return [
        row(
            f"deltas a second, {deltas:,} in a turn",
            "1/s",
            rates,
            of="codexd ÷ bare, median of pairs",
            figure=statistics.median(paired),
            at_least=1.0,
        ),
        row("Codex's CPU a delta", "µs", codexs),
        row(
            "CPU a delta of codexd and keeper",
            "µs",
            {OURS: beside[OURS]},
            of="codexd and keeper ÷ its Codex",
            figure=statistics.median(costs),
            at_most=0.4,
        ),
        limits.secrets(deltas),
        row("CPU a delta of all of it, with the model and the client", "µs", whole),
        row(f"processors that a turn kept busy, of {os.cpu_count()}", "", busy),
    ]


def _turns(running: Sequence[Contender], turns: int, folder: Path, model: str, say: Say) -> list[Row]:
    whole: dict[str, list[float]] = {who.name: [] for who in running}
    started: dict[str, list[float]] = {who.name: [] for who in running}
    fsyncs: list[float] = []
    codexd = next(who for who in running if who.name == OURS)
    threads = {who.name: who.thread() for who in running}
    for who in running:
        who.play(threads[who.name], SMALL)
    before = cpu_s(codexd.pids()[1])
    for number in range(turns):
        for who in running if number % 2 == 0 else reversed(running):
            played = who.play(threads[who.name], SMALL)
            whole[who.name].append(played.ms)
            started[who.name].append((played.answered - played.asked) * 1000)
        fsyncs.append(fsync_ms(folder, 9))
    cost = (cpu_s(codexd.pids()[1]) - before) / turns * 1000
    say(f"{turns} small turns each")
    sync = statistics.median(fsyncs)
    more = statistics.median(whole[OURS]) - statistics.median(whole[BARE])
    return [
        row(
            "a small turn, asked to ended",
            "ms",
            whole,
            of="codexd - bare - 2 fsyncs",
            figure=more - 2 * sync,
            at_most=3.0,
            note=f"an fsync here: {sync:.2f} ms",
        ),
        row("a turn's start answered", "ms", started),
        row("one fdatasync of 4 KiB", "ms", {OURS: fsyncs}),
        row("CPU of codexd and keeper, a small turn", "ms", {OURS: [cost]}),
        limits.small_turn(folder, model, turns=turns, cpu_ms=cost, say=say),
    ]


def _threads(running: Sequence[Contender], rounds: int, say: Say) -> list[Row]:
    started: dict[str, list[float]] = {who.name: [] for who in running}
    whole: dict[str, list[float]] = {who.name: [] for who in running}
    for number in range(rounds):
        for who in running if number % 2 == 0 else reversed(running):
            began = time.perf_counter()
            thread = who.thread()
            started[who.name].append((time.perf_counter() - began) * 1000)
            who.play(thread, SMALL)
            whole[who.name].append((time.perf_counter() - began) * 1000)
    say(f"{rounds} new threads each")
    return [
        row("a new thread answered; codexd: a session, whose thread its first turn begins", "ms", started),
        row("a new thread and its first small turn, asked to ended", "ms", whole),
    ]
