"""What a turn asks for reaches the model, and holds for that turn alone; on the real Codex."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import pytest

from baa.scripted import Hold, Run, Say, ScriptedModel, when
from tests.support.asking import TURN, Bodies, ask, images, refusal_of, refused, turn_of, words
from tests.support.node import Json, Node, sandbox_works, within
from tests.support.oracle import Oracle, flaws_of, types

pytestmark = pytest.mark.timeout(180)  # later than any wait of ours gives up, so that a test that fails cleans up

CHARACTERS = 1_048_576
SCHEMA = {
    "type": "object",
    "properties": {"colour": {"type": "string"}, "count": {"type": "integer"}},
    "required": ["colour", "count"],
    "additionalProperties": False,
}
SCENARIOS = (
    when("good output", Run("echo looked"), Say(('{"colour":', ' "red", "count": 3}'))),
    when("no json", Say("It is red.")),
    when("misfit", Say('{"colour": "red", "count": "three"}')),
    when("no words", Run("true"), Hold("never")),
    when("any output", Say("[1, null]")),
    when("reach out", Run("echo x > $(cat outside) || echo refused"), Say("Tried.")),
    when("hold key", (Say("Well. "), Hold("key"), Say("Done."))),
    when("", Say("Fine.")),
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
        Node(tmp_path_factory.mktemp("asked"), model.base_url) as node,
    ):
        await node.start()
        yield House(node, model, bodies)
        assert flaws_of(await node.events()) == []


async def play(house: House, session_id: str, prompt: str | None, **more: object) -> Json:
    return await house.node.end_of_turn((await ask(house.node, session_id, prompt, key=None, **more))["turn"]["turnId"])


# --- outputSchema


async def test_an_output_is_parsed_and_the_model_knows_its_schema(house: House) -> None:
    session_id = await house.node.session()
    turn = await play(house, session_id, "good output", outputSchema=SCHEMA)
    assert (turn["status"], turn["output"]) == ("completed", {"colour": "red", "count": 3})
    assert (turn["outputSchema"], json.loads(turn["finalMessage"])) == (SCHEMA, turn["output"])
    assert house.bodies.about("good output")["text"]["format"]["schema"] == SCHEMA
    turn = await play(house, session_id, "any other", sandbox="danger-full-access")
    assert (turn["status"], turn["output"], turn["outputSchema"]) == ("completed", None, None)
    assert "format" not in house.bodies.about("any other").get("text", {}), "it holds for its own turn alone"
    turn = await play(house, session_id, "any output", outputSchema={"type": "array"})
    assert turn["output"] == [1, None]


@pytest.mark.parametrize("prompt", ["no json", "misfit"])
async def test_an_output_that_breaks_its_schema_fails_the_turn(house: House, prompt: str) -> None:
    turn = await play(house, await house.node.session(), prompt, outputSchema=SCHEMA)
    assert (turn["status"], turn["reason"], turn["output"]) == ("failed", "output_invalid", None)
    assert turn["error"]["message"]
    assert turn["finalMessage"], "what was said stays readable"


@pytest.mark.parametrize(
    "schema", [{"type": "nonsense"}, {"properties": 3}, {"$ref": "https://example.org/x"}, [], "x"]
)
async def test_a_schema_that_is_none_is_refused(house: House, schema: object) -> None:
    assert await refused(house.node, await house.node.session(), "plain", outputSchema=schema) == (
        422,
        "invalid_request",
    )


# --- images


def png() -> bytes:
    """The smallest picture: one red pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"\0\xff\0\0")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


async def test_an_image_reaches_the_model(house: House) -> None:
    node = house.node
    picture = node.work / "red.png"
    picture.write_bytes(png())
    parts = [{"type": "text", "text": "what is that"}, {"type": "localImage", "path": str(picture)}]
    turn = await play(house, await node.session(), None, input=parts)
    assert (turn["status"], turn["prompt"], turn["input"]) == ("completed", "what is that", parts)
    (url,) = images(house.bodies.about("what is that"))
    assert base64.b64decode(url.removeprefix("data:image/png;base64,")).startswith(b"\x89PNG")


async def test_a_key_is_answered_alike_though_the_image_is_gone(house: House) -> None:
    node = house.node
    picture = node.work / "gone.png"
    picture.write_bytes(png())
    body = {"sessionId": await node.session(), "input": [{"type": "localImage", "path": str(picture)}]}
    first = await node.post(TURN, body, key="with an image")
    assert first.status_code == 202
    turn = first.json()["data"]["turn"]
    await node.end_of_turn(turn["turnId"])
    picture.unlink()
    again = await node.post(TURN, body, key="with an image")
    assert again.status_code == 202, again.text
    assert again.json()["data"]["turn"]["turnId"] == turn["turnId"]
    assert again.json()["data"]["cursor"] == first.json()["data"]["cursor"]
    assert refusal_of(await node.post(TURN, body, key="another")) == (422, "invalid_request")


async def test_only_images_that_may_be_read_are_taken(house: House) -> None:
    node = house.node
    session_id = await node.session()
    (node.folder / "private.png").write_bytes(png())
    link = node.work / "link.png"
    link.symlink_to(node.folder / "private.png")
    for path, wanted in (
        (node.folder / "private.png", (403, "policy_ceiling")),
        (link, (403, "policy_ceiling")),
        (node.codex_home / "config.toml", (403, "policy_ceiling")),
        (node.work / "missing.png", (422, "invalid_request")),
        (node.work, (422, "invalid_request")),
        (Path("red.png"), (422, "invalid_request")),
    ):
        parts = [{"type": "localImage", "path": str(path)}]
        assert await refused(node, session_id, None, input=parts) == wanted, path
    url = [{"type": "image", "url": "https://example.org/x.png"}]
    assert await refused(node, session_id, None, input=url) == (422, "invalid_request")


# --- settings for one turn


async def test_a_model_and_an_effort_hold_for_their_turn_alone(house: House) -> None:
    node, bodies = house.node, house.bodies
    session_id = await node.session()
    turn = await play(house, session_id, "with another", model="another", effort="high")
    assert (turn["model"], turn["effort"]) == ("another", "high")
    await play(house, session_id, "as before")
    other, usual = bodies.about("with another"), bodies.about("as before")
    assert (other["model"], (other.get("reasoning") or {}).get("effort")) == ("another", "high")
    assert (usual["model"], (usual.get("reasoning") or {}).get("effort")) == ("scripted", None)


async def test_a_sessions_model_is_what_its_turns_have(house: House) -> None:
    node, bodies = house.node, house.bodies
    session_id = await node.session(model="own")
    await play(house, session_id, "own first")
    await play(house, session_id, "own other", model="another")
    await play(house, session_id, "own again")
    assert [bodies.about(f"own {which}")["model"] for which in ("first", "other", "again")] == ["own", "another", "own"]


@pytest.mark.skipif(not sandbox_works(), reason="Codex's sandbox needs user namespaces")
async def test_a_sandbox_holds_for_its_turn_alone(house: House) -> None:
    node = house.node
    outside = Path("/var/tmp") / f"baa-test-{uuid4()}"  # the sandbox allows the usual folder for such files
    (node.work / "outside").write_text(str(outside))
    try:
        session_id = await node.session(sandbox="workspace-write")
        for sandbox, reaches in ((None, False), ("danger-full-access", True), (None, False), ("read-only", False)):
            outside.unlink(missing_ok=True)
            turn = await play(house, session_id, "reach out", **({} if sandbox is None else {"sandbox": sandbox}))
            assert (turn["status"], turn["sandbox"], outside.exists()) == ("completed", sandbox, reaches)
        assert (await node.session_of(session_id))["sandbox"] == "workspace-write"
    finally:
        outside.unlink(missing_ok=True)


async def test_an_approval_policy_holds_for_its_turn_alone(house: House) -> None:
    """`untrusted` asks before a command that `never` just runs."""
    node = house.node
    (node.work / "outside").write_text("asked.txt")
    session_id = await node.session(approvalPolicy="never")
    async with Oracle(node, after=await node.head()) as oracle:
        turn_id = await turn_of(node, session_id, "reach out", approvalPolicy="untrusted")
        asked = (await oracle.saw("interaction.requested", turn_id))["payload"]
        answer = await node.post(f"{TURN}/{turn_id}/interactions/{asked['interactionId']}", {"decision": "decline"})
        assert answer.status_code == 200, answer.text
        assert (await oracle.end_of(turn_id))["type"] == "turn.completed"
        assert not (node.work / "asked.txt").exists()
        turn = await play(house, session_id, "reach out")
        assert (turn["status"], turn["interactions"], turn["approvalPolicy"]) == ("completed", [], None)
        assert (node.work / "asked.txt").exists()


async def test_a_turn_asks_for_no_more_than_the_ceiling(tmp_path: Path) -> None:
    async with Node(tmp_path, "http://127.0.0.1:1", ceiling="workspace-write", server_command="no-codex") as node:
        await node.start()
        session_id = await node.session(sandbox="read-only")
        assert await refused(node, session_id, "x", sandbox="danger-full-access") == (403, "policy_ceiling")
        assert await refused(node, session_id, "x", sandbox="workspace-write") == (503, "child_unavailable")


async def test_a_ceiling_that_was_lowered_holds_for_the_sessions_of_before(tmp_path: Path) -> None:
    async with Node(tmp_path, "http://127.0.0.1:1", server_command="no-codex") as node:
        await node.start()
        session_id = await node.session(sandbox="danger-full-access")
        assert await refused(node, session_id, "x") == (503, "child_unavailable")
        assert await node.stop() == 0
        node.lower_ceiling("workspace-write")
        await node.start()
        assert await refused(node, session_id, "x") == (403, "policy_ceiling")
        fork = await node.post(f"/v1/codexd/sessions/{session_id}/fork", {})
        assert refusal_of(fork) == (403, "policy_ceiling")
        assert await refused(node, session_id, "x", sandbox="read-only") == (503, "child_unavailable")
        assert (await node.session_of(session_id))["sandbox"] == "danger-full-access"


@pytest.mark.parametrize(
    "more",
    [
        {"prompt": "x", "input": [{"type": "text", "text": "y"}]},
        {"input": []},
        {"prompt": None},
        {"prompt": "x", "cwd": "/"},
        {"prompt": "x", "config": {}},
        {"prompt": "x", "approvalPolicy": "sometimes"},
        {"prompt": "x", "metadata": {"n": 1}},
    ],
)
async def test_a_turn_that_cannot_be_is_refused(house: House, more: Json) -> None:
    session_id = await house.node.session()
    answer = await house.node.post(TURN, {"sessionId": session_id, **more})
    assert refusal_of(answer) == (422, "invalid_request")


# --- how much


async def test_a_prompt_of_a_mebicharacter_reaches_the_model(house: House) -> None:
    node = house.node
    session_id = await node.session()
    prompt = "long " + "ö" * (CHARACTERS - 5)
    assert len(prompt) == CHARACTERS
    turn = await play(house, session_id, prompt)
    assert (turn["status"], turn["prompt"] == prompt) == ("completed", True)
    assert prompt in words(house.bodies.about("long ö"))
    assert await refused(node, session_id, prompt + "x") == (422, "invalid_request")
    halves = [
        {"type": "text", "text": prompt[: CHARACTERS // 2]},
        {"type": "text", "text": prompt[CHARACTERS // 2 :] + "x"},
    ]
    assert await refused(node, session_id, None, input=halves) == (422, "invalid_request")
    assert await refused(node, session_id, "x" * (8 << 20)) == (413, "too_large")


# --- Idempotency-Key


async def test_a_key_outlives_codexd(tmp_path: Path) -> None:
    async with ScriptedModel(SCENARIOS) as model, Node(tmp_path, model.base_url) as node:
        await node.start()
        session_id = await node.session()
        body = {"sessionId": session_id, "prompt": "hold key"}
        told = await ask(node, session_id, "hold key", key="one")
        await within(model.held("key"))
        steer = {"sessionId": session_id, "prompt": "more", "onBusy": "steer"}
        steered = (await node.post(TURN, steer, key="two")).json()["data"]
        await node.kill()
        await node.start()
        async with asyncio.TaskGroup() as group:
            posts = [group.create_task(node.post(TURN, body, key="one"), name=f"post {n}") for n in range(50)]
        answers = [post.result() for post in posts]
        assert {answer.status_code for answer in answers} == {202}
        found = {(answer.json()["data"]["turn"]["turnId"], answer.json()["data"]["cursor"]) for answer in answers}
        assert found == {(told["turn"]["turnId"], told["cursor"])}
        again = (await node.post(TURN, steer, key="two")).json()["data"]
        assert (again["steered"], again["turn"]["turnId"], again["cursor"]) == (
            True,
            told["turn"]["turnId"],
            steered["cursor"],
        )
        assert refusal_of(await node.post(TURN, body | {"prompt": "x"}, key="one")) == (422, "idempotency_mismatch")
        model.release("key")
        await node.end_of_turn(told["turn"]["turnId"])
        events = types(await node.events())
        assert (events.count("turn.queued"), events.count("turn.steered")) == (1, 1)


async def test_a_key_that_was_refused_may_be_used_again(house: House) -> None:
    node = house.node
    key = f"key-{uuid4()}"
    session_id = await node.session()
    body = {"sessionId": "ses_00000000000000000000000000", "prompt": "x"}
    assert refusal_of(await node.post(TURN, body, key=key)) == (404, "session_not_found")
    answer = await node.post(TURN, {"sessionId": session_id, "prompt": "x"}, key=key)
    assert answer.status_code == 202
    await node.end_of_turn(answer.json()["data"]["turn"]["turnId"])
    for bad in ("", "x" * 256):
        assert refusal_of(await node.post(TURN, body, key=bad)) == (422, "invalid_request")
