"""docs/tasks.md and docs/fleet.md name what there is: states, reasons, turns, limits, commands and settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from baa.api.tasks import ATTEMPT_ENDED, Check, SubmitTask
from baa.conductor.leader import TTL_MS
from baa.config_file import File
from baa.worker import checks, decisions
from baa.worker.decisions import Why
from baa.worker.git import Trouble
from tests.unit.test_docs_runtime import LINK, unknown_variables, wrong_commands

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "tasks.md").read_text()


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


@pytest.mark.parametrize("name", ["tasks.md", "fleet.md"])
def test_every_command_setting_and_link_exists(name: str) -> None:
    text = (DOCS / name).read_text()
    assert (wrong_commands(text), unknown_variables(text)) == ([], set())
    assert [link for link in LINK.findall(text) if not (DOCS / link).exists()] == []


def test_the_times_of_a_fleet_are_those_in_force() -> None:
    text = (DOCS / "fleet.md").read_text()
    file = File()
    ttl_s, turn_s = file.worker.node_ttl_ms // 1000, 2 * file.worker.node_ttl_ms // 1000
    assert f"after {ttl_s} s without a heartbeat" in text
    assert f"after twice that ({turn_s} s)" in text
    assert f"after {ttl_s + turn_s} s its attempts are `lost`" in text
    assert f"leads within {TTL_MS // 1000} s" in text
