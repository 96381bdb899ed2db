"""What a command of the real Codex's finds around it: no secret of ours in its environment, and no door that opens.

A command in the sandbox, with a network, can connect to Unix sockets and to loopback: it must get nothing there. One
without a sandbox has the account's powers and can read the tokens; even then the keeper and the attach socket, which no
token opens, let nobody in.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from codex_cli_bin import bundled_codex_path

from baa.scripted import Run, Say, ScriptedModel, when
from tests.support.node import Node, sandbox_works, within
from tests.support.planted import Planted

pytestmark = pytest.mark.timeout(180)

PLANTED = Planted(5).named
ALLOWED = {
    *("PATH", "HOME", "LANG", "TMPDIR", "TZ", "USER", "LOGNAME", "SHELL", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    *("CODEX_HOME", "RUST_LOG", "BAA_KEEPER_ID"),
}
BY_CODEX = {"PWD", "SHLVL", "OLDPWD", "_", "TERM", "NO_COLOR", "LESS", "PAGER", "GIT_PAGER", "GH_PAGER", "COLORTERM"}
"""What Codex and the shell add by themselves, besides CODEX_* and LC_*."""

TRIES = r"""
import json, os, socket, struct, sys, urllib.error, urllib.request
state, address = sys.argv[1:]
told = {}

def say(name, get):
    try:
        told[name] = get()
    except OSError as error:
        told[name] = f"refused: {type(error).__name__}"

def unix(path, data):
    folder = os.getcwd()
    os.chdir(os.path.dirname(path))
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(20)
            sock.connect(os.path.basename(path))
            sock.sendall(data)
            got = b""
            while piece := sock.recv(4096):
                got += piece
            return got.decode("utf-8", "replace")
    finally:
        os.chdir(folder)

def http(headers, path="/v1/codexd/sessions", method="GET"):
    try:
        asked = urllib.request.Request(address + path, headers=headers, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        return opener.open(asked, timeout=20).status
    except urllib.error.HTTPError as refused:
        return refused.code

keepers = os.path.join(state, "keepers")
(folder,) = os.listdir(keepers)
keeper_id = folder.partition("-")[2]
frame = lambda kind, number, payload: struct.pack(">cQI", kind, number, len(payload)) + payload
hello = frame(b"H", 2, f"keeperId={keeper_id}\npid={os.getpid()}\n".encode())
line = frame(b"L", 1000, b'{"id":"x","method":"thread/shellCommand","params":{}}\n')
sock_name = [name for name in os.listdir(os.path.join(keepers, folder)) if "sock" in name][0]
say("keeper, a line", lambda: unix(os.path.join(keepers, folder, sock_name), line))
say("keeper, a hello and a line", lambda: unix(os.path.join(keepers, folder, sock_name), hello + line))
upgrade = "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" \
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n%s\r\n"
attach = os.path.join(state, "attach.sock")
shown = f"Authorization: Bearer {'x' * 43}\r\n"
say("attach, no ticket", lambda: unix(attach, (upgrade % "").encode()).splitlines()[0])
say("attach, a made-up ticket", lambda: unix(attach, (upgrade % shown).encode()).splitlines()[0])
say("codexd, no token", lambda: http({}))
say("codexd, a made-up token", lambda: http({"Authorization": f"Bearer {'x' * 43}"}))
say("codexd, a turn", lambda: http({"Content-Type": "application/json"}, "/v1/codexd/turn", "POST"))
print("TRIED" + json.dumps(told) + "END")
"""


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    script = tmp_path / "work" / "tries.py"
    state = tmp_path / "baa" / "state" / "codexd"
    scenarios = (
        when("environment", Run("env -0 | base64 -w0"), Say("Seen.")),
        when("doors", Run(f"{sys.executable} -I {script} {state} $(cat address)", yield_time_ms=30_000), Say("Tried.")),
    )
    async with ScriptedModel(scenarios) as model, Leaky(tmp_path, model.base_url) as node:
        script.write_text(TRIES)
        await node.start()
        (node.work / "address").write_text(node.address)
        yield node


class Leaky(Node):
    """A node whose codexd was started with secrets in its environment."""

    def environment(self, **settings: str) -> dict[str, str]:
        more = {"OPENAI_API_KEY": PLANTED, "BAA_SHARED_TOKEN": PLANTED[::-1], "DEPLOY_SECRET": PLANTED, "OTHER": "x"}
        return super().environment(**settings) | more


def output(turn: dict[str, object]) -> str:
    items = turn["items"]
    assert isinstance(items, list)
    (told,) = (item["item"]["aggregatedOutput"] for item in items if item["kind"] == "commandExecution")
    return str(told)


async def test_a_commands_environment_has_what_is_allowed_and_none_of_our_secrets(node: Node) -> None:
    turn = await node.play(await node.session(), "environment")
    pairs = base64.b64decode(output(turn)).decode().rstrip("\0").split("\0")
    environment = dict(pair.partition("=")[::2] for pair in pairs)
    unknown = {name for name in environment if not name.startswith(("LC_", "CODEX_"))} - ALLOWED - BY_CODEX
    assert unknown == set()
    told = "\n".join(environment.values())
    for secret in (PLANTED, PLANTED[::-1], node.token("read"), node.token("drive")):
        assert secret not in told


HUNG_UP = {"refused: BrokenPipeError", "refused: ConnectionResetError"}
REFUSED = {f"refused: {name}" for name in ("PermissionError", "URLError", "ConnectionRefusedError")}


def nothing_opened(told: dict[str, str | int], *, network: bool) -> None:
    """Each try was refused: where there is a network by who was asked, else before it came so far."""
    refused = set() if network else REFUSED
    for name in ("keeper, a line", "keeper, a hello and a line"):
        answer = str(told[name])
        assert answer in refused | HUNG_UP | {""} or answer.endswith("you do not hold the daemon's lock"), told
    for name in ("attach, no ticket", "attach, a made-up ticket"):
        assert told[name] in refused or str(told[name]).startswith("HTTP/1.1 401"), told
    for name in ("codexd, no token", "codexd, a made-up token", "codexd, a turn"):
        assert told[name] in refused or told[name] == 401, told


@pytest.mark.parametrize("sandbox", ["workspace-write", "danger-full-access"])
async def test_a_command_finds_no_door_that_opens(node: Node, sandbox: str) -> None:
    if sandbox == "workspace-write" and not sandbox_works():
        pytest.skip("Codex cannot confine a command here; without a sandbox the same is tried")
    head = await node.head()
    turn = await node.play(await node.session(sandbox=sandbox), "doors")
    told = json.loads(output(turn).partition("TRIED")[2].partition("END")[0])
    nothing_opened(told, network=sandbox == "danger-full-access")
    assert turn["status"] == "completed"
    assert b"thread/shellCommand" not in node.spool
    queued = [event["turnId"] for event in await node.events(head) if event["type"] == "turn.queued"]
    assert queued == [turn["turnId"]]


async def test_nor_does_one_in_the_sandbox_with_a_network(node: Node) -> None:
    """codexd never turns the network on, so this command is run in Codex's sandbox by Codex alone."""
    if not sandbox_works():
        pytest.skip("Codex cannot confine a command here; without a sandbox the same is tried")
    await node.child()
    head = await node.head()
    network = ("-c", "sandbox_mode='workspace-write'", "-c", "sandbox_workspace_write.network_access=true")
    tries = (sys.executable, "-I", str(node.work / "tries.py"), str(node.state), node.address)
    process = await asyncio.create_subprocess_exec(
        *(bundled_codex_path(), "sandbox", *network, "--", *tries),
        cwd=node.work,
        env={"PATH": os.environ["PATH"], "HOME": str(node.folder), "CODEX_HOME": str(node.folder)},
        stdout=PIPE,
    )
    said, _ = await within(process.communicate())
    told = json.loads(said.decode().partition("TRIED")[2].partition("END")[0])
    nothing_opened(told, network=True)
    assert [event for event in await node.events(head) if event["type"] == "turn.queued"] == []
