"""Checks as real processes: what they say, when they are ended, and that nothing of them is left."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import psutil
import pytest

from baa.api.tasks import Check, CheckResult
from baa.clock import SystemClock
from baa.worker import checks
from tests.support.node import until

LONG_MS = 60_000
Run: TypeAlias = Callable[..., Coroutine[Any, Any, CheckResult]]


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[str]:
    """A mark of this test's alone; what a failed test left is ended."""
    mark = f"{tmp_path.name}:1"
    yield mark
    for process in marked(mark):
        with suppress(psutil.Error):
            process.kill()


def marked(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("BAA_CHECK", "").startswith(mark) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@pytest.fixture
def run(tmp_path: Path, mark: str) -> Run:
    async def run(command: str, timeout_ms: int = LONG_MS, grace_s: float = 5.0) -> CheckResult:
        check = Check(command=command, timeout_ms=timeout_ms)
        async with asyncio.timeout(60):
            return await checks.run(
                check, cwd=tmp_path, attempt_id=mark, owner="me", turn=2, clock=SystemClock(), grace_s=grace_s
            )

    return run


async def test_a_check_tells_its_end_and_both_streams(run: Run, tmp_path: Path) -> None:
    (tmp_path / "here").touch()
    good = await run("ls; echo to stderr >&2")
    assert (good.passed, good.exit_code, good.timed_out, good.truncated, good.turn) == (True, 0, False, False, 2)
    assert good.output == "here\nto stderr\n"
    bad = await run("cat; exit 3")
    assert (bad.passed, bad.exit_code, bad.output) == (False, 3, "")
    killed = await run("kill -9 $$")
    assert (killed.passed, killed.exit_code) == (False, 137)


async def test_what_it_says_is_capped_and_can_be_stored(run: Run) -> None:
    loud = await run("echo first; yes | head -c 3000000; printf 'l\\000ast \\377'")
    assert (loud.passed, loud.truncated) == (True, True)
    assert loud.output.startswith("first\n")
    assert loud.output.endswith("l\ufffdast \ufffd")
    assert "bytes are left out here" in loud.output
    assert len(loud.output) < checks.OUTPUT_MAX + 100


async def test_it_has_nothing_of_ours(run: Run, monkeypatch: pytest.MonkeyPatch, mark: str) -> None:
    for name in ("BAA_SHARED_TOKEN", "BAA_ENGINE_URL", "CODEX_HOME", "OPENAI_API_KEY", "GIT_DIR", "NOTIFY_SOCKET"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("MINE", "kept")
    told = (await run("env")).output.split("\n")
    assert [line for line in told if "secret" in line] == []
    assert {"MINE=kept", f"BAA_CHECK={mark} me"} <= set(told)


async def test_past_its_time_all_of_it_is_ended(run: Run, mark: str) -> None:
    stubborn = "trap '' TERM; (trap '' TERM; sleep 1000) & echo began; sleep 1000"
    late = await run(stubborn, 300, 0.3)
    assert (late.passed, late.exit_code, late.timed_out) == (False, None, True)
    assert late.output.startswith("began\n")
    assert marked(mark) == []


async def test_one_that_ends_when_it_is_told_may_clean_up(run: Run, tmp_path: Path) -> None:
    polite = "trap 'echo cleaned; exit 0' TERM; touch began; while :; do sleep 0.02; done"
    late = await run(polite, 1500)
    assert (tmp_path / "began").exists()
    assert (late.passed, late.timed_out) == (False, True)
    assert late.output.endswith("cleaned\n")


async def test_what_a_check_leaves_behind_is_ended_with_it(run: Run, mark: str) -> None:
    away = f"{sys.executable} -c 'import os, time; os.setsid(); print(1, flush=True); time.sleep(1000)'"
    done = await run(f"{away} & read -r x < /dev/null; sleep 0.5; echo passed")
    assert (done.passed, done.timed_out) == (True, False)
    assert "passed" in done.output
    assert marked(mark) == []


async def test_a_cancelled_check_is_ended_and_so_is_one_of_a_worker_that_died(
    run: Run, mark: str, tmp_path: Path
) -> None:
    async with asyncio.TaskGroup() as group:
        running = group.create_task(run("touch began; sleep 1000"), name="check")
        await until((tmp_path / "began").exists)
        running.cancel()
    assert marked(mark) == []
    left = await asyncio.create_subprocess_exec("sleep", "1000", env={"BAA_CHECK": f"{mark} before"})
    assert (await run("true")).passed
    assert await left.wait() < 0


async def test_one_that_cannot_start_failed(tmp_path: Path, mark: str) -> None:
    gone = await checks.run(
        Check(command="true"), cwd=tmp_path / "gone", attempt_id=mark, owner="me", turn=1, clock=SystemClock()
    )
    assert (gone.passed, gone.exit_code, gone.timed_out) == (False, None, False)
    assert "could not be started" in gone.output
