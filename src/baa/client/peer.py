"""What clients of all programs share: find it, ask it, and ask again what may be asked twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final, Self, TypeVar
from urllib.parse import urlencode

import msgspec
from msgspec import NODEFAULT, Struct

from baa.api.errors import Code
from baa.client import answers
from baa.client.connection import Answer, Connections, Lost
from baa.client.discovery import Location, Unreachable
from baa.client.pauses import pauses

T = TypeVar("T")

PATIENCE_S: Final = 30.0
"""Seconds for which a program that was met before is looked for: a restart takes less than one."""

ANSWER_S: Final = 10.0
"""Seconds for an answer, beside what the request itself waits for."""

OK: Final = range(200, 300)


class Peer:
    """An async context manager; inside it, every method raises BaaError, Unreachable or CannotStart."""

    def __init__(self, locate: Callable[[], Location], *, patience_s: float) -> None:
        """Made by its subclasses."""
        self._locate = locate
        self._patience_s = patience_s
        self._met = False
        self._connections = Connections()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._connections.close()

    async def openapi(self) -> dict[str, Any]:
        """The description of all that the program can be asked (OpenAPI 3.1)."""
        found: dict[str, Any] = msgspec.json.decode((await self._send("GET", "/openapi.json", repeatable=True)).body)
        return found

    async def metrics(self) -> str:
        """Figures, as Prometheus reads them."""
        return (await self._send("GET", "/metrics", repeatable=True)).body.decode()

    async def _get(
        self, path: str, type_: type[T], *, query: Mapping[str, object] | None = None, wait_s: float = 0
    ) -> T:
        return await self._ask("GET", path, type_, query=query, repeatable=True, wait_s=wait_s)

    async def _ask(
        self,
        method: str,
        path: str,
        type_: type[T],
        *,
        query: Mapping[str, object] | None = None,
        body: Struct | None = None,
        headers: Mapping[str, str] | None = None,
        repeatable: bool = False,
        wait_s: float = 0,
    ) -> T:
        """The data of a success; a failure is raised. `repeatable`: it may be done twice."""
        answer = await self._send(
            method, path, query=query, body=body, headers=headers, repeatable=repeatable, wait_s=wait_s
        )
        return answers.data(answer.body, type_)

    async def _send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        body: Struct | None = None,
        headers: Mapping[str, str] | None = None,
        repeatable: bool = False,
        wait_s: float = 0,
    ) -> Answer:
        """The answer, if it is a success. What is refused for its token is asked again with a newer one."""
        given = {name: value for name, value in (query or {}).items() if value is not None}
        target = f"{path}?{urlencode(given)}" if given else path
        sent = b"" if body is None else encoded(body)
        now = asyncio.get_running_loop().time
        until = now() + (self._patience_s if self._met else 0)
        for pause in pauses():
            try:
                location = self._locate()
                answer = await self._connections.ask(
                    location, method, target, (headers or {}).items(), sent, wait_s=ANSWER_S + wait_s
                )
            except Unreachable:
                if now() + pause > until:
                    raise
                await asyncio.sleep(pause)
                continue
            except Lost as lost:
                if not repeatable or now() + pause > until:
                    raise _gone(lost, location.name, f"{method} {path}") from lost
                await asyncio.sleep(pause)
                continue
            self._met = True
            if answer.status in OK:
                return answer
            failed = answers.failure(answer.status, answer.body)
            if failed.code is Code.UNAUTHORIZED and self._locate().token != location.token:
                continue
            raise failed
        raise AssertionError("pauses do not end")


def encoded(asked: Struct) -> bytes:
    """What was asked for, and nothing that was not: an older program refuses a field that it does not know."""
    told: dict[str, object] = msgspec.to_builtins(asked)
    usual = {
        field.encode_name: field.default if field.default_factory is NODEFAULT else field.default_factory()
        for field in msgspec.structs.fields(asked)
    }
    return msgspec.json.encode({name: value for name, value in told.items() if value != usual[name]})


def _gone(error: Exception, name: str, request: str) -> Unreachable:
    return Unreachable(
        f"{name} went away before it answered {request} ({error}): it may have done it, or not. Look at its"
        " sessions and events; a turn is started once, however often it is asked for with the same Idempotency-Key.",
        maybe_done=True,
    )
