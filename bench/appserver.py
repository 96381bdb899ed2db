"""The bare app-server: over stdio with the leanest client there is, and over its own WebSocket listener."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from bench.contender import Played, codex, prepared, settings
from bench.wire import READ_BYTES, Closed, WebSocket

DELTA = b'"method":"item/agentMessage/delta"'
ENDED = b'"method":"turn/completed"'
WHO = {"clientInfo": {"name": "bench", "version": "0"}, "capabilities": {}}


class _Rpc:
    """What both transports share: requests in turn, and turns that are read to their end."""

    name: str
    started_s: float
    said: Mapping[str, object] = {}
    """What each turn is started with, besides its thread and its input."""

    def __init__(self, folder: Path, model_url: str) -> None:
        self._folder = folder
        self._home, self._environment = prepared(folder, model_url)
        self._process: subprocess.Popen[bytes]
        self._last_id = 0
        self._stack = ExitStack()

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def thread(self) -> str:
        """A new thread's id."""
        thread_id: str = self._ask("thread/start", settings(self._folder))["thread"]["id"]
        return thread_id

    def play(self, thread: str, prompt: str) -> Played:
        """One turn; the deltas are counted by their name."""
        asked = time.perf_counter()
        asks = {"threadId": thread, "input": [{"type": "text", "text": prompt}], **self.said}
        number = self._send("turn/start", asks)
        answer = b'"id":%d,' % number
        answered, deltas = 0.0, 0
        for block in self._blocks():
            self._came()
            deltas += block.count(DELTA)
            if not answered and answer in block:
                answered = time.perf_counter()
            if ENDED in block:
                return Played(asked, answered, time.perf_counter(), deltas)
        raise Closed

    def pids(self) -> tuple[list[int], list[int]]:
        """Codex alone."""
        return [self._process.pid], []

    def _begin(self) -> None:
        self._ask("initialize", WHO)
        self._write(b'{"method":"initialized"}')

    def _ask(self, method: str, params: object) -> Any:
        number = self._send(method, params)
        for block in self._blocks():
            for line in block.splitlines():
                if b'"id":%d' % number in line and b'"method"' not in line[:200].partition(b'"result"')[0]:
                    message = msgspec.json.decode(line)
                    if message.get("id") == number:
                        return message["result"]
        raise Closed

    def _send(self, method: str, params: object) -> int:
        self._last_id += 1
        self._write(msgspec.json.encode({"id": self._last_id, "method": method, "params": params}))
        return self._last_id

    def _came(self) -> None:
        """Something of a turn came."""

    def _write(self, message: bytes) -> None:
        raise NotImplementedError

    def _blocks(self) -> Iterator[bytes]:
        """Whole messages as they come, one or more a block, a line each."""
        raise NotImplementedError


class Stdio(_Rpc):
    """`codex app-server` on pipes; its client blocks in read and counts."""

    name = "bare"
    _rest = b""

    def __enter__(self) -> Self:
        began = time.perf_counter()
        self._process = self._stack.enter_context(
            subprocess.Popen(
                (codex(), "app-server"),
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
            )
        )
        self._stack.callback(self._process.terminate)
        self._begin()
        self.started_s = time.perf_counter() - began
        return self

    def _write(self, message: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(message + b"\n")

    def _blocks(self) -> Iterator[bytes]:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        while data := os.read(descriptor, READ_BYTES):
            whole, newline, rest = data.rpartition(b"\n")
            if newline:
                block, self._rest = self._rest + whole, rest
                yield block
            else:
                self._rest += data


class Listener(_Rpc):
    """`codex app-server --listen ws://`: what the app-server itself has for clients elsewhere."""

    name = "ws listener"

    def __enter__(self) -> Self:
        began = time.perf_counter()
        self._process = self._stack.enter_context(
            subprocess.Popen(
                (codex(), "app-server", "--listen", "ws://127.0.0.1:0"),
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        )
        self._stack.callback(self._process.terminate)
        assert self._process.stdout is not None
        address = next(word for line in self._process.stdout for word in line.decode().split() if word[:5] == "ws://")
        self._socket = WebSocket(address)
        self._stack.callback(self._socket.close)
        self._begin()
        self.started_s = time.perf_counter() - began
        return self

    def _write(self, message: bytes) -> None:
        self._socket.send(message)

    def _blocks(self) -> Iterator[bytes]:
        return self._socket.messages()
