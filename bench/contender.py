"""What is measured beside each other: a way to have Codex run turns, with the processes that it takes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TypeAlias

import psutil
from codex_cli_bin import bundled_codex_path

from baa.scripted import codex_config

BARE, OURS = "bare", "codexd"

Say: TypeAlias = Callable[[str], None]
"""Tells progress."""


@dataclass(frozen=True, slots=True)
class Played:
    """A turn as its client saw it, in monotonic seconds: asked for, its start answered, its end told."""

    asked: float
    answered: float
    ended: float
    deltas: int

    @property
    def ms(self) -> float:
        """From the request to the end."""
        return (self.ended - self.asked) * 1000

    @property
    def deltas_per_s(self) -> float:
        """From the answer to the end."""
        return self.deltas / (self.ended - self.answered)


class Contender(Protocol):
    """A Codex with whatever is around it, running inside its context.

    `started_s`: seconds from its start until it took work.
    """

    name: str
    started_s: float

    def __enter__(self) -> Self:
        """Start it."""

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it, and all that it started."""

    def thread(self) -> str:
        """A new conversation's id."""

    def play(self, thread: str, prompt: str) -> Played:
        """One whole turn."""

    def pids(self) -> tuple[list[int], list[int]]:
        """Codex's processes, and those that it takes beside (not the benchmark's own)."""


def cpu_s(pids: list[int]) -> float:
    """User and system time that these processes have used."""
    return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids)


def rss_mib(pids: list[int]) -> float:
    """Resident memory of these processes."""
    return sum(psutil.Process(pid).memory_info().rss for pid in pids) / (1 << 20)


def prepared(folder: Path, model_url: str) -> tuple[Path, dict[str, str]]:
    """A CODEX_HOME below `folder` that uses the scripted model, and the environment of a bare Codex with it."""
    codex_home = folder / "codex-home"
    codex_home.mkdir(mode=0o700, parents=True)
    (codex_home / "config.toml").write_text(codex_config(model_url))
    (folder / "work").mkdir()
    return codex_home, {"PATH": os.environ["PATH"], "HOME": str(folder), "CODEX_HOME": str(codex_home)}


def codex() -> str:
    """The binary that all of them run."""
    return str(bundled_codex_path())


def settings(folder: Path) -> dict[str, str]:
    """What every thread is started with: no sandbox is measured."""
    return {"cwd": str(folder / "work"), "sandbox": "danger-full-access", "approvalPolicy": "never"}


def fsync_ms(folder: Path, count: int = 40) -> float:
    """The median of a 4 KiB append with fdatasync, on the disk that the log is on."""
    times = []
    with (folder / "fsync").open("wb", buffering=0) as file:
        for _ in range(count):
            began = time.perf_counter()
            file.write(bytes(4096))
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - began)
    return sorted(times)[count // 2] * 1000
