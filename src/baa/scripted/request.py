"""What Codex asks a model: the few fields of a Responses API request that a script answers to."""

from __future__ import annotations

import msgspec


class Request(msgspec.Struct, frozen=True):
    """`prompt`: the text of the last user message. `outputs`: how many tool outputs have come since.

    `reports` are these outputs, oldest first, as the model reads them.
    """

    prompt: str
    outputs: int
    reports: tuple[str, ...] = ()


class _Part(msgspec.Struct, frozen=True):
    text: str = ""


class _Item(msgspec.Struct, frozen=True):
    type: str = "message"
    role: str = ""
    content: msgspec.Raw = msgspec.Raw(b'""')
    output: msgspec.Raw = msgspec.Raw(b'""')


class _Body(msgspec.Struct, frozen=True):
    input: list[_Item] | str


def read_request(body: bytes) -> Request:
    """Reads the body of POST /v1/responses. Raises msgspec.ValidationError or DecodeError for anything else.

    Codex puts its own words (environment, skills) in front of the prompt, also as user messages, and nothing after it.
    """
    asked = msgspec.json.decode(body, type=_Body).input
    if isinstance(asked, str):
        return Request(asked, 0)
    prompt, reports = "", list[str]()
    for item in reversed(asked):
        if item.type.endswith("_output"):
            reports.append(_text(item.output))
        elif item.type == "message" and item.role == "user":
            prompt = _text(item.content)
            break
    return Request(prompt, len(reports), tuple(reversed(reports)))


def _text(content: msgspec.Raw) -> str:
    parts = msgspec.json.decode(content, type=list[_Part] | str)
    return parts if isinstance(parts, str) else "\n".join(part.text for part in parts)
