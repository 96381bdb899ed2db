"""A check as a process: run in the workspace until it ends or its time is up, and nothing of it runs on after that.

It runs as the user and outside of Codex's sandbox, by `/bin/sh -c`, in a session of its own, with what it says kept.
"""

from __future__ import annotations

import asyncio
import os
import signal
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

import psutil

from baa.api.tasks import Check, CheckResult
from baa.clock import Clock
from baa.worker.capped import Capped

OUTPUT_MAX: Final = 32_768
"""Bytes of a check's output that are kept; what fails stands mostly at its end."""

GRACE_S: Final = 5.0
"""Seconds between SIGTERM and SIGKILL."""

MARK: Final = "BAA_CHECK"
"""The variable by which what a check left running is found, also by the next process of the worker."""

_OURS: Final = ("BAA_", "CODEX_", "GIT_", "OPENAI_")
_OF_THE_SERVICE: Final = frozenset(
    {"INVOCATION_ID", "JOURNAL_STREAM", "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"}
)
_CHUNK: Final = 1 << 16
_LOOK_S: Final = 0.05

LOOKS_MAX: Final = 100
"""How often SIGKILL is sent to what does not go: a process that waits for a dead disk cannot be ended by anyone."""


def environment(environ: Mapping[str, str], mark: str) -> dict[str, str]:
    """What a check is given: the worker's own without what is ours, the service's or Codex's (tokens, a database)."""
    kept = {
        name: value for name, value in environ.items() if not name.startswith(_OURS) and name not in _OF_THE_SERVICE
    }
    return {**kept, MARK: mark}


async def run(
    check: Check, *, cwd: Path, attempt_id: str, owner: str, turn: int, clock: Clock, grace_s: float = GRACE_S
) -> CheckResult:
    """How the check ended. What another life of the worker (`owner`) left running of this attempt is ended first.

    Cancelled, it ends what runs and raises as usual.
    """
    began, output, mark = clock.monotonic(), Capped(OUTPUT_MAX), f"{attempt_id} {owner}"
    await sweep(attempt_id, grace_s=0)
    code: int | None = None
    timed_out = False
    read_end, write_end = os.pipe()
    try:
        with os.fdopen(read_end, "rb", 0) as saying:
            try:
                process = await _start(check, cwd, mark, write_end)
            finally:
                os.close(write_end)
            code, timed_out = await _through(process, check.timeout_ms / 1000, saying, output, mark, grace_s)
    except (OSError, ValueError) as error:  # such as a folder that the agent removed; a NUL in the command
        output.feed(f"The check could not be started: {error}".encode())
    return CheckResult(
        command=check.command,
        turn=turn,
        passed=code == 0,
        exit_code=code,
        timed_out=timed_out,
        output=output.text(),
        truncated=output.left_out > 0,
        duration_ms=round((clock.monotonic() - began) * 1000),
    )


async def _start(check: Check, cwd: Path, mark: str, output: int) -> Process:
    return await asyncio.create_subprocess_exec(
        "/bin/sh",
        "-c",
        check.command,
        cwd=cwd,
        env=environment(os.environ, mark),
        stdin=DEVNULL,
        stdout=output,  # no pipe of asyncio's: it takes the process for running as long as anybody holds the pipe
        stderr=output,
        start_new_session=True,
    )


async def _through(
    process: Process, seconds: float, saying: IO[bytes], output: Capped, mark: str, grace_s: float
) -> tuple[int | None, bool]:
    """The exit code, and whether the time was up. The output ends with the check: what it left must not hold it."""
    timed_out = False
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(_read(saying, output), name="check-output")
        try:
            try:
                async with asyncio.timeout(seconds):
                    await process.wait()
            except TimeoutError:
                timed_out = True
        finally:
            await _end(process, mark, grace_s)
            with suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await asyncio.wait((reading,))
            reading.cancel()
    assert process.returncode is not None
    code = process.returncode if process.returncode >= 0 else 128 - process.returncode
    return (None if timed_out else code), timed_out


async def _read(saying: IO[bytes], into: Capped) -> None:
    loop, reader = asyncio.get_running_loop(), asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), saying)
    try:
        while data := await reader.read(_CHUNK):
            into.feed(data)
    finally:
        transport.close()


async def _end(process: Process, mark: str, grace_s: float) -> None:
    """SIGTERM, then SIGKILL, to its group and to all that bears its mark."""
    if process.returncode is None:
        _to_group(process.pid, signal.SIGTERM)
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await process.wait()
        _to_group(process.pid, signal.SIGKILL)
        await process.wait()
    await sweep(mark, grace_s=grace_s)


def _to_group(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


async def sweep(mark: str, *, grace_s: float) -> None:
    """End every process that bears this mark: SIGTERM, and SIGKILL to what is left after `grace_s` seconds."""
    left = await asyncio.to_thread(lambda: list(_marked(mark)))
    _signal(left, signal.SIGTERM)
    left = await _living(left, grace_s)
    for _ in range(LOOKS_MAX):
        if not left:
            return
        _signal(left, signal.SIGKILL)
        left = await _living([*left, *await asyncio.to_thread(lambda: list(_marked(mark)))], _LOOK_S)


async def _living(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Those that live after so many seconds, if any do; nobody tells of the end of another's child."""
    now = asyncio.get_running_loop().time
    until = now() + seconds
    while (left := [process for process in processes if _lives(process)]) and now() < until:  # noqa: ASYNC110
        await asyncio.sleep(_LOOK_S)
    return left


def _marked(mark: str) -> Iterator[psutil.Process]:
    """Those that bear it, or one that begins with it; what a check runs as another user is beyond us."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if f"{process.environ().get(MARK, '')} ".startswith(f"{mark} "):
                yield process


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _signal(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.Error):
            process.send_signal(number)
