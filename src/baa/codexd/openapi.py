"""The operations of codexd as an OpenAPI 3.1 document. Pure: a table in, a dict out."""

from __future__ import annotations

from typing import Any, Final

from baa.api import events as e
from baa.codexd.operations import ABOUT, operations
from baa.http import openapi
from baa.http.openapi import REF, Stream

FRAMES: Final = {"Hello": e.Hello, "Events": e.Events, "Heartbeat": e.Heartbeat}

INTRODUCTION: Final = """\
codexd hosts `codex app-server` and speaks of four nouns: status, sessions, turn, events. Every answer in JSON is
`{"ok": true, "data": …}` or `{"ok": false, "error": {"code", "message", "details"}}`. What is not described is 404.

Times are UTC, RFC 3339 with milliseconds; durations end in `Ms`. Schemas of answers may gain fields; those of requests
take no others than these. Requests need the exact Host, and no Origin. The event stream is also a WebSocket: see
`x-websocket` at its path."""


def document(events_path: str) -> dict[str, Any]:
    """The whole document of a codexd whose event stream is at this path."""
    stream = Stream(
        events_path,
        "The same path as a WebSocket: `Hello`, then `Events` and, when it is quiet, `Heartbeat`. What"
        " is wrong is answered before the upgrade, as a page would be. One that does not read is closed with 4408.",
        frozenset({"after", "sessionId", "types"}),
        FRAMES,
        {
            "1012": "codexd stops; come back by the cursor",
            "4401": "the token was changed; come back by the cursor, with the new one",
            "4408": "the reader does not read",
            "4410": "cursor_expired: the log let go of what the reader was to read next",
        },
    )
    described = operations(events_path)
    return openapi.document(
        "codexd", INTRODUCTION, described, ABOUT, stream, more=e.PAYLOADS.values(), amend=_with_payloads
    )


def _with_payloads(schemas: dict[str, Any]) -> None:
    """An event is described with the payload that belongs to its type."""
    types: dict[type, list[str]] = {}
    for type_, payload in e.PAYLOADS.items():
        types.setdefault(payload, []).append(type_.value)
    variants = [
        {"properties": {"type": {"enum": names}, "payload": {"$ref": REF + payload.__name__}}}
        for payload, names in types.items()
    ]
    schemas["Event"]["oneOf"] = variants
