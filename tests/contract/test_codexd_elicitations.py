"""What MCP servers and clients' own tools ask through Codex, also while no turn runs."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from baa.scripted import Call, Say, Scenario, ScriptedModel, codex_config, when
from tests.support import mcp_server
from tests.support.appserver_stdio import AppServer
from tests.support.node import Json, Node, until, within
from tests.support.oracle import flaws_of
from tests.support.questions import House, accepted, answer, endings, play, question

pytestmark = pytest.mark.timeout(180)

SERVER = f'[mcp_servers.house]\ncommand = "{sys.executable}"\nargs = ["-I", "{mcp_server.__file__}"]\n'
SPACE = "mcp__house"
LOOKUP = {
    "type": "function",
    "name": "lookup",
    "description": "Looks something up.",
    "inputSchema": {"type": "object", "properties": {"q": {"type": "string"}}},
}
SCENARIOS = (
    *(when(f"ask-{n}", Call("ask", {"q": "1"}, SPACE), Say("Asked.")) for n in range(4)),
    *(when(name, Call("danger", {"q": "1"}, SPACE), Say("Tried.")) for name in ("accept", "decline", "cancel")),
    when("begin", Say("Begun.")),
    *(when(f"look-{n}", Call("lookup", {"q": "x"}), Say("Looked.")) for n in range(4)),
)


def late(pipe: Path) -> Scenario:
    return when("late", Call("late", {"q": str(pipe)}, SPACE), Say("Not yet."))


@pytest.fixture(scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    folder = tmp_path_factory.mktemp("asks")
    os.mkfifo(folder / "late.pipe")
    scenarios = (*SCENARIOS, late(folder / "late.pipe"))
    async with ScriptedModel(scenarios) as model, Node(folder, model.base_url, codex=SERVER) as node:
        await node.start()
        yield House(node, model)


@pytest.mark.parametrize(
    ("prompt", "decision", "content", "told"),
    [
        ("ask-0", "accept", {"name": "Bob", "age": 3}, '{"action": "accept", "content": {"age": 3, "name": "Bob"}}'),
        ("ask-1", "decline", None, '{"action": "decline"'),
        ("ask-2", "cancel", None, '{"action": "cancel"'),
    ],
)
async def test_what_a_server_asks_is_answered(
    house: House, prompt: str, decision: str, content: object, told: str
) -> None:
    node, _ = house
    session_id = await node.session(approvalPolicy="on-request")
    more = {} if content is None else {"content": content}
    asked, turn = await play(node, session_id, prompt, decision, **more)
    assert (asked["kind"], asked["decisions"]) == ("elicitation", ["accept", "decline", "cancel"])
    assert (asked["request"]["serverName"], asked["request"]["message"]) == ("house", "Who are you?")
    assert set(asked["request"]["requestedSchema"]["properties"]) == {"name", "age"}
    assert (turn["status"], turn["finalMessage"]) == ("completed", "Asked.")
    assert f"elicited {told}" in house.reports(prompt)
    assert turn["interactions"][0]["answer"]["content"] == content
    assert await endings(node, session_id) == [("interaction.resolved", "client")]
    assert flaws_of(await node.events(sessionId=session_id)) == []


async def test_where_no_approval_is_asked_for_a_server_is_not_heard_either(house: House) -> None:
    node, _ = house
    session_id = await node.session(approvalPolicy="never")
    turn = await node.play(session_id, "ask-3")
    assert (turn["status"], turn["interactions"]) == ("completed", [])
    assert '"action": "decline"' in house.reports("ask-3")


@pytest.mark.parametrize(
    ("decision", "status", "told"),
    [
        ("accept", "completed", "did danger"),
        ("decline", "failed", "user rejected MCP tool call"),
        ("cancel", "failed", "user cancelled MCP tool call"),
    ],
)
async def test_a_servers_tool_is_called_only_if_it_may(house: House, decision: str, status: str, told: str) -> None:
    node, _ = house
    session_id = await node.session(approvalPolicy="untrusted")
    asked, turn = await play(node, session_id, decision, decision)
    assert (asked["kind"], asked["request"]["_meta"]["codex_approval_kind"]) == ("elicitation", "mcp_tool_call")
    assert asked["request"]["message"] == 'Allow the house MCP server to run tool "danger"?'
    (call,) = (item for item in turn["items"] if item["kind"] == "mcpToolCall")
    assert (turn["status"], call["item"]["status"]) == ("completed", status)
    assert told in house.reports(decision)
    assert await endings(node, session_id) == [("interaction.resolved", "client")]


async def test_a_server_may_ask_while_no_turn_runs(house: House) -> None:
    node, _ = house
    session_id = await node.session(approvalPolicy="on-request")
    turn = await node.play(session_id, "late")
    assert (turn["status"], turn["interactions"]) == ("completed", [])
    pipe = node.folder / "late.pipe"
    await within(asyncio.to_thread(pipe.write_text, "now"))
    asked = await question(node, session_id)
    assert (asked["turnId"], asked["kind"], asked["request"]["turnId"]) == (None, "elicitation", None)
    session = await node.session_of(session_id)
    assert (session["status"], session["openInteractions"]) == ("idle", 1)
    waiting = (await node.get("/v1/codexd/sessions", needs="answer")).json()["data"]["sessions"]
    assert [each["sessionId"] for each in waiting] == [session_id]

    path = f"turn/{turn['turnId']}/interactions/{asked['interactionId']}"
    elsewhere = await node.post(f"/v1/codexd/{path}", {"decision": "accept"})
    assert (elsewhere.status_code, elsewhere.json()["error"]["code"]) == (404, "interaction_not_found")
    await accepted(node, asked, "accept", content={"name": "Bob"})
    await until((node.folder / "late.answer").exists)
    assert (node.folder / "late.answer").read_text() == '{"action": "accept", "content": {"name": "Bob"}}'
    assert (await node.play(session_id, "begin"))["status"] == "completed"
    assert await endings(node, session_id) == [("interaction.resolved", "client")]
    assert (await answer(node, asked, "accept", content={"name": "Bob"})).status_code == 200
    assert (await answer(node, asked, "accept", content={"name": "Alice"})).status_code == 409


async def test_a_session_that_is_closed_declines_what_is_asked_in_it(tmp_path: Path) -> None:
    pipe = tmp_path / "late.pipe"
    os.mkfifo(pipe)
    async with ScriptedModel([late(pipe)]) as model, Node(tmp_path, model.base_url, codex=SERVER) as node:
        await node.start()
        session_id = await node.session(approvalPolicy="on-request")
        assert (await node.play(session_id, "late"))["status"] == "completed"
        await within(asyncio.to_thread(pipe.write_text, "now"))
        asked = await question(node, session_id)
        assert (await node.post(f"/v1/codexd/sessions/{session_id}/close", {})).status_code == 202
        await until((tmp_path / "late.answer").exists)
        assert '"action": "decline"' in (tmp_path / "late.answer").read_text()
        assert await endings(node, session_id) == [("interaction.resolved", "session_closed")]
        assert (await node.session_of(session_id))["openInteractions"] == 0
        assert (await answer(node, asked, "accept")).status_code == 409


async def stored_thread(node: Node, model: ScriptedModel, home: Path) -> str:
    """A thread with a tool of its client's own, which codexd gives to none: begun by another client, and stored."""
    home.mkdir()
    (home / "codex").symlink_to(node.codex_home)
    async with asyncio.timeout(60), AppServer(home, codex_config(model.base_url), experimental=True) as server:
        settings: Json = {"dynamicTools": [LOOKUP], "sandbox": "danger-full-access", "approvalPolicy": "never"}
        thread_id = await server.start_thread(node.work, **settings)
        assert (await server.play(thread_id, "begin"))["status"] == "completed"
    return thread_id


@pytest.mark.parametrize(
    ("prompt", "decision", "content", "told"),
    [
        ("look-0", "accept", "found", "found"),
        ("look-1", "accept", [{"type": "inputText", "text": "a"}, {"type": "inputText", "text": "b"}], "a"),
        ("look-2", "decline", None, ""),
    ],
)
async def test_a_clients_own_tool_is_answered_by_it(
    tmp_path: Path, prompt: str, decision: str, content: object, told: str
) -> None:
    async with ScriptedModel(SCENARIOS) as model, Node(tmp_path / "node", model.base_url) as node:
        thread_id = await stored_thread(node, model, tmp_path / "other")
        await node.start()
        await node.child()
        session_id = await node.session(threadId=thread_id)
        more = {} if content is None else {"content": content}
        asked, turn = await play(node, session_id, prompt, decision, **more)
        assert (asked["kind"], asked["decisions"]) == ("tool_call", ["accept", "decline"])
        assert (asked["request"]["tool"], asked["request"]["arguments"]) == ("lookup", {"q": "x"})
        (call,) = (item for item in turn["items"] if item["kind"] == "dynamicToolCall")
        assert call["itemId"] == asked["itemId"]
        assert call["item"]["status"] == ("completed" if decision == "accept" else "failed")
        assert turn["status"] == "completed"
        assert told in House(node, model).reports(prompt)
        assert await endings(node, session_id) == [("interaction.resolved", "client")]
