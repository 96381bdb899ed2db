"""docs/tasks.md names what there is: states, reasons, turns and limits."""

from __future__ import annotations

from pathlib import Path

from baa.api.tasks import ATTEMPT_ENDED, Check, SubmitTask
from baa.worker import checks, decisions
from baa.worker.decisions import Why
from baa.worker.git import Trouble

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "tasks.md").read_text()


def test_every_state_reason_and_turn_is_named() -> None:
    named = {*map(str, ATTEMPT_ENDED), *map(str, Trouble), *map(str, Why)} - {"first"}
    assert {word for word in named if f"`{word}`" not in PAGE} == set()


def test_the_limits_are_those_in_force() -> None:
    assert f"{checks.OUTPUT_MAX // 1024} KiB of it are kept" in PAGE
    assert f"{checks.GRACE_S:.0f} seconds later SIGKILL" in PAGE
    assert f"`timeoutMs`, {Check(command='x').timeout_ms // 60_000} minutes" in PAGE
    assert f"({decisions.UNKNOWN_RESET_MS // 60_000} minutes, if it names none)" in PAGE
    assert decisions.TRANSIENT_MAX == decisions.CUT_OFF_MAX == 5
    assert "five in a row" in PAGE
    assert decisions.BACKOFF_MS == 2000
    assert all(f"{status}" in PAGE for status in (400, 401, 403, 404, 422))


def test_what_can_be_asked_for_is_named() -> None:
    fields = set(SubmitTask.__struct_encode_fields__)
    assert {"maxTurns", "maxAttempts", "deadlineMs", "stallMs", "budget", "workspace", "ref", "cwd"} <= fields
    assert {
        name
        for name in ("maxTurns", "maxAttempts", "deadlineMs", "stallMs", "budget", "ref")
        if f"`{name}`" not in PAGE
    } == set()
