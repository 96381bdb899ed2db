"""The operations of the conductor as an OpenAPI 3.1 document. Pure: a table in, a dict out."""

from __future__ import annotations

from typing import Any, Final

from baa.api.events import Heartbeat, Hello
from baa.api.queue import QueueEvents
from baa.conductor import http_events
from baa.conductor.operations import ABOUT, operations
from baa.http import openapi
from baa.http.openapi import Stream

INTRODUCTION: Final = """\
The conductor has the queue: tasks, nodes, and the events of all nodes. Every answer in JSON is
`{"ok": true, "data": …}` or `{"ok": false, "error": {"code", "message", "details"}}`. What is not described is 404, but
for codexd's own routes (`/v1/codexd/*` and its event stream): those are passed on to the node's codexd, which describes
them.

Times are UTC, RFC 3339 with milliseconds; durations end in `Ms`. Schemas of answers may gain fields; those of requests
take no others than these. Requests need the exact Host, and no Origin. The event stream is also a WebSocket: see
`x-websocket` at its path."""

STREAM: Final = Stream(
    http_events.PATH,
    "The same path as a WebSocket: `Hello`, then `QueueEvents` and, when it is quiet, `Heartbeat`. Without `after` it"
    " begins now. What is wrong is answered before the upgrade, as a page would be.",
    frozenset({"after", "taskId", "types"}),
    {"Hello": Hello, "QueueEvents": QueueEvents, "Heartbeat": Heartbeat},
    {
        "1012": "the conductor stops; come back by the cursor",
        "4401": "the token was changed; come back by the cursor, with the new one",
        "4408": "the reader does not read",
        "4410": "cursor_expired: what the reader was to read next is gone",
    },
)


def document() -> dict[str, Any]:
    """The whole document of the conductor's own routes."""
    return openapi.document("conductor", INTRODUCTION, operations(), ABOUT, STREAM)
