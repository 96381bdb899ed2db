"""Sessions through codexd on the real Codex: what they are registered with, how they end, what lists tell of them."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import pytest

from baa.scripted import Hold, Run, Say, ScriptedModel, when
from tests.support.asking import Bodies, act, ask, refusal_of, refused, turn_of, turns_of, words
from tests.support.node import Json, Node, sandbox_works, within
from tests.support.oracle import Oracle, flaws_of, types

pytestmark = pytest.mark.timeout(180)  # later than any wait of ours gives up, so that a test that fails cleans up

SESSIONS = "/v1/codexd/sessions"
SCENARIOS = (
    when("remember", Say("I shall.")),
    when("hold", (Say("One moment. "), Hold("hold"), Say("Done."))),
    when("rest", (Say("One moment. "), Hold("rest"), Say("Done."))),
    when("reach", Run("echo x > $(cat outside) && echo written || echo refused"), Say("Tried.")),
    when("plain", Say("Fine.")),
)


class House(NamedTuple):
    """A node that serves, the model behind its Codex, and all that the model was asked."""

    node: Node
    model: ScriptedModel
    bodies: Bodies


@pytest.fixture(scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    bodies = Bodies()
    async with (
        ScriptedModel(SCENARIOS, on_body=bodies) as model,
        Node(tmp_path_factory.mktemp("sessions"), model.base_url) as node,
    ):
        await node.start()
        yield House(node, model, bodies)


@pytest.fixture
async def fresh(tmp_path: Path) -> AsyncIterator[House]:
    """For tests that kill something, or count what there is."""
    bodies = Bodies()
    async with (
        ScriptedModel(SCENARIOS, on_body=bodies) as model,
        Node(tmp_path, model.base_url, idle_ms="1") as node,
    ):
        await node.start()
        yield House(node, model, bodies)


async def new_child(node: Node, oracle: Oracle, count: int = 2) -> None:
    """The child dies, and another is ready."""
    os.kill(await node.child(), signal.SIGKILL)
    await oracle.saw("child.ready", count=count)


async def close(node: Node, session_id: str) -> Json:
    answer = await node.post(f"{SESSIONS}/{session_id}/close", {})
    assert answer.status_code == 202, answer.text
    session: Json = answer.json()["data"]["session"]
    return session


# --- fields


async def test_a_session_tells_all_that_it_was_registered_with(house: House) -> None:
    node = house.node
    (node.work / "more").mkdir()
    asked = {
        "cwd": str(node.work),
        "purpose": "a test",
        "model": "own",
        "modelProvider": "scripted",
        "sandbox": "workspace-write",
        "approvalPolicy": "on-request",
        "writableRoots": [str(node.work / "more")],
        "baseInstructions": "You are a test.",
        "developerInstructions": "Be a good test.",
        "personality": "friendly",
        "serviceTier": "flex",
        "metadata": {"colour": "red"},
    }
    session_id = await node.session(**asked)
    session = await node.session_of(session_id)
    assert {name: session[name] for name in asked} == asked
    assert (session["ephemeral"], session["forkedFrom"], session["closedAt"]) == (False, None, None)
    assert (session["threadId"], session["status"], session["usage"]) == (None, "not_loaded", None)
    assert (session["currentTurnId"], session["lastTurnId"], session["lastTurnStatus"]) == (None, None, None)
    assert (session["queuedTurns"], session["openInteractions"], session["interactions"]) == (0, 0, [])
    assert session["createdAt"] == session["updatedAt"]

    turn = await node.play(session_id, "plain fields")
    session = await node.session_of(session_id)
    assert (session["status"], session["lastTurnId"], session["lastTurnStatus"]) == (
        "idle",
        turn["turnId"],
        "completed",
    )
    assert session["usage"]["totalTokens"] > 0
    assert session["updatedAt"] > session["createdAt"]
    (event,) = await node.events(sessionId=session_id, types="session.registered")
    assert event["payload"]["settings"]["developerInstructions"] == "Be a good test."

    body = house.bodies.about("plain fields")
    assert (body["model"], body.get("service_tier")) == ("own", "flex")
    assert words(body, "developer")[:2] == ["You are a test.", "Be a good test."]


@pytest.mark.parametrize(
    "more",
    [
        {"personality": "rude"},
        {"approvalPolicy": "sometimes"},
        {"writableRoots": ["relative"]},
        {"metadata": {"n": 1}},
        {"ephemeral": "yes"},
        {"config": {}},
        {"status": "idle"},
    ],
)
async def test_a_session_that_cannot_be_is_refused(house: House, more: Json) -> None:
    answer = await house.node.post(SESSIONS, {"cwd": str(house.node.work), **more})
    assert refusal_of(answer) == (422, "invalid_request")


async def test_a_writable_root_keeps_under_the_ceiling(house: House) -> None:
    answer = await house.node.post(SESSIONS, {"cwd": str(house.node.work), "writableRoots": ["/usr"]})
    assert refusal_of(answer) == (403, "policy_ceiling")


@pytest.mark.skipif(not sandbox_works(), reason="Codex's sandbox needs user namespaces")
async def test_writable_roots_are_writable_in_the_sandbox(tmp_path: Path, house: House) -> None:
    roots = [Path("/var/tmp") / f"baa-test-{uuid4()}" for _ in range(2)]  # the sandbox allows the usual folder
    for root in roots:
        root.mkdir()
    try:
        node = Node(tmp_path, house.model.base_url)
        node.allow(*roots)
        async with node:
            await node.start()
            session_id = await node.session(sandbox="workspace-write", writableRoots=[str(roots[0])])
            for n, root in enumerate(roots):
                (node.work / "outside").write_text(str(root / "file"))
                assert (await node.play(session_id, "reach"))["status"] == "completed"
                assert (root / "file").exists() == (n == 0)
    finally:
        for root in roots:
            (root / "file").unlink(missing_ok=True)
            root.rmdir()


# --- close


async def test_an_idle_session_is_closed_for_good(house: House) -> None:
    node = house.node
    session_id = await node.session()
    await node.play(session_id, "plain")
    session = await close(node, session_id)
    assert (session["status"], session["closedAt"] is not None) == ("closed", True)
    assert await close(node, session_id) == session
    for on_busy in ("reject", "enqueue", "steer", "interrupt"):
        assert await refused(node, session_id, "plain", onBusy=on_busy) == (409, "session_closed")
    (event,) = await node.events(sessionId=session_id, types="session.closed")
    assert event["payload"] == {"reason": "requested"}
    assert len(await turns_of(node, session_id)) == 1, "what it did stays readable"
    unused = await node.session()
    assert (await close(node, unused))["status"] == "closed"


async def test_closing_ends_what_waits_and_what_runs_before(house: House) -> None:
    node, model, _ = house
    session_id = await node.session()
    running = await node.turn(session_id, "hold on")
    await within(model.held("hold"))
    waiting = [await turn_of(node, session_id, f"plain {n}", onBusy="enqueue") for n in range(2)]
    async with Oracle(node, after=await node.head()) as oracle:
        await close(node, session_id)
        assert await refused(node, session_id, "plain", onBusy="enqueue") == (409, "session_closed")
        await oracle.saw("session.closed")
    events = [event for event in oracle.events if event["sessionId"] == session_id]
    ends = [
        (event["type"], event["turnId"]) for event in events if event["type"] in ("turn.interrupted", "session.closed")
    ]
    assert ends == [
        *(("turn.interrupted", turn_id) for turn_id in (*reversed(waiting), running)),
        ("session.closed", None),
    ]
    assert not [event for event in events if event["type"] == "turn.accepted"]
    assert (await node.ledger(running))["reason"] == "session_closed"
    assert (await node.ledger(waiting[0]))["reason"] == "canceled_before_start"
    assert (await node.session_of(session_id))["status"] == "closed"
    assert flaws_of(await node.events(sessionId=session_id)) == []


async def test_a_close_that_codexd_did_not_live_to_end_is_ended_by_the_next(fresh: House) -> None:
    node, model, _ = fresh
    session_id = await node.session()
    turn_id = await node.turn(session_id, "hold on")
    await within(model.held("hold"))
    child = await node.child()
    os.kill(child, signal.SIGSTOP)
    try:
        assert (await close(node, session_id))["status"] == "active"
        await node.kill()
    finally:
        os.kill(child, signal.SIGCONT)
    await node.start()
    async with Oracle(node) as oracle:
        closed = await oracle.saw("session.closed")
        ended = await oracle.end_of(turn_id)
        assert (ended["seq"] < closed["seq"], ended["payload"]["reason"]) == (True, "session_closed")
        assert flaws_of(oracle.events) == []
    assert await refused(node, session_id, "plain") == (409, "session_closed")


# --- ephemeral


async def test_an_ephemeral_session_lives_as_long_as_its_child(fresh: House) -> None:
    node, _, bodies = fresh
    async with Oracle(node) as oracle:
        session_id = await node.session(ephemeral=True)
        await node.play(session_id, "remember ephemeral")
        assert (await node.play(session_id, "plain ephemeral"))["status"] == "completed"
        assert "remember ephemeral" in words(bodies.about("plain ephemeral")), "its idle thread was not let go"
        assert refusal_of(await node.post(f"{SESSIONS}/{session_id}/fork", {})) == (422, "invalid_request")
        await new_child(node, oracle)
        closed = await oracle.saw("session.closed")
        assert (closed["sessionId"], closed["payload"]) == (session_id, {"reason": "thread_gone"})
        assert await refused(node, session_id, "plain") == (409, "session_closed")
        other = await node.session(ephemeral=True)
        turn_id = await node.turn(other, "hold on")
        waiting = await turn_of(node, other, "plain", onBusy="enqueue")
        await oracle.saw("item.delta", turn_id)
        await new_child(node, oracle, 3)
        await oracle.saw("session.closed", count=2)
        assert (await oracle.end_of(turn_id))["payload"]["reason"] == "child_exited"
        assert (await oracle.end_of(waiting))["payload"]["reason"] == "canceled_before_start"
        assert flaws_of(oracle.events) == []
    assert node.rollouts == "", "nothing of it is kept by Codex"


# --- threads that rest


async def test_an_idle_thread_is_let_go_and_its_next_turn_knows_the_past(fresh: House) -> None:
    node, model, bodies = fresh
    session_id = await node.session()
    await node.play(session_id, "remember this")
    thread_id = (await node.session_of(session_id))["threadId"]
    async with Oracle(node) as oracle:
        # codexd says nothing of it: that it is done is seen where a client sees it.
        while (await node.session_of(session_id))["status"] != "not_loaded":
            await node.get("/v1/codexd/events", after=await node.head(), waitMs=50)
        told = await ask(node, session_id, "plain after")
        assert (await oracle.end_of(told["turn"]["turnId"]))["type"] == "turn.completed"
        loaded = [event["payload"] for event in oracle.events if event["type"] == "session.loaded"]
    assert [(each["threadId"], each["fresh"]) for each in loaded] == [(thread_id, True), (thread_id, False)]
    assert "remember this" in words(bodies.about("plain after"))
    assert b"unsubscribed" in node.spool
    assert (await node.status())["child"]["generation"] == 1

    held = await node.turn(session_id, "rest a while")  # one that works is not let go
    await within(model.held("rest"))
    assert (await node.session_of(session_id))["status"] == "active"
    model.release("rest")
    assert (await node.end_of_turn(held))["status"] == "completed"


async def test_a_thread_that_never_ran_a_turn_begins_anew_for_its_first(fresh: House) -> None:
    """Its first turn was refused before it began: Codex has no record of the thread after the child's end."""
    node, _, _ = fresh
    async with Oracle(node) as oracle:
        session_id = await node.session()
        child = await node.child()
        os.kill(child, signal.SIGSTOP)
        turn_id = await node.turn(session_id, "plain")
        os.kill(child, signal.SIGKILL)
        assert (await oracle.end_of(turn_id))["type"] == "turn.completed"
        assert (await node.play(session_id, "plain"))["status"] == "completed"
        assert flaws_of(oracle.events) == []


# --- lists


async def listed(node: Node, **query: str | int) -> tuple[list[str], str | None]:
    data = (await node.get(SESSIONS, **query)).json()["data"]
    return [session["sessionId"] for session in data["sessions"]], data["nextPageToken"]


async def test_pages_stay_right_while_sessions_are_added(fresh: House) -> None:
    node = fresh.node
    ids = [await node.session(purpose="even" if n % 2 == 0 else "odd") for n in range(7)]
    page, token = await listed(node, limit=3)
    assert page == ids[:3:-1]
    found = list(page)
    while token is not None:
        ids.append(await node.session(purpose="even"))
        page, token = await listed(node, limit=3, pageToken=token)
        found += page
    assert found == ids[6::-1], "each of those there were, once"
    page, token = await listed(node, limit=7, purpose="odd")
    assert (page, token) == ([ids[5], ids[3], ids[1]], None)
    assert await listed(node, purpose="none") == ([], None)
    for bad in ({"limit": 0}, {"limit": 1001}, {"pageToken": "x"}, {"status": "open"}, {"needs": "x"}, {"more": "x"}):
        assert refusal_of(await node.get(SESSIONS, **bad)) == (422, "invalid_request"), bad


async def test_lists_tell_where_sessions_stand(house: House) -> None:
    node, _, _ = house
    purpose = f"stand-{uuid4()}"
    unused, used, busy, closed = [await node.session(purpose=purpose) for _ in range(4)]
    await node.play(used, "plain")
    await close(node, closed)
    async with Oracle(node, after=await node.head()) as oracle:
        asking = await node.turn(busy, "hold another")
        await oracle.saw("turn.started", asking)
        for status, session_id in (("not_loaded", unused), ("idle", used), ("active", busy), ("closed", closed)):
            assert await listed(node, purpose=purpose, status=status) == ([session_id], None)
        assert await listed(node, purpose=purpose, needs="answer") == ([], None)
        await act(node, asking, "interrupt")
        await oracle.end_of(asking)
        question = await turn_of(node, used, "reach", approvalPolicy="untrusted")
        asked = await oracle.saw("interaction.requested", question)
        assert await listed(node, purpose=purpose, needs="answer") == ([used], None)
        assert await listed(node, purpose=purpose, needs="answer", status="idle") == ([], None)
        session = await node.session_of(used)
        assert session["openInteractions"] == 1
        assert [each["interactionId"] for each in session["interactions"]] == [asked["payload"]["interactionId"]]
        await act(node, question, "interrupt")
        await oracle.end_of(question)
        assert await listed(node, purpose=purpose, needs="answer") == ([], None)
    assert "session.closed" in types(await node.events(sessionId=closed))
