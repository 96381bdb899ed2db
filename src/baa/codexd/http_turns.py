"""Turns over HTTP. Handlers contain no decision: they check a body, ask the commands, and answer from the tables."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable
from typing import Any

from litestar import Response, get, post
from litestar.params import FromPath

from baa.api import ids
from baa.api.errors import Code, Rejected
from baa.api.sessions import TURN_ENDED, NoFields, RenewTurn, StartTurn, SteerTurn
from baa.api.sessions import Turn as ApiTurn
from baa.codexd import reading, transcript
from baa.codexd.commands import TurnAnswer, TurnGone
from baa.codexd.http_sessions import answered
from baa.codexd.policy import Policy
from baa.codexd.status import Daemon
from baa.http import envelope
from baa.http.request import (
    WAIT_MAX_MS,
    Asked,
    accepts,
    answer,
    idempotency_key,
    integer,
    optional_body,
    query_of,
)
from baa.http.routes import OPT


def routes(daemon: Daemon, policy: Policy) -> list[Any]:
    """The handlers of `/v1/codexd/turn`."""
    log, commands = daemon.log, daemon.commands

    async def begin(asked: StartTurn, key: str | None, body_hash: str) -> TurnAnswer:
        session = daemon.loop.sessions.get(asked.session_id)
        if session is not None:
            policy.go_on(session.settings, asked)
        turn_id, wanted = ids.new_id(ids.TURN, daemon.clock.utc_ms()), policy.request(asked)
        return await commands.start_turn(
            asked.session_id, turn_id, wanted, on_busy=asked.on_busy, key=key, body_hash=body_hash
        )

    @post("/v1/codexd/turn", opt={OPT: "drive"})
    async def start_turn(request: Asked) -> Response[bytes]:
        body = await request.body()
        asked = envelope.decode(body, StartTurn)
        if asked.output_schema is not None:
            _check_schema(asked.output_schema)
        key, body_hash = idempotency_key(request), hashlib.sha256(body).hexdigest()
        if log.told(key) != key:
            raise Rejected(
                Code.INVALID_REQUEST,
                "The Idempotency-Key looks like a secret, and would stand in the log. Use a UUID.",
            )
        done = await commands.repeated(key, body_hash) or await begin(asked, key, body_hash)
        told: dict[str, Any] = {"turn": _turn(daemon, done.turn_id), "cursor": str(log.cursor(done.seq))}
        return answer(told | {"steered": True} if done.steered else told, 202)

    @get("/v1/codexd/turn/{turn_id:str}", opt={OPT: "read"})
    async def read_turn(request: Asked, turn_id: FromPath[str]) -> Response[bytes]:
        wait_ms = integer(query_of(request, {"waitMs"}), "waitMs", default=0, low=0, high=WAIT_MAX_MS)
        _turn(daemon, turn_id)
        if wait_ms:
            await _wait_for_end(daemon, turn_id, wait_ms)
        turn = await asyncio.to_thread(lambda: _turn(daemon, turn_id, ledger=True))
        if accepts(request, "text/markdown"):
            return Response(transcript.markdown(turn).encode(), media_type="text/markdown; charset=utf-8")
        return answer({"turn": turn})

    @post("/v1/codexd/turn/{turn_id:str}/interrupt", opt={OPT: "drive"})
    async def interrupt_turn(request: Asked, turn_id: FromPath[str]) -> Response[bytes]:
        await optional_body(request, NoFields)
        await _while_open(daemon, turn_id, commands.interrupt(turn_id))
        return answer({"turn": _turn(daemon, turn_id)}, 202)

    @post("/v1/codexd/turn/{turn_id:str}/steer", opt={OPT: "drive"})
    async def steer_turn(request: Asked, turn_id: FromPath[str]) -> Response[bytes]:
        asked = envelope.decode(await request.body(), SteerTurn)
        parts = policy.input(asked.prompt, asked.input)
        await _while_open(daemon, turn_id, commands.steer(turn_id, parts))
        return answer({"turn": _turn(daemon, turn_id), "steered": True}, 202)

    @post("/v1/codexd/turn/{turn_id:str}/renew", opt={OPT: "drive"})
    async def renew_turn(request: Asked, turn_id: FromPath[str]) -> Response[bytes]:
        asked = await optional_body(request, RenewTurn)
        await _while_open(daemon, turn_id, commands.renew(turn_id, asked.lease_ms))
        return answer({"turn": _turn(daemon, turn_id)}, 202)

    @post("/v1/codexd/turn/{turn_id:str}/interactions/{interaction_id:str}", opt={OPT: "drive"})
    async def answer_interaction(
        request: Asked, turn_id: FromPath[str], interaction_id: FromPath[str]
    ) -> Response[bytes]:
        _turn(daemon, turn_id)
        return await answered(daemon, request, interaction_id, lambda _, asker: asker == turn_id)

    return [start_turn, read_turn, interrupt_turn, steer_turn, renew_turn, answer_interaction]


def _turn(daemon: Daemon, turn_id: str, *, ledger: bool = False) -> ApiTurn:
    found = reading.turn(daemon.log.reader(), turn_id, ledger=ledger) if ids.is_id(turn_id, ids.TURN) else None
    if found is None:
        raise Rejected(Code.TURN_NOT_FOUND, "There is no such turn. A session lists its own at …/turns.")
    return found


async def _while_open(daemon: Daemon, turn_id: str, asking: Awaitable[None]) -> None:
    """Have something done to a turn. Raises Rejected: 409 with its status if it has ended, 404 if there is none."""
    try:
        await asking
    except TurnGone:
        await daemon.loop.settle()
        turn = _turn(daemon, turn_id)
        if turn.status not in TURN_ENDED:  # Codex has done with it, and it is looked for what it left
            raise Rejected(Code.TURN_NOT_RUNNING, "The turn is ending.", details={"turnId": turn_id}) from None
        raise Rejected(
            Code.TURN_ENDED, f"The turn has ended: {turn.status}.", details={"status": turn.status, "turnId": turn_id}
        ) from None


def _check_schema(schema: dict[str, Any]) -> None:
    from baa.api.output import schema_flaw  # late: its library takes time to load, and few turns need it

    flaw = schema_flaw(schema)
    if flaw is not None:
        raise Rejected(
            Code.INVALID_REQUEST, f"`outputSchema` is no JSON schema: {flaw}", details={"field": "outputSchema"}
        )


async def _wait_for_end(daemon: Daemon, turn_id: str, wait_ms: int) -> None:
    """Wait until the turn has ended, `wait_ms` at most."""
    async with daemon.patience.wait(wait_ms):
        while True:
            head = daemon.log.head
            if reading.has_ended(daemon.log.reader(), turn_id):
                return
            await daemon.log.wait_past(head)
