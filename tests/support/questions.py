"""What Codex asks through codexd, as a client that answers sees it: over HTTP, and nothing else."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import httpx2

from baa.scripted import ScriptedModel
from tests.support.node import PATIENCE_SECONDS, POLL_MS, Json, Node

OVER = "interaction.resolved,interaction.expired"


class House(NamedTuple):
    """A node that serves, and the model behind its Codex."""

    node: Node
    model: ScriptedModel

    def reports(self, prompt: str) -> str:
        """All that Codex told its model of the tools called in turns of this prompt, in the newest request."""
        return "\n".join(next(asked.reports for asked in reversed(self.model.requests) if asked.prompt == prompt))


async def told(node: Node, session_id: str, types: str, count: int = 1) -> Json:
    """The `count`-th event of these types in a session, which may be still to come."""
    cursor = "0"
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            answer = await node.get(
                "/v1/codexd/events", after=cursor, sessionId=session_id, types=types, waitMs=POLL_MS
            )
            page = answer.json()["data"]
            cursor, events = page["next"], page["events"]
            if len(events) >= count:
                event: Json = events[count - 1]
                return event
            count -= len(events)


async def question(node: Node, session_id: str, count: int = 1) -> Json:
    """The `count`-th interaction of a session, as the session's own page has it while it is open."""
    event = await told(node, session_id, "interaction.requested", count)
    session = await node.session_of(session_id)
    assert session["openInteractions"] == len(session["interactions"])
    (found,) = (each for each in session["interactions"] if each["interactionId"] == event["payload"]["interactionId"])
    assert (found["turnId"], found["sessionId"], found["status"]) == (event["turnId"], session_id, "open")
    assert (found["kind"], found["decisions"]) == (event["payload"]["kind"], event["payload"]["decisions"])
    assert found["deadlineAt"] == event["payload"]["deadlineAt"] > found["requestedAt"]
    interaction: Json = found
    return interaction


async def answer(node: Node, asked: Json, decision: object = "accept", **more: object) -> httpx2.Response:
    """Answer a question where it belongs: at its turn, or at its session if it has none."""
    where = f"turn/{asked['turnId']}" if asked["turnId"] else f"sessions/{asked['sessionId']}"
    path = f"/v1/codexd/{where}/interactions/{asked['interactionId']}"
    return await node.post(path, {"decision": decision, **more})


async def accepted(node: Node, asked: Json, decision: object = "accept", **more: object) -> Json:
    """Answer a question, which must fit: the interaction as it is then."""
    response = await answer(node, asked, decision, **more)
    assert response.status_code == 200, response.text
    interaction: Json = response.json()["data"]["interaction"]
    assert (interaction["status"], interaction["resolvedBy"]) == ("resolved", "client")
    assert interaction["answer"]["decision"] == decision
    return interaction


async def play(node: Node, session_id: str, prompt: str, decision: object, **more: object) -> tuple[Json, Json]:
    """A turn that asks once, with this answer: what it asked, and its ledger."""
    turn_id = await node.turn(session_id, prompt)
    asked = await question(node, session_id)
    assert asked["turnId"] == turn_id
    await accepted(node, asked, decision, **more)
    return asked, await node.end_of_turn(turn_id)


async def endings(node: Node, session_id: str) -> list[tuple[str, str]]:
    """How the interactions of a session ended, in order: each at most once, and none that did not begin."""
    events = await node.events(sessionId=session_id)
    begun = [event["payload"]["interactionId"] for event in events if event["type"] == "interaction.requested"]
    over = [event for event in events if event["type"] in OVER.split(",")]
    ended = [event["payload"]["interactionId"] for event in over]
    assert len(set(begun)) == len(begun)
    assert len(set(ended)) == len(ended)
    assert set(ended) <= set(begun)
    return [(event["type"], event["payload"]["resolvedBy"]) for event in over]
