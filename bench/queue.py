"""The queue: how long a task waits until its turn has started, and how many instant tasks an idle node does."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from bench.codexd import Codexd
from bench.model import SMALL
from bench.row import Row, row
from bench.side_by_side import OURS, Say
from bench.wire import Http

STARTED = b'"type":"turn.started"'
ENDED = b'"type":"turn.completed"'


class Queue:
    """A conductor that runs tasks, beside a codexd."""

    def __init__(self, codexd: Codexd, http: Http) -> None:
        self._codexd = codexd
        self._http = http

    def submit(self) -> str:
        """A task of one small turn, in the folder itself."""
        asked = {
            "prompt": SMALL,
            "cwd": str(self._codexd.folder / "work"),
            "workspace": "inplace",
            "sandbox": "danger-full-access",
        }
        answer = msgspec.json.decode(self._http.ask("POST", "/v1/tasks", msgspec.json.encode(asked)))
        task_id: str = answer["data"]["task"]["taskId"]
        return task_id

    def task(self, task_id: str) -> dict[str, Any]:
        """How it stands."""
        found: dict[str, Any] = msgspec.json.decode(self._http.ask("GET", f"/v1/tasks/{task_id}"))["data"]["task"]
        return found

    def wait(self, task_id: str) -> None:
        """Until it has ended; as a task is told to have ended a little after its turn."""
        while (state := self.task(task_id)["state"]) in ("queued", "running"):
            time.sleep(0.01)
        assert state == "succeeded", state


@contextmanager
def conductor(codexd: Codexd) -> Iterator[Queue]:
    """A conductor with its worker, on the same folders."""
    inherited = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    environment = {
        **inherited,
        "HOME": str(codexd.folder),
        "BAA_HOME": str(codexd.folder / "baa"),
        "BAA_CONFIG": str(codexd.folder / "baa.toml"),
        "BAA_CODEXD_LOCAL_API_BASE": codexd.address,
        "BAA_CONDUCTOR_LOCAL_API_BASE": "http://127.0.0.1:0",
    }
    command = (sys.executable, "-m", "baa.conductor")
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().decode().split()[1]
            http = Http(address, (codexd.folder / "baa" / "state" / "tokens" / "drive").read_text().strip())
            yield Queue(codexd, http)
            http.close()
        finally:
            process.terminate()


def measured(codexd: Codexd, *, tasks: int, say: Say) -> list[Row]:
    """One task after the other, and then all at once."""
    waits: list[float] = []
    with conductor(codexd) as queue:
        queue.wait(queue.submit())  # the first one waits for the worker to be known
        for _ in range(tasks):
            seen = codexd.subscriber()
            began = time.perf_counter()
            task_id = queue.submit()
            for message in seen.messages():
                if STARTED in message:
                    waits.append((time.perf_counter() - began) * 1000)
                    break
            seen.close()
            queue.wait(task_id)
        began = time.perf_counter()
        for task_id in [queue.submit() for _ in range(tasks)]:
            queue.wait(task_id)
        rate = tasks / (time.perf_counter() - began)
    say(f"{2 * tasks} tasks")
    return [
        row(
            "a task submitted until its turn started, SQLite",
            "ms",
            {OURS: waits},
            of="p50",
            figure=statistics.median(waits),
            at_most=250,
        ),
        row("tasks of one instant turn in one folder, one after the other", "1/s", {OURS: [rate]}),
    ]
