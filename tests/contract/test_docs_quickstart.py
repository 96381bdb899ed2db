"""docs/quickstart.md, executed: its shell blocks in their order, in one shell, on a user's machine with the real Codex.

A machine of its own: a HOME with a checkout and a project, the programs on their default folders. What takes the
network, a browser or the machine's service manager is left out, and named below.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from baa import config
from baa.api.events import EventType
from baa.client.codexd import Codexd
from baa.scripted import Patch, Say, ScriptedModel, codex_config, when
from tests.contract.test_docs_api import BETWEEN, Block, blocks, fits, flaws
from tests.support.node import within
from tests.support.systemd import free_ports

pytestmark = pytest.mark.timeout(180)

DOCUMENT: Final = Path(__file__).resolve().parents[2] / "docs" / "quickstart.md"
LEFT_OUT: Final = {
    "git clone REPOSITORY baa-conductor && cd baa-conductor": "the network; the checkout is made by the test",
    "make demo": "the network; tests/e2e/test_demo.py runs `baa demo`",
    "baa login": "a browser and an account; its other form runs",
    "baa login --device-auth": "an account; its other form runs",
    "baa node install": "the service manager; tests/fault/test_services.py runs it on a real one",
}
UP: Final = "baa up"
"""It runs in another terminal until the end, as the page says."""
ASKS: Final = "baa session list --needs-answer"
"""Before it the test waits until Codex asks: whoever reads the page comes back later."""

SCENARIOS: Final = (
    when("Which tests", Say("test_import: it waits two seconds for a server that is up at once.")),
    when("Make it faster", Say("It asks every 10 ms now.")),
    when("List the modules", Say("parser.py reads, server.py serves.")),
    when(
        "Update the changelog",
        Patch("*** Begin Patch\n*** Add File: CHANGELOG.md\n+Tabs are accepted.\n*** End Patch"),
        Say("The changelog has a line more."),
    ),
)
MISSING: Final = [program for program in ("bash", "git") if shutil.which(program) is None]


def bare(line: str) -> str:
    """A command without what is said of it."""
    return line.partition("  #")[0].rstrip()


class Machine:
    """A user's: HOME, the checkout that was installed into, a project, ports of its own, and Codex with that model."""

    def __init__(self, folder: Path, model_url: str) -> None:
        self.folder = folder
        self.checkout = folder / "baa-conductor"
        self.errors = folder / "errors"
        self._ports = dict(zip(("4319", "4317", "4318"), free_ports(3), strict=True))
        codexd, conductor, status_api = (f"http://127.0.0.1:{port}" for port in self._ports.values())
        home = folder / ".local" / "share" / "baa-conductor"
        self._environment = {
            "PATH": f"{folder}/.local/bin:{os.environ['PATH']}",
            "HOME": str(folder),
            "LC_ALL": "C.UTF-8",
            "OPENAI_API_KEY": "sk-test-000",
            "BAA_HOME": str(home),
            "BAA_NODE_ID": "here",
            "BAA_CODEXD_LOCAL_API_BASE": codexd,
            "BAA_CONDUCTOR_LOCAL_API_BASE": conductor,
            "BAA_STATUS_API_BASE": status_api,
        }
        codex_home = home / "state" / "codexd" / "codex-home"
        for made in (self.checkout / ".venv" / "bin", folder / "project", codex_home):
            made.mkdir(parents=True, mode=0o700)
        subprocess.run(["git", "init", "-q", folder / "project"], check=True)
        (codex_home / "config.toml").write_text(codex_config(model_url))
        command = self.checkout / ".venv" / "bin" / "baa"
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m baa.cli "$@"\n')
        command.chmod(0o755)

    def here(self, block: Block) -> Block:
        """A block with this machine's ports."""
        expected = block.expected
        for shown, port in self._ports.items():
            expected = [line.replace(f":{shown}", f":{port}") for line in expected]
        return Block(block.script, expected)

    async def asked(self) -> None:
        """Wait until Codex has asked something."""
        async with (
            Codexd(config.load(environ=self._environment), scope="read") as codexd,
            codexd.events("0", types=[EventType.INTERACTION_REQUESTED]) as events,
        ):
            await within(anext(events))

    @asynccontextmanager
    async def terminal(self, *command: str) -> AsyncIterator[Process]:
        """A program of this user's with pipes; it does not run afterwards."""
        with self.errors.open("ab") as stderr:
            process = await asyncio.create_subprocess_exec(
                *command, cwd=self.checkout, env=self._environment, stdin=PIPE, stdout=PIPE, stderr=stderr
            )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()


class Shell:
    """A bash in which a block after the other is run, as one would type them; it ends where one fails."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def says(self, script: str) -> str:
        """What a block printed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"set -eu; {{\n{script}\n}} </dev/null; printf '{BETWEEN}'\n".encode())
        await self._process.stdin.drain()
        try:
            said = await within(self._process.stdout.readuntil(BETWEEN.encode()))
        except asyncio.IncompleteReadError as ended:
            raise AssertionError(f"it failed: {script}\n{ended.partial.decode()}") from None
        return said.decode().removesuffix(BETWEEN)


async def serves(up: Process, expected: list[str]) -> None:
    """Wait until `baa up` has printed these lines, in whatever order, and others between."""
    assert up.stdout is not None
    wanted = list(expected)
    while wanted:
        line = (await within(up.stdout.readline())).decode().rstrip("\n")
        assert line or not up.stdout.at_eof(), f"it ended before it said {wanted}"
        wanted = [each for each in wanted if not fits(each, line)]


@pytest.mark.skipif(bool(MISSING), reason=f"apt-get install {' '.join(MISSING)}")
async def test_what_the_page_shows_is_what_happens(tmp_path: Path) -> None:
    left_out = []
    async with ScriptedModel(SCENARIOS) as model, AsyncExitStack() as stack:
        machine = Machine(tmp_path, model.base_url)
        shell = Shell(await stack.enter_async_context(machine.terminal("bash")))
        for block in map(machine.here, blocks(DOCUMENT.read_text())):
            if block.script == UP:
                up = await stack.enter_async_context(machine.terminal("bash", "-c", f"exec {UP}"))
                await serves(up, block.expected)
                continue
            commands = [line for line in block.script.splitlines() if bare(line) not in LEFT_OUT]
            left_out += [bare(line) for line in block.script.splitlines() if bare(line) in LEFT_OUT]
            if ASKS in map(bare, commands):
                await machine.asked()
            if commands:
                said = await shell.says("\n".join(commands))
                assert flaws(block, said) == [], f"{block.script}\n{said}{machine.errors.read_text()}"
        up.send_signal(signal.SIGINT)
        assert await within(up.wait()) == 0
    assert left_out == list(LEFT_OUT), "what is left out is on the page, and named here"
