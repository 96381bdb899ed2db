"""A worker that only takes from the queue, as a process: an attempt runs until the test says that it is done.

`python -m tests.support.queue_worker URL NODE INCARNATION SLOTS FILE`: what happens is appended to FILE, a line each;
commands come on stdin.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from baa import logs
from baa.engine.queue import open_queue
from tests.support.node import end, until, within

ROOT: Final = Path(__file__).resolve().parents[2]
SECONDS: Final = 60


class QueueWorker:
    """An async context manager: inside it runs and has begun to take; afterwards it does not run."""

    def __init__(self, folder: Path, url: str, incarnation: str, *, node: str = "here", slots: int = 2) -> None:
        self.incarnation = incarnation
        self.logs = folder / f"logs-{incarnation}"
        self._file = folder / f"{incarnation}.txt"
        self._arguments = (url, node, incarnation, str(slots), str(self._file))
        self._process: Process

    async def __aenter__(self) -> Self:
        command = (sys.executable, "-m", "tests.support.queue_worker", *self._arguments)
        environment = {"PATH": os.environ["PATH"], "LOGS": str(self.logs)}
        self._process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, env=environment, stdin=PIPE)
        await self.saw("taking")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await within(self._process.wait())

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    @property
    def lines(self) -> list[str]:
        """What happened, oldest first."""
        return self._file.read_text().splitlines() if self._file.exists() else []

    def count(self, what: str) -> Counter[str]:
        """How often `what`, such as `begin`, happened to each attempt."""
        return Counter(line.partition(" ")[2] for line in self.lines if line.split()[0] == what)

    @property
    def log(self) -> str:
        """Its structured log."""
        return (self.logs / "worker.jsonl").read_text()

    async def saw(self, line: str) -> None:
        """Wait until that happened."""
        await until(lambda: line in self.lines or self._process.returncode is not None, SECONDS)
        assert line in self.lines, f"{self.incarnation} ended: {self.lines}"

    async def tell(self, command: str) -> None:
        """`finish ID`, `recover`, `drain SECONDS`."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n".encode())
        await self._process.stdin.drain()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    async def kill(self) -> None:
        """SIGKILL."""
        await end(self.pid)
        await within(self._process.wait())

    async def ended(self) -> int:
        """Its exit code, once it has ended."""
        return await within(self._process.wait())


async def _main(url: str, node: str, incarnation: str, slots: int, file: Path) -> None:
    out = file.open("a", buffering=1)
    done: dict[str, asyncio.Event] = {}
    leave = asyncio.Event()

    def say(*words: str) -> None:
        out.write(" ".join(words) + "\n")

    async def run(task_id: str, number: int) -> None:
        key = f"{task_id}:{number}"
        finished = done.setdefault(key, asyncio.Event())
        say("begin", key)
        if task_id.startswith("mistake"):
            raise RuntimeError("a mistake of ours")
        try:
            await finished.wait()
        except asyncio.CancelledError:
            say("cancel", key)
            raise
        say("end", key)

    queue = await open_queue(url)
    async with queue.taking(node_id=node, incarnation=incarnation, slots=slots, run=run) as intake:
        say("taking")
        async with asyncio.TaskGroup() as tasks:
            commands: asyncio.Queue[str] = asyncio.Queue()
            loop = asyncio.get_running_loop()
            reader = asyncio.StreamReader()
            await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)

            async def read() -> None:
                while line := await reader.readline():
                    commands.put_nowait(line.decode().strip())
                leave.set()

            async def drain(seconds: float) -> None:
                await intake.drain(seconds)
                say("drained")
                leave.set()
                commands.put_nowait("")

            reading = tasks.create_task(read(), name="read")
            while not leave.is_set():
                command, _, argument = (await commands.get()).partition(" ")
                if command == "finish":
                    done.setdefault(argument, asyncio.Event()).set()
                elif command == "recover":
                    say("recovered", *await queue.recover(node, incarnation))
                elif command == "drain":
                    tasks.create_task(drain(float(argument)), name="drain")
                    say("draining")
            reading.cancel()
    await queue.close()


if __name__ == "__main__":
    logs.to_folder(Path(os.environ["LOGS"]), "worker")
    _url, _node, _incarnation, _slots, _file = sys.argv[1:]
    asyncio.run(_main(_url, _node, _incarnation, int(_slots), Path(_file)))
