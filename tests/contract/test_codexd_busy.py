"""A turn for a session that is busy: refused, in line, as more input, or in place of what runs; on the real Codex."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import NamedTuple
from uuid import uuid4

import pytest

from baa.scripted import Hold, Say, ScriptedModel, when
from tests.support.asking import Bodies, act, ask, refusal_of, refused, turn_of, turns_of, words
from tests.support.node import Json, Node, within
from tests.support.oracle import Oracle, flaws_of, of_turn, types

pytestmark = pytest.mark.timeout(180)  # later than any wait of ours gives up, so that a test that fails cleans up

GATES = ("queue", "cancel", "steer", "stop", "key", "both", "over", "busy", "chain")
SCENARIOS = (
    # Codex lets go of an answer when more input comes, and asks the model anew.
    when("and also this", (Say("This. "), Hold("steer"), Say("Done so far."))),
    when("and also", Say("That too.")),
    *(when(f"hold {gate}", (Say("One moment. "), Hold(gate), Say("Done so far."))) for gate in GATES),
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
        Node(tmp_path_factory.mktemp("busy"), model.base_url) as node,
    ):
        await node.start()
        yield House(node, model, bodies)


async def held(house: House, gate: str) -> tuple[str, str]:
    """A session whose turn is held, and that turn."""
    session_id = await house.node.session()
    turn_id = await house.node.turn(session_id, f"hold {gate}")
    await within(house.model.held(gate))
    return session_id, turn_id


def said(turn: Json) -> list[str]:
    return [item["item"]["text"] for item in turn["items"] if item["kind"] == "agentMessage" and "text" in item["item"]]


# --- reject, enqueue


async def test_without_a_word_a_busy_session_takes_no_turn(house: House) -> None:
    node, model, _ = house
    session_id, turn_id = await held(house, "busy")
    assert await refused(node, session_id, "plain") == (409, "turn_in_progress")
    assert await refused(node, session_id, "plain", onBusy="reject") == (409, "turn_in_progress")
    assert await refused(node, session_id, "plain", onBusy="wait") == (422, "invalid_request")
    assert len(await turns_of(node, session_id)) == 1
    model.release("busy")
    await node.end_of_turn(turn_id)


async def test_turns_wait_in_line_and_run_in_their_order(house: House) -> None:
    node, model, bodies = house
    session_id, first = await held(house, "queue")
    line = [await ask(node, session_id, f"plain {n}", onBusy="enqueue") for n in range(3)]
    assert [told["turn"]["status"] for told in line] == ["queued"] * 3
    ids = [told["turn"]["turnId"] for told in line]
    session = await node.session_of(session_id)
    assert (session["currentTurnId"], session["queuedTurns"], session["status"]) == (first, 3, "active")
    assert await refused(node, session_id, "plain") == (409, "turn_in_progress"), "queued ones count too"
    listed = await turns_of(node, session_id)
    assert [turn["turnId"] for turn in listed] == [*reversed(ids), first], "newest first"
    page = (await node.get(f"/v1/codexd/sessions/{session_id}/turns", limit=3)).json()["data"]
    rest = await turns_of(node, session_id, limit=3, pageToken=page["nextPageToken"])
    assert [turn["turnId"] for turn in page["turns"] + rest] == [*reversed(ids), first]

    model.release("queue")
    for turn_id in ids:
        assert (await node.end_of_turn(turn_id))["status"] == "completed"
    events = await node.events(sessionId=session_id)
    ends = [event["turnId"] for event in events if event["type"] == "turn.completed"]
    accepted = [event["turnId"] for event in events if event["type"] == "turn.accepted"]
    assert ends == accepted == [first, *ids]
    order = [
        (event["type"], event["turnId"]) for event in events if event["type"] in ("turn.accepted", "turn.completed")
    ]
    assert order == [(type_, turn) for turn in (first, *ids) for type_ in ("turn.accepted", "turn.completed")]
    assert [word for word in words(bodies.about("plain 2")) if word.startswith("plain")] == [
        "plain 0",
        "plain 1",
        "plain 2",
    ]
    assert flaws_of(events) == []


async def test_a_waiting_turn_is_cancelled_alone_and_never_begins(house: House) -> None:
    node, model, bodies = house
    session_id, first = await held(house, "cancel")
    ids = [await turn_of(node, session_id, f"plain cancel-{n}", onBusy="enqueue") for n in range(3)]
    answer = await act(node, ids[1], "interrupt")
    assert (answer.status_code, answer.json()["data"]["turn"]["status"]) == (202, "interrupted")
    turn = await node.ledger(ids[1])
    assert (turn["status"], turn["reason"]) == ("interrupted", "canceled_before_start")
    assert (turn["items"], turn["acceptedAt"], turn["startedAt"]) == ([], None, None)
    again = await act(node, ids[1], "interrupt")
    assert refusal_of(again) == (409, "turn_ended")
    assert again.json()["error"]["details"]["status"] == "interrupted"
    assert (await node.session_of(session_id))["queuedTurns"] == 2
    model.release("cancel")
    for turn_id in (first, ids[0], ids[2]):
        assert (await node.end_of_turn(turn_id))["status"] == "completed"
    events = await node.events(sessionId=session_id)
    assert types(of_turn(events, ids[1])) == ["turn.queued", "turn.interrupted"]
    assert not any("plain cancel-1" in word for body in bodies.all for word in words(body))


# --- steer


async def test_input_for_a_running_turn_reaches_it(house: House) -> None:
    node, model, bodies = house
    session_id, turn_id = await held(house, "steer")
    told = await ask(node, session_id, "and also this", onBusy="steer")
    assert (told["steered"], told["turn"]["turnId"]) == (True, turn_id)
    answer = await act(node, turn_id, "steer", {"prompt": "and also that"})
    assert (answer.status_code, answer.json()["data"]["turn"]["turnId"]) == (202, turn_id)
    assert answer.json()["data"]["steered"] is True
    wrong: list[Json] = [{}, {"prompt": "x", "input": []}, {"input": []}, {"prompt": "x", "effort": "low"}]
    for body in wrong:
        assert refusal_of(await act(node, turn_id, "steer", body)) == (422, "invalid_request")
    model.release("steer")
    turn = await node.end_of_turn(turn_id)
    assert (turn["status"], turn["finalMessage"]) == ("completed", "That too.")
    asked = [word for word in words(bodies.about("and also that")) if word.startswith("and also")]
    assert asked == ["and also this", "and also that"]
    users = [item["item"] for item in turn["items"] if item["kind"] == "userMessage"]
    assert users[0]["clientId"] == turn_id
    assert [user["content"][0]["text"] for user in users[1:]] == ["and also this", "and also that"]
    events = await node.events(sessionId=session_id)
    steered = [event for event in events if event["type"] == "turn.steered"]
    assert [event["turnId"] for event in steered] == [turn_id] * 2
    assert steered[0]["payload"]["input"] == [{"type": "text", "text": "and also this"}]
    sent = [user["clientId"] for user in users[1:]]
    assert len(set(sent)) == 2
    assert len(await turns_of(node, session_id)) == 1
    assert flaws_of(events) == []


async def test_codex_is_told_which_turn_is_steered(house: House) -> None:
    node, model, _ = house
    session_id, turn_id = await held(house, "both")
    told = await ask(node, session_id, "and also expected", onBusy="steer")
    assert told["turn"]["codexTurnId"] is not None
    model.release("both")
    await node.end_of_turn(turn_id)
    answer = await act(node, turn_id, "steer", {"prompt": "too late"})
    assert refusal_of(answer) == (409, "turn_ended")
    assert answer.json()["error"]["details"]["status"] == "completed"
    assert refusal_of(await act(node, "trn_00000000000000000000000000", "steer", {"prompt": "x"})) == (
        404,
        "turn_not_found",
    )


async def test_steering_an_idle_session_is_a_turn_of_its_own(house: House) -> None:
    node, _, _ = house
    session_id = await node.session()
    told = await ask(node, session_id, "plain alone", onBusy="steer")
    assert "steered" not in told
    assert (await node.end_of_turn(told["turn"]["turnId"]))["finalMessage"] == "Fine."


async def test_a_repeated_steer_is_answered_alike_and_reaches_codex_once(house: House) -> None:
    node, model, bodies = house
    session_id, turn_id = await held(house, "key")
    key = f"steer-{uuid4()}"
    async with asyncio.TaskGroup() as group:
        asks = [
            group.create_task(ask(node, session_id, "and also once", key=key, onBusy="steer"), name=f"steer {n}")
            for n in range(10)
        ]
    answers = [asked.result() for asked in asks]
    assert {answer["turn"]["turnId"] for answer in answers} == {turn_id}
    assert {answer["steered"] for answer in answers} == {True}
    assert len({answer["cursor"] for answer in answers}) == 1
    other = await node.post(
        "/v1/codexd/turn", {"sessionId": session_id, "prompt": "and also other", "onBusy": "steer"}, key=key
    )
    assert refusal_of(other) == (422, "idempotency_mismatch")
    model.release("key")
    await node.end_of_turn(turn_id)
    later = await ask(node, session_id, "and also once", key=key, onBusy="steer")
    assert (later["steered"], later["turn"]["turnId"], later["cursor"]) == (True, turn_id, answers[0]["cursor"])
    assert [word for word in words(bodies.about("and also once")) if word == "and also once"] == ["and also once"]
    assert types(await node.events(sessionId=session_id)).count("turn.steered") == 1


# --- interrupt


async def test_a_turn_in_place_of_another_begins_after_that_ones_end(house: House) -> None:
    node, _, _ = house
    session_id, first = await held(house, "stop")
    waiting = await turn_of(node, session_id, "plain waiting", onBusy="enqueue")
    told = await ask(node, session_id, "plain instead", onBusy="interrupt")
    assert told["turn"]["status"] == "queued"
    assert (await node.end_of_turn(told["turn"]["turnId"]))["status"] == "completed"
    ended = await node.ledger(first)
    assert (ended["status"], ended["reason"]) == ("interrupted", "replaced")
    assert ended["items"][-1]["text"] == "One moment. "
    events = await node.events(sessionId=session_id)
    order = [
        (event["turnId"], event["type"])
        for event in events
        if event["type"] in ("turn.interrupted", "turn.accepted", "turn.completed")
    ]
    assert order == [
        (first, "turn.accepted"),
        (first, "turn.interrupted"),
        *((waiting, "turn.accepted"), (waiting, "turn.completed")),
        *((told["turn"]["turnId"], "turn.accepted"), (told["turn"]["turnId"], "turn.completed")),
    ]
    assert flaws_of(events) == []


async def test_an_interrupt_is_told_with_what_was_said_until_then(house: House) -> None:
    node, _, _ = house
    session_id, turn_id = await held(house, "over")
    async with Oracle(node, after=await node.head()) as oracle:
        answers = [await act(node, turn_id, "interrupt") for _ in range(1)]
        assert [answer.status_code for answer in answers] == [202]
        ended = await oracle.end_of(turn_id)
    assert (ended["type"], ended["payload"]["reason"]) == ("turn.interrupted", "requested")
    turn = await node.ledger(turn_id)
    assert (turn["status"], turn["reason"], turn["finalMessage"]) == ("interrupted", "requested", None)
    assert [(item["status"], item["text"]) for item in turn["items"] if item["kind"] == "agentMessage"] == [
        ("abandoned", "One moment. ")
    ]
    assert (turn["startedAt"] is not None, turn["endedAt"] is not None) == (True, True)
    for verb, body in (("interrupt", {}), ("steer", {"prompt": "x"}), ("renew", {"leaseMs": 1000})):
        answer = await act(node, turn_id, verb, body)
        assert refusal_of(answer) == (409, "turn_ended"), verb
        assert answer.json()["error"]["details"]["status"] == "interrupted"
    assert (await node.play(session_id, "plain after"))["status"] == "completed"


async def test_many_interrupts_of_one_turn_are_one(house: House) -> None:
    node, _, _ = house
    session_id, turn_id = await held(house, "chain")
    async with asyncio.TaskGroup() as group:
        acts = [group.create_task(act(node, turn_id, "interrupt"), name=f"interrupt {n}") for n in range(20)]
    assert {done.result().status_code for done in acts} <= {202, 409}
    assert (await node.end_of_turn(turn_id))["status"] == "interrupted"
    assert (await node.play(session_id, "plain chain"))["status"] == "completed"
    events = await node.events(sessionId=session_id)
    assert types(events).count("turn.interrupted") == 1
    assert flaws_of(events) == []
