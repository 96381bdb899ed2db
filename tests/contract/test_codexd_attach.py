"""The door for Codex's own terminal UI, on the real Codex: who is let in, and what may be asked there."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus

from baa.scripted import Hold, Run, Say, ScriptedModel, when
from tests.support.node import Json, Node, until, within
from tests.support.questions import House, answer, question, told
from tests.support.terminal import Terminal, knock, ticket_of

pytestmark = pytest.mark.timeout(180)

COMPACTION = "CONTEXT CHECKPOINT COMPACTION"
"""Words of the prompt with which Codex asks its model for a summary."""
SCENARIOS = (
    when("hello", Say("Hello.")),
    when("held", (Say("Begins."), Hold("held"), Say(" Ends."))),
    when("half", (Say("Half "), Hold("half"), Say("done."))),
    when("flowing", Say.numbered(1000, pace_ms=1)),
    when("growing", (Say("Begins."), Say(" Goes"), Say(" on."), Hold("growing"), Say(" Ends."))),
    when("more", Say("More it is.")),
    when(COMPACTION, (Say("We said "), Hold("summary"), Say("hello."))),
    *(
        when(name, Run(f"touch {name}.txt", sandbox_permissions="require_escalated"), Say("Tried."))
        for name in ("yes", "no", "elsewhere", "late", "amended")
    ),
)
WAIVED = ("thread/shellCommand", "review/start")
FORBIDDEN = (
    "command/exec",
    "fs/readFile",
    "fs/writeFile",
    "config/value/write",
    "config/batchWrite",
    "thread/queue/add",
    "account/login/start",
    "account/logout",
    "thread/start",
    "thread/fork",
    "thread/delete",
    "thread/archive",
    "mcpServer/tool/call",
    "process/spawn",
)


@pytest.fixture(scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    folder = tmp_path_factory.mktemp("attach")
    async with (
        ScriptedModel(SCENARIOS) as model,
        Node(folder, model.base_url, ceiling="workspace-write") as node,
    ):
        await node.start()
        yield House(node, model)


async def session_of(node: Node, **asked: object) -> str:
    """A session with a turn that has ended."""
    session_id = await node.session(sandbox="workspace-write", approvalPolicy="on-request", **asked)
    await node.play(session_id, "hello")
    return session_id


async def turns_of(node: Node, session_id: str) -> list[Json]:
    turns: list[Json] = (await node.get(f"/v1/codexd/sessions/{session_id}/turns")).json()["data"]["turns"]
    return turns


async def last_turn(node: Node, session_id: str) -> Json:
    return (await turns_of(node, session_id))[0]


# --- who is let in


async def test_a_ticket_opens_the_private_socket_once(house: House) -> None:
    node, _ = house
    ticket = await ticket_of(node, await session_of(node))
    assert stat.S_IMODE(Path(ticket["socket"]).stat().st_mode) == 0o600
    async with Terminal(ticket) as terminal:
        turns = await terminal.asks("thread/turns/list", threadId=terminal.thread_id)
        assert [turn["status"] for turn in turns["data"]] == ["completed"]
        with pytest.raises(InvalidStatus, match="401"):
            await knock(ticket)


async def test_without_a_good_ticket_nobody_is_let_in(house: House) -> None:
    node, _ = house
    ticket = await ticket_of(node, await session_of(node))
    for shown in ("", "x" * 43, node.token()):
        with pytest.raises(InvalidStatus, match="401"):
            await knock(ticket | {"ticket": shown})
    with pytest.raises(InvalidStatus, match="401"):
        await knock(ticket, Origin="http://evil.example")
    with pytest.raises(InvalidStatus, match="401"):  # also used up by a web page
        await knock(ticket)


async def test_only_who_may_drive_gets_a_ticket_and_only_for_a_stored_thread(house: House) -> None:
    node, _ = house
    session_id = await session_of(node)
    path = f"/v1/codexd/sessions/{session_id}/attach"
    reader = {"authorization": f"Bearer {node.token('read')}", "content_type": "application/json"}
    assert (await node.ask("POST", path, **reader)).json()["error"]["code"] == "read_only_token"
    fresh = await node.session(sandbox="workspace-write")
    refused = await node.post(f"/v1/codexd/sessions/{fresh}/attach", {})
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "thread_not_found")
    assert (await node.post(f"/v1/codexd/sessions/{session_id}/close", {})).status_code == 202
    refused = await node.post(path, {})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "session_closed")


# --- what may be asked


async def test_what_the_ui_does_not_need_it_does_not_get(house: House) -> None:
    node, _ = house
    session_id = await session_of(node)
    async with Terminal(await ticket_of(node, session_id)) as terminal:
        for method in FORBIDDEN:
            told = await terminal.refused(method, threadId=terminal.thread_id, command="touch forbidden.txt")
            assert told.startswith(f"{method} is not available in a session of codexd's (baa attach).")
        for number, method in enumerate(WAIVED, 1):  # of an error the UI would end
            await terminal.asks(method, threadId=terminal.thread_id, command="touch forbidden.txt")
            ended = (await terminal.told("turn/completed", number))["params"]["turn"]
            assert (ended["status"], method in ended["error"]["message"]) == ("failed", True)
        assert (await terminal.asks("config/read"))["config"] == {}
        assert [turn["prompt"] for turn in await turns_of(node, session_id)] == ["hello"]
        assert not (node.work / "forbidden.txt").exists()
        assert (await terminal.asks("thread/backgroundTerminals/clean", threadId=terminal.thread_id)) == {}
        assert (await terminal.asks("thread/list"))["data"] == []
        assert (await terminal.asks("thread/loaded/list"))["data"] == [terminal.thread_id]
        assert (await terminal.asks("account/read"))["account"] is None
        await terminal.types("hello")  # it goes on


async def test_it_reaches_its_own_session_and_no_other(house: House) -> None:
    node, _ = house
    mine, other = await session_of(node), await session_of(node)
    foreign = (await node.session_of(other))["threadId"]
    typed = [{"type": "text", "text": "hello"}]
    async with Terminal(await ticket_of(node, mine)) as terminal:
        for method, more in (
            ("thread/read", {}),
            ("thread/resume", {}),
            ("thread/items/list", {}),
            ("turn/start", {"input": typed}),
            ("turn/steer", {"input": typed, "expectedTurnId": "x"}),
            ("turn/interrupt", {"turnId": "x"}),
        ):
            assert "attached to one session" in await terminal.refused(method, threadId=foreign, **more)
        await node.play(other, "hello")
        await terminal.types("hello")
        await terminal.told("turn/completed")
        assert {note["params"].get("threadId", terminal.thread_id) for note in terminal.notes} == {terminal.thread_id}


async def test_what_is_typed_is_under_the_ceiling(house: House) -> None:
    node, _ = house
    session_id = await session_of(node)
    before = (await last_turn(node, session_id))["turnId"]
    beyond: tuple[Json, ...] = (
        {"sandboxPolicy": {"type": "dangerFullAccess"}},
        {"sandboxPolicy": {"type": "workspaceWrite", "networkAccess": True}},
        {"sandboxPolicy": {"type": "workspaceWrite", "writableRoots": ["/etc"]}},
        {"sandboxPolicy": {"type": "externalSandbox"}},
        {"permissions": ":danger-full-access"},
        {"cwd": "/"},
        {"runtimeWorkspaceRoots": [str(node.work), "/etc"]},
        {"approvalPolicy": {"granular": {}}},
        {"approvalsReviewer": "auto_review"},
        {"collaborationMode": {"mode": "plan", "settings": {}}},
        {"input": [{"type": "localImage", "path": "/etc/passwd"}]},
        {"input": [{"type": "skill", "name": "x", "path": "/etc/passwd"}]},
        {"input": "hello"},
    )
    async with Terminal(await ticket_of(node, session_id)) as terminal:
        for more in beyond:
            given = {"threadId": terminal.thread_id, "input": [{"type": "text", "text": "hello"}], **more}
            await terminal.refused("turn/start", **given)
        assert (await last_turn(node, session_id))["turnId"] == before
        await terminal.types("hello", sandboxPolicy={"type": "readOnly"}, approvalPolicy="never", cwd=str(node.work))
        turn = await last_turn(node, session_id)
    assert (turn["sandbox"], turn["approvalPolicy"], turn["origin"]) == ("read-only", "never", "attached")


# --- a turn like any other


async def test_a_typed_turn_is_in_the_ledger_and_streams_to_where_it_was_typed(house: House) -> None:
    node, model = house
    session_id = await session_of(node)
    async with Terminal(await ticket_of(node, session_id)) as terminal:
        begun = (await terminal.types("held", clientUserMessageId="mine"))["turn"]
        assert begun["status"] == "inProgress"
        assert (await terminal.told("turn/started"))["params"]["turn"]["id"] == begun["id"]
        assert (await terminal.told("item/started"))["params"]["item"]["clientId"] == "mine"
        assert (await terminal.told("item/agentMessage/delta"))["params"]["delta"] == "Begins."
        turn = await last_turn(node, session_id)
        assert (turn["origin"], turn["prompt"], turn["status"]) == ("attached", "held", "in_progress")
        # While it runs, what is typed is more input for it; the other way Codex itself would merge it unseen.
        steered = (await terminal.types("more"))["turn"]
        assert steered["id"] == begun["id"]
        assert (await told(node, session_id, "turn.steered"))["turnId"] == turn["turnId"]
        model.release("held")
        assert (await terminal.told("turn/completed"))["params"]["turn"]["id"] == begun["id"]
        assert "no active turn" in await terminal.refused(
            "turn/steer",
            threadId=terminal.thread_id,
            input=[{"type": "text", "text": "late"}],
            expectedTurnId=begun["id"],
        )
    assert (await node.end_of_turn(turn["turnId"]))["status"] == "completed"


async def test_a_shorter_history_is_a_turn_in_the_ledger_which_takes_no_input(house: House) -> None:
    node, model = house
    session_id = await session_of(node)
    async with Terminal(await ticket_of(node, session_id)) as terminal:
        await terminal.types("half")
        await terminal.asks("thread/compact/start", threadId=terminal.thread_id)
        await terminal.asks("thread/loaded/list")  # whatever was said before this is here
        assert any("has not ended" in note["params"].get("message", "") for note in terminal.notes)
        model.release("half")
        await terminal.told("turn/completed")
        assert (await last_turn(node, session_id))["status"] == "completed", "Codex would have interrupted it"

        assert await terminal.asks("thread/compact/start", threadId=terminal.thread_id) == {}
        await model.held("summary")
        begun = (await terminal.told("turn/started", 2))["params"]["turn"]
        compact = await node.running_turn((await last_turn(node, session_id))["turnId"])
        assert (compact["origin"], compact["prompt"], compact["status"]) == ("attached", "/compact", "in_progress")
        told = await terminal.refused(
            "turn/steer",
            threadId=terminal.thread_id,
            input=[{"type": "text", "text": "more"}],
            expectedTurnId=begun["id"],
        )
        assert told == "cannot steer a compact turn"
        steer = {"sessionId": session_id, "prompt": "more", "onBusy": "steer"}
        refused = await node.post("/v1/codexd/turn", steer)
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "turn_not_running")
        queued = await node.post("/v1/codexd/turn", steer | {"onBusy": "enqueue"})
        assert queued.json()["data"]["turn"]["status"] == "queued"
    await node.kill()
    await node.start()
    model.release("summary")
    compact = await node.end_of_turn(compact["turnId"])
    assert compact["status"] == "completed"
    assert [(item["kind"], item["status"]) for item in compact["items"]] == [("contextCompaction", "completed")]
    after = await node.end_of_turn(queued.json()["data"]["turn"]["turnId"])
    assert (after["status"], after["finalMessage"]) == ("completed", "More it is.")


async def test_a_name_is_the_threads_and_the_log_has_it(house: House) -> None:
    node, _ = house
    session_id = await session_of(node)
    async with Terminal(await ticket_of(node, session_id)) as one, Terminal(await ticket_of(node, session_id)) as two:
        assert await one.asks("thread/name/set", threadId=one.thread_id, name="Tabs") == {}
        assert (await two.told("thread/name/updated"))["params"]["threadName"] == "Tabs"
        assert (await two.asks("thread/read", threadId=two.thread_id))["thread"]["name"] == "Tabs"
    notes = [event["payload"] for event in await node.events(sessionId=session_id, types="codex.notification")]
    assert [note["params"]["threadName"] for note in notes if note["method"] == "thread/name/updated"] == ["Tabs"]


async def test_the_thread_is_opened_for_whoever_looks_and_stays(house: House, tmp_path: Path) -> None:
    _, model = house
    async with Node(tmp_path, model.base_url, idle_ms="1") as node:
        await node.start()
        session_id = await node.session()
        await node.play(session_id, "hello")
        await until(lambda: b"unsubscribed" in node.spool)
        assert (await node.session_of(session_id))["status"] == "not_loaded"
        async with Terminal(await ticket_of(node, session_id)) as terminal:
            resumed = await terminal.asks("thread/resume", threadId=terminal.thread_id, sandbox="read-only")
            assert resumed["sandbox"]["type"] == "dangerFullAccess"  # as its session has it, not as it was asked for
            assert (await node.session_of(session_id))["status"] == "idle"


# --- questions


async def test_the_first_answer_counts_wherever_it_is_given(house: House) -> None:
    node, _ = house
    session_id = await session_of(node)
    async with Terminal(await ticket_of(node, session_id)) as one, Terminal(await ticket_of(node, session_id)) as two:
        await one.types("yes")
        asked = await question(node, session_id)
        for terminal in (one, two):
            request = await terminal.told("item/commandExecution/requestApproval")
            assert (request["id"], request["params"]["threadId"]) == (asked["interactionId"], terminal.thread_id)
        await two.say({"id": asked["interactionId"], "result": {"decision": "accept"}})
        for terminal in (one, two):
            over = await terminal.told("serverRequest/resolved")
            assert over["params"] == {"threadId": terminal.thread_id, "requestId": asked["interactionId"]}
        assert (await answer(node, asked, "decline")).json()["error"]["code"] == "interaction_resolved"
        await one.told("turn/completed")
        assert (node.work / "yes.txt").exists()

        await one.types("elsewhere")
        asked = await question(node, session_id, 2)
        await one.told("item/commandExecution/requestApproval", 2)
        assert (await answer(node, asked, "accept")).status_code == 200
        assert (await one.told("serverRequest/resolved", 2))["params"]["requestId"] == asked["interactionId"]
        await one.say({"id": asked["interactionId"], "result": {"decision": "cancel"}})  # too late
        await one.told("turn/completed", 2)
        assert (node.work / "elsewhere.txt").exists()


@pytest.mark.parametrize(
    "said", [{"result": {"decision": "decline"}}, {"error": {"code": 1, "message": "no"}}, {"result": 7},
             {"result": {"decision": "whatever"}}]
)  # fmt: skip
async def test_what_is_no_yes_lets_nothing_happen(house: House, said: Json) -> None:
    node, _ = house
    session_id = await session_of(node)
    async with Terminal(await ticket_of(node, session_id)) as terminal:
        await terminal.types("no")
        request = await terminal.told("item/commandExecution/requestApproval")
        await terminal.say({"id": request["id"], **said})
        await terminal.told("turn/completed")
    resolved = await told(node, session_id, "interaction.resolved")
    assert resolved["payload"]["answer"]["decision"] == "decline"
    assert not (node.work / "no.txt").exists()


async def test_who_comes_later_is_asked_what_is_open(house: House) -> None:
    node, _ = house
    session_id = await session_of(node)
    turn_id = await node.turn(session_id, "late")
    asked = await question(node, session_id)
    async with Terminal(await ticket_of(node, session_id)) as terminal:
        request = await terminal.told("item/commandExecution/requestApproval")
        assert request["id"] == asked["interactionId"]
        await terminal.asks("turn/interrupt", threadId=terminal.thread_id, turnId=request["params"]["turnId"])
        assert (await terminal.told("serverRequest/resolved"))["params"]["requestId"] == asked["interactionId"]
        assert (await terminal.told("turn/completed"))["params"]["turn"]["status"] == "interrupted"
    assert (await node.end_of_turn(turn_id))["status"] == "interrupted"
    events = await node.events(sessionId=session_id, types="interaction.requested")
    assert len(events) == 1  # Codex asks again whoever resumes; that is the same question


def said_to(terminal: Terminal) -> str:
    """What a terminal was told of the one message that there was, piece by piece."""
    deltas = [note["params"] for note in terminal.notes if note["method"] == "item/agentMessage/delta"]
    assert {delta["threadId"] for delta in deltas} <= {terminal.thread_id}
    assert len({(delta["turnId"], delta["itemId"]) for delta in deltas}) <= 1
    return "".join(delta["delta"] for delta in deltas)


async def test_who_comes_while_a_message_grows_is_told_all_of_it_once(house: House) -> None:
    node, model = house
    session_id = await session_of(node)
    async with Terminal(await ticket_of(node, session_id)) as looking:
        turn_id = await node.turn(session_id, "growing")
        await looking.told("item/agentMessage/delta")
        await until(lambda: said_to(looking) == "Begins. Goes on.")
        async with Terminal(await ticket_of(node, session_id)) as came:
            await came.told("item/agentMessage/delta")
            assert said_to(came) == "Begins. Goes on."
            await came.asks("thread/resume", threadId=came.thread_id, excludeTurns=True)
            model.release("growing")
            for terminal in (looking, came):
                await terminal.told("turn/completed")
                assert said_to(terminal) == "Begins. Goes on. Ends."
    assert (await node.end_of_turn(turn_id))["finalMessage"] == "Begins. Goes on. Ends."


async def test_nothing_is_told_twice_or_missed_where_a_message_flows_while_they_come(house: House) -> None:
    node, _ = house
    session_id = await session_of(node)
    turn_id = await node.turn(session_id, "flowing")
    came: list[Terminal] = []
    async with AsyncExitStack() as stack:
        while (await node.ledger(turn_id))["status"] != "completed":
            if len(came) < 8:
                came.append(await stack.enter_async_context(Terminal(await ticket_of(node, session_id))))
        whole = (await node.end_of_turn(turn_id))["finalMessage"]
        for terminal in came:
            if said_to(terminal):  # it came before the end
                await terminal.told("turn/completed")
                assert said_to(terminal) == whole


# --- ends


async def test_a_dead_child_lets_the_terminals_go_and_they_come_back(house: House) -> None:
    node, _ = house
    session_id = await session_of(node)
    async with Terminal(await ticket_of(node, session_id)) as terminal:
        answer = await node.post("/v1/codexd/status/child/restart", {"force": True})
        assert answer.status_code == 202
        await terminal.gone()
    await node.child()
    async with Terminal(await ticket_of(node, session_id)) as terminal:
        await terminal.types("hello")
        await terminal.told("turn/completed")


async def test_leaving_ends_no_turn_and_asks_for_nothing_more(house: House) -> None:
    node, model = house
    session_id = await session_of(node)
    async with Terminal(await ticket_of(node, session_id)) as terminal:
        await terminal.types("held 2")
    turn = await last_turn(node, session_id)
    model.release("held")
    ended = await within(node.end_of_turn(turn["turnId"]))
    assert (ended["status"], ended["finalMessage"]) == ("completed", "Begins. Ends.")
