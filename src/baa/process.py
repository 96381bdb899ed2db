"""A program of ours as a process: its arguments, configuration, log, signals and exit code, the same for all four."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

import structlog

from baa import config, logs, notify
from baa.api.errors import CannotStart
from baa.config import Config
from baa.known_secrets import KnownSecrets

EX_CANTCREAT: Final = 73

LEFT_S: Final = 5.0
"""Seconds for which threads are waited for that are left when the program itself has ended."""


@dataclass(slots=True)
class Stop:
    """What asks a program to stop: `asked` once, `hurried` by a second signal.

    `stdin_ended`: whoever started it in the foreground is gone, so it must leave nothing to a successor.
    """

    asked: asyncio.Event = field(default_factory=asyncio.Event)
    hurried: asyncio.Event = field(default_factory=asyncio.Event)
    stdin_ended: bool = False

    def signal(self) -> None:
        """SIGTERM or SIGINT came."""
        notify.notify(notify.STOPPING)
        (self.hurried if self.asked.is_set() else self.asked).set()


Run: TypeAlias = Callable[[Config, Stop, Callable[[str], None]], Awaitable[None]]
"""The program itself: runs until `Stop.asked`; calls the last argument once, with its address, when it serves."""


@dataclass(frozen=True, slots=True)
class Errand:
    """Something short that a program does, when it is given the argument `flag`, instead of running.

    `do` returns what is then told on stdout, and raises CannotStart.
    """

    flag: str
    help: str
    do: Callable[[Config], Awaitable[str]]


def main(program: str, run: Run, *, errand: Errand | None = None) -> int:
    """Run `program` until it is stopped; the exit code (sysexits). Its address is the one line on stdout.

    With --stop-with-stdin the end of stdin is a stop, so that nothing outlives the foreground that it was started in.
    """
    _open_what_was_closed()
    parser = argparse.ArgumentParser(description=f"{program} alone, in the foreground.")
    parser.add_argument("--config", type=Path, help="the configuration file (default: BAA_CONFIG, else baa.toml)")
    parser.add_argument("--log-to-stderr", action="store_true", help="write the log to stderr too")
    parser.add_argument("--stop-with-stdin", action="store_true", help="stop when stdin ends")
    if errand is not None:
        parser.add_argument(errand.flag, dest="errand", action="store_true", help=errand.help)
    given = parser.parse_args()
    log = structlog.get_logger(program)

    def say_where(address: str) -> None:
        notify.notify(notify.READY)
        sys.stdout.write(f"{program} {address}\n")
        sys.stdout.flush()

    async def whole(resolved: Config) -> None:
        if errand is not None and given.errand:
            sys.stdout.write(f"{program}: {await errand.do(resolved)}\n")
            return
        with _stop_signals(with_stdin=given.stop_with_stdin) as stop:
            await run(resolved, stop, say_where)

    try:
        resolved = config.load(given.config)
        _log_to(resolved, program, also_stderr=given.log_to_stderr)
        asyncio.run(whole(resolved))
    except CannotStart as refused:
        sys.stderr.write(f"{program}: {refused.message}\n")
        return _leave(refused.exit_code)
    except Exception as error:  # boundary: program. A mistake of ours ends the program: its log must say so.
        log.error("failed", exc_info=error)
        _leave(1)
        raise
    return _leave(0)


def _leave(code: int) -> int:
    """The exit code; the process ends with it soon, also if a library's thread waits for a database that is away."""
    last = threading.Timer(LEFT_S, os._exit, (code,))
    last.daemon = True
    last.start()
    return code


def _open_what_was_closed() -> None:
    """A standard stream that was closed would be the number of the next file that is opened: the event log, for one."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            nothing = os.open(os.devnull, os.O_RDWR)
            if nothing != number:
                os.dup2(nothing, number)
                os.close(nothing)
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


@contextmanager
def _stop_signals(*, with_stdin: bool) -> Iterator[Stop]:
    stop = Stop()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.signal)
    stdin = sys.stdin.fileno() if with_stdin else None

    def read_stdin() -> None:
        assert stdin is not None
        if os.read(stdin, 4096) == b"":
            loop.remove_reader(stdin)
            stop.stdin_ended = True
            stop.signal()

    if stdin is not None:
        loop.add_reader(stdin, read_stdin)
    try:
        yield stop
    finally:
        if stdin is not None:
            loop.remove_reader(stdin)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)  # it ends by itself now: one more must not make another end of it


def _log_to(resolved: Config, program: str, *, also_stderr: bool) -> None:
    folder = resolved.logs_of(program)
    known = KnownSecrets(resolved.tokens_dir, resolved.codex_home)
    try:
        logs.to_folder(folder, program, redactor=known.redactor, also_stderr=also_stderr)
    except OSError as error:
        raise CannotStart(f"The log cannot be written to {folder}: {error}", exit_code=EX_CANTCREAT) from error
