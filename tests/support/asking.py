"""How tests ask codexd for turns, and what its Codex asked of the model: told apart from what codexd says of it."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import httpx2

from tests.support.node import Json, Node

TURN = "/v1/codexd/turn"


async def ask(node: Node, session_id: str, prompt: str | None, *, key: str | None = None, **more: object) -> Json:
    """What a turn is answered with."""
    body = {"sessionId": session_id, **({} if prompt is None else {"prompt": prompt}), **more}
    answer = await node.post(TURN, body, key=key)
    assert answer.status_code == 202, answer.text
    data: Json = answer.json()["data"]
    return data


async def turn_of(node: Node, session_id: str, prompt: str | None, *, key: str | None = None, **more: object) -> str:
    """The id of a turn that was asked for with more than a prompt."""
    turn_id: str = (await ask(node, session_id, prompt, key=key, **more))["turn"]["turnId"]
    return turn_id


async def refused(node: Node, session_id: str, prompt: str | None, **more: object) -> tuple[int, str]:
    """The status and the code with which a turn is refused."""
    body = {"sessionId": session_id, **({} if prompt is None else {"prompt": prompt}), **more}
    return refusal_of(await node.post(TURN, body))


def refusal_of(answer: httpx2.Response) -> tuple[int, str]:
    """The status and the code of a failure."""
    code: str = answer.json()["error"]["code"]
    return answer.status_code, code


async def act(node: Node, turn_id: str, verb: str, body: object = None) -> httpx2.Response:
    """One of the verbs of a turn."""
    return await node.post(f"{TURN}/{turn_id}/{verb}", {} if body is None else body)


async def turns_of(node: Node, session_id: str, **query: str | int) -> list[Json]:
    """A page of a session's turns."""
    turns: list[Json] = (await node.get(f"/v1/codexd/sessions/{session_id}/turns", **query)).json()["data"]["turns"]
    return turns


async def retried(node: Node, call: Callable[[], Awaitable[str]]) -> str:
    """What it answers once codexd lives long enough to."""
    while True:
        await node.up()
        with suppress(httpx2.TransportError):
            return await call()


class Bodies:
    """What the model was asked, whole, oldest first."""

    def __init__(self) -> None:
        self.all: list[Json] = []

    def __call__(self, body: bytes) -> None:
        self.all.append(json.loads(body))

    def about(self, phrase: str) -> Json:
        """The last request whose last word of the user's holds this phrase."""
        return next(body for body in reversed(self.all) if phrase in _last_words(body))


def words(body: Json, role: str = "user") -> list[str]:
    """All texts of one role that a request carries, oldest first."""
    return [
        part.get("text", "")
        for item in body["input"]
        if item.get("type") == "message" and item.get("role") == role
        for part in _parts(item["content"])
    ]


def images(body: Json) -> list[str]:
    """The images that a request carries, as URLs."""
    return [
        part["image_url"]
        for item in body["input"]
        if item.get("type") == "message"
        for part in _parts(item["content"])
        if part.get("type") == "input_image"
    ]


def _parts(content: Any) -> list[Json]:
    return [{"text": content}] if isinstance(content, str) else content


def _last_words(body: Json) -> str:
    for item in reversed(body["input"]):
        if item.get("type") == "message" and item.get("role") == "user":
            return "\n".join(part.get("text", "") for part in _parts(item["content"]))
    return ""
