"""`baa up`: the programs of this node in the foreground, as this process's children, with one stream of their logs.

Each has a session of its own, so that Ctrl-C reaches this process alone, which stops them in their order; and a pipe as
its stdin, whose end stops it, so that nothing outlives a `baa up` that was killed.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from baa import codex, config
from baa.cli.plain import plain
from baa.cli.service_log import readable
from baa.client.pauses import pauses
from baa.config import Config
from baa.runtime.services import FINAL_EXITS, MODULES, chosen

LINE_BYTES: Final = 1 << 20
HELD_EXITS: Final = (69, 75)
"""A port or a folder is held by another: at the first start that is for a person to settle; later it may pass."""

STEADY_S: Final = 60.0
"""Seconds after which a program that dies is started again at once, and not after an ever longer pause."""


def run(services: tuple[str, ...], *, all_services: bool, config_file: Path | None, as_json: bool) -> int:
    """Run the services until they are stopped; the exit code. Raises CannotStart."""
    names = chosen(services, all_services=all_services)
    resolved = config.load(config_file)
    if "codexd" in names:
        try:
            codex.find(resolved.server_command)
        except codex.NoProgram as missing:
            sys.stderr.write(f"child: unavailable. {missing}\n")
    # codexd first, because the others look for it; and last down, because they speak to it.
    ordered = sorted(names, key=lambda name: name != "codexd")
    return asyncio.run(Foreground(resolved, ordered, config_file, as_json=as_json).run())


class GaveUp(Exception):
    """A program cannot be started, now or ever; `code` is its exit code."""

    def __init__(self, name: str, code: int) -> None:
        super().__init__(f"{name} exited with {code}")
        self.code = code


class Foreground:
    """The programs and what they print."""

    def __init__(self, resolved: Config, names: list[str], config_file: Path | None, *, as_json: bool) -> None:
        self._config = resolved
        self._names = names
        self._file = config_file
        self._as_json = as_json
        self._running: dict[str, Process] = {}
        self._served: set[str] = set()
        self._stopping = asyncio.Event()

    async def run(self) -> int:
        """Run until a signal; the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._signal)
        code = 0
        try:
            async with asyncio.TaskGroup() as tasks:
                kept = {name: tasks.create_task(self._keep(name), name=name) for name in self._names}
                tasks.create_task(self._stop_in_order(kept), name="stop")
        except* GaveUp as gave_up:
            first = gave_up.exceptions[0]
            while isinstance(first, BaseExceptionGroup):
                first = first.exceptions[0]
            assert isinstance(first, GaveUp)
            sys.stderr.write(f"baa: {first}, and would again: everything was stopped.\n")
            code = first.code
        return code

    def _signal(self) -> None:
        """The first one stops all, in order; each further one hurries those that are left."""
        if not self._stopping.is_set():
            self._note("stopping")
            self._stopping.set()
            return
        for name in list(self._running):
            self._end(name)

    async def _stop_in_order(self, kept: dict[str, asyncio.Task[None]]) -> None:
        await self._stopping.wait()
        others = self._names[1:]
        for name in others:
            self._end(name)
        if others:
            await asyncio.wait([kept[name] for name in others])
        self._end(self._names[0])

    def _end(self, name: str) -> None:
        process = self._running.get(name)
        if process is not None and process.returncode is None:
            with suppress(ProcessLookupError):
                process.terminate()

    async def _keep(self, name: str) -> None:
        """Start the program, and again when it dies, until all is stopped. Raises GaveUp."""
        waits: Iterator[float] = pauses()
        loop = asyncio.get_running_loop()
        while not self._stopping.is_set():
            begun = loop.time()
            code = await self._run_once(name)
            if self._stopping.is_set():
                return
            if code in FINAL_EXITS or (code in HELD_EXITS and name not in self._served):
                raise GaveUp(name, code)
            if loop.time() - begun > STEADY_S:
                waits = pauses()
            pause = next(waits)
            self._note(f"{name} {_how(code)}; starting it again in {pause:.1f} s")
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopping.wait()

    async def _run_once(self, name: str) -> int:
        command = [sys.executable, "-P", "-m", MODULES[name], "--log-to-stderr", "--stop-with-stdin"]
        if self._file is not None:
            command += ["--config", str(self._file)]
        leaves_tasks = name == "conductor" and "worker-runner" in self._names
        process = await asyncio.create_subprocess_exec(
            *command,
            env={**os.environ, "BAA_WORKER_EMBEDDED": "false"} if leaves_tasks else None,
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            start_new_session=True,
            limit=LINE_BYTES,
        )
        self._running[name] = process
        if self._stopping.is_set():  # whoever stopped all found nothing to stop yet
            self._end(name)
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._read_address(name, process.stdout), name=f"{name} stdout")
                tasks.create_task(self._read_log(name, process.stderr), name=f"{name} stderr")
            return await process.wait()
        except asyncio.CancelledError:  # another program gave up
            self._end(name)
            await process.wait()
            raise
        finally:
            del self._running[name]

    async def _read_address(self, name: str, stdout: asyncio.StreamReader) -> None:
        async for line in stdout:
            self._served.add(name)
            where = f"{line.decode().rstrip()}  (log: {self._config.logs_of(name)}, stop: Ctrl-C)"
            self._print(json.dumps({"program": name, "event": "listening", "at": None, "told": where}), where)

    async def _read_log(self, name: str, stderr: asyncio.StreamReader) -> None:
        async for raw in stderr:
            line = raw.decode("utf-8", "replace").rstrip()
            try:
                entry = json.loads(line)
                if not isinstance(entry, dict):
                    raise ValueError(line)
            except ValueError:  # why it cannot start, or a mistake of ours: for people
                sys.stderr.write(plain(line) + "\n")
                continue
            self._print(json.dumps({"program": name, **entry}), readable(name, line))

    def _note(self, what: str) -> None:
        self._print(json.dumps({"program": "baa", "event": what}), f"{'':12}  {'baa':13}  {what}")

    def _print(self, as_json: str, as_text: str) -> None:
        try:
            print(as_json if self._as_json else as_text, flush=True)
        except BrokenPipeError:  # whoever read this is gone, and so is the foreground that it was started in
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            self._stopping.set()


def _how(code: int) -> str:
    """How a process ended, in words."""
    return f"exited with {code}" if code >= 0 else f"was ended by {signal.Signals(-code).name}"
