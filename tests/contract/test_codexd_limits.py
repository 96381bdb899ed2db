"""Usage limits as Codex tells them: a turn that they end says when they reset, and so does the status."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from baa.scripted import Limits, Refuse, Say, ScriptedModel, when
from tests.support.node import Json, Node
from tests.support.questions import House

pytestmark = pytest.mark.timeout(180)

SOON, LATER, MUCH_LATER = 1_900_000_000, 1_900_018_000, 1_900_600_000
SCENARIOS = (
    when("some", (Limits(40, SOON), Limits(7, MUCH_LATER, 10_080, "secondary"), Say("Some."))),
    when("quiet", Say("Quiet.")),
    when("first", (Limits(100, LATER), Refuse.usage_limit())),
    when("both", (Limits(100, LATER), Limits(100, MUCH_LATER, 10_080, "secondary"), Refuse.usage_limit())),
    when("silent", Refuse.usage_limit()),
    when("crowded", Refuse(429)),
)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with ScriptedModel(SCENARIOS) as model, Node(tmp_path, model.base_url) as node:
        await node.start()
        yield House(node, model)


async def limits(node: Node) -> Json:
    """What the status says of the limits."""
    told: Json = (await node.status())["codex"]["limits"]
    return told


async def test_the_status_tells_how_much_of_the_limits_is_used(house: House) -> None:
    node, _ = house
    assert await limits(node) is None
    session_id = await node.session()
    for prompt in ("some", "quiet"):  # that Codex says nothing new takes nothing away
        assert (await node.play(session_id, prompt))["status"] == "completed"
        known = (await limits(node))["codex"]
        assert known["primary"] == {"usedPercent": 40, "windowDurationMins": 300, "resetsAt": SOON}
        assert known["secondary"] == {"usedPercent": 7, "windowDurationMins": 10_080, "resetsAt": MUCH_LATER}


@pytest.mark.parametrize(
    ("prompt", "resets"), [("first", "2030-03-17T22:46:40.000Z"), ("both", "2030-03-24T16:26:40.000Z")]
)
async def test_a_turn_that_a_limit_ends_says_when_it_resets(house: House, prompt: str, resets: str) -> None:
    node, model = house
    session_id = await node.session()
    await node.play(session_id, "some")
    turn = await node.play(session_id, prompt)
    assert (turn["status"], turn["reason"]) == ("failed", "usage_limit")
    assert turn["error"]["codexErrorInfo"] == "usageLimitExceeded"
    assert turn["evidence"]["resetsAt"] == resets
    assert turn["evidence"]["limits"] == await limits(node)
    assert (await limits(node))["codex"]["primary"]["usedPercent"] == 100
    assert [asked.prompt for asked in model.requests].count(prompt) == 1  # it is not tried again
    assert (await node.play(session_id, "quiet"))["status"] == "completed"


async def test_a_limit_of_which_codex_says_no_more_ends_a_turn_all_the_same(house: House) -> None:
    node, _ = house
    session_id = await node.session()
    await node.play(session_id, "some")
    turn = await node.play(session_id, "silent")
    assert (turn["status"], turn["reason"], turn["evidence"]["resetsAt"]) == ("failed", "usage_limit", None)


async def test_too_many_requests_are_no_usage_limit(house: House) -> None:
    node, _ = house
    turn = await node.play(await node.session(), "crowded")
    assert (turn["status"], turn["reason"], turn["evidence"]) == ("failed", None, {})
    assert turn["error"]["codexErrorInfo"] == {"responseTooManyFailedAttempts": {"httpStatusCode": 429}}
