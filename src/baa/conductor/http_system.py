"""The fleet and the queue as a whole over HTTP: nodes, their drain, pause and resume."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litestar import Response, get, post
from litestar.params import FromPath

from baa.api.errors import Code, Rejected
from baa.api.sessions import NoFields
from baa.conductor.asking import soon
from baa.config import NODE_ID
from baa.http.request import Asked, answer, optional_body, query_of
from baa.http.routes import OPT

if TYPE_CHECKING:
    from baa.conductor.daemon import Conductor


def routes(conductor: Conductor) -> list[Any]:
    """The handlers of `/v1/nodes` and `/v1/system`."""
    engine = conductor.engine

    @get("/v1/nodes", opt={OPT: "read"})
    async def list_nodes(request: Asked) -> Response[bytes]:
        query_of(request, set())
        return answer({"nodes": await soon(engine.nodes()), "nextPageToken": None})

    @post("/v1/nodes/{node_id:str}/drain", opt={OPT: "drive"})
    async def drain_node(request: Asked, node_id: FromPath[str]) -> Response[bytes]:
        await optional_body(request, NoFields)
        if not NODE_ID.fullmatch(node_id):
            raise Rejected(Code.NODE_NOT_FOUND, "There is no such node. `baa node list` names those there are.")
        return answer({"node": await soon(engine.drain(node_id))}, 202)

    @get("/v1/system", opt={OPT: "read"})
    async def read_system(request: Asked) -> Response[bytes]:
        query_of(request, set())
        return answer({"system": {"paused": await soon(engine.paused())}})

    @post("/v1/system/pause", opt={OPT: "drive"})
    async def pause(request: Asked) -> Response[bytes]:
        await optional_body(request, NoFields)
        return answer({"system": {"paused": await soon(engine.pause(True))}})

    @post("/v1/system/resume", opt={OPT: "drive"})
    async def resume(request: Asked) -> Response[bytes]:
        await optional_body(request, NoFields)
        return answer({"system": {"paused": await soon(engine.pause(False))}})

    return [list_nodes, drain_node, read_system, pause, resume]
