"""The official Python SDK: what a program uses today that has no codexd."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
from openai_codex import ApprovalMode, Codex, CodexConfig, Sandbox, Thread

from bench.contender import Played, codex, prepared


class Sdk:
    """`openai_codex.Codex`, its threads and turns, each notification as an object of its own."""

    name = "python sdk"
    started_s: float

    def __init__(self, folder: Path, model_url: str) -> None:
        self._folder = folder
        _, self._environment = prepared(folder, model_url)
        self._threads: dict[str, Thread] = {}
        self._stack = ExitStack()
        self._codex: Codex

    def __enter__(self) -> Self:
        began = time.perf_counter()
        before = set(psutil.Process().children())
        self._codex = self._stack.enter_context(Codex(CodexConfig(codex_bin=codex(), env=self._environment)))
        self._pids = [process.pid for process in set(psutil.Process().children()) - before]
        self.started_s = time.perf_counter() - began
        return self

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def thread(self) -> str:
        """A new thread's id."""
        thread = self._codex.thread_start(
            cwd=str(self._folder / "work"), sandbox=Sandbox.full_access, approval_mode=ApprovalMode.deny_all
        )
        self._threads[thread.id] = thread
        return thread.id

    def play(self, thread: str, prompt: str) -> Played:
        """One turn, by its stream of notifications."""
        asked = time.perf_counter()
        turn = self._threads[thread].turn(prompt)
        answered, deltas = time.perf_counter(), 0
        for notification in turn.stream():
            deltas += notification.method == "item/agentMessage/delta"
        return Played(asked, answered, time.perf_counter(), deltas)

    def pids(self) -> tuple[list[int], list[int]]:
        """Codex; the SDK lives in the benchmark's own process."""
        return self._pids, []
