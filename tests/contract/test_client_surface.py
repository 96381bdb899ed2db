"""The client has a method for everything that a running codexd and conductor offer, async and not."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from baa import config
from baa.api.conductor import RoleName
from baa.api.errors import BaaError, Rejected
from baa.api.events import TURN_ENDS, Event, EventType
from baa.api.interactions import AnswerInteraction, InteractionStatus
from baa.api.sessions import (
    ApprovalPolicy,
    CreateSession,
    Sandbox,
    SessionStatus,
    StartTurn,
    SteerTurn,
    TurnStatus,
)
from baa.client import sync
from baa.client.codexd import Codexd
from baa.client.conductor import Conductor
from baa.client.connection import Answer
from baa.client.events import EventStream
from baa.client.peer import encoded
from baa.scripted import Hold, Run, Say, ScriptedModel, when
from tests.support.node import Node, within
from tests.support.programs import Program

pytestmark = pytest.mark.timeout(120)

SCENARIOS = (
    *(when(phrase, Hold("never")) for phrase in ("Count", "backwards")),
    when("Make", Run("touch made", sandbox_permissions="require_escalated", justification="May I?"), Say("So.")),
    when("hello", Say("Hello.")),
)


class Recorded(Codexd):
    """It notes every route that it asks for."""

    def __init__(self, found: config.Config) -> None:
        super().__init__(found)
        self.asked: set[tuple[str, str]] = set()

    async def _send(self, method: str, path: str, **more: Any) -> Answer:
        self.asked.add((method, path))
        return await super()._send(method, path, **more)

    def events(self, *args: Any, **kwargs: Any) -> EventStream[Event]:
        self.asked.add(("WS", self._events_path))
        return super().events(*args, **kwargs)


def session_in(node: Node, **more: Any) -> CreateSession:
    return CreateSession(cwd=str(node.work), sandbox=Sandbox.DANGER_FULL_ACCESS, **more)


async def test_there_is_a_method_for_every_route_of_the_running_codexd(tmp_path: Path) -> None:
    async with ScriptedModel(SCENARIOS) as model, Node(tmp_path, model.base_url) as node:
        await node.start()
        async with Recorded(config.load(environ=node.environment())) as codexd:
            document = await codexd.openapi()
            assert await codexd.health() == "ok"
            assert "codexd_child_state" in await codexd.metrics()
            await _turns_and_sessions(node, codexd)
            await _questions(node, codexd)
            assert (await codexd.status()).counts.turns_running == 0
            made = await codexd.backup(str(tmp_path / "copy"))
            assert made.path == str(tmp_path / "copy")
            assert (await codexd.restart_child()).child.restarts >= 0
            assert (await codexd.handover(1)).expires_in_ms == 1
            assert (await codexd.drain()).daemon.state == "draining"
        left = [
            f"{method} {path}"
            for path, methods in document["paths"].items()
            for method in map(str.upper, methods)
            if not any(asked == method and _fits(path, target) for asked, target in codexd.asked)
        ]
        assert left == []
        assert ("WS", "/v1/codexd/events") in codexd.asked


async def _turns_and_sessions(node: Node, codexd: Codexd) -> None:
    session = await codexd.create_session(session_in(node, purpose="x"))
    assert await codexd.session(session.session_id) == msgspec.structs.replace(session, interactions=[])
    page = await codexd.sessions(status=SessionStatus.NOT_LOADED, purpose="x", limit=1)
    assert [each.session_id for each in page.sessions] == [session.session_id]
    started = await codexd.start_turn(StartTurn(session_id=session.session_id, prompt="Count", lease_ms=60_000))
    async with codexd.events(started.cursor, types=[EventType.ITEM_COMPLETED]) as events:
        await within(anext(events))
    turn_id = started.turn.turn_id
    assert (await codexd.renew_turn(turn_id, lease_ms=50_000)).turn_id == turn_id
    assert (await codexd.steer_turn(turn_id, SteerTurn(prompt="backwards"))).turn_id == turn_id
    assert (await codexd.interrupt_turn(turn_id)).turn_id == turn_id
    ended = await codexd.turn(turn_id, wait_ms=30_000)
    assert (ended.status, ended.reason) == (TurnStatus.INTERRUPTED, "requested")
    assert (await codexd.transcript(turn_id)).startswith(f"# Turn {turn_id}")
    assert [each.turn_id for each in (await codexd.turns(session.session_id)).turns] == [turn_id]
    assert (await codexd.attach(session.session_id)).ticket
    fork = await codexd.fork_session(session.session_id)
    assert (await codexd.close_session(fork.session_id)).status is SessionStatus.CLOSED
    told = await codexd.event_page(started.cursor, session_id=session.session_id, types=TURN_ENDS, wait_ms=1000)
    assert [event.type for event in told.events] == [EventType.TURN_INTERRUPTED]


async def _questions(node: Node, codexd: Codexd) -> None:
    session = await codexd.create_session(session_in(node, approval_policy=ApprovalPolicy.UNTRUSTED))
    started = await codexd.start_turn(StartTurn(session_id=session.session_id, prompt="Make"))
    async with codexd.events(started.cursor, types=[EventType.INTERACTION_REQUESTED]) as events:
        asked = await within(anext(events))
    assert [each.session_id for each in (await codexd.sessions(needs_answer=True)).sessions] == [session.session_id]
    interaction_id, answer = asked.payload["interactionId"], AnswerInteraction(decision="accept")
    found = await codexd.answer_in_turn(started.turn.turn_id, interaction_id, answer)
    assert found.status is InteractionStatus.RESOLVED
    assert await codexd.answer_in_session(session.session_id, interaction_id, answer) == found
    with pytest.raises(Rejected):
        await codexd.answer_in_session(session.session_id, interaction_id, AnswerInteraction(decision="decline"))
    assert (await codexd.turn(started.turn.turn_id, wait_ms=30_000)).status is TurnStatus.COMPLETED


def _fits(template: str, path: str) -> bool:
    return re.fullmatch(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(template)), path) is not None


async def test_the_conductor_is_asked_too_and_codexd_by_way_of_it(tmp_path: Path) -> None:
    async with (
        ScriptedModel(SCENARIOS) as model,
        Node(tmp_path, model.base_url) as node,
        Program("conductor", node.home, BAA_WORKER_EMBEDDED="false") as program,
    ):
        await node.start()
        await node.child()
        found = config.load(environ=node.environment() | {"BAA_CONDUCTOR_LOCAL_API_BASE": "http://127.0.0.1:0"})
        async with Conductor(found) as conductor:
            assert await conductor.health() == "ok"
            assert (await conductor.role()).role is RoleName.LEADER
            assert await conductor.nodes() == []
            assert (await conductor.ready()).status == "ready"
            assert "/v1/tasks" in (await conductor.openapi())["paths"]
            assert "conductor_leads 1\n" in await conductor.metrics()
        async with Codexd(found, through="conductor") as codexd:
            session = await codexd.create_session(session_in(node))
            started = await codexd.start_turn(StartTurn(session_id=session.session_id, prompt="hello"))
            assert (await codexd.turn(started.turn.turn_id, wait_ms=30_000)).final_message == "Hello."
            async with codexd.events(started.cursor, types=TURN_ENDS) as events:
                assert (await within(anext(events))).turn_id == started.turn.turn_id
        assert await program.stop() == (0, "")


def test_scripts_have_the_same_methods() -> None:
    for asynchronous, synchronous in ((Codexd, sync.Codexd), (Conductor, sync.Conductor)):
        assert _public(synchronous) == _public(asynchronous)
        for name in _public(asynchronous) - {"events"}:
            assert inspect.getattr_static(synchronous, name).__doc__ == getattr(asynchronous, name).__doc__


def _public(kind: type) -> set[str]:
    return {name for each in kind.__mro__ for name in vars(each) if not name.startswith("_")}


async def test_a_script_runs_a_turn_and_follows_its_events_across_a_kill(tmp_path: Path) -> None:
    def script(found: config.Config, killed: Any) -> list[int]:
        with sync.Codexd(found) as codexd:
            session = codexd.create_session(session_in(node))
            started = codexd.start_turn(StartTurn(session_id=session.session_id, prompt="hello"))
            seqs = []
            with codexd.events("0") as events:
                for event in events:
                    seqs.append(event.seq)
                    if event.turn_id == started.turn.turn_id and event.type in TURN_ENDS:
                        break
                killed()
                for event in events:
                    seqs.append(event.seq)
                    if event.type == EventType.CHILD_ADOPTED:
                        break
                assert events.cursor is not None
                assert events.cursor.endswith(f":{seqs[-1]}")
            assert codexd.turn(started.turn.turn_id).final_message == "Hello."
            with pytest.raises(BaaError):
                codexd.session("ses_x")
            return seqs

    async with ScriptedModel(SCENARIOS) as model, Node(tmp_path, model.base_url) as node:
        await node.start()
        loop = asyncio.get_running_loop()

        async def again() -> None:
            await node.kill()
            await node.start()

        def killed() -> None:
            asyncio.run_coroutine_threadsafe(again(), loop).result(60)

        seqs = await within(asyncio.to_thread(script, config.load(environ=node.environment()), killed), 100)
        assert seqs == list(range(1, len(seqs) + 1))


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        (CreateSession(cwd="/x"), {"cwd": "/x"}),
        (
            CreateSession(cwd="/x", metadata={"a": "b"}, ephemeral=True),
            {"cwd": "/x", "metadata": {"a": "b"}, "ephemeral": True},
        ),
        (AnswerInteraction(decision="accept", content={}), {"decision": "accept", "content": {}}),
        (StartTurn(session_id="s", prompt=""), {"sessionId": "s", "prompt": ""}),
    ],
)
def test_only_what_was_asked_for_is_sent(asked: msgspec.Struct, sent: Mapping[str, object]) -> None:
    assert msgspec.json.decode(encoded(asked)) == sent
