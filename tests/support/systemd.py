"""A real `systemd --user`, where it need not be PID 1 of the machine: in namespaces and folders of a test's own."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec
import psutil

from tests.support.keeper_client import wait_until
from tests.support.node import Node, until

SYSTEMD: Final = Path("/lib/systemd/systemd")
NEEDED: Final = ("systemctl", "unshare", "nsenter")
CALL_S: Final = 150
NAMESPACES: Final = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
INSIDE: Final = (
    "mkdir -p /run/systemd && mount -t tmpfs tmpfs /run/systemd && mkdir /run/systemd/system"
    " && { /lib/systemd/systemd --user & wait; }"
)
"""The shell stays the first process of the namespace: a systemd that is the first believes that it runs the machine."""


@cache
def missing() -> str | None:
    """Why there can be none here, and how to get it; None if there can."""
    if sys.platform != "linux":
        return "systemd is Linux's"
    if os.geteuid() != 0:
        return "making namespaces for a systemd of its own takes root: run the tests as root"
    absent = [name for name in NEEDED if shutil.which(name) is None] + ([] if SYSTEMD.exists() else [str(SYSTEMD)])
    if absent:
        return f"not here: {', '.join(absent)}; apt-get install systemd util-linux"
    refused = subprocess.run([*NAMESPACES, "true"], capture_output=True, text=True, check=False).stderr.strip()
    return f"this container may make no namespaces ({refused}): give it CAP_SYS_ADMIN" if refused else None


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    socks = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [sock.getsockname()[1] for sock in socks]
    for sock in socks:
        sock.close()
    return ports


class UserSystemd:
    """A context manager: inside it runs a systemd of the user; at its end everything in its namespaces is gone."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._process: subprocess.Popen[bytes]
        self._inner = 0
        self._folder = tempfile.TemporaryDirectory(prefix="baa-run-")  # short: a socket's path is at most 107 bytes
        self.environment = {**environment, "XDG_RUNTIME_DIR": self._folder.name}

    def __enter__(self) -> Self:
        command = [*NAMESPACES, "sh", "-c", INSIDE]
        self._process = subprocess.Popen(
            command, env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            wait_until(self._is_up)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _is_up(self) -> bool:
        assert self._process.poll() is None
        children = psutil.Process(self._process.pid).children()
        if not children or not Path(self._folder.name, "systemd", "private").exists():
            return False
        self._inner = children[0].pid
        return self.run("systemctl", "--user", "is-system-running").stdout.strip() in ("running", "degraded")

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()  # and with it the first process of the namespace, and so every other there
        self._process.wait()
        self._folder.cleanup()

    def run(self, *command: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run a command among the services, to its end."""
        return subprocess.run(
            ["nsenter", "--target", str(self._inner), "--mount", "--pid", "--", *command],
            env={**self.environment, **settings},
            capture_output=True,
            text=True,
            timeout=CALL_S,
            check=False,
        )

    def processes(self) -> list[psutil.Process]:
        """Everything that runs below this systemd, and itself."""
        inner = psutil.Process(self._inner)
        return [inner, *inner.children(recursive=True)]


class InstalledNode(Node):
    """A node whose programs a service manager runs: on fixed ports, and with a HOME of its own."""

    def __init__(self, folder: Path, model_url: str) -> None:
        super().__init__(folder, model_url)
        self.ports = dict(zip(("codexd", "conductor", "status-api"), free_ports(3), strict=True))
        self.addresses = {name: f"http://127.0.0.1:{port}" for name, port in self.ports.items()}
        self.address = self.addresses["codexd"]
        self.units = folder / "user" / ".config" / "systemd" / "user"
        self.systemd = UserSystemd(self.environment())
        self.starts = 1
        self._up.set()

    def environment(self, **settings: str) -> dict[str, str]:
        """What `baa` is run with by whoever installs."""
        return {
            **super().environment(**settings),
            "BAA_CODEXD_LOCAL_API_BASE": self.addresses["codexd"],
            "BAA_CONDUCTOR_LOCAL_API_BASE": self.addresses["conductor"],
            "BAA_STATUS_API_BASE": self.addresses["status-api"],
            "BAA_NODE_ID": "here",
        }

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        await asyncio.to_thread(self.systemd.__enter__)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await asyncio.to_thread(self.systemd.__exit__, None, None, None)
        finally:
            await super().__aexit__(kind, raised, trace)

    def serving(self, start: int) -> bool:
        """Whoever reads must expect that it goes away at any time: that is what is tried."""
        return False

    async def baa(self, *arguments: str, code: int = 0, **settings: str) -> str:
        """Run `baa` as the user would; what it printed. It must end with `code`."""
        done = await asyncio.to_thread(self.systemd.run, sys.executable, "-m", "baa.cli", *arguments, **settings)
        assert done.returncode == code, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    async def lines(self, *arguments: str, code: int = 0, **settings: str) -> dict[str, Any]:
        """What a check says, by name."""
        told = await self.baa(*arguments, "--json", code=code, **settings)
        return {line["name"]: line for line in msgspec.json.decode(told.splitlines()[0])["lines"]}

    async def main_pid(self, service: str) -> int:
        """The main process of a service, as its namespace counts; 0 = it does not run."""
        show = ("systemctl", "--user", "show", "--property=MainPID", "--value", f"baa-{service}.service")
        return int((await asyncio.to_thread(self.systemd.run, *show)).stdout.strip() or 0)

    async def kill_service(self, service: str) -> None:
        """SIGKILL its main process, and wait for another one."""
        old = await self.main_pid(service)
        assert old
        assert (await asyncio.to_thread(self.systemd.run, "kill", "-9", str(old))).returncode == 0
        while await self.main_pid(service) in (0, old):
            pass

    def programs(self) -> list[list[str]]:
        """The command line of everything of ours that runs there."""
        lines = [process.cmdline() for process in self.systemd.processes()]
        return [line for line in lines if any("baa" in word or "app-server" in word for word in line)]

    def listening(self) -> list[int]:
        """Which of the node's ports somebody listens on."""
        found = []
        for port in self.ports.values():
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", port)) == 0:
                    found.append(port)
        return found

    async def gone(self) -> None:
        """Wait until nothing of the node's runs or listens."""
        await until(lambda: not self.programs() and not self.left() and not self.listening())
