"""What codexd says of itself is true: real answers of every route, and every error that can be brought about.

Each answer is held against the schema that /openapi.json gives for its route and status, closed so that no field is
missing from it; in the end, what was promised and never seen must stand in UNSEEN, with the reason.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Any, Final

import httpx2
import pytest
from codex_cli_bin import bundled_codex_path
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from baa.scripted import Hold, Run, Say, ScriptedModel, when
from tests.support.asker import Asker, bounds, refused_at_the_door
from tests.support.described import Described
from tests.support.node import Json, Node, within

pytestmark = pytest.mark.timeout(240)

SCENARIOS = (
    when("short", Say("Done.")),
    when("long", (Say("I am "), Hold("long"), Say("done."))),
    when("more", (Say("And "), Hold("long"), Say("more."))),  # Codex lets go of its answer for more input
    when("ask", Run("touch asked", sandbox_permissions="require_escalated", justification="May I?"), Say("So.")),
)
NOBODY: Final = "0" * 26
UNKNOWN: Final = {
    "sessionId": f"ses_{NOBODY}",
    "turnId": f"trn_{NOBODY}",
    "interactionId": f"int_{NOBODY}",
}
UNSEEN: Final = {
    "internal_error": "it would be a mistake of ours",
    "starting": "codexd would have to hang",
    "overloaded": "it takes a thousand commands at once, or a thousand waiting turns",
    "request_timeout": "it takes longer than a test may wait; test_slow.py has it",
    "too_many_connections": "it takes as many; test_slow.py has it",
    "storage_full": "the disk would have to be full",
    "codex_failed": "Codex would have to answer what it never does",
}


class Asking(Asker):
    """Asks a codexd. `node`: its node."""

    def __init__(self, node: Node, http: httpx2.AsyncClient, described: Described) -> None:
        super().__init__(lambda: node.address, node.token, http, described)
        self.node = node


@asynccontextmanager
async def asking(node: Node) -> AsyncIterator[Asking]:
    async with httpx2.AsyncClient(trust_env=False, timeout=90) as http:
        document = await node.get("/openapi.json")
        assert document.headers["content-type"] == "application/json"
        yield Asking(node, http, Described(document.json()))


async def test_every_answer_is_as_described(tmp_path: Path) -> None:
    async with (
        ScriptedModel(SCENARIOS) as model,
        Node(tmp_path / "a", model.base_url, ceiling="workspace-write") as node,
    ):
        await node.start()
        await node.child()
        async with asking(node) as asker:
            await _about_itself(asker)
            await refused_at_the_door(asker, UNKNOWN, "/v1/codexd/runs")
            await _refused_for_what_it_says(asker)
            await _sessions(asker, tmp_path)
            await _turns(asker, model)
            await _interactions(asker)
            await _events(asker)
            await _streams(asker)
    seen = asker.seen | await _draining(tmp_path / "b") | await _without_codex(tmp_path / "c")
    seen |= await _not_logged_in(tmp_path / "d") | await _too_early(tmp_path / "e")
    left = {each for each in asker.described.promised() - seen if each[2] not in UNSEEN}
    assert left == set()


async def _about_itself(asker: Asking) -> None:
    for name in ("health", "status", "openapi", "metrics"):
        assert (await asker.ask(name))["answered"] == 200
    assert 'codexd_child_state{state="ready"} 1\n' in (await asker.ask("metrics"))["text"]
    await asker.refused("invalid_request", "health", query={"nonce": "short"})
    assert (await asker.ask("health", query={"nonce": "n" * 22}))["answered"] == 200
    assert (await asker.ask("handover", {"expiresInMs": 1}))["answered"] == 202
    await asker.refused("invalid_request", "handover", {"expiresInMs": 600_001})
    assert (await asker.ask("makeBackup"))["answered"] == 201
    assert (await asker.ask("makeBackup", {"to": str(asker.node.folder / "copy")}))["answered"] == 201
    await asker.refused("invalid_request", "makeBackup", {"to": str(asker.node.folder / "copy")})


async def _refused_for_what_it_says(asker: Asking) -> None:
    session_id = await _session(asker)
    turn_id = await _ended(asker, session_id, "short")
    there: Json = {**UNKNOWN, "sessionId": session_id, "turnId": turn_id}
    for name, (method, path, told) in asker.described.operations.items():
        if method == "POST":
            await asker.refused("invalid_json", name, b"{", **there)
            await asker.refused("invalid_request", name, {"nope": 1}, **there)
        for parameter in told.get("parameters", []):
            if parameter["schema"]["type"] == "integer":
                await bounds(asker, name, parameter, there)
        if "/{sessionId}" in path:
            nobody = {"decision": "accept"} if "interaction" in path else None
            await asker.refused("session_not_found", name, nobody, **UNKNOWN)
    for name in ("listSessions", "listTurns", "readTurn", "events"):
        await asker.refused("invalid_request", name, query={"nope": 1}, **there)


async def _session(asker: Asking, **asked: Any) -> str:
    came = await asker.ask("createSession", {"cwd": str(asker.node.work), **asked})
    assert came["answered"] == 201, came
    session_id: str = came["session"]["sessionId"]
    return session_id


async def _turn(asker: Asking, session_id: str, prompt: str, **asked: Any) -> str:
    came = await asker.ask("startTurn", {"sessionId": session_id, "prompt": prompt, **asked})
    assert came["answered"] == 202, came
    turn_id: str = came["turn"]["turnId"]
    return turn_id


async def _ended(asker: Asking, session_id: str, prompt: str) -> str:
    turn_id = await _turn(asker, session_id, prompt)
    await _end(asker, turn_id)
    return turn_id


async def _end(asker: Asking, turn_id: str) -> Json:
    while True:
        turn: Json = (await asker.ask("readTurn", query={"waitMs": 20_000}, turnId=turn_id))["turn"]
        if turn["endedAt"] is not None:
            return turn


async def _sessions(asker: Asking, folder: Path) -> None:
    settings = {
        "purpose": "a test",
        "model": "scripted",
        "sandbox": "read-only",
        "approvalPolicy": "never",
        "writableRoots": [str(asker.node.work)],
        "developerInstructions": "Be brief.",
        "personality": "pragmatic",
        "metadata": {"colour": "red"},
    }
    session_id = await _session(asker, **settings)
    await _ended(asker, session_id, "short")
    one = await asker.ask("readSession", sessionId=session_id)
    assert one["session"]["metadata"] == {"colour": "red"}
    await asker.ask("listSessions", query={"purpose": "a test", "status": "idle", "limit": 1})
    await asker.ask("listTurns", sessionId=session_id)
    fork = await asker.ask("forkSession", {}, sessionId=session_id)
    assert (fork["answered"], fork["session"]["forkedFrom"]["sessionId"]) == (201, session_id)
    await asker.ask("listSessions")
    attachment = (await asker.ask("attachTerminal", {}, sessionId=session_id))["attachment"]
    assert attachment["threadId"] == one["session"]["threadId"]
    await asker.refused("thread_not_found", "attachTerminal", sessionId=fork["session"]["sessionId"])

    thread_id = one["session"]["threadId"]
    taken = await asker.refused("thread_in_use", "createSession", {"threadId": thread_id})
    assert taken["details"] == {"sessionId": session_id}
    await asker.refused("thread_not_found", "createSession", {"threadId": "01234567-89ab-7def-8123-456789abcdef"})
    await asker.refused("policy_ceiling", "createSession", {"cwd": str(folder)})

    closed = await asker.ask("closeSession", {}, sessionId=session_id)
    assert (closed["answered"], closed["session"]["status"]) == (202, "closed")
    await asker.refused("session_closed", "startTurn", {"sessionId": session_id, "prompt": "short"})
    await asker.refused("session_closed", "attachTerminal", sessionId=session_id)


async def _turns(asker: Asking, model: ScriptedModel) -> None:
    session_id = await _session(asker)
    body = {"sessionId": session_id, "prompt": "long", "leaseMs": 600_000, "metadata": {"n": "1"}}
    for _ in range(2):
        came = await asker.ask("startTurn", body, headers={"idempotency-key": "k"})
    turn_id = came["turn"]["turnId"]
    other = {**body, "prompt": "other"}
    await asker.refused("idempotency_mismatch", "startTurn", other, headers={"idempotency-key": "k"})
    await within(model.held("long"))
    await asker.refused("turn_in_progress", "startTurn", body)
    await asker.refused("session_not_found", "startTurn", {**body, "sessionId": UNKNOWN["sessionId"]})
    await asker.refused("policy_ceiling", "startTurn", {**body, "sandbox": "danger-full-access"})
    secret = asker.node.folder / "secret.png"
    secret.write_bytes(b"")
    image = {"input": [{"type": "localImage", "path": str(secret)}]}
    await asker.refused("policy_ceiling", "steerTurn", image, turnId=turn_id)

    assert (await asker.ask("renewTurn", turnId=turn_id))["answered"] == 202
    assert (await asker.ask("renewTurn", {"leaseMs": 60_000}, turnId=turn_id))["answered"] == 202
    assert (await asker.ask("steerTurn", {"prompt": "more"}, turnId=turn_id))["steered"] is True
    steered = await asker.ask("startTurn", {"sessionId": session_id, "prompt": "and more", "onBusy": "steer"})
    assert (steered["turn"]["turnId"], steered["steered"]) == (turn_id, True)
    assert (await asker.ask("interruptTurn", turnId=turn_id))["answered"] == 202
    assert (await _end(asker, turn_id))["status"] == "interrupted"
    markdown = await asker.ask("readTurn", headers={"accept": "text/markdown"}, turnId=turn_id)
    assert markdown["text"].startswith(f"# Turn {turn_id}\n")

    bodies: dict[str, Json | None] = {"interruptTurn": None, "steerTurn": {"prompt": "more"}, "renewTurn": None}
    for name, body_ in bodies.items():
        gone = await asker.refused("turn_ended", name, body_, turnId=turn_id)
        assert gone["details"]["status"] == "interrupted"
        await asker.refused("turn_not_found", name, body_, **UNKNOWN)
    await asker.refused("turn_not_found", "readTurn", **UNKNOWN)


async def _interactions(asker: Asking) -> None:
    session_id = await _session(asker, approvalPolicy="on-request", sandbox="workspace-write")
    for name, of_path in (("answerInTurn", "turnId"), ("answerInSession", "sessionId")):
        turn_id = await _turn(asker, session_id, "ask")
        head = await asker.node.head()
        while not (asked := (await asker.ask("listSessions", query={"needs": "answer"}))["sessions"]):
            head = (await asker.ask("events", query={"after": head, "waitMs": 5_000}))["next"]
        assert [session["sessionId"] for session in asked] == [session_id]
        (question,) = (await asker.ask("readSession", sessionId=session_id))["session"]["interactions"]
        owner = {"turnId": turn_id, "sessionId": session_id}[of_path]
        place = {of_path: owner, "interactionId": question["interactionId"]}
        await asker.refused("invalid_request", name, {"decision": "perhaps"}, **place)
        for _ in range(2):  # the same answer again is no mistake
            assert (await asker.ask(name, {"decision": "decline"}, **place))["answered"] == 200
        late = await asker.refused("interaction_resolved", name, {"decision": "accept"}, **place)
        assert asker.described.misfits_of("Interaction", late["details"]["interaction"]) == []
        nothing = {of_path: owner, "interactionId": UNKNOWN["interactionId"]}
        await asker.refused("interaction_not_found", name, {"decision": "accept"}, **nothing)
        await _end(asker, turn_id)
    await asker.refused("turn_not_found", "answerInTurn", {"decision": "accept"}, **UNKNOWN)


async def _events(asker: Asking) -> None:
    page = await asker.ask("events", query={"after": "0", "limit": 1000})
    assert page["events"]
    epoch = page["next"].partition(":")[0]
    await asker.refused("cursor_ahead", "events", query={"after": f"{epoch}:999999"})
    await asker.refused("cursor_expired", "events", query={"after": "elsewhere:1"})
    filtered = await asker.ask("events", query={"types": "turn.queued,turn.completed", "limit": 1000})
    assert {event["type"] for event in filtered["events"]} == {"turn.queued", "turn.completed"}


async def _streams(asker: Asking) -> None:
    """Frames are as described, and so is what is wrong before the upgrade."""
    path = asker.node.address.replace("http", "ws") + "/v1/codexd/events"
    headers = {"authorization": f"Bearer {asker.node.token()}"}
    live = asker.described.document["paths"]["/v1/codexd/events"]["get"]["x-websocket"]
    async with connect(f"{path}?after=0", additional_headers=headers, proxy=None) as socket:
        frames = [json.loads(await within(socket.recv())) for _ in range(2)]
    assert [frame["type"] for frame in frames] == ["hello", "events"]
    for frame in frames:
        assert asker.described.misfits(live["frame"], frame) == []
    for after, status in (("elsewhere:1", 410), ("nothing", 422)):
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"{path}?after={after}", additional_headers=headers, proxy=None)
        answer = refused.value.response
        assert answer.status_code == status
        assert asker.described.flaws("events", status, dict(answer.headers), json.loads(answer.body or b"")) == []

    async with httpx2.AsyncClient(trust_env=False) as http:
        accepting = headers | {"accept": "text/event-stream"}
        async with http.stream("GET", asker.node.address + "/v1/codexd/events", headers=accepting) as stream:
            media_type = stream.headers["content-type"].partition(";")[0]
            assert media_type in asker.described.operations["events"][2]["responses"]["200"]["content"]
            asker.seen.add(("events", 200, media_type))


async def _draining(folder: Path) -> set[tuple[str, int, str]]:
    async with ScriptedModel(SCENARIOS) as model, Node(folder, model.base_url, drain_ms="60000") as node:
        await node.start()
        async with asking(node) as asker:
            session_id = await node.session()
            turn_id = await _turn(asker, session_id, "long")
            await within(model.held("long"))
            assert (await asker.ask("drain"))["daemon"]["state"] == "draining"
            assert (await asker.ask("restartChild"))["child"]["state"] == "ready"  # it waits for the turn
            after = await node.head()
            node.signal(SIGTERM)
            while not await _stopping(asker, after):
                pass
            await asker.refused("draining", "startTurn", {"sessionId": session_id, "prompt": "short"})
            await asker.refused("draining", "createSession", {"cwd": str(node.work)})
            await asker.refused("draining", "forkSession", sessionId=session_id)
            await asker.refused("draining", "attachTerminal", sessionId=session_id)
            await asker.refused("draining", "handover", {})
            await asker.refused("draining", "restartChild", {})
            await asker.refused("draining", "makeBackup", {})
            model.release("long")
            assert (await _end(asker, turn_id))["status"] == "completed"
        assert await node.ended() == 0
        return asker.seen


async def _stopping(asker: Asking, after: str) -> bool:
    page = await asker.ask("events", query={"after": after, "types": "daemon.stopping", "waitMs": 5_000})
    return bool(page["events"])


async def _without_codex(folder: Path) -> set[tuple[str, int, str]]:
    async with Node(folder, "http://127.0.0.1:9/v1", server_command="/nowhere/codex") as node:
        await node.start()
        async with asking(node) as asker:
            session_id = await node.session()
            await asker.refused("child_unavailable", "startTurn", {"sessionId": session_id, "prompt": "short"})
            await asker.refused("child_unavailable", "createSession", {"threadId": "any"})
            seen = asker.seen
        assert await node.stop() == 0
        node.lower_ceiling("read-only")
        await node.start()
        async with asking(node) as asker:
            await asker.refused("policy_ceiling", "forkSession", sessionId=session_id)
            return seen | asker.seen


async def _too_early(folder: Path) -> set[tuple[str, int, str]]:
    """A turn that waits for Codex, which does not come up, cannot be steered."""
    folder.mkdir()
    mute = folder / "mute"
    codex = folder / "codex"
    codex.write_text(f'#!/bin/sh\n[ -e "{mute}" ] && exec sleep 600\nexec "{bundled_codex_path()}" "$@"\n')
    codex.chmod(0o700)
    async with (
        ScriptedModel(SCENARIOS) as model,
        Node(folder / "node", model.base_url, server_command=str(codex)) as node,
    ):
        await node.start()
        async with asking(node) as asker:
            of_the_past = await node.session()
            doubtful = await _turn(asker, of_the_past, "long")
            await within(model.held("long"))
            mute.touch()
            os.kill(await node.child(), SIGKILL)
            while (await node.status())["child"]["state"] == "ready":
                await node.get("/v1/codexd/events", after=await node.head(), waitMs=50)
            await asker.refused("child_unavailable", "forkSession", sessionId=of_the_past)
            await asker.refused("child_unavailable", "attachTerminal", sessionId=of_the_past)
            await asker.refused("turn_not_running", "steerTurn", {"prompt": "more"}, turnId=doubtful)
            session_id = await node.session()
            turn_id = await _turn(asker, session_id, "short")
            await asker.refused("turn_not_running", "steerTurn", {"prompt": "more"}, turnId=turn_id)
            steer = {"sessionId": session_id, "prompt": "more", "onBusy": "steer"}
            assert (await asker.refused("turn_not_running", "startTurn", steer))["details"]["turnId"] == turn_id
            return asker.seen


async def _not_logged_in(folder: Path) -> set[tuple[str, int, str]]:
    async with ScriptedModel(SCENARIOS) as model, Node(folder, model.base_url) as node:
        config = node.codex_home / "config.toml"
        config.write_text(config.read_text().replace("requires_openai_auth = false", "requires_openai_auth = true"))
        await node.start()
        await node.child()
        async with asking(node) as asker:
            while (await node.status())["codex"]["loggedIn"] is None:
                await node.get("/v1/codexd/events", after=await node.head(), waitMs=50)
            body = {"sessionId": await node.session(), "prompt": "short"}
            await asker.refused("codex_not_logged_in", "startTurn", body)
            return asker.seen
