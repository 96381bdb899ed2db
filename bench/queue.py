"""The queue: how long a task waits until its turn has started, and how many instant tasks an idle node does.

Also with many finished tasks in its tables: nobody runs a hundred thousand for a benchmark, so the rows of one that was
run (its own, its attempt's, and those of the library's workflow) are copied under other ids, while nothing runs there.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import apsw
import msgspec

from bench.codexd import Codexd
from bench.contender import OURS, Say
from bench.growth import Series
from bench.model import SMALL
from bench.row import Row, row
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


def _wait_ms(codexd: Codexd, queue: Queue) -> float:
    """From a task's submission until its turn has started, in ms; returns once it has ended."""
    seen = codexd.subscriber()
    began = time.perf_counter()
    task_id = queue.submit()
    for message in seen.messages():
        if STARTED in message:
            break
    waited = (time.perf_counter() - began) * 1000
    seen.close()
    queue.wait(task_id)
    return waited


def grown(codexd: Codexd, sizes: Sequence[int], *, tasks: int, say: Say) -> list[Series]:
    """How long a task waits beside so many finished ones, and how many are done in a second."""
    waits: list[tuple[float, float]] = []
    rates: list[tuple[float, float]] = []
    with conductor(codexd) as queue:
        task_id = queue.submit()
        queue.wait(task_id)
        queue.wait(queue.submit())  # by then the library, too, has put down the end of the first
    made = 0
    for size in sizes:
        for name, tables in ROWS.items():
            _copy(codexd.folder / "baa" / "state" / name, tables, task_id, range(made, size))
        made = size
        with conductor(codexd) as queue:
            queue.wait(queue.submit())
            waits.append((size, statistics.median(_wait_ms(codexd, queue) for _ in range(tasks))))
            rates.append((size, _rate(queue, tasks)))
        say(f"{size:,} finished tasks: the next one waits {waits[-1][1]:.0f} ms, {rates[-1][1]:.1f} are done a second")
    return [
        Series(name="a task's wait for its turn", x="finished tasks", unit="ms", points=waits),
        Series(name="instant tasks done", x="finished tasks", unit="1/s", points=rates),
    ]


ROWS = {
    "engine.sqlite3": ("task", "attempt"),
    "queue.sqlite3": ("workflow_status", "workflow_input", "workflow_output", "operation_outputs"),
}


def _copy(path: Path, tables: Sequence[str], task_id: str, numbers: range) -> None:
    """Copies of a task's rows, each under an id of its own wherever the task's stands in them."""
    with closing(apsw.Connection(str(path))) as database, database:
        for table in tables:
            columns = [str(name) for _, name, *_ in database.execute(f"PRAGMA table_info({table})")]
            named = [name for name in columns if _names(database, table, name, task_id)]
            assert named, f"{table} knows nothing of the task"
            told = ", ".join(f"replace({n}, :old, :new || printf('%026d', n))" if n in named else n for n in columns)
            database.execute(
                "WITH RECURSIVE copy(n) AS (SELECT :first UNION ALL SELECT n + 1 FROM copy WHERE n + 1 < :end)"
                f" INSERT INTO {table} ({', '.join(columns)}) SELECT {told} FROM {table}, copy"
                f" WHERE instr({named[0]}, :old) > 0",
                {"old": task_id, "new": task_id[:4], "first": numbers.start, "end": numbers.stop},
            )


def _names(database: apsw.Connection, table: str, column: str, word: str) -> bool:
    """Whether some value of the column has the word in it."""
    found = database.execute(f"SELECT 1 FROM {table} WHERE instr({column}, ?) > 0 LIMIT 1", (word,)).fetchone()
    return found is not None


def _rate(queue: Queue, tasks: int) -> float:
    """Tasks done in a second, when so many are submitted at once."""
    began = time.perf_counter()
    for task_id in [queue.submit() for _ in range(tasks)]:
        queue.wait(task_id)
    return tasks / (time.perf_counter() - began)


def measured(codexd: Codexd, *, tasks: int, say: Say) -> list[Row]:
    """One task after the other, and then all at once."""
    with conductor(codexd) as queue:
        queue.wait(queue.submit())  # the first one waits for the worker to be known
        waits = [_wait_ms(codexd, queue) for _ in range(tasks)]
        rate = _rate(queue, tasks)
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
