"""A child that is replaced, one that cannot work, and one that works again: what is said of it, and what is tried."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest
from codex_cli_bin import bundled_codex_path

from baa.scripted import Hold, Say, ScriptedModel, when
from tests.support.faults import saw
from tests.support.keeper_client import alive
from tests.support.node import Json, Node, end
from tests.support.oracle import Oracle, flaws_of, types

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the tests look at /proc"),
    pytest.mark.timeout(180),  # later than any wait of ours gives up, so that a test that fails cleans up
]

SCENARIOS = (when("plain", Say("Fine.")), when("held", (Say.numbered(50), Hold("held"), Say("the end"))))
RESTART = "/v1/codexd/status/child/restart"
OLD = """\
#!/bin/sh
read line
echo '{"id": "child:initialize:1", "result": {"userAgent": "baa/0.144.3 (test)"}}'
exec cat >/dev/null
"""


class House(NamedTuple):
    """A node that serves, the model behind its Codex, and a reader of its events."""

    node: Node
    model: ScriptedModel
    oracle: Oracle


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with ScriptedModel(SCENARIOS) as model, Node(tmp_path, model.base_url) as node:
        await node.start()
        async with Oracle(node) as oracle:
            yield House(node, model, oracle)
            await oracle.caught_up()
            assert flaws_of(oracle.events) == []


@pytest.fixture
async def bare(tmp_path: Path) -> AsyncIterator[Node]:
    """A node whose Codex is `codex` in its folder, and that is not there yet."""
    async with (
        ScriptedModel(SCENARIOS) as model,
        Node(tmp_path, model.base_url, server_command=str(tmp_path / "codex")) as node,
    ):
        yield node


def install(node: Node, script: str) -> None:
    """Put a script in the place of Codex."""
    new = node.folder / "codex.new"
    new.write_text(script)
    new.chmod(0o700)
    new.rename(node.folder / "codex")


def install_codex(node: Node) -> None:
    (node.folder / "codex").unlink(missing_ok=True)
    (node.folder / "codex").symlink_to(bundled_codex_path())


async def restart(node: Node, **body: bool) -> Json:
    answer = await node.post(RESTART, body)
    assert answer.status_code == 202, answer.text
    child: Json = answer.json()["data"]["child"]
    return child


def ends(oracle: Oracle) -> list[Json]:
    return [event["payload"] for event in oracle.events if event["type"] == "child.exited"]


# --- another child, because somebody wants one


async def test_a_restart_waits_until_nothing_runs(house: House) -> None:
    node, model, oracle = house
    session_id = await node.session()
    turn_id = await node.turn(session_id, "held")
    await oracle.saw("item.delta", turn_id, count=50)
    before = await node.child()
    for _ in range(2):  # again is no mistake
        assert (await restart(node))["state"] == "ready"
    assert alive(before)
    model.release("held")
    turn = await node.end_of_turn(turn_id)
    assert (turn["status"], turn["finalMessage"].endswith("the end")) == ("completed", True)
    await oracle.saw("child.ready", count=2)
    assert not alive(before)
    assert (await node.play(session_id, "plain"))["finalMessage"] == "Fine."
    (end,) = ends(oracle)
    assert (end["generation"], end["reason"], end["code"]) == (1, "a restart was asked for", 0)
    assert "child.backoff" not in types(oracle.events)
    child = (await node.status())["child"]
    assert (child["state"], child["generation"], child["restarts"], child["problem"]) == ("ready", 2, 1, None)


async def test_a_forced_restart_waits_for_nothing_and_says_what_it_ended(house: House) -> None:
    node, _, oracle = house
    session_id = await node.session()
    turn_id = await node.turn(session_id, "held")
    await oracle.saw("item.delta", turn_id, count=50)
    assert (await restart(node, force=True))["state"] == "backoff"
    turn = await node.end_of_turn(turn_id)
    assert (turn["status"], turn["reason"], turn["evidence"]["generation"]) == ("interrupted", "child_exited", 1)
    assert [(end["generation"], end["reason"]) for end in ends(oracle)] == [(1, "a restart was asked for")]
    assert (await node.play(session_id, "plain"))["finalMessage"] == "Fine."


async def test_who_may_restart_it_and_what_is_asked(house: House) -> None:
    node, _, _ = house
    read = {"authorization": f"Bearer {node.token('read')}", "content_type": "application/json"}
    assert (await node.ask("POST", RESTART, **read)).status_code == 403
    assert (await node.post(RESTART, {"force": "yes"})).status_code == 422
    assert (await node.get(RESTART)).status_code == 404
    assert (await node.status())["child"]["generation"] == 1


# --- a Codex that cannot work


async def test_a_crash_loop_ends_when_somebody_says_that_it_is_mended(bare: Node) -> None:
    install(bare, "#!/bin/sh\nexit 3\n")
    await bare.start()
    async with Oracle(bare) as oracle:
        await oracle.saw("child.crash_loop")
        session_id = await bare.session()
        status = await bare.status()
        assert RESTART in status["child"]["problem"]
        install_codex(bare)
        await restart(bare)
        assert (await bare.child_is("ready"))["problem"] is None
        assert (await bare.play(session_id, "plain"))["finalMessage"] == "Fine."


@pytest.mark.parametrize(
    ("program", "told"),
    [("no program at all", "Exec format error"), ("#!/nowhere/sh\n", "No such file or directory")],
)
async def test_what_can_never_start_is_not_tried_again_until_it_changes(bare: Node, program: str, told: str) -> None:
    install(bare, program)
    await bare.start()
    while (child := await bare.child_is("unavailable"))["lastExit"] is None:
        pass  # the state is known first, and a moment later why
    assert (child["generation"], child["pid"], child["restarts"]) == (1, None, 1)
    saw("F62", told in child["problem"], f"Codex cannot be run: {told}")
    assert told in child["problem"]
    assert str(bare.folder / "codex") in child["problem"]
    assert told in child["lastExit"]["reason"]
    session_id = await bare.session()
    refused = await bare.post("/v1/codexd/turn", {"sessionId": session_id, "prompt": "plain"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "child_unavailable")
    await restart(bare)  # by hand it is tried once more, and no better
    async with Oracle(bare) as oracle:
        await oracle.saw("child.exited", count=2)
        assert (await bare.child_is("unavailable"))["generation"] == 2
        install_codex(bare)  # seen without being told
        assert (await bare.child_is("ready"))["generation"] == 3
        assert types([event for event in oracle.events if event["type"].startswith("child.")])[:2] == [
            "child.exited",
            "child.exited",
        ]
    assert (await bare.play(session_id, "plain"))["finalMessage"] == "Fine."


async def test_a_codex_that_is_too_old_is_ended_and_named(bare: Node) -> None:
    install(bare, OLD)
    await bare.start()
    while (child := await bare.child_is("unavailable"))["problem"] is None:
        pass  # the state is known first, and a moment later why
    saw("F62", "too old" in child["problem"], "a Codex of an old release")
    assert "Codex 0.144.3 is too old: codexd needs 0.144.4 or later." in child["problem"]
    assert "pip install -U" in child["problem"]
    async with Oracle(bare) as oracle:
        await oracle.saw("child.exited")
    child = await bare.child_is("unavailable")
    assert (child["generation"], child["pid"], child["support"]) == (1, None, "too_old")
    assert types(await bare.events(types="child.backoff,child.crash_loop,child.ready")) == []


# --- a Codex of a release that codexd does not know


NEWER = """\
#!/bin/sh
{codex} "$@" | sed -u 's|^{{\\(.*\\)"userAgent":"baa/[0-9.]*|{{"hologram":true,\\1"warp":9,"userAgent":"baa/{version}|
/"warp"/a {{"method":"thread/teleported","params":{{"to":"elsewhere"}}}}\\
{{"id":"hologram-1","method":"item/hologram/requestApproval","params":{{"itemId":"i"}}}}'
"""


async def test_a_newer_codex_works_and_is_said_to_be_newer(bare: Node) -> None:
    install(bare, NEWER.format(codex=bundled_codex_path(), version="0.999.0"))
    await bare.start()
    child = await bare.child_is("ready")
    assert (child["codexVersion"], child["support"], child["problem"]) == ("0.999.0", "newer", None)
    session_id = await bare.session()
    assert (await bare.play(session_id, "plain"))["finalMessage"] == "Fine."
    told = {event["payload"].get("method"): event["payload"] for event in await bare.events(types="codex.notification")}
    assert told["thread/teleported"]["params"] == {"to": "elsewhere"}  # passed on whole
    assert told["item/hologram/requestApproval"]["answered"] == "refused"
    assert '"codex.untested"' in bare.log


GONE = ("turn/steer", "thread/fork", "thread/read", "thread/turns/list", "thread/backgroundTerminals/clean")
GONE_TOO = ("thread/unsubscribe", "account/read", "account/rateLimits/read")
LACKING = """\
#!/bin/sh
sed -u 's#"method":"\\({methods}\\)"#"method":"gone/\\1"#' | {codex} "$@"
"""


async def test_a_codex_without_some_methods_does_all_else_and_says_what_it_lacks(bare: Node) -> None:
    """codexd's own requests, each by another name: the real Codex answers as it answers what it does not have."""
    install(bare, LACKING.format(codex=bundled_codex_path(), methods="\\|".join(GONE + GONE_TOO)))
    await bare.start()
    child = await bare.child_is("ready")
    session_id = await bare.session()
    assert (await bare.play(session_id, "plain"))["finalMessage"] == "Fine."
    assert (await bare.status())["codex"]["loggedIn"] is None

    held = await bare.turn(session_id, "held")
    await bare.running_turn(held)
    steered = await bare.post(f"/v1/codexd/turn/{held}/steer", {"prompt": "more"})
    adopted = await bare.post("/v1/codexd/sessions", {"threadId": "0198a7a0-0000-7000-8000-000000000000"})
    for answer, method in ((steered, "turn/steer"), (adopted, "thread/read")):
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "codex_failed")
        assert f"has no gone/{method}" in answer.json()["error"]["message"]
    assert (await bare.post(f"/v1/codexd/turn/{held}/interrupt", {})).status_code == 202
    assert (await bare.end_of_turn(held))["status"] == "interrupted"

    forked = (await bare.post(f"/v1/codexd/sessions/{session_id}/fork", {})).json()["data"]["session"]["sessionId"]
    turn = await bare.play(forked, "plain")
    assert (turn["status"], turn["reason"]) == ("failed", "thread_refused")
    assert turn["error"]["missingMethod"] == "gone/thread/fork"

    held = await bare.turn(session_id, "held")
    await bare.running_turn(held)
    assert (await bare.child_is("ready"))["generation"] == child["generation"]  # none of it was a reason to end it
    await end((await bare.child_is("ready"))["pid"])
    turn = await bare.end_of_turn(held)
    assert (turn["status"], turn["reason"]) == ("interrupted", "child_exited")
    assert turn["evidence"]["history"]["missingMethod"] == "gone/thread/turns/list"
    assert (await bare.play(session_id, "plain"))["finalMessage"] == "Fine."
