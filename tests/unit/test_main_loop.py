"""The main loop on a real log and a real spool file; the child's side of the spool is written by the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from baa.api.errors import BaaError, Code, Rejected
from baa.api.sessions import OnBusy, SessionSettings, TurnRequest
from baa.api.status import ChildState
from baa.clock import SystemClock
from baa.codexd import restore
from baa.codexd.appserver.jsonrpc import LINE_MAX
from baa.codexd.appserver.spool import CHUNK
from baa.codexd.appserver.translate import DECLINED, HandshakeFailed
from baa.codexd.commands import Commands, TurnAnswer
from baa.codexd.eventlog import EventLog
from baa.codexd.machines.child import Child, ChildChange
from baa.codexd.machines.inputs import HandTurn
from baa.codexd.main_loop import INBOX_MAX, MainLoop
from tests.support.bench import WAIT_S, Bench, answer, bench, of_turn
from tests.support.script import SETTINGS, stop


@pytest.fixture
async def codexd(tmp_path: Path) -> AsyncIterator[Bench]:
    async with bench(tmp_path) as made:
        await made.start()
        yield made


async def refusal(asking: Callable[[], Any]) -> tuple[Code, dict[str, object]]:
    with pytest.raises(BaaError) as caught:
        await asking()
    return caught.value.code, dict(caught.value.details)


# --- a turn's way


async def test_a_turn_goes_its_way_and_each_line_is_sent_with_what_led_to_it(codexd: Bench) -> None:
    before = len(codexd.events())
    answered = await codexd.turn("trn_a")

    assert answered == TurnAnswer("trn_a", before)
    assert [line.get("id") for line in codexd.sent()] == [None, "child:account:2", "child:limits:3", "ses_a:open:4"]
    await codexd.says(answer("ses_a:open:4", thread={"id": "thread"}, model="big"))
    assert [line.get("id") for line in codexd.sent()] == [None, "child:account:2", "child:limits:3", "trn_a:start:5"]
    await codexd.says(answer("trn_a:start:5", turn={"id": "codex"}), of_turn("turn/started", turn={"id": "codex"}))
    await codexd.says(of_turn("item/started", item={"id": "i", "type": "plan"}))
    await codexd.says(
        of_turn("item/plan/delta", itemId="i", delta="a"), of_turn("item/plan/delta", itemId="i", delta="b")
    )
    await codexd.says(of_turn("turn/completed", turn={"id": "codex", "status": "failed"}))

    assert codexd.types(before) == [
        "turn.queued",
        "session.loaded",
        "turn.accepted",
        "turn.started",
        "item.started",
        "item.delta",
        "item.delta",
        "item.abandoned",
        "turn.failed",
    ]
    assert codexd.events()[-2].facts == {"itemId": "i", "text": "ab"}
    assert codexd.loop.running() == []
    assert [line.get("id") for line in codexd.sent()] == [None, "child:account:2", "child:limits:3"]


async def test_a_child_that_says_hello_is_ready_and_said_hello_to_once(codexd: Bench) -> None:
    assert codexd.types() == ["child.ready", "session.registered"]
    assert codexd.events()[0].facts == {"generation": 1, "codexVersion": "1.2.3"}
    assert [line["method"] for line in codexd.sent()] == ["initialized", "account/read", "account/rateLimits/read"]

    await codexd.says(answer("child:initialize:1", userAgent="baa/9.9.9"))
    assert codexd.types() == ["child.ready", "session.registered"]
    assert len(codexd.sent()) == 3


async def test_a_refused_handshake_is_told_to_the_supervisor(tmp_path: Path) -> None:
    async with bench(tmp_path) as codexd:
        heard: list[HandshakeFailed] = []
        codexd.loop.on_handshake_failed = heard.append
        codexd.spool.touch()
        codexd.loop.change_child(ChildChange.START, generation=1)
        codexd.loop.use(codexd.generation)
        await codexd.says({"id": "child:initialize:1", "error": {"code": -1, "message": "too old"}})

        assert heard == [HandshakeFailed("too old")]
        assert codexd.loop.child == Child(ChildState.STARTING, 1)


async def test_one_ring_is_enough_to_read_a_long_spool_to_its_end(codexd: Bench) -> None:
    """Were each chunk to wait for the next look, this would take its second for each of them."""
    await codexd.run_turn()
    dull = msgspec.json.encode(of_turn("thread/status/changed", text="x" * (CHUNK // 4))) + b"\n"
    end = msgspec.json.encode(of_turn("turn/completed", turn={"id": "codex", "status": "completed"})) + b"\n"
    with codexd.spool.open("ab") as spool:
        spool.write(dull * 4 * 2 * WAIT_S + end)
    head = codexd.log.head
    codexd.loop.wake()
    await codexd.log.wait_past(head)

    assert codexd.types(head) == ["item.abandoned", "turn.completed"]


async def test_a_spool_that_another_reads_is_left_to_it(codexd: Bench) -> None:
    """While a child is adopted, nobody but who adopts it reads on."""
    codexd.generation.reading = False
    before = len(codexd.events())
    with codexd.spool.open("ab") as spool:
        spool.write(b'{"method":"warning"}\n')
    for _ in range(3):
        codexd.loop.wake()
        await codexd.loop.change(lambda _: None)
    assert codexd.types(before) == []

    await codexd.loop.change(lambda transaction: codexd.loop.ingest(codexd.generation, transaction))
    assert codexd.types(before) == ["codex.warning"]


# --- what is refused


async def test_a_turn_for_nobody_is_refused(codexd: Bench) -> None:
    assert await refusal(lambda: codexd.turn("trn_a", session_id="ses_x")) == (Code.SESSION_NOT_FOUND, {})


async def test_a_second_turn_is_refused_and_told_which_one_runs(codexd: Bench) -> None:
    await codexd.turn("trn_a")

    assert await refusal(lambda: codexd.turn("trn_b")) == (Code.TURN_IN_PROGRESS, {"turnId": "trn_a"})


@pytest.mark.parametrize("state", ChildState)
async def test_a_turn_waits_for_a_child_that_will_come_and_is_refused_where_none_will(
    codexd: Bench, state: ChildState
) -> None:
    codexd.loop.child = Child(state, 1)
    if state in (ChildState.CRASH_LOOP, ChildState.UNAVAILABLE):
        assert await refusal(lambda: codexd.turn("trn_a")) == (Code.CHILD_UNAVAILABLE, {})
        assert codexd.loop.running() == []
    else:
        await codexd.turn("trn_a")
        assert codexd.types()[-1] == "turn.queued"


async def test_a_turn_is_refused_while_codex_needs_a_login_and_has_none(codexd: Bench) -> None:
    await codexd.says(answer("child:account:2", account=None, requiresOpenaiAuth=True))

    assert await refusal(lambda: codexd.turn("trn_a")) == (Code.CODEX_NOT_LOGGED_IN, {})
    assert (codexd.loop.logged_in, codexd.loop.login_required) == (False, True)


async def test_a_codexd_that_stops_takes_nothing_new(codexd: Bench) -> None:
    codexd.loop.draining = True

    assert await refusal(lambda: codexd.turn("trn_a")) == (Code.DRAINING, {})
    assert await refusal(lambda: codexd.commands.create_session("ses_b", SETTINGS)) == (Code.DRAINING, {})


async def test_a_full_inbox_refuses_the_next_caller_but_not_the_supervisor(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "log.sqlite3", clock=SystemClock())
    loop = MainLoop(log, restore.restore(log.reader(), SystemClock(), log.seal), clock=SystemClock())
    commands = Commands(loop, clock=SystemClock())
    async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as tasks:
        for number in range(INBOX_MAX):
            tasks.create_task(commands.create_session(f"ses_{number}", SETTINGS), name=f"caller {number}")
        await asyncio.sleep(0)
        assert await refusal(lambda: commands.create_session("ses_more", SETTINGS)) == (Code.OVERLOADED, {})
        supervisor = tasks.create_task(loop.change(lambda _: None), name="supervisor")
        running = tasks.create_task(loop.run(), name="main loop")
        await supervisor
        running.cancel()
    await asyncio.to_thread(log.close)

    assert len(loop.sessions.all) == INBOX_MAX


async def test_a_caller_that_left_before_its_turn_was_decided_has_asked_for_nothing(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "log.sqlite3", clock=SystemClock())
    loop = MainLoop(log, restore.restore(log.reader(), SystemClock(), log.seal), clock=SystemClock())
    commands = Commands(loop, clock=SystemClock())
    async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as tasks:
        caller = tasks.create_task(commands.create_session("ses_a", SETTINGS), name="caller")
        await asyncio.sleep(0)
        caller.cancel()
        running = tasks.create_task(loop.run(), name="main loop")
        await loop.change(lambda _: None)
        running.cancel()
    await asyncio.to_thread(log.close)

    assert loop.sessions.all == {}


async def test_a_thread_is_opened_only_where_work_may_still_be_done(codexd: Bench) -> None:
    """Each turn that waited for it ends, one after the other, and nothing is sent."""
    looked = []

    def no_more(settings: SessionSettings) -> SessionSettings:
        looked.append(settings.cwd)
        if len(looked) <= 3:
            raise Rejected(Code.POLICY_CEILING, "`cwd` is another folder than when the session was registered.")
        return settings

    codexd.loop.may_open = no_more
    sent, head = len(codexd.sent()), codexd.log.head
    async with asyncio.TaskGroup() as tasks:
        for name in ("trn_a", "trn_b", "trn_c", "trn_d"):
            request = TurnRequest(prompt=name)
            begun = codexd.commands.start_turn("ses_a", name, request, on_busy=OnBusy.ENQUEUE)
            tasks.create_task(begun, name=name)
    while codexd.types(head).count("turn.failed") < 3:
        await codexd.log.wait_past(codexd.log.head)
    failed = [event for event in codexd.events() if event.type == "turn.failed"]
    assert [event.facts["reason"] for event in failed] == ["thread_refused"] * 3
    assert looked == [SETTINGS.cwd] * 4
    assert [line["method"] for line in codexd.sent()[sent:]] == ["thread/start"]


async def test_a_turn_is_handed_over_only_as_it_is_still_allowed(codexd: Bench) -> None:
    """The ceiling may have been lowered while it waited: Codex never sees one that is above it."""

    def lowered(hand: HandTurn) -> HandTurn:
        if hand.request.prompt == "above":
            raise Rejected(Code.POLICY_CEILING, "No more than that.")
        return msgspec.structs.replace(hand, model="allowed")

    codexd.loop.may_hand = lowered
    async with asyncio.TaskGroup() as tasks:
        for name, prompt in (("trn_a", "above"), ("trn_b", "below")):
            begun = codexd.commands.start_turn("ses_a", name, TurnRequest(prompt=prompt), on_busy=OnBusy.ENQUEUE)
            tasks.create_task(begun, name=name)
            await codexd.loop.change(lambda _: None)
        await codexd.says(answer("ses_a:open:4", thread={"id": "thread"}))
    while not any(line["method"] == "turn/start" for line in codexd.sent()):
        await codexd.log.wait_past(codexd.log.head)
    (line,) = (line for line in codexd.sent() if line["method"] == "turn/start")
    assert (line["params"]["clientUserMessageId"], line["params"]["model"]) == ("trn_b", "allowed")
    (failed,) = (event for event in codexd.events() if event.type == "turn.failed")
    assert (failed.turn_id, failed.facts["reason"]) == ("trn_a", "policy_ceiling")
    assert failed.facts["error"] == {"message": "No more than that."}


# --- idempotency


async def test_the_same_key_and_body_is_the_same_turn_and_the_same_answer(codexd: Bench) -> None:
    first = await codexd.turn("trn_a", key="k", body="b")
    await codexd.says(answer("ses_a:open:4", thread={"id": "thread"}))

    assert await codexd.turn("trn_b", key="k", body="b") == first
    assert codexd.types().count("turn.queued") == 1


async def test_two_callers_with_one_key_at_once_get_one_turn(codexd: Bench) -> None:
    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(codexd.turn(f"trn_{n}", key="k", body="b"), name=f"caller {n}") for n in range(5)]

    assert len({task.result() for task in asked}) == 1
    assert codexd.types().count("turn.queued") == 1


async def test_a_key_with_another_body_is_refused_and_told_its_turn(codexd: Bench) -> None:
    await codexd.turn("trn_a", key="k", body="b")

    assert await refusal(lambda: codexd.turn("trn_b", key="k", body="c")) == (
        Code.IDEMPOTENCY_MISMATCH,
        {"turnId": "trn_a"},
    )


async def test_a_key_is_remembered_by_the_next_codexd(tmp_path: Path) -> None:
    async with bench(tmp_path) as one:
        await one.start()
        first = await one.turn("trn_a", key="k", body="b")
    async with bench(tmp_path) as other:
        assert await other.turn("trn_b", key="k", body="b") == first
        assert await refusal(lambda: other.turn("trn_b", key="k", body="c")) == (
            Code.IDEMPOTENCY_MISMATCH,
            {"turnId": "trn_a"},
        )


async def test_a_refused_request_does_not_use_up_its_key(codexd: Bench) -> None:
    await codexd.turn("trn_a")
    assert await refusal(lambda: codexd.turn("trn_b", key="k", body="b")) == (
        Code.TURN_IN_PROGRESS,
        {"turnId": "trn_a"},
    )
    await codexd.commands.create_session("ses_b", SETTINGS)

    assert (await codexd.turn("trn_c", session_id="ses_b", key="k", body="b")).turn_id == "trn_c"


# --- what the child says to nobody, or asks


async def test_a_question_is_answered_at_once_and_told(codexd: Bench) -> None:
    await codexd.run_turn()
    for method, result in DECLINED.items():
        await codexd.says({"id": 7, **of_turn(method)})

        assert codexd.sent()[-1] == {"id": 7, "result": result}
        event = codexd.events()[-1]
        assert (event.type, event.turn_id, event.facts["answered"]) == ("codex.notification", "trn_a", "declined")
    await codexd.says({"id": "x", "method": "new/ask", "params": {}})

    assert codexd.sent()[-1]["error"]["code"] == -32601
    assert codexd.events()[-1].session_id is None


async def test_what_is_said_of_a_thread_that_is_not_ours_is_told_or_counted(codexd: Bench) -> None:
    before = len(codexd.events())
    await codexd.says({"method": "warning", "params": {"threadId": "x"}}, {"method": "configWarning", "params": {}})
    await codexd.says(of_turn("item/plan/delta", itemId="i", delta="a"))
    await codexd.says(answer("trn_x:start:9", turn={"id": "codex"}), answer("nothing"))
    await codexd.says({"method": "account/rateLimits/updated", "params": {"rateLimits": {"n": 1}}})

    assert [(event.type, event.session_id) for event in codexd.events()[before:]] == [("codex.warning", None)] * 2
    assert codexd.loop.counted == {
        "message of no session": 1,
        "turn/start answered": 1,
        "answer to no request of ours": 1,
    }
    assert codexd.loop.limits == {"codex": {"n": 1}}


async def test_a_line_too_long_to_be_read_is_told_and_the_next_one_is_read(codexd: Bench) -> None:
    await codexd.run_turn()
    before = len(codexd.events())
    await codexd.says(
        b"x" * (LINE_MAX + 2 * CHUNK), of_turn("turn/completed", turn={"id": "codex", "status": "completed"})
    )

    assert codexd.types(before) == ["codex.warning", "item.abandoned", "turn.completed"]
    assert "too long" in codexd.events()[before].facts["params"]["why"]


async def test_the_thread_of_another_session_is_no_thread(codexd: Bench) -> None:
    await codexd.run_turn()
    await codexd.commands.create_session("ses_b", SETTINGS)
    await codexd.turn("trn_b", session_id="ses_b")
    await codexd.says(answer("ses_b:open:6", thread={"id": "thread"}))

    end = codexd.events()[-1]
    assert (end.type, end.turn_id, end.facts["reason"]) == ("turn.failed", "trn_b", "thread_refused")
    await codexd.says(of_turn("turn/completed", turn={"id": "codex", "status": "completed"}))
    assert codexd.events()[-1].turn_id == "trn_a"


# --- the child's death


async def test_a_line_that_was_never_given_to_a_keeper_was_not_taken_whatever_nobody_can_say(codexd: Bench) -> None:
    await codexd.turn("trn_a")
    await codexd.says(answer("ses_a:open:4", thread={"id": "thread"}))
    codexd.generation.given = 4
    codexd.loop.child = Child(ChildState.BACKOFF, 1)
    await codexd.loop.change(lambda transaction: codexd.loop.died(codexd.generation, None, True, transaction))

    assert codexd.types()[-2:] == ["turn.accepted", "turn.queued"]


@pytest.mark.parametrize(("taken", "doubt"), [(5, 1), (4, 0), (None, 1)])
async def test_what_the_keeper_took_decides_what_becomes_of_an_accepted_turn(
    codexd: Bench, taken: int | None, doubt: int
) -> None:
    await codexd.turn("trn_a")
    await codexd.says(answer("ses_a:open:4", thread={"id": "thread"}))
    codexd.generation.given = 5
    codexd.loop.child = Child(ChildState.BACKOFF, 1)
    await codexd.loop.change(lambda transaction: codexd.loop.died(codexd.generation, taken, False, transaction))

    (turn,) = codexd.loop.sessions.all["ses_a"].turns
    assert (turn.unresolved, turn.generation) == (doubt, doubt)


async def test_a_stop_between_the_childs_death_and_its_burial_asks_nobody_to_interrupt(codexd: Bench) -> None:
    await codexd.run_turn()
    codexd.loop.change_child(ChildChange.DRAIN)
    codexd.loop.use(None)
    lines = len(codexd.sent())
    await codexd.loop.change(lambda transaction: codexd.loop.step_open(stop(), transaction))

    assert len(codexd.sent()) == lines
    assert [session.session_id for session in codexd.loop.running()] == ["ses_a"]


async def test_what_a_dead_child_still_said_is_read_and_nothing_new_is_handed_to_it(codexd: Bench) -> None:
    await codexd.run_turn()
    codexd.loop.change_child(ChildChange.RETRY)
    codexd.loop.use(None)
    with codexd.spool.open("ab") as spool:
        end = of_turn("turn/completed", turn={"id": "codex", "status": "completed"})
        spool.write(msgspec.json.encode(end) + b"\n")
    await codexd.loop.change(lambda transaction: codexd.loop.ingest(codexd.generation, transaction))
    lines = len(codexd.sent())
    await codexd.turn("trn_b")

    assert codexd.types()[-2:] == ["turn.completed", "turn.queued"]
    assert len(codexd.sent()) == lines
