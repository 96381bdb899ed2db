"""The figures for Prometheus: each of them is the status's, in a text that Prometheus reads."""

from __future__ import annotations

import re

from baa.api.status import ChildState, ChildStatus, CodexStatus, Counts, DaemonState, DaemonStatus, LogStatus, Status
from baa.codexd.metrics import metrics
from baa.http.prometheus import text

STATUS = Status(
    daemon=DaemonStatus(daemon_id="dmn", pid=1, version="1.2", started_at="", state=DaemonState.RUNNING, address=""),
    child=ChildStatus(
        state=ChildState.READY,
        generation=3,
        pid=2,
        codex_version=None,
        started_at=None,
        restarts=4,
        last_exit=None,
        problem=None,
    ),
    counts=Counts(sessions=5, turns_queued=6, turns_running=7, turns_ended=8, open_interactions=9, subscribers=10),
    log=LogStatus(epoch="e", head=11, oldest=12),
    recent_events=[],
    codex=CodexStatus(logged_in=None, limits=None),
)
SAMPLE = re.compile(r'([a-z_]+)(?:\{([a-z]+)="((?:[^"\\\n]|\\["\\n])*)"\})? (-?\d+)')


def samples(page: str) -> dict[tuple[str, str], int]:
    found = {}
    for line in page.splitlines():
        if not line.startswith("#"):
            matched = SAMPLE.fullmatch(line)
            assert matched is not None, line
            found[matched[1], matched[3] or ""] = int(matched[4])
    return found


def test_every_figure_is_told() -> None:
    page = text(metrics(STATUS, waiting=13, waits=15, counted={"late_turn": 14}, refused={"wrong_host": 16}))
    states = {("codexd_child_state", state.value): int(state is ChildState.READY) for state in ChildState}
    assert samples(page) == states | {
        ("codexd_info", "1.2"): 1,
        ("codexd_child_generation", ""): 3,
        ("codexd_child_restarts_total", ""): 4,
        ("codexd_sessions", ""): 5,
        ("codexd_turns", "queued"): 6,
        ("codexd_turns", "running"): 7,
        ("codexd_turns", "ended"): 8,
        ("codexd_open_interactions", ""): 9,
        ("codexd_subscribers", ""): 10,
        ("codexd_log_head", ""): 11,
        ("codexd_log_oldest", ""): 12,
        ("codexd_inbox", ""): 13,
        ("codexd_waits", ""): 15,
        ("codexd_uneventful_total", "late_turn"): 14,
        ("codexd_refused_total", "wrong_host"): 16,
    }


def test_every_metric_says_what_it_is_before_its_samples() -> None:
    page = text(metrics(STATUS, waiting=0, waits=0, counted={}, refused={}))
    assert page.endswith("\n")
    told: set[str] = set()
    for line in page.splitlines():
        words = line.split(" ")
        if words[0] == "#":
            assert words[1] in ("HELP", "TYPE")
            told.add(words[2])
        else:
            assert words[0].partition("{")[0] in told
            assert words[0].partition("{")[0].endswith("_total") == (
                f"# TYPE {words[0].partition('{')[0]} counter" in page
            )


def test_what_was_counted_cannot_break_a_line() -> None:
    page = text(metrics(STATUS, waiting=0, waits=0, counted={'a "b"\n\\c': 1}, refused={}))
    assert 'codexd_uneventful_total{why="a \\"b\\"\\n\\\\c"} 1' in page.splitlines()
