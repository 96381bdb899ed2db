"""`baa up`: all programs in the foreground, one stream, and nothing left behind, however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import httpx2
import psutil
import pytest

from tests.support.keeper_client import wait_until
from tests.support.systemd import free_ports

PROGRAMS = ("codexd", "conductor", "status-api")
PATHS = {"codexd": "/healthz", "conductor": "/rolez", "status-api": "/v1/status"}

pytestmark = pytest.mark.timeout(150)


class Up:
    """`baa up` as a process, what it prints, and every process that it has started."""

    def __init__(self, folder: Path, *arguments: str, **settings: str) -> None:
        self.home = folder / "baa"
        self.ports = dict(zip(PROGRAMS, free_ports(3), strict=True))
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "BAA_HOME": str(self.home),
            "BAA_NODE_ID": "here",
            "BAA_CODEXD_LOCAL_API_BASE": self.url("codexd"),
            "BAA_CONDUCTOR_LOCAL_API_BASE": self.url("conductor"),
            "BAA_STATUS_API_BASE": self.url("status-api"),
            **settings,
        }
        self.printed: list[str] = []
        self.complaints = ""
        self._arguments = arguments
        self._folder = folder

    def url(self, program: str, path: str = "") -> str:
        """Where a program is to be found."""
        return f"http://127.0.0.1:{self.ports[program]}{path}"

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[str]]:
        """Inside it runs; at the end nothing of it does."""
        command = [sys.executable, "-m", "baa.cli", "up", *self._arguments]
        with (self._folder / "stderr").open("w+") as stderr:
            process = subprocess.Popen(
                command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
            reading = threading.Thread(target=self._read, args=(process,))
            reading.start()
            try:
                yield process
            finally:
                for left in self.left():
                    with suppress(psutil.NoSuchProcess):
                        left.kill()
                process.kill()
                process.wait()
                reading.join()
                stderr.seek(0)
                self.complaints = stderr.read()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout as stdout:
            self.printed.extend(iter(stdout.readline, ""))

    def says(self, text: str, *, times: int = 1) -> None:
        """Wait until it has printed that so often."""
        wait_until(lambda: sum(text in line for line in list(self.printed)) >= times)

    def serve(self) -> None:
        """Wait until all programs answer."""
        for program in self.ports:
            wait_until(partial(self.answers, program))

    def answers(self, program: str) -> bool:
        """Whether a program answers."""
        try:
            return httpx2.get(self.url(program, PATHS[program]), trust_env=False).status_code == 200
        except httpx2.HTTPError:
            return False

    def left(self) -> list[psutil.Process]:
        """Every process with this BAA_HOME in its environment or, as keeper and Codex have it, in a folder's name."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if any(str(self.home) in value for value in process.environ().values()):
                    found.append(process)
        return found

    def program(self, module: str) -> int:
        """The process of a program."""
        (pid,) = [process.pid for process in self.left() if module in process.cmdline()]
        return pid


def test_the_default_set_serves_comes_back_and_is_gone_after_ctrl_c(tmp_path: Path) -> None:
    up = Up(tmp_path)
    with up.running() as process:
        up.serve()
        for program in PROGRAMS:
            up.says(f"{program} {up.url(program)}  (log: ")
        for program, module in zip(PROGRAMS, ("baa.codexd", "baa.conductor", "baa.status_api"), strict=True):
            os.kill(up.program(module), signal.SIGKILL)
            up.says(f"{program} was ended by SIGKILL; starting it again")
            up.says(f"{program} http", times=2)
        up.serve()
        process.send_signal(signal.SIGINT)
        assert process.wait() == 0
        assert up.left() == []
        assert not any(up.answers(program) for program in PROGRAMS)
    assert up.complaints == ""
    stops = [line.split()[1] for line in up.printed if line.split()[2:3] == ["stopped"]]
    assert stops[-1] == "codexd", "the others speak to it"


def test_all_services_have_the_worker_and_json_is_for_programs(tmp_path: Path) -> None:
    up = Up(tmp_path, "--all-services", "--json")
    with up.running() as process:
        up.serve()
        token = (up.home / "state" / "tokens" / "read").read_text().strip()

        def nodes() -> list[str]:
            headers = {"Authorization": f"Bearer {token}"}
            told = httpx2.get(up.url("conductor", "/v1/nodes"), headers=headers, trust_env=False).json()
            return [f"{node['nodeId']} {node['state']}" for node in told["data"]["nodes"]]

        wait_until(lambda: nodes() == ["here active"])
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0
        assert up.left() == []
    entries = [json.loads(line) for line in up.printed]
    assert {entry["program"] for entry in entries} == {*PROGRAMS, "worker-runner", "baa"}


def test_a_killed_up_takes_everything_with_it(tmp_path: Path) -> None:
    up = Up(tmp_path)
    with up.running() as process:
        up.serve()
        process.kill()
        process.wait()
        wait_until(lambda: up.left() == [])


def test_a_port_that_is_taken_is_named_and_everything_stops(tmp_path: Path) -> None:
    first, second = Up(tmp_path), Up(tmp_path / "second")
    (tmp_path / "second").mkdir()
    second.environment["BAA_CONDUCTOR_LOCAL_API_BASE"] = first.url("conductor")
    with first.running() as process:
        first.serve()
        with second.running() as other:
            assert other.wait() == 69
            assert second.left() == []
        assert f"Port {first.ports['conductor']} on 127.0.0.1 is in use" in second.complaints
        assert "conductor exited with 69" in second.complaints
        process.send_signal(signal.SIGINT)
        assert process.wait() == 0


def test_a_second_signal_hurries(tmp_path: Path) -> None:
    up = Up(tmp_path, "--service", "codexd")
    with up.running() as process:
        up.says("codexd http")
        process.send_signal(signal.SIGINT)
        up.says("stopping")
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        assert process.wait() == 0
        assert up.left() == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells which signals a process handles")
def test_a_signal_that_comes_while_programs_are_being_started_stops_them_too(tmp_path: Path) -> None:
    up = Up(tmp_path)
    with up.running() as process:

        def handles_it() -> bool:
            """Python itself does not handle SIGTERM, so this is later than its own start, and before any program's."""
            status = Path(f"/proc/{process.pid}/status").read_text()
            handled = int(status.partition("SigCgt:")[2].split()[0], 16)
            return bool(handled >> (signal.SIGTERM - 1) & 1)

        wait_until(handles_it)
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0
        assert up.left() == []
