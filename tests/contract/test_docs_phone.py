"""docs/phone.md, executed: its commands through a proxy on loopback that keeps the Host, as a phone would send them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest

from baa.scripted import Run, Say, ScriptedModel, when
from tests.support.command_line import baa
from tests.support.node import Node, within
from tests.support.questions import question

pytestmark = pytest.mark.timeout(120)

DOCUMENT: Final = Path(__file__).resolve().parents[2] / "docs" / "phone.md"
SCENARIOS: Final = (
    when("Update", Run("touch made", sandbox_permissions="require_escalated", justification="May I?"), Say("Done.")),
)
MISSING: Final = [program for program in ("bash", "curl") if shutil.which(program) is None]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@asynccontextmanager
async def proxy(node: Node) -> AsyncIterator[int]:
    """The port of a proxy that passes on what comes, byte by byte, to wherever codexd listens."""

    async def met(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address = urlsplit(node.address)
        its_reader, its_writer = await asyncio.open_connection(address.hostname, address.port)
        try:
            async with asyncio.TaskGroup() as ways:
                ways.create_task(passed(reader, its_writer))
                ways.create_task(passed(its_reader, writer))
        finally:
            writer.close()
            its_writer.close()

    async def passed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()

    async with await asyncio.start_server(met, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


class Phone:
    """A shell with curl, which finds the name of the document at the proxy. Without TLS: that is the proxy's."""

    def __init__(self, folder: Path, name: str, port: int) -> None:
        folder.mkdir()
        (folder / ".curlrc").write_text(f'connect-to = "{name}:80:127.0.0.1:{port}"\n')
        self._folder = folder
        self.names: dict[str, str] = {}

    async def says(self, *lines: str) -> str:
        """What comes of these lines, with the names that are known by now."""
        script = "\n".join(lines).replace("https://", "http://")
        for shown, real in self.names.items():
            script = script.replace(shown, real)
        shell = await asyncio.create_subprocess_exec(
            *("bash", "-eu", "-c", script),
            env={"PATH": os.environ["PATH"], "HOME": str(self._folder), "LC_ALL": "C.UTF-8"},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        said, errors = await within(shell.communicate())
        assert (shell.returncode, errors.decode()) == (0, ""), script
        return said.decode()

    async def asks(self, *lines: str) -> Any:
        """The data of a good answer."""
        told = json.loads(await self.says(*lines))
        assert told["ok"], told
        return told["data"]


@pytest.mark.skipif(bool(MISSING), reason=f"apt-get install {' '.join(MISSING)}")
async def test_what_the_document_shows_works_through_a_proxy(tmp_path: Path) -> None:
    text = DOCUMENT.read_text()
    (setting,) = blocks(text, "toml")
    (script,) = blocks(text, "sh")
    (name,) = re.findall(r'"(\S+)"', setting)
    lines = [line.partition("  #")[0].rstrip() for line in script.splitlines() if line and not line.startswith("#")]
    assert len(lines) == 7
    before, (post, needs, session, answer, transcript) = lines[:2], lines[2:]
    async with ScriptedModel(SCENARIOS) as model, Node(tmp_path, model.base_url) as node, proxy(node) as port:
        await node.start()
        await node.child()
        phone = Phone(tmp_path / "phone", name, port)
        drive, read = [(await baa(node, "token", "show", which)).stdout.strip() for which in ("drive", "read")]
        session_id = await node.session(approvalPolicy="on-request", sandbox="read-only")
        phone.names |= {"Bearer …": f"Bearer {drive}", "ses_…": session_id}
        told = json.loads(await phone.says(*before, needs))
        assert told["error"]["code"] == "wrong_host"

        await node.stop()
        settings = tmp_path / "baa.toml"
        settings.write_text(setting + settings.read_text())
        await node.start()
        await node.child()
        turn = (await phone.asks(*before, post))["turn"]
        asked = await question(node, session_id)
        assert [each["sessionId"] for each in (await phone.asks(*before, needs))["sessions"]] == [session_id]
        (shown,) = (await phone.asks(*before, session))["session"]["interactions"]
        assert "accept" in shown["decisions"]
        phone.names |= {"int_…": asked["interactionId"], "trn_…": turn["turnId"]}
        done = (await phone.asks(*before, answer))["interaction"]
        assert (done["interactionId"], done["status"]) == (asked["interactionId"], "resolved")
        assert "Done." in await phone.says(*before, transcript)
        assert (await node.end_of_turn(turn["turnId"]))["status"] == "completed"

        phone.names["Bearer …"] = f"Bearer {read}"
        assert json.loads(await phone.says(*before, post))["error"]["code"] == "read_only_token"
        assert (await phone.asks(*before, needs))["sessions"] == []
        assert (await baa(node, "token", "rotate")).code == 0
        assert json.loads(await phone.says(*before, needs))["error"]["code"] == "unauthorized"
