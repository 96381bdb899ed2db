"""Codex that does not answer: each thing that it is asked has its time, and what is known then is told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from baa.codexd.deadlines import BEGIN, CLEAN, OPEN, STOP, TELL
from baa.codexd.generation import IN_FLIGHT_MAX
from baa.codexd.intake import SESSION_ASKS_MAX
from tests.support.bench import Bench, Message, answer, bench, of_turn

ITEM = {"id": "item", "type": "agentMessage", "text": "Done."}


@pytest.fixture
async def codexd(tmp_path: Path) -> AsyncIterator[Bench]:
    """Time is the test's."""
    async with bench(tmp_path) as made:
        await made.start()
        made.loop.start_clocks()
        yield made


def asked(codexd: Bench, what: str) -> str:
    """The id of the last request to Codex that begins so."""
    return str([line["id"] for line in codexd.sent() if str(line.get("id", "")).startswith(f"{what}:")][-1])


def ended(codexd: Bench) -> tuple[str, Any]:
    """The type of the last event of the turn that ended, and its payload."""
    (event,) = [event for event in codexd.events() if event.type in ENDS]
    return event.type, event.facts


ENDS = {"turn.completed", "turn.failed", "turn.interrupted", "turn.expired", "turn.lost"}


def history(request_id: str, *turns: Message) -> Message:
    return answer(request_id, data=list(turns))


def found(status: str, *items: Message) -> Message:
    user = {"id": "user", "type": "userMessage", "clientId": "trn_a"}
    return {"id": "codex", "status": status, "items": [user, *items], "error": None}


async def handed(codexd: Bench) -> None:
    await codexd.turn("trn_a")
    await codexd.says(answer(asked(codexd, "ses_a:open"), thread={"id": "thread"}))


async def test_a_thread_that_is_not_opened_fails_the_turn_that_needed_it(codexd: Bench) -> None:
    await codexd.turn("trn_a")
    await codexd.passes(OPEN.after_ms / 1000 - 1)
    assert "turn.failed" not in codexd.types()
    await codexd.passes(2)
    type_, facts = ended(codexd)
    assert (type_, facts["reason"]) == ("turn.failed", "no_answer")
    assert codexd.loop.sessions.all["ses_a"].opening_in == 0  # the next turn asks anew


async def test_a_turn_that_codex_does_not_know_of_is_lost_and_its_thread_left(codexd: Bench) -> None:
    await handed(codexd)
    await codexd.passes(BEGIN.after_ms / 1000)
    await codexd.says(history(asked(codexd, "ses_a:history")))
    type_, facts = ended(codexd)
    assert (type_, facts["reason"]) == ("turn.lost", "no_answer")
    assert facts["evidence"] == {"history": "the turn is not in it", "generation": 1}
    assert asked(codexd, "ses_a:unload")
    assert len([line for line in codexd.sent() if line["method"] == "turn/start"]) == 1


async def test_a_history_that_is_not_told_either_leaves_it_lost(codexd: Bench) -> None:
    await handed(codexd)
    await codexd.passes((BEGIN.after_ms + TELL.after_ms) / 1000)
    type_, facts = ended(codexd)
    assert (type_, facts["reason"]) == ("turn.lost", "no_answer")
    assert facts["evidence"]["history"] == {"message": "Codex did not answer in time"}


async def test_a_turn_that_runs_though_nobody_was_told_is_interrupted(codexd: Bench) -> None:
    await handed(codexd)
    await codexd.passes(BEGIN.after_ms / 1000)
    await codexd.says(history(asked(codexd, "ses_a:history"), found("inProgress")))
    asked(codexd, "trn_a:interrupt")
    await codexd.says(of_turn("turn/completed", turn={"id": "codex", "status": "interrupted"}))
    session = codexd.loop.sessions.all["ses_a"]
    assert session.running is not None
    assert (session.running.stop is not None, session.running.said is not None) == (True, True)
    assert "turn.started" in codexd.types()


async def test_a_turn_that_ended_though_nobody_was_told_is_told_whole(codexd: Bench) -> None:
    await handed(codexd)
    await codexd.passes(BEGIN.after_ms / 1000)
    await codexd.says(history(asked(codexd, "ses_a:history"), found("completed", ITEM)))
    type_, facts = ended(codexd)
    assert (type_, facts["evidence"]) == ("turn.completed", {"history": "completed", "generation": 1})
    assert codexd.types()[-6:] == [
        "turn.started",
        "item.started",
        "item.completed",
        "item.started",
        "item.completed",
        "turn.completed",
    ]


async def test_a_turn_that_begins_in_time_is_left_alone(codexd: Bench) -> None:
    await handed(codexd)
    await codexd.says(of_turn("turn/started", turn={"id": "codex"}))
    await codexd.passes(2 * BEGIN.after_ms / 1000)
    session = codexd.loop.sessions.all["ses_a"]
    assert session.running is not None
    assert (session.running.stop, session.running.doubted) == (None, False)
    await codexd.says(of_turn("turn/completed", turn={"id": "codex", "status": "completed"}))
    assert ended(codexd)[0] == "turn.completed"


@pytest.mark.parametrize("told", ["inProgress", None])
async def test_a_child_that_does_not_end_a_turn_is_ended(codexd: Bench, told: str | None) -> None:
    useless: list[str] = []
    codexd.loop.on_useless = useless.append
    await handed(codexd)
    await codexd.says(of_turn("turn/started", turn={"id": "codex"}))
    await codexd.commands.interrupt("trn_a")
    turns = () if told is None else (found(told),)
    await codexd.passes(STOP.after_ms / 1000 - 1)
    assert not any("history" in str(line.get("id")) for line in codexd.sent())
    await codexd.passes(2)
    await codexd.says(history(asked(codexd, "ses_a:history"), *turns))
    assert "trn_a" in useless[0]
    assert "turn.interrupted" not in codexd.types()  # its end is told with the child's


async def test_an_end_that_was_not_told_is_found_in_the_history(codexd: Bench) -> None:
    await handed(codexd)
    await codexd.says(of_turn("turn/started", turn={"id": "codex"}))
    await codexd.commands.interrupt("trn_a")
    await codexd.passes(STOP.after_ms / 1000)
    await codexd.says(history(asked(codexd, "ses_a:history"), found("completed", ITEM)))
    assert ended(codexd)[0] == "turn.completed"


async def test_what_is_not_cleaned_in_time_is_looked_for(codexd: Bench) -> None:
    looked: list[str] = []
    codexd.loop.on_look = lambda wanted: looked.append(wanted.turn_id)
    await handed(codexd)
    await codexd.says(of_turn("turn/started", turn={"id": "codex"}))
    await codexd.says(of_turn("turn/completed", turn={"id": "codex", "status": "interrupted"}))
    await codexd.passes(CLEAN.after_ms / 1000 - 1)
    assert looked == []
    await codexd.passes(2)
    assert looked == ["trn_a"]


# --- how much is asked at once, of Codex and by it


class Link:
    """A keeper that takes every line."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def line(self, number: int, _: bytes) -> None:
        self.numbers.append(number)

    def lease_ends_in(self, _: int) -> None:
        """Nothing here has a lease."""


async def test_codex_is_asked_no_more_than_it_takes_and_all_of_it_in_order(tmp_path: Path) -> None:
    async with bench(tmp_path) as codexd:
        link = Link()
        codexd.generation.link = link  # type: ignore[assignment]
        await codexd.start()
        first = len(link.numbers)
        asks = IN_FLIGHT_MAX + 40
        for number in range(asks):
            await codexd.commands.create_session(f"ses_{number}", codexd.loop.sessions.all["ses_a"].settings)
            await codexd.turn(f"trn_{number}", session_id=f"ses_{number}")
        unanswered = sum(each in codexd.generation.asked.values() for each in link.numbers)
        assert unanswered == IN_FLIGHT_MAX
        held = [f"ses_{number}" for number in range(asks) if codexd.generation.holds(f"ses_{number}", ("open",))]
        assert held == [f"ses_{number}" for number in range(asks - len(held), asks)]
        assert len(held) == asks - (len(link.numbers) - first)
        await codexd.says(*(answer(each, thread={"id": each}) for each in list(codexd.generation.asked)[:50]))
        assert link.numbers == list(range(link.numbers[0], link.numbers[0] + len(link.numbers)))
        assert sum(each in codexd.generation.asked.values() for each in link.numbers) == IN_FLIGHT_MAX
        for request_id in list(codexd.generation.asked):
            await codexd.says({"id": request_id, "error": {"code": -1, "message": "no"}})
        assert link.numbers == list(range(link.numbers[0], codexd.generation.lines + 1))


async def test_questions_beyond_the_bound_are_declined_at_once_and_counted(tmp_path: Path) -> None:
    async with bench(tmp_path) as codexd:
        await codexd.start()
        await handed(codexd)
        await codexd.says(of_turn("turn/started", turn={"id": "codex"}))
        ask = of_turn("item/fileChange/requestApproval", itemId="item")
        await codexd.says(*({**ask, "id": number} for number in range(SESSION_ASKS_MAX + 10)))
        assert codexd.loop.sessions.questions == SESSION_ASKS_MAX
        assert codexd.loop.counted["question too many"] == 10
        answers = {line["id"]: line["result"] for line in codexd.sent() if "result" in line}
        assert answers == {SESSION_ASKS_MAX + each: {"decision": "decline"} for each in range(10)}
        noted = [event.facts for event in codexd.events() if event.type == "codex.notification"]
        assert [facts["answered"] for facts in noted] == ["declined"] * 10
