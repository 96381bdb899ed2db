"""Records what codexd and a real Codex say to one another, for the tests of the dialect.

    python -m tests.support.record_transcript        writes tests/unit/data/transcript.jsonl anew

Each line of the file is `{"sent": message}` (codexd's) or `{"told": message}` (the child's), in the order of the
recording. What is this machine's own is replaced by that of a person of examples.
"""

from __future__ import annotations

import asyncio
import os
import re
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Self

import msgspec
from codex_cli_bin import bundled_codex_path

from baa.api.sessions import ApprovalPolicy, Sandbox, SessionSettings, TurnRequest
from baa.codexd.appserver import jsonrpc, lines, translate
from baa.codexd.machines import inputs as i
from baa.scripted import Hold, Patch, Reason, Refuse, Run, Say, ScriptedModel, codex_config, when

TRANSCRIPT = Path(__file__).parents[1] / "unit" / "data" / "transcript.jsonl"
SESSION = "ses_00000000000000000000000000"
HOME = "/home/user"
NOBODY = "00000000-0000-7000-8000-000000000000"

PATCH = """\
*** Begin Patch
*** Add File: poem.txt
+roses
*** End Patch
"""

SCENARIOS = [
    when("work", (Reason("Let me look."), Say("Looking. "), Run("echo seen")), Patch(PATCH), Say("It is done.")),
    when("ask", Run("touch asked.txt", sandbox_permissions="require_escalated", justification="May I?"), Say("Well.")),
    when("wait", (Say("So far"), Hold("never"))),
    when("fail", Refuse(500)),
]

Message = dict[str, Any]

FREE = SessionSettings(cwd=f"{HOME}/project", sandbox=Sandbox.DANGER_FULL_ACCESS, approval_policy=ApprovalPolicy.NEVER)


def turn_id(number: int) -> str:
    return f"trn_{number:026d}"


def hand(number: int, thread_id: str, prompt: str, settings: SessionSettings | None = None) -> i.HandTurn:
    return i.HandTurn(turn_id(number), thread_id, TurnRequest(prompt=prompt), settings or FREE, None, None)


def _declined(asked: translate.Asked, number: int) -> lines.Line:
    return lines.line_of(i.Answer(asked.request_id, asked.kind, asked.request, None, None), number)


class Recorder:
    """The child on stdio, and all that was said so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._lines = 0
        self.said: list[Message] = []

    @classmethod
    async def start(cls, home: Path, config: str) -> Self:
        (home / "codex").mkdir(parents=True)
        (home / "codex" / "config.toml").write_text(config)
        process = await asyncio.create_subprocess_exec(
            *(bundled_codex_path(), "app-server"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={"PATH": os.environ["PATH"], "HOME": str(home), "CODEX_HOME": str(home / "codex")},
            limit=1 << 24,
        )
        return cls(process)

    def send(self, line: Callable[[int], lines.Line]) -> None:
        assert self._process.stdin is not None
        self._lines += 1
        data = line(self._lines).data
        self.said.append({"sent": msgspec.json.decode(data)})
        self._process.stdin.write(data)

    async def until(self, wanted: Callable[[Message], bool]) -> Message:
        """Read on to the message that is wanted; what the child asks meanwhile is answered as codexd answers it."""
        assert self._process.stdout is not None
        while True:
            line = await self._process.stdout.readline()
            assert line, "the child ended"
            message: Message = msgspec.json.decode(line)
            self.said.append({"told": message})
            if "method" in message and "id" in message:
                asked = translate.incoming(msgspec.json.decode(line, type=jsonrpc.Envelope), 1)
                assert isinstance(asked, translate.Asked)
                self.send(partial(_declined, asked))
            if wanted(message):
                return message

    async def ask(self, effect: i.LineEffect) -> Message:
        self.send(lambda number: lines.line_of(effect, number))
        request_id = self.said[-1]["sent"]["id"]
        return await self.until(lambda message: message.get("id") == request_id)

    async def thread(self, settings: SessionSettings) -> str:
        opened = await self.ask(i.OpenThread(SESSION, None, settings))
        thread_id: str = opened["result"]["thread"]["id"]
        return thread_id

    async def turn(self, number: int, thread_id: str, prompt: str, settings: SessionSettings | None = None) -> None:
        await self.ask(hand(number, thread_id, prompt, settings))
        await self.until(lambda message: message.get("method") == "turn/completed")

    async def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()


async def record(home: Path) -> bytes:
    """A conversation in which everything happens that the first release of codexd can meet."""
    work = home / "project"
    work.mkdir()
    free = SessionSettings(cwd=str(work), sandbox=Sandbox.DANGER_FULL_ACCESS, approval_policy=ApprovalPolicy.NEVER)
    asking = msgspec.structs.replace(free, approval_policy=ApprovalPolicy.UNTRUSTED)
    async with ScriptedModel(SCENARIOS) as model:
        child = await Recorder.start(home, codex_config(model.base_url))
        child.send(lambda number: lines.handshake(number, "0"))
        await child.until(lambda message: "result" in message)
        child.send(lambda _: lines.initialized())
        child.send(lines.read_account)
        await child.until(lambda message: "result" in message)
        child.send(lines.read_limits)
        await child.until(lambda message: "error" in message)
        thread_id = await child.thread(free)
        await child.turn(1, thread_id, "work")
        await child.turn(2, await child.thread(asking), "ask", asking)
        await child.turn(3, thread_id, "fail")
        begun = await child.ask(hand(4, thread_id, "wait"))
        await child.until(lambda message: message.get("method") == "item/agentMessage/delta")
        await child.ask(i.InterruptTurn(turn_id(4), thread_id, begun["result"]["turn"]["id"]))
        await child.until(lambda message: message.get("method") == "turn/completed")
        await child.ask(i.ReadHistory(SESSION, thread_id))
        await child.ask(i.OpenThread(SESSION, NOBODY, free))
        await child.ask(i.ReadHistory(SESSION, NOBODY))
        await child.ask(hand(5, NOBODY, "nowhere"))
        await child.close()
    recorded = b"".join(msgspec.json.encode(said) + b"\n" for said in child.said)
    for pattern, instead in (
        (str(home), HOME),
        (r'(?<="installationId":")[^"]*', NOBODY),
        (r'(?<="serverName":")[^"]*', ""),
    ):
        recorded = re.sub(pattern.encode(), instead.encode(), recorded)
    return recorded


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        TRANSCRIPT.parent.mkdir(exist_ok=True)
        TRANSCRIPT.write_bytes(asyncio.run(record(Path(folder).resolve())))
