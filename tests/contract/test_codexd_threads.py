"""Stored threads through codexd on the real Codex: adopted, forked, and taken up after the child's end."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

from baa.scripted import Hold, Say, ScriptedModel, when
from tests.support.appserver_stdio import AppServer
from tests.support.asking import Bodies, act, ask, refusal_of, turn_of, turns_of, words
from tests.support.node import Json, Node, within
from tests.support.oracle import Oracle, flaws_of

pytestmark = pytest.mark.timeout(180)  # later than any wait of ours gives up, so that a test that fails cleans up

SESSIONS = "/v1/codexd/sessions"
UNKNOWN = "01a20000-0000-7000-8000-000000000000"
SCENARIOS = (
    when("hold", (Say("One moment. "), Hold("hold"), Say("Done."))),
    *(when(f"word {n}", Say(f"Answer {n}.")) for n in range(1, 9)),
)


class House(NamedTuple):
    """A node that serves, the model behind its Codex, and all that the model was asked."""

    node: Node
    model: ScriptedModel
    bodies: Bodies


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    bodies = Bodies()
    async with (
        ScriptedModel(SCENARIOS, on_body=bodies) as model,
        Node(tmp_path / "node", model.base_url) as node,
    ):
        await node.start()
        yield House(node, model, bodies)


def heard(bodies: Bodies, phrase: str) -> list[str]:
    """What of the script's words the model was told of the past, and is told now."""
    return [word for word in words(bodies.about(phrase)) if word.startswith("word ")]


async def new_child(node: Node, oracle: Oracle, count: int = 2) -> None:
    os.kill(await node.child(), signal.SIGKILL)
    await oracle.saw("child.ready", count=count)


async def adopt(node: Node, thread_id: str, **more: object) -> Json:
    answer = await node.post(SESSIONS, {"threadId": thread_id, "sandbox": "danger-full-access", **more})
    assert answer.status_code == 201, answer.text
    session: Json = answer.json()["data"]["session"]
    return session


async def fork(node: Node, session_id: str) -> Json:
    answer = await node.post(f"{SESSIONS}/{session_id}/fork", {})
    assert answer.status_code == 201, answer.text
    session: Json = answer.json()["data"]["session"]
    return session


# --- adopt


async def stored(node: Node, folder: Path, cwd: Path) -> str:
    """A thread that another client of Codex's made in the node's CODEX_HOME, with a turn."""
    async with AppServer(folder / "bare", node.codex_config, codex_home=node.codex_home) as bare:
        thread_id = await bare.start_thread(cwd)
        await bare.play(thread_id, "word 1")
    return thread_id


async def test_a_thread_that_the_app_server_stored_is_adopted_with_its_past(tmp_path: Path) -> None:
    bodies = Bodies()
    async with ScriptedModel(SCENARIOS, on_body=bodies) as model, Node(tmp_path / "node", model.base_url) as node:
        thread_id = await stored(node, tmp_path, node.work)
        await node.start()
        await node.child()
        session = await adopt(node, thread_id, purpose="taken over")
        assert (session["threadId"], session["cwd"], session["status"]) == (thread_id, str(node.work), "not_loaded")
        assert (session["purpose"], session["lastTurnId"], session["forkedFrom"]) == ("taken over", None, None)
        assert await turns_of(node, session["sessionId"]) == [], "its turns were none of ours"
        turn = await node.play(session["sessionId"], "word 2")
        assert (turn["status"], turn["finalMessage"]) == ("completed", "Answer 2.")
        assert heard(bodies, "word 2") == ["word 1", "word 2"]
        (loaded,) = await node.events(types="session.loaded")
        assert (loaded["payload"]["threadId"], loaded["payload"]["fresh"]) == (thread_id, False)


async def test_a_thread_has_one_session(house: House) -> None:
    node, _, _ = house
    first = await node.session()
    await node.play(first, "word 1")
    thread_id = (await node.session_of(first))["threadId"]
    answer = await node.post(SESSIONS, {"threadId": thread_id})
    assert refusal_of(answer) == (409, "thread_in_use")
    assert answer.json()["error"]["details"] == {"sessionId": first}


async def test_a_thread_that_is_not_stored_is_not_found(house: House) -> None:
    node, _, _ = house
    await node.child()
    for thread_id in (UNKNOWN, "nonsense", ""):
        answer = await node.post(SESSIONS, {"threadId": thread_id})
        assert refusal_of(answer) == (404, "thread_not_found"), thread_id
        assert "CODEX_HOME" in answer.json()["error"]["message"]
    assert refusal_of(await node.post(SESSIONS, {"threadId": UNKNOWN, "ephemeral": True})) == (422, "invalid_request")
    assert (await node.get(SESSIONS)).json()["data"]["sessions"] == []


async def test_a_thread_of_a_folder_outside_the_roots_is_not_adopted(tmp_path: Path) -> None:
    async with ScriptedModel(SCENARIOS) as model, Node(tmp_path / "node", model.base_url) as node:
        thread_id = await stored(node, tmp_path, tmp_path)
        await node.start()
        await node.child()
        assert refusal_of(await node.post(SESSIONS, {"threadId": thread_id})) == (403, "policy_ceiling")
        session = await adopt(node, thread_id, cwd=str(node.work))
        assert session["cwd"] == str(node.work)


async def test_without_a_child_a_thread_cannot_be_looked_for(tmp_path: Path) -> None:
    async with Node(tmp_path, "http://127.0.0.1:1", server_command="no-codex") as node:
        await node.start()
        assert refusal_of(await node.post(SESSIONS, {"threadId": UNKNOWN})) == (503, "child_unavailable")


# --- fork


async def test_a_fork_knows_the_past_and_goes_its_own_way(house: House) -> None:
    node, _, bodies = house
    source = await node.session(purpose="source", metadata={"n": "1"}, model="own")
    first = await node.play(source, "word 1")
    session = await fork(node, source)
    before = await node.session_of(source)
    assert session["forkedFrom"] == {
        "sessionId": source,
        "threadId": before["threadId"],
        "lastTurnId": first["codexTurnId"],
    }
    assert (session["purpose"], session["metadata"], session["model"]) == ("source", {"n": "1"}, "own")
    assert (session["threadId"], session["status"], session["lastTurnId"]) == (None, "not_loaded", None)
    assert session["sandbox"] == before["sandbox"]
    assert (await node.play(source, "word 2"))["status"] == "completed"
    forked = session["sessionId"]
    assert (await node.play(forked, "word 3"))["status"] == "completed"
    assert heard(bodies, "word 3") == ["word 1", "word 3"], "what the source did later is none of it"
    assert (await node.play(source, "word 4"))["status"] == "completed"
    assert heard(bodies, "word 4") == ["word 1", "word 2", "word 4"]
    assert (await node.session_of(forked))["threadId"] not in (None, before["threadId"])
    assert len(await turns_of(node, forked)) == 1
    again = await fork(node, forked)
    assert (await node.play(again["sessionId"], "word 5"))["status"] == "completed"
    assert heard(bodies, "word 5") == ["word 1", "word 3", "word 5"]
    assert flaws_of(await node.events()) == []


async def test_a_fork_does_not_disturb_a_running_turn_and_ends_before_it(house: House) -> None:
    node, model, bodies = house
    source = await node.session()
    await node.play(source, "word 1")
    running = await node.turn(source, "hold on")
    await within(model.held("hold"))
    forked = (await fork(node, source))["sessionId"]
    assert (await node.play(forked, "word 2"))["status"] == "completed"
    assert heard(bodies, "word 2") == ["word 1", "word 2"]
    assert (await node.running_turn(running))["status"] == "in_progress"
    model.release("hold")
    assert (await node.end_of_turn(running))["finalMessage"] == "One moment. Done."


async def test_a_fork_works_after_the_childs_end_and_after_codexds(house: House) -> None:
    node, _, bodies = house
    async with Oracle(node) as oracle:
        source = await node.session()
        await node.play(source, "word 1")
        early, late = (await fork(node, source))["sessionId"], (await fork(node, source))["sessionId"]
        await new_child(node, oracle)
        assert (await node.play(early, "word 2"))["status"] == "completed"
        await node.kill()
        await node.start()
        assert (await node.play(late, "word 3"))["status"] == "completed"
        await new_child(node, oracle, 3)
        assert (await node.play(early, "word 4"))["status"] == "completed"
        assert heard(bodies, "word 3") == ["word 1", "word 3"]
        assert heard(bodies, "word 4") == ["word 1", "word 2", "word 4"]
        assert (await node.play(source, "word 5"))["status"] == "completed"
        assert heard(bodies, "word 5") == ["word 1", "word 5"]


async def test_a_fork_of_what_never_ran_begins_with_what_that_had(house: House) -> None:
    node, _, bodies = house
    empty = await node.session()
    forked = await fork(node, empty)
    assert forked["forkedFrom"] == {"sessionId": empty, "threadId": None, "lastTurnId": None}
    assert (await node.play(forked["sessionId"], "word 1"))["status"] == "completed"
    unused = await fork(node, forked["sessionId"])
    second = await fork(node, unused["sessionId"])
    assert (await node.play(second["sessionId"], "word 2"))["status"] == "completed"
    assert heard(bodies, "word 2") == ["word 1", "word 2"]


async def test_a_closed_session_can_be_forked(house: House) -> None:
    node, _, bodies = house
    source = await node.session()
    await node.play(source, "word 1")
    assert (await node.post(f"{SESSIONS}/{source}/close", {})).status_code == 202
    forked = await fork(node, source)
    assert (await node.play(forked["sessionId"], "word 2"))["status"] == "completed"
    assert heard(bodies, "word 2") == ["word 1", "word 2"]


async def test_a_fork_of_an_interrupted_turn_holds_what_codex_kept_of_it(house: House) -> None:
    node, model, bodies = house
    source = await node.session()
    await node.play(source, "word 1")
    turn_id = await node.turn(source, "hold on")
    await within(model.held("hold"))
    assert (await act(node, turn_id, "interrupt")).status_code == 202
    await node.end_of_turn(turn_id)
    forked = (await fork(node, source))["sessionId"]
    assert (await node.play(forked, "word 2"))["status"] == "completed"
    asked = [word for word in words(bodies.about("word 2")) if word.startswith(("word", "hold"))]
    assert asked == ["word 1", "hold on", "word 2"]


async def test_what_an_adopted_thread_did_before_is_in_its_fork(tmp_path: Path) -> None:
    """What its source had done were no turns of ours."""
    bodies = Bodies()
    async with ScriptedModel(SCENARIOS, on_body=bodies) as model, Node(tmp_path / "node", model.base_url) as node:
        thread_id = await stored(node, tmp_path, node.work)
        await node.start()
        await node.child()
        session = await adopt(node, thread_id)
        unused = await fork(node, session["sessionId"])
        running = await node.turn(session["sessionId"], "hold on")
        await within(model.held("hold"))
        forked = await fork(node, session["sessionId"])
        assert forked["forkedFrom"] == unused["forkedFrom"]
        assert forked["forkedFrom"]["lastTurnId"] is not None
        model.release("hold")
        await node.end_of_turn(running)
        for number, each in ((2, forked), (3, unused)):
            assert (await node.play(each["sessionId"], f"word {number}"))["status"] == "completed"
            assert heard(bodies, f"word {number}") == ["word 1", f"word {number}"]
            assert not [word for word in words(bodies.about(f"word {number}")) if word.startswith("hold")]


async def test_a_thread_whose_file_was_put_there_has_its_past(tmp_path: Path) -> None:
    """Codex finds it by its file, and lists no turns of it before it is loaded."""
    bodies = Bodies()
    async with ScriptedModel(SCENARIOS, on_body=bodies) as model, Node(tmp_path / "node", model.base_url) as node:
        async with AppServer(tmp_path / "bare", node.codex_config) as bare:
            thread_id = await bare.start_thread(node.work)
            await bare.play(thread_id, "word 1")
        shutil.copytree(tmp_path / "bare" / "codex" / "sessions", node.codex_home / "sessions")
        await node.start()
        await node.child()
        session = await adopt(node, thread_id)
        forked = await fork(node, session["sessionId"])
        assert (await node.play(forked["sessionId"], "word 2"))["status"] == "completed"
        assert heard(bodies, "word 2") == ["word 1", "word 2"]
        assert (await node.play(session["sessionId"], "word 3"))["status"] == "completed"
        assert heard(bodies, "word 3") == ["word 1", "word 3"]


# --- after the child's end


async def test_what_a_session_was_registered_with_outlives_the_child(house: House) -> None:
    node, _, bodies = house
    async with Oracle(node) as oracle:
        session_id = await node.session(
            model="own", developerInstructions="Be a good test.", baseInstructions="You are a test.", serviceTier="flex"
        )
        await node.play(session_id, "word 1")
        await new_child(node, oracle)
        told = await ask(node, session_id, "word 2", effort="low")
        await node.end_of_turn(told["turn"]["turnId"])
        await new_child(node, oracle, 3)
        await node.end_of_turn(await turn_of(node, session_id, "word 3"))
    for phrase, effort in (("word 1", None), ("word 2", "low"), ("word 3", None)):
        body = bodies.about(phrase)
        assert (body["model"], body.get("service_tier")) == ("own", "flex")
        assert (body.get("reasoning") or {}).get("effort") == effort, phrase
        assert {"You are a test.", "Be a good test."} <= set(words(body, "developer"))
    assert heard(bodies, "word 3") == ["word 1", "word 2", "word 3"]
