"""A real `codex app-server` on stdio, with a CODEX_HOME of its own: the smallest client that a contract test can trust.

It keeps every message in order and waits for facts; it restarts, retries and answers nothing by itself.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
from codex_cli_bin import bundled_codex_path

LINE_BYTES_MAX = 64 * 1024 * 1024  # One item/completed carries the whole text of an answer.
EXIT_SECONDS = 5  # Codex ends within 1.5 s of the end of its stdin, also on a busy machine.

Message = dict[str, Any]


class AppServerGone(Exception):
    """The child has ended; the message holds the end of its stderr."""


class RpcError(Exception):
    """The child answered a request with an error object."""


class AppServer:
    """An async context manager: inside it the child runs, is initialized, and `messages` grows.

    `home` becomes HOME and holds `codex/`, the CODEX_HOME unless another is given, with `config` as its config.toml.
    """

    def __init__(
        self,
        home: Path,
        config: str,
        *,
        arguments: tuple[str, ...] = (),
        codex_home: Path | None = None,
        experimental: bool = False,
    ) -> None:
        self.messages: list[Message] = []
        self.stderr: list[str] = []
        self._home = home
        self._codex_home = codex_home or home / "codex"
        self._config = config
        self._arguments = arguments
        self._capabilities = {"experimentalApi": experimental}
        self._changed = asyncio.Condition()
        self._gone = False
        self._last_id = 0
        self._group = asyncio.TaskGroup()
        self._process: asyncio.subprocess.Process

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    async def __aenter__(self) -> Self:
        codex_home = self._codex_home
        for folder in (self._home, codex_home):
            folder.mkdir(parents=True, exist_ok=True)
        (codex_home / "config.toml").write_text(self._config)
        self._process = await asyncio.create_subprocess_exec(
            *(bundled_codex_path(), "app-server", *self._arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"PATH": os.environ["PATH"], "HOME": str(self._home), "CODEX_HOME": str(codex_home)},
            limit=LINE_BYTES_MAX,
        )
        await self._group.__aenter__()
        self._group.create_task(self._read_stdout(), name="app-server-stdout")
        self._group.create_task(self._read_stderr(), name="app-server-stderr")
        try:
            who = {"name": "baa-tests", "version": "0"}
            await self.request("initialize", {"clientInfo": who, "capabilities": self._capabilities})
            await self._write({"method": "initialized"})
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    async def request(self, method: str, params: Message) -> Message:
        """The result of a request. Raises RpcError, AppServerGone."""
        self._last_id += 1
        number = self._last_id
        await self._write({"id": number, "method": method, "params": params})
        answer = await self.wait_for(lambda message: message.get("id") == number and "method" not in message)
        if "error" in answer:
            raise RpcError(answer["error"])
        result: Message = answer["result"]
        return result

    async def respond(self, request: Message, result: Message) -> None:
        """Answers a request that the child made."""
        await self._write({"id": request["id"], "result": result})

    async def wait_for(self, wanted: str | Callable[[Message], bool]) -> Message:
        """The first message, of those already here and those to come, of this method or with this property."""
        seen = 0
        async with self._changed:
            while True:
                for message in self.messages[seen:]:
                    if message.get("method") == wanted if isinstance(wanted, str) else wanted(message):
                        return message
                seen = len(self.messages)
                if self._gone:
                    raise AppServerGone("".join(self.stderr[-20:]))
                await self._changed.wait()

    async def start_thread(self, cwd: Path, **params: object) -> str:
        """A new thread's id; without other params it has full access, so that no test needs a sandbox."""
        settings = {"sandbox": "danger-full-access", "approvalPolicy": "never"} | params
        answer = await self.request("thread/start", {"cwd": str(cwd), **settings})
        thread_id: str = answer["thread"]["id"]
        return thread_id

    async def start_turn(self, thread_id: str, prompt: str) -> str:
        """A new turn's id."""
        content = [{"type": "text", "text": prompt}]
        answer = await self.request("turn/start", {"threadId": thread_id, "input": content})
        turn_id: str = answer["turn"]["id"]
        return turn_id

    async def end_of_turn(self, turn_id: str) -> Message:
        """The turn as turn/completed tells it."""

        def ends(message: Message) -> bool:
            return message.get("method") == "turn/completed" and message["params"]["turn"]["id"] == turn_id

        turn: Message = (await self.wait_for(ends))["params"]["turn"]
        return turn

    async def play(self, thread_id: str, prompt: str) -> Message:
        """A whole turn, from its start to its end."""
        return await self.end_of_turn(await self.start_turn(thread_id, prompt))

    def of_turn(self, turn_id: str, method: str) -> list[Message]:
        """The params of this turn's notifications of one method, in order."""
        return [
            message["params"]
            for message in self.messages
            if message.get("method") == method and message["params"].get("turnId") == turn_id
        ]

    def deltas(self, turn_id: str) -> list[str]:
        """The pieces of the turn's answer, as they came."""
        return [params["delta"] for params in self.of_turn(turn_id, "item/agentMessage/delta")]

    def items(self, turn_id: str, kind: str) -> list[Message]:
        """The turn's completed items of one type."""
        items = (params["item"] for params in self.of_turn(turn_id, "item/completed"))
        return [item for item in items if item["type"] == kind]

    async def _write(self, message: Message) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(message) + b"\n")
        await self._process.stdin.drain()

    async def _read_stdout(self) -> None:
        assert self._process.stdout is not None
        decode = msgspec.json.Decoder(Message).decode
        async for line in self._process.stdout:
            self.messages.append(decode(line))
            async with self._changed:
                self._changed.notify_all()
        self._gone = True
        async with self._changed:
            self._changed.notify_all()

    async def _read_stderr(self) -> None:
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            self.stderr.append(line.decode(errors="replace"))

    async def _end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(EXIT_SECONDS):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        await self._group.__aexit__(None, None, None)
