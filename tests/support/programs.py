"""Programs of ours beside codexd, as processes of a test's: the conductor, status-api, worker-runner."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2

from tests.support.node import PATIENCE_SECONDS, Json

MODULES = {"conductor": "baa.conductor", "status-api": "baa.status_api", "worker-runner": "baa.worker"}


class Program:
    """An async context manager: inside it runs; at its end it does not. `home` is the BAA_HOME, shared or its own."""

    def __init__(self, name: str, home: Path, **settings: str) -> None:
        self.name = name
        self.home = home
        self.address = ""
        self.command: tuple[str, ...] = (sys.executable, "-m", MODULES[name])
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home.parent),
            "BAA_HOME": str(home),
            "BAA_CODEXD_LOCAL_API_BASE": "http://127.0.0.1:0",
            "BAA_CONDUCTOR_LOCAL_API_BASE": "http://127.0.0.1:0",
            "BAA_STATUS_API_BASE": "http://127.0.0.1:0",
            "BAA_NODE_ID": "here",
            **settings,
        }
        self._process: Process
        self._http = httpx2.AsyncClient(trust_env=False, timeout=PATIENCE_SECONDS)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()
        await self.kill()
        if kind is None:
            assert "request.failed" not in self.log

    async def start(self) -> None:
        """Start it, until it says that it serves."""
        await self.spawn()
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE_SECONDS):
            line = (await self._process.stdout.readline()).decode()
        if not line:
            raise AssertionError((await self.ended())[1])
        name, self.address = line.split()
        assert name == self.name

    async def spawn(self) -> None:
        """Start it, and wait for nothing."""
        self._process = await asyncio.create_subprocess_exec(
            *self.command, env=self.environment, stdout=PIPE, stderr=PIPE
        )

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """How it ended; None while it runs."""
        return self._process.returncode

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    async def ended(self) -> tuple[int, str]:
        """Its exit code and what it said on stderr, once it has ended."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            _, stderr = await self._process.communicate()
        assert self._process.returncode is not None
        return self._process.returncode, stderr.decode()

    async def stop(self) -> tuple[int, str]:
        """SIGTERM; the exit code and stderr."""
        self.signal(signal.SIGTERM)
        return await self.ended()

    async def kill(self) -> None:
        """SIGKILL, if it still runs."""
        if self._process.returncode is None:
            self._process.kill()
            await self._process.communicate()

    @property
    def log(self) -> str:
        """Its structured log."""
        file = self.home / "logs" / self.name / f"{self.name}.jsonl"
        return file.read_text() if file.exists() else ""

    def token(self, name: str = "read") -> str:
        """One of the node's tokens."""
        return (self.home / "state" / "tokens" / name).read_text().strip()

    async def ask(self, method: str, path: str, *, token: str | None = None, **headers: str) -> httpx2.Response:
        """Any request, with no header that is not given (`_` for `-`)."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if token is not None:
            given["authorization"] = f"Bearer {token}"
        return await self._http.request(method, self.address + path, headers=given)

    async def get(self, path: str, *, token: str | None = None) -> Json:
        """The data of a GET that succeeds."""
        answer = await self.ask("GET", path, token=token)
        assert answer.status_code == 200, answer.text
        data: Json = answer.json()["data"]
        return data

    async def becomes(self, path: str, fact: Any, *, token: str | None = None) -> Json:
        """The data of a GET once `fact` holds of it."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                answer = await self.ask("GET", path, token=token)
                if answer.status_code == 200 and fact(data := answer.json()["data"]):
                    found: Json = data
                    return found
