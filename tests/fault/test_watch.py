"""A child that hangs, grows, or is outdated: found by looking at it, told with evidence, and replaced."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from codex_cli_bin import bundled_codex_path

from baa.scripted import Hold, Run, Say, ScriptedModel, when
from tests.support.faults import saw
from tests.support.keeper_client import alive
from tests.support.node import Json, Node, until
from tests.support.oracle import Oracle, flaws_of, types

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the tests look at /proc"),
    pytest.mark.timeout(180),  # later than any wait of ours gives up, so that a test that fails cleans up
]

WATCH_MS = "300"
SCENARIOS = (
    when("plain", Say("Fine.")),
    when("held", (Say.numbered(50), Hold("held"), Say("the end"))),
    when("endless", Run("echo begun; tail -f /dev/null", yield_time_ms=30_000)),
)
REAL = f'exec "{bundled_codex_path()}" "$@"'
DEAF = """\
read line
echo '{"id": "child:initialize:1", "result": {"userAgent": "baa/1.2.3 (test)"}}'
"""


@pytest.fixture
async def model() -> AsyncIterator[ScriptedModel]:
    async with ScriptedModel(SCENARIOS) as model:
        yield model


def node_of(folder: Path, model: ScriptedModel, *, watch_ms: str = WATCH_MS, server_command: str = "codex") -> Node:
    return Node(folder, model.base_url, watch_ms=watch_ms, server_command=server_command)


def install(folder: Path, script: str) -> str:
    """Put a script in the place of Codex: in one step, as an installer does."""
    new = folder / "codex.new"
    new.write_text(f"#!/bin/sh\n{script}\n")
    new.chmod(0o700)
    new.rename(folder / "codex")
    return str(folder / "codex")


def ends(oracle: Oracle) -> list[Json]:
    return [event["payload"] for event in oracle.events if event["type"] == "child.exited"]


# --- one that hangs


async def test_a_frozen_codex_is_found_ended_and_replaced(tmp_path: Path, model: ScriptedModel) -> None:
    async with node_of(tmp_path, model) as node:
        await node.start()
        async with Oracle(node) as oracle:
            session_id = await node.session()
            turn_id = await node.turn(session_id, "held")
            await oracle.saw("item.delta", turn_id, count=50)
            frozen = await node.child()
            os.kill(frozen, signal.SIGSTOP)
            turn = await node.end_of_turn(turn_id)
            assert (turn["status"], turn["reason"]) == ("interrupted", "child_exited")
            (end,) = ends(oracle)
            saw("F07", end["reason"].startswith("hung"), f"the child was stopped and ended: {end['reason']}")
            assert end["reason"].startswith("hung: no byte for ")
            assert (end["pid"], end["signal"]) == (frozen, signal.SIGKILL)
            told = types([event for event in oracle.events if event["type"].startswith(("child.", "turn.i"))])
            assert told.index("child.exited") < told.index("turn.interrupted")
            assert (await node.play(session_id, "plain"))["finalMessage"] == "Fine."
            await oracle.caught_up()
            assert flaws_of(oracle.events) == []


async def test_a_silent_codex_that_answers_is_left_alone(tmp_path: Path, model: ScriptedModel) -> None:
    """A command that says nothing for a long time is no hung child: Codex answers while it waits."""
    async with node_of(tmp_path, model, watch_ms="50") as node:
        await node.start()
        turn_id = await node.turn(await node.session(), "endless")
        await until(lambda: node.running("tail"))
        child = await node.child()
        await until(lambda: node.spool.count(b"child:ping:") >= 10)
        assert alive(child)
        assert (await node.ledger(turn_id))["status"] == "in_progress"
        await node.post(f"/v1/codexd/turn/{turn_id}/interrupt", {})
        assert (await node.end_of_turn(turn_id))["reason"] == "requested"


@pytest.mark.parametrize(
    "then",
    ["exec tail -f /dev/null", "exec <&-; exec tail -f /dev/null", "exec >&-; exec cat >/dev/null"],
    ids=["reads no more", "closed its stdin", "closed its stdout"],
)
async def test_a_codex_that_no_longer_hears_or_speaks_is_hung(tmp_path: Path, model: ScriptedModel, then: str) -> None:
    async with node_of(tmp_path, model, server_command=install(tmp_path, f"{DEAF}{then}")) as node:
        await node.start()
        async with Oracle(node) as oracle:
            await oracle.saw("child.exited")
            saw("F26", ends(oracle)[0]["reason"].startswith("hung: "), f"a child that lives on: {then}")
            told = [event["type"] for event in oracle.events if event["type"].startswith("child.")]
            assert told[:3] == ["child.started", "child.ready", "child.exited"]
        await node.kill()  # a stop would wait for the ladder of the next one, which is as deaf


async def test_without_its_stderr_it_lives_on(tmp_path: Path, model: ScriptedModel) -> None:
    async with node_of(tmp_path, model, server_command=install(tmp_path, f"exec 2>&-\n{REAL}")) as node:
        await node.start()
        assert (await node.play(await node.session(), "plain"))["finalMessage"] == "Fine."
        await until(lambda: node.spool.count(b"child:ping:") >= 5)
        stderr = os.path.realpath(f"/proc/{await node.child()}/fd/2")
        saw("F26", "pipe:" not in stderr, f"a child that closed its stderr (it is {stderr} now) works on")
        assert (await node.status())["child"]["restarts"] == 0


async def test_a_frozen_keeper_is_ended_with_its_child(tmp_path: Path, model: ScriptedModel) -> None:
    async with node_of(tmp_path, model) as node:
        await node.start()
        async with Oracle(node) as oracle:
            child, keeper = await node.child(), node.keeper
            os.kill(keeper, signal.SIGSTOP)
            await oracle.saw("child.exited")
            assert ends(oracle)[0]["reason"].startswith("hung: ")
            assert not alive(child)
            await node.child_is("ready")


# --- one that grows


async def test_what_it_takes_of_the_machine_is_told(tmp_path: Path, model: ScriptedModel) -> None:
    async with node_of(tmp_path, model) as node:
        await node.start()
        turn_id = await node.turn(await node.session(), "endless")
        await until(lambda: node.running("tail"))
        while not ((await node.status())["child"]["resources"] or {}).get("descendants"):
            await node.get("/v1/codexd/events", after=await node.head(), waitMs=50)
        told = (await node.status())["child"]["resources"]
        assert told["rssBytes"] > 10 << 20
        assert (told["fds"] > 3, told["threads"] > 1, told["descendants"] >= 1) == (True, True, True)
        assert 0 <= told["ageMs"] < 60_000
        await node.post(f"/v1/codexd/turn/{turn_id}/interrupt", {})
        await node.end_of_turn(turn_id)


async def test_one_that_grew_beyond_the_soft_limit_is_replaced_when_nothing_runs(
    tmp_path: Path, model: ScriptedModel
) -> None:
    async with node_of(tmp_path, model) as node:
        await node.start()
        async with Oracle(node) as oracle:
            session_id = await node.session()
            turn_id = await node.turn(session_id, "held")
            await oracle.saw("item.delta", turn_id, count=50)
            await node.kill()
            node.settings["child_soft_mib"] = "10"
            await node.start()
            child = await node.child()
            await until(lambda: node.spool.count(b"child:ping:") >= 3)
            assert alive(child)  # it is too large, and was looked at, and a turn runs
            model.release("held")
            assert (await node.end_of_turn(turn_id))["status"] == "completed"
            await oracle.saw("child.exited")
            assert ends(oracle)[0]["reason"].startswith("memory: ")
            assert ends(oracle)[0]["reason"].endswith("more than 10 MiB")
            assert "child.backoff" not in types(oracle.events)
            assert await node.stop() == 0  # the next one is as large


async def test_one_beyond_the_hard_limit_is_ended_in_mid_turn(tmp_path: Path, model: ScriptedModel) -> None:
    async with node_of(tmp_path, model) as node:
        await node.start()
        async with Oracle(node) as oracle:
            turn_id = await node.turn(await node.session(), "held")
            await oracle.saw("item.delta", turn_id, count=50)
            await node.kill()
            node.settings["child_hard_mib"] = "10"
            await node.start()
            turn = await node.end_of_turn(turn_id)
            saw("F17", ends(oracle)[0]["reason"].startswith("memory"), ends(oracle)[0]["reason"])
            assert (turn["status"], turn["reason"]) == ("interrupted", "child_exited")
            assert ends(oracle)[0]["reason"].startswith("memory: ")
            assert ends(oracle)[0]["reason"].endswith("the limit is 10 MiB")


# --- one that is outdated


async def test_an_upgrade_is_seen_shown_and_waits_for_the_turn(tmp_path: Path, model: ScriptedModel) -> None:
    newer = f'[ "$1" = --version ] && {{ echo codex-cli 0.999.0; exit; }}\n{REAL}'
    async with node_of(tmp_path, model, server_command=install(tmp_path, REAL)) as node:
        await node.start()
        async with Oracle(node) as oracle:
            session_id = await node.session()
            turn_id = await node.turn(session_id, "held")
            await oracle.saw("item.delta", turn_id, count=50)
            before = (await node.status())["child"]
            assert (before["outdated"], before["installedVersion"]) == (False, before["codexVersion"])
            install(tmp_path, newer)
            while not (now := (await node.status())["child"])["outdated"]:
                await node.get("/v1/codexd/events", after=await node.head(), waitMs=50)
            assert (now["installedVersion"], now["codexVersion"]) == ("0.999.0", before["codexVersion"])
            assert now["pid"] == before["pid"]
            await node.kill()  # the next codexd knows what its child was started from
            await node.start()
            while not (await node.status())["child"]["outdated"]:
                await node.get("/v1/codexd/events", after=await node.head(), waitMs=50)
            assert alive(before["pid"])
            model.release("held")
            assert (await node.end_of_turn(turn_id))["finalMessage"].endswith("the end")
            await oracle.saw("child.ready", count=2)
            assert [end["reason"] for end in ends(oracle)] == ["Codex 0.999.0 is installed"]
            child = (await node.status())["child"]
            assert (child["generation"], child["outdated"]) == (2, False)
            assert (await node.play(session_id, "plain"))["finalMessage"] == "Fine."


@pytest.mark.parametrize(
    "then", ["exit 1", "echo codex-cli 0.1.0", None], ids=["broken", "too old", "the same version"]
)
async def test_what_would_be_no_better_replaces_nothing(tmp_path: Path, model: ScriptedModel, then: str | None) -> None:
    told = "" if then is None else f'[ "$1" = --version ] && {{ touch asked; {then}; exit; }}'
    async with node_of(tmp_path, model, server_command=install(tmp_path, REAL), watch_ms="50") as node:
        await node.start()
        await node.child()
        install(tmp_path, f"{told}\n{REAL}")
        before = node.spool.count(b"child:ping:")
        await until(lambda: node.spool.count(b"child:ping:") >= before + 10)
        child = (await node.status())["child"]
        assert (child["outdated"], child["restarts"], child["state"]) == (False, 0, "ready")
