"""When codexd feeds its watchdog: the main loop and the log's writer must both have moved; neither alone will do."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from baa.codexd.status import STALLED_S, Daemon


def daemon(*, loop_moved: float, log_moved: float) -> Daemon:
    """A codexd whose two halves moved so many seconds ago."""
    stands_in: Any = SimpleNamespace
    return Daemon(
        daemon_id="",
        pid=1,
        version="",
        started_at="",
        address="",
        clock=stands_in(monotonic=lambda: 1000.0),
        log=stands_in(stamp=1000.0 - log_moved),
        loop=stands_in(stamp=1000.0 - loop_moved),
        commands=stands_in(),
        supervisor=stands_in(),
        subscriptions=stands_in(),
        handover=stands_in(),
        patience=stands_in(),
        retention=stands_in(),
        backups=stands_in(),
    )


@pytest.mark.parametrize(
    ("loop_moved", "log_moved", "healthy"),
    [
        (0.0, 0.0, True),
        (STALLED_S - 0.5, STALLED_S - 0.5, True),
        (STALLED_S, 0.0, False),
        (0.0, STALLED_S, False),
        (STALLED_S, STALLED_S, False),
    ],
)
def test_both_halves_must_move(loop_moved: float, log_moved: float, healthy: bool) -> None:
    assert daemon(loop_moved=loop_moved, log_moved=log_moved).healthy() is healthy
