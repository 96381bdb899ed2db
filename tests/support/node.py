"""A node of its own for a test: codexd as a process, the real Codex below it, and every folder of theirs below one.

Nothing here looks into codexd: a node is started, asked over HTTP, and killed, like anybody's.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias, TypeVar

import httpx2
import psutil
from codex_cli_bin import bundled_codex_path

from baa.scripted import codex_config
from tests.support.keeper_client import WAIT_SECONDS, alive, environment_of, spool_of, wait_until

Json: TypeAlias = dict[str, Any]
T = TypeVar("T")

PATIENCE_SECONDS = 60  # For anything that is waited for; what takes longer has failed, on the busiest machine.
POLL_MS = 20_000
NAMED_MS = 50
MARKER = b"BAA_KEEPER_ID="
ENDED = frozenset({"completed", "failed", "interrupted", "expired", "lost"})


async def within(awaited: Awaitable[T], seconds: float = PATIENCE_SECONDS) -> T:
    """What it gives. A test must fail by itself: pytest's own timeout would not let it clean up."""
    async with asyncio.timeout(seconds):
        return await awaited


async def until(fact: Callable[[], object], seconds: float = WAIT_SECONDS) -> None:
    """Wait for something that can only be looked at, while the event loop goes on."""
    await asyncio.to_thread(wait_until, fact, seconds)


async def moment(seconds: float) -> None:
    """When a blow falls is a matter of time, and of nothing else."""
    now = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, now.set)
    await now.wait()


async def end(pid: int) -> None:
    """SIGKILL a process, and wait until its parent can know: later than its main thread is gone (Linux)."""
    descriptor = os.pidfd_open(pid)
    try:
        os.kill(pid, signal.SIGKILL)
        await until(lambda: select.select([descriptor], [], [], 0)[0])
    finally:
        os.close(descriptor)


@cache
def sandbox_works() -> bool:
    """Whether Codex can confine a command on this machine (it needs user namespaces)."""
    with tempfile.TemporaryDirectory() as home:
        environment = {"PATH": os.environ["PATH"], "HOME": home, "CODEX_HOME": home}
        command = [bundled_codex_path(), "sandbox", "--", "true"]
        return subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 0


class Node:
    """An async context manager: at its end codexd, keeper and child are gone, whatever the test did to them.

    `settings` are codexd's, as in baa.toml; `features` are Codex's experimental ones that are on, and `codex` is more
    of its config.toml. At a good end codexd is stopped, if it runs, and must leave nothing behind.
    """

    def __init__(
        self,
        folder: Path,
        model_url: str,
        *,
        ceiling: str = "danger-full-access",
        features: tuple[str, ...] = (),
        codex: str = "",
        **settings: str,
    ) -> None:
        self.folder = folder
        self.home = folder / "baa"
        self.state = self.home / "state" / "codexd"
        self.codex_home = self.state / "codex-home"
        self.work = folder / "work"
        self.database = self.state / "codexd.sqlite3"
        self.address = ""
        self.starts = 0
        self.settings = settings
        self.command: tuple[str, ...] = (sys.executable, "-m", "baa.codexd")
        self.doomed = False
        self._ceiling = ceiling
        self._roots = [self.work]
        self.codex_config = f"{codex_config(model_url, features=features)}\n{codex}"
        self._up = asyncio.Event()
        self._process: Process | None = None
        self._http = httpx2.AsyncClient(trust_env=False, timeout=PATIENCE_SECONDS)

    async def __aenter__(self) -> Self:
        for folder in (self.codex_home, self.work, self.folder / "user"):
            folder.mkdir(mode=0o700, parents=True)
        (self.codex_home / "config.toml").write_text(self.codex_config)
        self.lower_ceiling(self._ceiling)
        return self

    def lower_ceiling(self, sandbox: str) -> None:
        """For the next codexd: this is the most that may be asked for."""
        self._ceiling = sandbox
        self.ceil()

    def ceil(self, **more: object) -> None:
        """For the next codexd: these keys of the ceiling too, of which JSON is TOML."""
        roots = [str(root) for root in self._roots]
        said = {"sandbox": self._ceiling, "roots": roots, **more}
        lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in said.items())
        (self.folder / "baa.toml").write_text(f"[ceiling]\n{lines}")

    def allow(self, *roots: Path) -> None:
        """Before it is entered: work may be done in these folders too."""
        self._roots += roots

    async def __aexit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._process is not None:
                assert await self.stop() == 0, self.stderr
                await until(lambda: not self.left())
            if kind is None:
                assert self.stderr == ""
                assert "request.failed" not in self.log
        finally:
            await self._http.aclose()
            await self._end_everything()

    async def _end_everything(self) -> None:
        if self._process is not None:
            await self.kill()

        def gone() -> bool:
            for pid in self.left():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return not self.left()

        await until(gone)

    # --- codexd as a process

    def environment(self, **settings: str) -> dict[str, str]:
        """What codexd is started with: of this process it inherits only where Python's modules are."""
        inherited = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        chosen = {f"BAA_CODEXD_{name.upper()}": value for name, value in (self.settings | settings).items()}
        return {
            **inherited,
            "HOME": str(self.folder / "user"),
            "BAA_HOME": str(self.home),
            "BAA_CONFIG": str(self.folder / "baa.toml"),
            "BAA_CODEXD_LOCAL_API_BASE": "http://127.0.0.1:0",
            **chosen,
        }

    async def spawn(self) -> None:
        """Start the process of codexd, and wait for nothing."""
        assert self._process is None
        self.starts += 1
        with (self.folder / "stderr").open("ab") as stderr:
            self._process = await asyncio.create_subprocess_exec(
                *self.command, env=self.environment(), stdout=PIPE, stderr=stderr
            )

    async def start(self) -> None:
        """Start codexd, until it says that it serves."""
        await self.spawn()
        await self.serves()

    async def serves(self) -> None:
        """Wait until a spawned codexd says that it serves."""
        assert self._process is not None
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE_SECONDS):
            line = await self._process.stdout.readline()
        assert line.startswith(b"codexd http://"), self.stderr
        self.address = line.decode().split()[1]
        self._up.set()

    async def another(self, **settings: str) -> tuple[int, str]:
        """Run one more codexd on the same folders until it ends; its exit code, and what it said on stderr."""
        process = await asyncio.create_subprocess_exec(
            *self.command, env=self.environment(**settings), stdout=PIPE, stderr=PIPE
        )
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                said, stderr = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert said == b""
        assert process.returncode is not None
        return process.returncode, stderr.decode()

    async def up(self) -> tuple[int, str]:
        """Which start of codexd serves, and where; waits while none does."""
        await self._up.wait()
        return self.starts, self.address

    def serving(self, start: int) -> bool:
        """Whether that start of codexd should still be serving; one that is `doomed` may end at any moment."""
        return self._up.is_set() and self.starts == start and not self.doomed

    @property
    def pid(self) -> int:
        """codexd's."""
        assert self._process is not None
        return self._process.pid

    async def kill(self) -> None:
        """SIGKILL codexd, and nothing else."""
        assert self._process is not None
        self._up.clear()
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        self._process = None

    def signal(self, number: signal.Signals) -> None:
        """Send codexd a signal that does not end it at once."""
        if number in (signal.SIGTERM, signal.SIGINT):
            self._up.clear()
        os.kill(self.pid, number)

    async def ended(self) -> int:
        """The exit code of a codexd that was told to stop, once it has ended."""
        assert self._process is not None
        async with asyncio.timeout(PATIENCE_SECONDS):
            code = await self._process.wait()
        self._up.clear()
        self._process = None
        return code

    async def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.signal(signal.SIGTERM)
        return await self.ended()

    @property
    def stderr(self) -> str:
        """What every codexd of this node said on stderr."""
        file = self.folder / "stderr"
        return file.read_text() if file.exists() else ""

    @property
    def log(self) -> str:
        """The lines of codexd's structured log."""
        file = self.home / "logs" / "codexd" / "codexd.jsonl"
        return file.read_text() if file.exists() else ""

    # --- what runs below it

    def left(self) -> list[int]:
        """Every living process that the child's environment was handed down to: keepers, children, their commands."""
        home = str(self.folder).encode()
        return [
            int(path.name)
            for path in Path("/proc").glob("[0-9]*")  # what it finds may be gone in the next moment
            if _marked(environment_of(path / "environ"), home) and alive(int(path.name))
        ]

    def running(self, word: str) -> list[int]:
        """Those of them that have this word in their command line."""
        return [pid for pid in self.left() if word in _command_line(pid)]

    def keepers(self) -> list[int]:
        """The keepers that hold a folder of this node, by what they wrote into it."""
        return [pid for pid in self._recorded() if alive(pid)]

    def _recorded(self) -> Iterator[int]:
        for lock in self.state.glob("keepers/*/lock"):
            with suppress(FileNotFoundError, IndexError):
                yield int(lock.read_text().split()[0])

    @property
    def keeper(self) -> int:
        """The one keeper that there is."""
        (pid,) = self.keepers()
        return pid

    @property
    def spool(self) -> bytes:
        """What the child of the one keeper wrote so far."""
        (folder,) = self.state.glob("keepers/*")
        return spool_of(folder)

    @property
    def rollouts(self) -> str:
        """Codex's own record of its threads."""
        return "".join(path.read_text() for path in self.codex_home.glob("sessions/**/*.jsonl"))

    async def child(self) -> int:
        """The child's pid, once it is ready."""
        pid: int = (await self.child_is("ready"))["pid"]
        return pid

    async def child_is(self, state: str) -> Json:
        """What the status says of the child, once it is in this state."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (status := await self.status())["child"]["state"] != state:
                # Not every change of its state has an event: hence no longer than a moment for each.
                await self.get("/v1/codexd/events", after=_head(status), waitMs=50)
        child: Json = status["child"]
        return child

    # --- over HTTP

    def token(self, name: str = "drive") -> str:
        """One of the node's two tokens."""
        return (self.home / "state" / "tokens" / name).read_text().strip()

    async def get(self, path: str, **query: str | int) -> httpx2.Response:
        """GET with the drive token."""
        headers = {"authorization": f"Bearer {self.token()}"}
        return await self._http.get(self.address + path, params=query or None, headers=headers)

    async def post(self, path: str, body: object, *, key: str | None = None) -> httpx2.Response:
        """POST with the drive token."""
        headers = {"authorization": f"Bearer {self.token()}"}
        if key is not None:
            headers["idempotency-key"] = key
        return await self._http.post(self.address + path, json=body, headers=headers)

    async def ask(self, method: str, path: str, **headers: str) -> httpx2.Response:
        """Any request, with no header that is not given (`_` for `-`)."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self._http.request(method, self.address + path, headers=given)

    async def status(self) -> Json:
        """`GET /v1/codexd/status`."""
        return _data(await self.get("/v1/codexd/status"))

    async def session(self, **asked: object) -> str:
        """A new session's id; it works in `work` without a sandbox unless asked otherwise."""
        body = {"cwd": str(self.work), "sandbox": "danger-full-access", **asked}
        answer = await self.post("/v1/codexd/sessions", body)
        assert answer.status_code == 201, answer.text
        session_id: str = _data(answer)["session"]["sessionId"]
        return session_id

    async def session_of(self, session_id: str) -> Json:
        """A session as it stands."""
        session: Json = _data(await self.get(f"/v1/codexd/sessions/{session_id}"))["session"]
        return session

    async def turn(self, session_id: str, prompt: str, *, key: str | None = None) -> str:
        """A new turn's id."""
        answer = await self.post("/v1/codexd/turn", {"sessionId": session_id, "prompt": prompt}, key=key)
        assert answer.status_code == 202, answer.text
        turn_id: str = _data(answer)["turn"]["turnId"]
        return turn_id

    async def ledger(self, turn_id: str, *, wait_ms: int = 0) -> Json:
        """A turn with its items, as it stands."""
        turn: Json = _data(await self.get(f"/v1/codexd/turn/{turn_id}", waitMs=wait_ms))["turn"]
        return turn

    async def end_of_turn(self, turn_id: str) -> Json:
        """A turn's ledger once it has ended."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (turn := await self.ledger(turn_id, wait_ms=POLL_MS))["status"] not in ENDED:
                pass
        return turn

    async def running_turn(self, turn_id: str) -> Json:
        """A turn's ledger once Codex has named it, which may be after it asked its model."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (turn := await self.ledger(turn_id, wait_ms=NAMED_MS))["status"] in ("queued", "accepted"):
                pass
        return turn

    async def play(self, session_id: str, prompt: str) -> Json:
        """A whole turn, from its start to its end: its ledger."""
        return await self.end_of_turn(await self.turn(session_id, prompt))

    async def events(self, after: str = "0", **query: str) -> list[Json]:
        """All events after a cursor, up to where the log stands now."""
        found: list[Json] = []
        while True:
            page = _data(await self.get("/v1/codexd/events", after=after, limit=1000, **query))
            found += page["events"]
            if page["next"] == after:
                return found
            after = page["next"]

    async def head(self) -> str:
        """The cursor of the newest event."""
        return _head(await self.status())


async def log_is(node: Node, state: str) -> Json:
    """What the status says of the log, once it is in this state."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (log := (await node.status())["log"])["state"] != state:
            await moment(0.02)
    told: Json = log
    return told


def _head(status: Json) -> str:
    return f"{status['log']['epoch']}:{status['log']['head']}"


def _data(answer: httpx2.Response) -> Json:
    body = answer.json()
    assert body["ok"], body
    data: Json = body["data"]
    return data


def _marked(environment: list[bytes], home: bytes) -> bool:
    return any(entry.startswith(MARKER) for entry in environment) and any(home in entry for entry in environment)


def _command_line(pid: int) -> list[str]:
    try:
        return psutil.Process(pid).cmdline()
    except psutil.Error:
        return []
