"""Where the demo plays: a temporary folder with everything in it, and codexd as a process of its own.

Nothing of the user's is read or touched: HOME, BAA_HOME, CODEX_HOME and the repository are in the folder, ports are any
free ones. What was started is ended by pid, whatever happens.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
import psutil

from baa import codex, config
from baa.api.errors import EX_UNAVAILABLE, CannotStart
from baa.api.sessions import Sandbox
from baa.codexd import leftovers
from baa.config import Config

START_S: Final = 30.0
STOP_S: Final = 30.0
"""codexd ends its child by a ladder of 8 s at worst."""

KILL_S: Final = 5.0
GONE_S: Final = 5.0
GIT_S: Final = 30.0

FOREIGN: Final = ("BAA_", "CODEX_", "GIT_", "XDG_")
"""Variables of the user's that would steer what runs here."""


def find_codex(environ: Mapping[str, str]) -> Path:
    """The Codex to run: found as codexd finds it. Raises CannotStart (69), with what to install."""
    try:
        return codex.find(environ.get("BAA_CODEXD_SERVER_COMMAND") or codex.DEFAULT_COMMAND)
    except codex.NoProgram as missing:
        raise CannotStart(str(missing), exit_code=EX_UNAVAILABLE) from None


def find_git() -> str:
    """Raises CannotStart (69)."""
    git = shutil.which("git")
    if git is None:
        raise CannotStart("The demo works in a git repository, and git is not installed.", exit_code=EX_UNAVAILABLE)
    return git


class Stage:
    """The folder and what is in it; `codexd` is the process that runs now, or ran last."""

    def __init__(self, codex: Path, git: str) -> None:
        self.codex = codex
        self.base = Path(tempfile.mkdtemp(prefix="baa-demo-")).resolve()
        self.work = self.base / "work"
        self.stderr = self.base / "codexd.stderr"
        self.log = self.base / "baa" / "logs" / "codexd" / "codexd.jsonl"
        self.codexd: asyncio.subprocess.Process | None = None
        self._git = git
        ours = {
            "HOME": str(self.base / "home"),
            "TMPDIR": str(self.base / "tmp"),  # Codex's sandbox leaves a folder there
            "BAA_HOME": str(self.base / "baa"),
            "BAA_CONFIG": str(self.base / "baa.toml"),
            "BAA_CODEXD_LOCAL_API_BASE": "http://127.0.0.1:0",
            "BAA_CODEXD_SERVER_COMMAND": str(codex),
            "GIT_CONFIG_NOSYSTEM": "1",
        }
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)} | ours
        if path := os.environ.get("PYTHONPATH"):  # codexd has another working folder
            absolute = os.pathsep.join(map(os.path.abspath, path.split(os.pathsep)))
            self.environment["PYTHONPATH"] = absolute
        for folder in (self.work, self.base / "home", self.base / "tmp"):
            folder.mkdir()

    def configure(self, codex_config: str, sandbox: Sandbox) -> Config:
        """Write both configurations; codexd's, as it will read it."""
        text = f"[ceiling]\nsandbox = {_quoted(sandbox)}\nroots = [{_quoted(str(self.work))}]\n"
        (self.base / "baa.toml").write_text(text)
        found = config.load(environ=self.environment)
        found.codex_home.mkdir(mode=0o700, parents=True)
        (found.codex_home / "config.toml").write_text(codex_config)
        return found

    def git(self, *arguments: str) -> str:
        """What git says in the repository. Raises CalledProcessError, TimeoutExpired."""
        identity = ("-c", "user.name=Demo", "-c", "user.email=demo@localhost", "-c", "init.defaultBranch=main")
        command = (self._git, *identity, *arguments)
        done = subprocess.run(
            command, cwd=self.work, env=self.environment, check=True, capture_output=True, text=True, timeout=GIT_S
        )
        return done.stdout

    def make_repository(self, files: Mapping[str, str]) -> None:
        """A fresh repository with one commit of these files."""
        for name, text in files.items():
            (self.work / name).write_text(text)
        self.git("init", "--quiet")
        self.git("add", ".")
        self.git("commit", "--quiet", "--message", "A greeting, and its test")

    async def start_codexd(self) -> str:
        """Start codexd; its address once it serves. Raises CannotStart when it does not come so far."""
        assert self.codexd is None or self.codexd.returncode is not None
        with self.stderr.open("ab") as stderr:
            self.codexd = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "baa.codexd",
                cwd=self.base,
                env=self.environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,  # Ctrl-C is for us, who then end it in order
            )
        assert self.codexd.stdout is not None
        try:
            async with asyncio.timeout(START_S):
                line = (await self.codexd.stdout.readline()).decode().split()
        except TimeoutError:
            line = []
        if len(line) != 2:
            said = self.stderr.read_text(errors="replace").strip()
            raise CannotStart(f"codexd did not start. {said}", exit_code=EX_UNAVAILABLE)
        return line[1]

    async def kill_codexd(self) -> int:
        """kill -9, and wait until it is dead; its exit code, -9 if that is what it died of."""
        assert self.codexd is not None
        self.codexd.kill()
        return await self._end_of_codexd(KILL_S)

    async def stop_codexd(self) -> int:
        """SIGTERM, and wait for its end; its exit code. Raises TimeoutError."""
        assert self.codexd is not None
        self.codexd.terminate()
        return await self._end_of_codexd(STOP_S)

    async def _end_of_codexd(self, seconds: float) -> int:
        assert self.codexd is not None
        async with asyncio.timeout(seconds):
            return await self.codexd.wait()

    async def end_everything(self) -> None:
        """Whatever still runs is ended, the gentle way first."""
        if self.codexd is not None and self.codexd.returncode is None:
            with suppress(TimeoutError, ProcessLookupError):
                await self.stop_codexd()
            if self.codexd.returncode is None:
                await self.kill_codexd()
        keepers = self.base / "baa" / "state" / "codexd" / "keepers"
        if keepers.is_dir():
            await leftovers.sweep(keepers, None)
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()
                await asyncio.to_thread(process.wait, KILL_S)

    def processes_left(self, started: list[psutil.Process]) -> list[psutil.Process]:
        """Which of these processes, or of any others from here, do not end within seconds."""
        psutil.wait_procs(started, timeout=GONE_S)
        return self.processes()

    def processes(self) -> list[psutil.Process]:
        """Every process with our folder in its environment: what was started here, and what these started."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                inside = any(str(self.base) in value for value in process.environ().values())
                if inside and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def remove(self) -> None:
        """The folder is gone afterwards."""
        shutil.rmtree(self.base, ignore_errors=True)


def _quoted(text: str) -> str:
    return msgspec.json.encode(text).decode()  # a JSON string is a TOML basic string, for what a path can hold
