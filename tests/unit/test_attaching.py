"""The door for Codex's own terminal UI, on a main loop whose child the test writes: tickets, and what is told there."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, unix_connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from baa.api.answers import Attachment
from baa.api.errors import Rejected, Unavailable
from baa.api.sessions import Sandbox
from baa.codexd.attached import UNREAD_BYTES, Terminal
from baa.codexd.attaching import TICKET_S, TICKETS_MAX, Attaching
from baa.codexd.policy import Policy
from baa.unix import reachable
from tests.support.bench import Bench, answer, bench, of_turn

Message = dict[str, Any]
TYPED = [{"type": "text", "text": "go"}]


@dataclass
class Door:
    """A door that is open, and the codexd behind it."""

    codexd: Bench
    attaching: Attaching

    async def knock(self, ticket: Attachment) -> ClientConnection:
        headers = {"Authorization": f"Bearer {ticket.ticket}"}
        with reachable(Path(ticket.socket)) as address:
            return await unix_connect(str(address), "ws://localhost/", additional_headers=headers, compression=None)

    async def resumed(self, *unwanted: str) -> ClientConnection:
        """A terminal that has the thread and hears of it."""
        socket = await self.knock(self.attaching.issue("ses_a"))
        await ask(socket, 0, "initialize", capabilities={"optOutNotificationMethods": list(unwanted)})
        greeting = (await heard(socket))["result"]
        assert (greeting["userAgent"].split()[0], greeting["codexHome"]) == ("baa/1.2.3", "/codex-home")
        await ask(socket, 1, "thread/resume", threadId="thread", sandbox="danger-full-access")
        while not (looks := [line for line in self.codexd.sent() if ":look:" in str(line.get("id"))]):
            await self.codexd.loop.change(lambda _: None)
        assert (looks[-1]["method"], looks[-1]["params"]) == ("thread/resume", {"threadId": "thread"})
        await self.codexd.says(answer(looks[-1]["id"], thread={"id": "thread"}))
        assert await heard(socket) == {"id": 1, "result": {"thread": {"id": "thread"}}}
        return socket


@asynccontextmanager
async def opened(codexd: Bench, path: Path, ceiling: Sandbox = Sandbox.WORKSPACE_WRITE) -> AsyncIterator[Door]:
    attaching = Attaching(
        codexd.loop,
        codexd.commands,
        Policy(ceiling, (Path("/"),), ()),
        clock=codexd.clock,
        path=path,
        codex_home=Path("/codex-home"),
    )
    async with attaching.serving():
        yield Door(codexd, attaching)
    assert not path.exists()


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    async with bench(tmp_path) as made:
        await made.start()
        await made.run_turn()
        path = tmp_path.joinpath(*["deeper than an address"] * 5) / "attach.sock"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"what a dead codexd left")
        async with opened(made, path) as house:
            yield house


async def ask(socket: ClientConnection, number: int, method: str, **params: object) -> None:
    await socket.send(json.dumps({"id": number, "method": method, "params": params}))


async def heard(socket: ClientConnection) -> Message:
    told: Message = json.loads(await socket.recv())
    return told


async def test_a_ticket_is_good_for_ten_seconds(door: Door) -> None:
    late, soon = door.attaching.issue("ses_a"), door.attaching.issue("ses_a")
    door.codexd.clock.ahead_s += TICKET_S - 1
    await (await door.knock(soon)).close()
    door.codexd.clock.ahead_s += 1
    with pytest.raises(InvalidStatus, match="401"):
        await door.knock(late)


async def test_there_are_only_so_many_tickets_at_a_time(door: Door) -> None:
    for _ in range(TICKETS_MAX):
        door.attaching.issue("ses_a")
    with pytest.raises(Unavailable, match="Too many terminals"):
        door.attaching.issue("ses_a")
    door.codexd.clock.ahead_s += TICKET_S
    door.attaching.issue("ses_a")


async def test_a_terminal_hears_of_its_thread_and_the_account_and_of_nothing_else(door: Door) -> None:
    socket = await door.resumed("thread/status/changed")
    await door.codexd.says(
        {
            "method": "item/started",
            "params": {"threadId": "another", "turnId": "x", "item": {"id": "i", "type": "plan"}},
        },
        {"method": "configWarning", "params": {"summary": "not its business"}},
        {"method": "thread/status/changed", "params": {"threadId": "thread", "status": {"type": "idle"}}},
        {"method": "account/rateLimits/updated", "params": {"rateLimits": {}}},
        of_turn("item/agentMessage/delta", itemId="item", delta="word"),
    )
    assert [(await heard(socket))["method"] for _ in range(2)] == [
        "account/rateLimits/updated",
        "item/agentMessage/delta",
    ]
    await socket.close()


async def test_a_terminal_that_has_resumed_nothing_hears_nothing(door: Door) -> None:
    socket = await door.knock(door.attaching.issue("ses_a"))
    await door.codexd.says(of_turn("item/agentMessage/delta", itemId="item", delta="word"))
    await socket.send(b"\xff not a message")
    await ask(socket, 1, "thread/loaded/list")
    assert await heard(socket) == {"id": 1, "result": {"data": ["thread"], "nextCursor": None}}
    await socket.close()


async def test_a_question_is_told_once_and_its_end_too_also_when_codex_asks_again(door: Door) -> None:
    socket = await door.resumed()
    asked = {
        "id": 7,
        "method": "item/commandExecution/requestApproval",
        "params": {"threadId": "thread", "turnId": "codex", "itemId": "c", "command": "ls"},
    }
    await door.codexd.says(asked, asked)
    told = await heard(socket)
    assert (told["method"], told["params"]["command"]) == (asked["method"], "ls")
    assert told["id"].startswith("int_")
    await door.codexd.says({"method": "serverRequest/resolved", "params": {"threadId": "thread", "requestId": 7}})
    over = await heard(socket)
    assert over == {"method": "serverRequest/resolved", "params": {"threadId": "thread", "requestId": told["id"]}}
    await socket.close()


async def test_codexs_answer_to_a_typed_turn_is_answered_where_it_was_typed(door: Door) -> None:
    socket = await door.resumed()
    await door.codexd.says(of_turn("turn/completed", turn={"id": "codex", "status": "completed"}))
    assert (await heard(socket))["method"] == "turn/completed"
    await ask(socket, 2, "turn/start", threadId="thread", input=TYPED, cwd="/home/user")
    while len(starts := [line for line in door.codexd.sent() if line.get("method") == "turn/start"]) < 2:
        await door.codexd.loop.change(lambda _: None)
    await door.codexd.says({"id": starts[-1]["id"], "error": {"code": -1, "message": "no"}})
    assert await heard(socket) == {"id": 2, "error": {"code": -1, "message": "no"}}
    await socket.close()


async def test_a_turn_that_ends_before_codex_had_it_is_answered_with_that(door: Door) -> None:
    socket = await door.resumed()
    codexd = door.codexd
    await codexd.says(of_turn("turn/completed", turn={"id": "codex", "status": "interrupted"}))
    assert (await heard(socket))["method"] == "turn/completed"
    await ask(socket, 2, "turn/start", threadId="thread", input=TYPED)  # it waits: that turn's end is not told yet
    while len(session := codexd.loop.sessions.all["ses_a"].turns) < 2:
        await codexd.loop.change(lambda _: None)
    await codexd.commands.interrupt(session[1].turn_id)
    told = await heard(socket)
    assert (told["id"], "turn.interrupted" in told["error"]["message"]) == (2, True)
    await socket.close()


async def compacting(door: Door) -> tuple[ClientConnection, Message]:
    """A terminal that asked for a shorter history, and the line of it that the child was given."""
    socket = await door.resumed()
    await door.codexd.says(of_turn("turn/completed", turn={"id": "codex", "status": "completed"}))
    assert (await heard(socket))["method"] == "turn/completed"
    await ask(socket, 2, "thread/compact/start", threadId="thread")
    while not (lines := [line for line in door.codexd.sent() if line.get("method") == "thread/compact/start"]):
        await door.codexd.loop.change(lambda _: None)
    return socket, lines[0]


async def test_a_shorter_history_is_a_turn_that_takes_no_input(door: Door) -> None:
    socket, line = await compacting(door)
    assert (line["id"].split(":")[1], line["params"]) == ("start", {"threadId": "thread"})
    await door.codexd.says({"id": line["id"], "result": {}})
    assert await heard(socket) == {"id": 2, "result": {}}
    await door.codexd.says({"method": "turn/started", "params": {"threadId": "thread", "turn": {"id": "short"}}})
    assert (await heard(socket))["method"] == "turn/started"
    await ask(socket, 3, "turn/steer", threadId="thread", expectedTurnId="short", input=TYPED)
    assert (await heard(socket))["error"]["message"] == "cannot steer a compact turn"
    await ask(socket, 4, "turn/start", threadId="thread", input=TYPED)  # a turn of its own, after it
    while len(turns := door.codexd.loop.sessions.all["ses_a"].turns) < 2:
        await door.codexd.loop.change(lambda _: None)
    assert (turns[0].request.compact, turns[1].request.prompt) == (True, "go")
    with pytest.raises(Rejected, match="takes no input"):
        await door.codexd.commands.steer(turns[0].turn_id, turns[1].request.parts)
    await ask(socket, 5, "thread/compact/start", threadId="thread")
    assert (await heard(socket))["id"] == 5
    assert "has not ended" in (await heard(socket))["params"]["message"], "a warning: a turn runs already"
    await socket.close()


async def test_a_name_that_codex_refuses_is_a_warning(door: Door) -> None:
    socket = await door.resumed()
    await ask(socket, 2, "thread/name/set", threadId="thread", name="Tabs")
    while not (lines := [line for line in door.codexd.sent() if line.get("method") == "thread/name/set"]):
        await door.codexd.loop.change(lambda _: None)
    assert lines[0]["params"] == {"threadId": "thread", "name": "Tabs"}
    await door.codexd.says({"id": lines[0]["id"], "error": {"code": -1, "message": "too odd"}})
    assert await heard(socket) == {"id": 2, "result": {}}
    assert "too odd" in (await heard(socket))["params"]["message"]
    await ask(socket, 3, "thread/name/set", threadId="another", name="Tabs")
    assert await heard(socket) == {"id": 3, "result": {}}
    assert "attached to one session" in (await heard(socket))["params"]["message"]
    await socket.close()


async def test_a_shorter_history_that_codex_refuses_is_told_as_a_turn_that_fails(door: Door) -> None:
    socket, line = await compacting(door)
    await door.codexd.says({"id": line["id"], "error": {"code": -1, "message": "too short"}})
    assert "error" not in await heard(socket), "the UI would end"
    assert (await heard(socket))["method"] == "turn/started"
    assert "too short" in (await heard(socket))["params"]["turn"]["error"]["message"]
    assert door.codexd.types()[-1] == "turn.failed"
    await socket.close()


async def test_a_ceiling_that_was_lowered_holds_for_what_is_typed_in_a_session_of_before(
    door: Door, tmp_path: Path
) -> None:
    async with opened(door.codexd, tmp_path / "low.sock", Sandbox.READ_ONLY) as low:
        socket = await low.knock(low.attaching.issue("ses_a"))
        await ask(socket, 1, "turn/start", threadId="thread", input=TYPED)
        assert "read-only" in (await heard(socket))["error"]["message"]
        await socket.close()


async def test_the_childs_death_lets_it_go(door: Door) -> None:
    socket = await door.resumed()
    codexd = door.codexd
    await codexd.loop.change(lambda transaction: codexd.loop.died(codexd.generation, None, False, transaction))
    with pytest.raises(ConnectionClosed) as gone:
        await socket.recv()
    assert gone.value.rcvd is not None
    assert gone.value.rcvd.code == 1013


def test_one_that_stops_reading_is_let_go_before_it_takes_the_memory() -> None:
    terminal = Terminal("att_a", "ses_a")
    for _ in range(UNREAD_BYTES // (1 << 20)):
        terminal.tell(bytes(1 << 20))
    assert not terminal.lost.is_set()
    terminal.tell(b"x")
    assert terminal.lost.is_set()
    assert sum(map(len, terminal.waiting)) == UNREAD_BYTES
