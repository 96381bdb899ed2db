"""Tasks over HTTP. Handlers contain no decision: they check a body, ask the engine, and answer what it committed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from litestar import Response, get, post
from litestar.params import FromPath

from baa.api import ids
from baa.api.errors import Code, Rejected
from baa.api.sessions import NoFields
from baa.api.tasks import SubmitTask, TaskState, Workspace
from baa.clock import rfc3339
from baa.conductor.asking import soon
from baa.config import NODE_ID
from baa.http import envelope
from baa.http.request import PAGE, PAGE_MAX, Asked, answer, idempotency_key, integer, optional_body, query_of
from baa.http.routes import OPT

if TYPE_CHECKING:
    from baa.conductor.daemon import Conductor

REF_MAX: Final = 256


def routes(conductor: Conductor) -> list[Any]:
    """The handlers of `/v1/tasks`."""
    engine = conductor.engine

    @post("/v1/tasks", opt={OPT: "drive"})
    async def submit_task(request: Asked) -> Response[bytes]:
        body = await request.body()
        asked = envelope.decode(body, SubmitTask)
        check(asked)
        key = idempotency_key(request)
        task, _ = await soon(engine.submit(asked, key=key, body_hash=hashlib.sha256(body).digest()))
        return answer({"task": task}, 201)

    @get("/v1/tasks", opt={OPT: "read"})
    async def list_tasks(request: Asked) -> Response[bytes]:
        query = query_of(request, {"limit", "pageToken", "since", "state"})
        limit = integer(query, "limit", default=PAGE, low=1, high=PAGE_MAX)
        after = query.get("pageToken")
        if after is not None and not ids.is_id(after, ids.TASK):
            raise Rejected(Code.INVALID_REQUEST, "`pageToken` must be a `nextPageToken` of an earlier answer.")
        states, since = _states(query.get("state")), _since(query.get("since"))
        found, more = await soon(engine.tasks(state=states, limit=limit, after=after, since=since))
        return answer({"tasks": found, "nextPageToken": more})

    @get("/v1/tasks/{task_id:str}", opt={OPT: "read"})
    async def read_task(request: Asked, task_id: FromPath[str]) -> Response[bytes]:
        query_of(request, set())
        return answer({"task": await soon(engine.task(_known(task_id)))})

    @post("/v1/tasks/{task_id:str}/cancel", opt={OPT: "drive"})
    async def cancel_task(request: Asked, task_id: FromPath[str]) -> Response[bytes]:
        await optional_body(request, NoFields)
        return answer({"task": await soon(engine.cancel(_known(task_id)))}, 202)

    @post("/v1/tasks/{task_id:str}/retry", opt={OPT: "drive"})
    async def retry_task(request: Asked, task_id: FromPath[str]) -> Response[bytes]:
        await optional_body(request, NoFields)
        return answer({"task": await soon(engine.retry(_known(task_id)))}, 202)

    return [submit_task, list_tasks, read_task, cancel_task, retry_task]


def _known(task_id: str) -> str:
    if not ids.is_id(task_id, ids.TASK):
        raise Rejected(Code.TASK_NOT_FOUND, "There is no such task. `baa task list` names those there are.")
    return task_id


def _states(text: str | None) -> list[TaskState] | None:
    if text is None:
        return None
    try:
        return [TaskState(each) for each in text.split(",")]
    except ValueError:
        allowed = ", ".join(TaskState)
        message = f"`state` is a list of states, with commas between them: {allowed}."
        raise Rejected(Code.INVALID_REQUEST, message) from None


def _since(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
        if time.tzinfo is None or len(text) < len("2026-11-26T18:00Z"):
            raise ValueError(text)
        return rfc3339(int(time.timestamp() * 1000))
    except (ValueError, OverflowError):
        message = "`since` must be a time with its offset, as 2026-11-26T18:00:00Z."
        raise Rejected(Code.INVALID_REQUEST, message) from None


def check(asked: SubmitTask) -> None:
    """What the types cannot say of a task. Raises Rejected (422) with the field."""
    for field, wrong in _flaws(asked):
        raise Rejected(Code.INVALID_REQUEST, wrong, details={"field": field})


def _flaws(asked: SubmitTask) -> Iterable[tuple[str, str]]:
    if (asked.cwd is None) == (asked.repository is None):
        yield "cwd", "A task needs `cwd` or `repository`, and not both: where the agent works."
    for field, path in (("cwd", asked.cwd), ("repository", asked.repository)):
        if path is not None and not PurePosixPath(path).is_absolute():
            yield field, f"`{field}` must be an absolute path on the node."
    if asked.ref is not None:
        if asked.repository is None:
            yield "ref", "`ref` goes with `repository`."
        if asked.workspace is Workspace.INPLACE:
            yield "ref", "`ref` is for a worktree; `inplace` works on what is checked out."
        if not 1 <= len(asked.ref) <= REF_MAX or asked.ref.startswith("-"):
            yield "ref", "`ref` must be a branch, a tag or a commit."
    if asked.node is not None and not NODE_ID.fullmatch(asked.node):
        yield "node", "`node` must be the id of a node: `baa node list` names those there are."
    if asked.output_schema is not None:
        from baa.api.output import schema_flaw  # late: its library takes time to load, and few tasks need it

        if flaw := schema_flaw(asked.output_schema):
            yield "outputSchema", f"`outputSchema` is no JSON schema: {flaw}"
    if not asked.prompt.strip():
        yield "prompt", "`prompt` must say something."
    for place, each in enumerate(asked.checks):
        if not each.command.strip():
            yield f"checks[{place}].command", "A check must be a command."
    for place, task_id in enumerate(asked.depends_on):
        if not ids.is_id(task_id, ids.TASK):
            yield f"dependsOn[{place}]", "`dependsOn` is a list of ids of tasks, tsk_…"
