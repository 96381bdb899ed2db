"""Asks the programs how they are, and keeps what they said last."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import httpx2
import msgspec
from msgspec import Struct

from baa.api.conductor import Node, Readiness, Role
from baa.api.errors import BaaError, CannotStart
from baa.api.overview import Overview
from baa.api.status import Status
from baa.client.conductor import Conductor
from baa.client.discovery import Unreachable, address_of
from baa.clock import Clock, rfc3339
from baa.config import Config
from baa.http.tokens import load_token
from baa.status_api.view import FromCodexd, FromConductor, Heard, overview

T = TypeVar("T")

ASK_S: Final = 2.5
"""Seconds for a program's answers. The conductor's /readyz may take 2."""

NODES_S: Final = 2.0
"""The nodes are asked for beside it, and need not be known for the rest to be."""

EVERY_S: Final = 5.0
FRESH_S: Final = 1.0
"""An answer to a caller is no older than this, where the programs answer; and they are asked no more often."""


class _Answer(Struct):
    data: msgspec.Raw


class _Failure(Struct):
    error: dict[str, Any]


class Watch:
    """What is known of the node's programs. `stamp`: the monotonic time of the last look."""

    def __init__(self, config: Config, clock: Clock) -> None:
        self.stamp = clock.monotonic()
        self._looked = float("-inf")
        self._config = config
        self._clock = clock
        self._codexd = Heard()
        self._conductor = Heard()
        self._looking = asyncio.Lock()
        self._http = httpx2.AsyncClient(trust_env=False, timeout=ASK_S)

    async def run(self) -> None:
        """Look from time to time, until cancelled."""
        try:
            while True:
                await self._look()
                await asyncio.sleep(EVERY_S)
        finally:
            await self._http.aclose()

    async def overview(self, *, with_detail: bool) -> Overview:
        """How the node is, by a look that is not older than a second."""
        await self._look()
        now = rfc3339(self._clock.utc_ms())
        return overview(self._codexd, self._conductor, now=now, with_detail=with_detail)

    def token(self) -> str | None:
        """The node's read token; None while there is none that can be used."""
        try:
            return load_token(self._config.tokens_dir / "read")
        except CannotStart:
            return None

    async def _look(self) -> None:
        """Ask all programs at once, unless that was done just now. Who comes meanwhile waits for the same look."""
        async with self._looking:
            if self._clock.monotonic() - self._looked < FRESH_S:
                return
            async with asyncio.TaskGroup() as tasks:
                codexd = tasks.create_task(self._hear(self._codexd, self._ask_codexd), name="codexd")
                conductor = tasks.create_task(self._hear(self._conductor, self._ask_conductor), name="conductor")
            self._codexd, self._conductor = codexd.result(), conductor.result()
            self._looked = self.stamp = self._clock.monotonic()

    async def _hear(self, last: Heard, ask: Callable[[], Awaitable[Heard]]) -> Heard:
        try:
            async with asyncio.timeout(ASK_S):
                return await ask()
        except (TimeoutError, _Silent) as error:
            why = str(error) or "it takes too long to answer"
            return msgspec.structs.replace(last, problem=why)

    async def _ask_codexd(self) -> Heard:
        status = await self._get("codexd", "/v1/codexd/status", Status)
        return Heard(at=self._now(), codexd=FromCodexd(status=status), problem=None)

    async def _ask_conductor(self) -> Heard:
        role = await self._get("conductor", "/rolez", Role)
        # Together, because each may take two seconds where the engine or codexd hangs.
        async with asyncio.TaskGroup() as tasks:
            readiness = tasks.create_task(self._ask_readiness(), name="readiness")
            nodes = tasks.create_task(self._ask_nodes(), name="nodes")
        last = FromConductor(role=role, readiness=readiness.result(), nodes=nodes.result())
        return Heard(at=self._now(), conductor=last, problem=None)

    async def _ask_readiness(self) -> Readiness | None:
        try:
            return await self._get("conductor", "/readyz", Readiness)
        except _Silent as not_ready:
            return not_ready.readiness

    async def _ask_nodes(self) -> list[Node] | None:
        try:
            async with asyncio.timeout(NODES_S), Conductor(self._config, scope="read") as conductor:
                return await conductor.nodes()
        except (BaaError, CannotStart, Unreachable, TimeoutError):
            return None  # no token, or its engine cannot be read, which its readiness says

    async def _get(self, name: Any, path: str, type_: type[T]) -> T:
        address = address_of(self._config, name)
        if address is None:
            raise _Silent("it has not said where it listens")
        try:
            answer = await self._http.get(f"{address}{path}")
            if answer.status_code != 200:
                raise _Silent(f"{path} answers {answer.status_code}", answer.content)
            return msgspec.json.decode(msgspec.json.decode(answer.content, type=_Answer).data, type=type_)
        except (httpx2.HTTPError, httpx2.InvalidURL, msgspec.DecodeError) as error:
            raise _Silent(str(error)) from error

    def _now(self) -> str:
        return rfc3339(self._clock.utc_ms())


class _Silent(Exception):
    """A program gave no answer of use."""

    def __init__(self, why: str, body: bytes = b"") -> None:
        super().__init__(why)
        self._body = body

    @property
    def readiness(self) -> Readiness | None:
        """What a conductor that is not ready said, if it said so."""
        try:
            details = msgspec.json.decode(self._body, type=_Failure).error["details"]
            return msgspec.convert({"status": "not_ready", **details}, Readiness)
        except (msgspec.DecodeError, msgspec.ValidationError, KeyError, TypeError):
            return None
