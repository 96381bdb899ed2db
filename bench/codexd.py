"""codexd with everything on: keeper, durable log, redaction, guard; its client is as lean as the bare one's."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import psutil

from baa.scripted import codex_config
from bench.contender import Played, settings
from bench.wire import Closed, Http, WebSocket

EVENTS = "/v1/codexd/events"
CONNECTIONS = 1100
"""As many clients as it is measured with, and some more; codexd takes fewer unless it is told otherwise."""
DELTA = b'"type":"item.delta"'
ENDS = tuple(f'"type":"turn.{end}"'.encode() for end in ("completed", "failed", "interrupted", "expired", "lost"))


class Codexd:
    """codexd as a process, and one subscriber of its events."""

    name = "codexd"
    started_s: float

    def __init__(self, folder: Path, model_url: str) -> None:
        self.folder = folder
        self.state = folder / "baa" / "state" / "codexd"
        self.address = ""
        self._stack = ExitStack()
        self._process: subprocess.Popen[bytes]
        self._http: Http
        self._socket: WebSocket
        if not folder.exists():
            (self.state / "codex-home").mkdir(mode=0o700, parents=True)
            (folder / "work").mkdir()
            (self.state / "codex-home" / "config.toml").write_text(codex_config(model_url))
            ceiling = f'[ceiling]\nsandbox = "danger-full-access"\nroots = ["{folder / "work"}"]\n'
            (folder / "baa.toml").write_text(ceiling)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Until its child is ready."""
        began = time.perf_counter()
        inherited = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        environment = {
            **inherited,
            "HOME": str(self.folder),
            "BAA_HOME": str(self.folder / "baa"),
            "BAA_CONFIG": str(self.folder / "baa.toml"),
            "BAA_CODEXD_LOCAL_API_BASE": "http://127.0.0.1:0",
            "BAA_CODEXD_CONNECTIONS": str(CONNECTIONS),
        }
        self._process = self._stack.enter_context(
            subprocess.Popen((sys.executable, "-m", "baa.codexd"), env=environment, stdout=subprocess.PIPE)
        )
        self._stack.callback(self._process.terminate)
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().decode().split()[1]
        token = (self.folder / "baa" / "state" / "tokens" / "drive").read_text().strip()
        self._http = Http(self.address, token)
        self._stack.callback(self._http.close)
        self.wait_ready()
        self.started_s = time.perf_counter() - began
        self.listen()

    def stop(self) -> None:
        """SIGTERM, and its end; it can be started again."""
        self._stack.close()

    def listen(self) -> None:
        """Have the one subscriber begin anew, from now: one that was not read meanwhile has been closed."""
        self._socket = self.subscriber()
        self._stack.callback(self._socket.close)

    def subscriber(self, after: str | None = None) -> WebSocket:
        """One more reader of the stream, from now or after a cursor; its hello is read."""
        token = (self.folder / "baa" / "state" / "tokens" / "read").read_text().strip()
        path = EVENTS if after is None else f"{EVENTS}?after={after}"
        socket = WebSocket(self.address, path, token=token)
        hello = next(socket.messages())
        assert b'"hello"' in hello, hello
        return socket

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """The data of an answer."""
        asked = b"" if body is None else msgspec.json.encode(body)
        return msgspec.json.decode(self._http.ask(method, path, asked))["data"]

    def wait_ready(self) -> dict[str, Any]:
        """The status, once the child is ready; waits by the events, which every start of a child makes."""
        while True:
            status: dict[str, Any] = self.ask("GET", "/v1/codexd/status")
            if status["child"]["state"] == "ready":
                return status
            head = f"{status['log']['epoch']}:{status['log']['head']}"
            self.ask("GET", f"{EVENTS}?after={head}&waitMs=200")

    def thread(self) -> str:
        """A new session's id."""
        session_id: str = self.ask("POST", "/v1/codexd/sessions", settings(self.folder))["session"]["sessionId"]
        return session_id

    def play(self, thread: str, prompt: str) -> Played:
        """One turn: asked for over HTTP, seen on the stream."""
        asked = time.perf_counter()
        self._http.ask("POST", "/v1/codexd/turn", msgspec.json.encode({"sessionId": thread, "prompt": prompt}))
        answered, deltas = time.perf_counter(), 0
        for block in self.blocks():
            deltas += block.count(DELTA)
            if any(end in block for end in ENDS):
                return Played(asked, answered, time.perf_counter(), deltas)
        raise Closed

    def blocks(self) -> Iterator[bytes]:
        """The frames of the one subscriber."""
        return self._socket.messages()

    def pids(self) -> tuple[list[int], list[int]]:
        """Codex, and codexd with its keeper."""
        child: int = self.ask("GET", "/v1/codexd/status")["child"]["pid"]
        keeper = psutil.Process(child).ppid()
        return [child], [self._process.pid, keeper]
