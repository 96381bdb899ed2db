"""Asks a program of ours, and holds each answer against what its OpenAPI document says of it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from typing import Any

import httpx2

from baa.http.limits import MAX_BODY_BYTES
from baa.http.tokens import Name
from tests.support.described import Described
from tests.support.node import Json, within


class Asker:
    """Asks, and holds each answer against the document. `seen` is what there was of what is promised."""

    def __init__(
        self,
        address: Callable[[], str],
        token: Callable[[Name], str],
        http: httpx2.AsyncClient,
        described: Described,
    ) -> None:
        """`token` gives the node's token of a scope."""
        self.address = address
        self.token = token
        self.described = described
        self.seen: set[tuple[str, int, str]] = set()
        self._http = http

    async def ask(
        self,
        name: str,
        body: Any = None,
        *,
        query: dict[str, str | int] | None = None,
        headers: dict[str, str] | None = None,
        **of_path: str,
    ) -> Json:
        """One request of an operation; what came, with the HTTP status as `answered`."""
        method, path, told = self.described.operations[name]
        for parameter, value in of_path.items():
            path = path.replace(f"{{{parameter}}}", value)
        sent = {"authorization": f"Bearer {self.token('drive')}", **(headers or {})}
        content = None
        if method == "POST":
            sent.setdefault("content-type", "application/json")
            content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        answer = await self._http.request(method, self.address() + path, params=query, headers=sent, content=content)
        came = self.took(name, answer)
        if answer.status_code < 400 and body is not None:
            schema = told["requestBody"]["content"]["application/json"]["schema"]
            assert self.described.misfits(schema, body) == []
        return came

    def took(self, name: str, answer: httpx2.Response) -> Json:
        media_type = answer.headers["content-type"].partition(";")[0]
        if media_type != "application/json" or (name == "openapi" and answer.status_code == 200):
            assert media_type in self.described.operations[name][2]["responses"][str(answer.status_code)]["content"]
            self.seen.add((name, answer.status_code, media_type))
            return {"answered": answer.status_code, "text": answer.text}
        body: Json = answer.json()
        assert self.described.flaws(name, answer.status_code, dict(answer.headers), body) == []
        self.seen.add((name, answer.status_code, body["error"]["code"] if not body["ok"] else media_type))
        return {"answered": answer.status_code, **(body.get("data") or body["error"])}

    async def refused(self, code: str, name: str, body: Any = None, **more: Any) -> Json:
        """One request that must be refused with this code."""
        came = await self.ask(name, body, **more)
        assert came.get("code") == code, (name, came)
        return came

    async def get(self, path: str) -> httpx2.Response:
        """Any GET, as it comes."""
        return await self._http.get(self.address() + path, headers={"authorization": f"Bearer {self.token('drive')}"})

    async def raw(self, name: str, *fields: str, line: str | None = None) -> None:
        """A request that no client library sends."""
        method, path, _ = self.described.operations[name]
        path = re.sub(r"\{\w+\}", "nobody", path)
        host = self.address().removeprefix("http://")
        head = [line or f"{method} {path} HTTP/1.1", f"Host: {host}", f"Authorization: Bearer {self.token('drive')}"]
        reader, writer = await asyncio.open_connection(*host.rsplit(":", 1))
        try:
            writer.write("".join(f"{each}\r\n" for each in [*head, *fields, ""]).encode())
            came = await within(reader.read())
        finally:
            writer.close()
        start, _, body = came.partition(b"\r\n\r\n")
        status, *lines = start.decode().split("\r\n")
        headers = dict(each.lower().split(": ", 1) for each in lines)
        self.took(name, httpx2.Response(int(status.split()[1]), headers=headers, content=body))


async def refused_at_the_door(asker: Asker, unknown: dict[str, str], nowhere: str) -> None:
    """Every operation meets what the guard refuses. `unknown`: ids of nothing; `nowhere`: a path that there is not."""
    for name, (method, _, told) in asker.described.operations.items():
        await asker.refused("wrong_host", name, headers={"host": "example.com"}, **unknown)
        await asker.refused("origin_refused", name, headers={"origin": "http://example.com"}, **unknown)
        await asker.refused("unsupported_media_type", name, headers={"content-encoding": "gzip"}, **unknown)
        await asker.raw(name, line="NO\x00PE")
        fields = ("Content-Type: application/json", f"Content-Length: {MAX_BODY_BYTES + 1}", "Expect: 100-continue")
        await asker.raw(name, *fields)
        if told["security"]:
            await asker.refused("unauthorized", name, headers={"authorization": "Bearer nope"}, **unknown)
        if method == "POST":
            reading = {"authorization": f"Bearer {asker.token('read')}"}
            await asker.refused("read_only_token", name, headers=reading, **unknown)
    found = await asker.get(nowhere)
    schema = asker.described.document["components"]["responses"]["UnknownRoute"]["content"]["application/json"][
        "schema"
    ]
    assert (found.status_code, asker.described.misfits(schema, found.json())) == (404, [])


async def bounds(asker: Asker, name: str, parameter: Json, there: Json) -> None:
    """The bounds of a parameter are taken, and what lies just past them is not."""
    low, high = parameter["schema"]["minimum"], parameter["schema"]["maximum"]
    for value in (low, high):
        assert (await asker.ask(name, query={parameter["name"]: value}, **there))["answered"] == 200
    for value in (low - 1, high + 1):
        await asker.refused("invalid_request", name, query={parameter["name"]: value}, **there)
