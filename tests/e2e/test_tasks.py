"""A task as a user has it: queued, its failed check given back to the agent, watched, brought home, reported."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

from baa.api import ids
from baa.scripted import Run, Say, ScriptedModel, when
from tests.support.command_line import baa
from tests.support.node import Node
from tests.support.programs import Program
from tests.support.repositories import Repository, a_task

pytestmark = pytest.mark.timeout(180)

EVIL = "Made.\x1b]0;owned\x07"
SCENARIOS = (
    when("these checks failed after", Run("echo two > result"), Say("Mended.")),
    when("make it", Run("echo one > result"), Say(EVIL)),
)
FREE = ("--sandbox", "danger-full-access")


class House(NamedTuple):
    """A node with its conductor, and a repository on it."""

    node: Node
    conductor: Program
    repo: Repository


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with ScriptedModel(SCENARIOS) as model, Node(tmp_path, model.base_url) as node:
        await node.start()
        settings = {"BAA_CONFIG": str(tmp_path / "baa.toml")}
        async with Program("conductor", node.home, **settings) as conductor:
            yield House(node, conductor, Repository(node.work / "project"))
            assert (await conductor.stop())[0] == 0


async def test_a_check_that_fails_first_and_passes_after_the_second_turn(house: House) -> None:
    node, _, repo = house
    where = ("--cwd", str(repo.folder), *FREE)
    added = await baa(node, "task", "add", "make it", "--check", "grep two result", *where, BAA_NODE_ID="here")
    assert (added.code, added.stderr) == (0, "")
    task_id = added.stdout.strip()

    watched = await baa(node, "task", "watch", task_id)
    assert watched.code == 0, watched.stderr
    assert "check 'grep two result' failed" in watched.stdout
    assert "check 'grep two result' passed" in watched.stdout
    assert "\x1b" not in watched.stdout
    assert f"baa task apply {task_id}" in watched.stdout

    shown = (await baa(node, "task", "show", task_id)).stdout
    assert "turn 2 (checks_failed): completed" in shown
    assert "Mended." in shown
    diff = (await baa(node, "task", "show", task_id, "--diff")).stdout
    assert "+two" in diff
    listed = json.loads((await baa(node, "task", "list", "--state", "succeeded", "--json")).stdout)
    assert [each["taskId"] for each in listed["tasks"]] == [task_id]

    task = json.loads((await baa(node, "task", "show", task_id, "--json")).stdout)["task"]
    note = Path(task["attempts"][0]["evidence"]["workspace"]) / "note"
    note.write_text("of somebody who looked at it")
    applied = await baa(node, "task", "apply", task_id, BAA_NODE_ID="here")
    assert (applied.code, applied.stderr) == (0, "")
    assert f"its worktree stays: {note.parent} holds what is not committed" in applied.stdout
    note.unlink()
    assert (repo.folder / "result").read_text() == "two\n"
    again = json.loads((await baa(node, "task", "apply", task_id, "--json", BAA_NODE_ID="here")).stdout)
    assert (again["already"], again["worktreeStays"]) == (True, None)
    assert repo.git("worktree", "list").count("\n") == 0
    assert repo.git("branch", "--list", "baa/*") == ""

    reported = json.loads((await baa(node, "report", "--json")).stdout)["report"]
    assert [each["taskId"] for each in reported["succeeded"]] == [task_id]
    assert (reported["failed"], reported["asked"]) == ([], [])
    assert reported["spent"]["turns"] == 2
    assert reported["spent"]["tokens"] > 0
    page = (await baa(node, "report", "--since", "1h")).stdout
    assert "done (1)" in page
    assert "2 turns" in page


async def test_a_task_that_fails_is_told_with_its_check_and_given_another_try(house: House) -> None:
    node, _, repo = house
    done = await baa(
        node, "task", "add", "make it", "--check", "echo never; exit 3", "--max-turns", "1", "--wait",
        "--cwd", str(repo.folder), *FREE,
    )  # fmt: skip
    assert done.code == 1, done.stderr
    task_id = done.stdout.split()[0]
    page = (await baa(node, "report")).stdout
    assert "failed (1)" in page
    assert "check 'echo never; exit 3' failed with 3" in page
    refused = await baa(node, "task", "apply", task_id, BAA_NODE_ID="here")
    assert refused.code == 75
    assert "--anyway" in refused.stderr
    would = (await baa(node, "task", "clean", str(repo.folder), "--dry-run")).stdout
    assert would.startswith(f"{task_id}  stays: No other branch holds ")
    assert (await baa(node, "task", "pause")).code == 0
    assert (await baa(node, "task", "retry", task_id)).stdout == f"{task_id} queued\n"
    assert (await baa(node, "task", "cancel", task_id)).stdout == f"{task_id} canceled\n"
    assert (await baa(node, "task", "watch", task_id)).code == 130
    repo.git("merge", "--quiet", f"baa/{task_id}")
    assert (
        await baa(node, "task", "clean", str(repo.folder), "--dry-run")
    ).stdout == f"{task_id}  would be taken away\n"
    assert repo.git("branch", "--list", "baa/*") != ""
    cleaned = json.loads((await baa(node, "task", "clean", str(repo.folder), "--json")).stdout)["tasks"]
    assert cleaned == [{"taskId": task_id, "why": None}]
    assert repo.refs() == ["refs/heads/main"]
    assert (await baa(node, "task", "clean", str(repo.folder))).stdout.startswith("No task left anything")
    queued = (await baa(node, "task", "add", "wait", "--cwd", str(repo.folder))).stdout.strip()
    forgotten, unknown = a_task(), ids.new_id(ids.TASK, round(time.time() * 1000))
    for each in (queued, forgotten, unknown):
        repo.git("update-ref", f"refs/baa/{each}/base", "HEAD")
    cleaned = json.loads((await baa(node, "task", "clean", str(repo.folder), "--json")).stdout)["tasks"]
    assert {each["taskId"]: (each["why"] or "")[:13] for each in cleaned} == {
        forgotten: "",
        queued: "It is queued.",
        unknown: "This node's c",
    }
    assert (await baa(node, "task", "cancel", queued)).code == 0
    stays = (await baa(node, "task", "clean", str(repo.folder))).stdout
    assert f"{queued}  stays: It worked in the folder itself, and may be tried again" in stays
    assert (await baa(node, "task", "resume")).code == 0


async def test_the_fleet_and_a_file_of_tasks(house: House) -> None:
    node, conductor, _ = house
    await conductor.becomes("/v1/nodes", lambda data: len(data["nodes"]) == 1, token=conductor.token())
    nodes = json.loads((await baa(node, "node", "list", "--json")).stdout)["nodes"]
    assert [(each["nodeId"], each["state"]) for each in nodes] == [("here", "active")]
    assert (await baa(node, "node", "drain", "here")).stdout == "here draining\n"
    missing = json.loads((await baa(node, "node", "drain", "there", "--json")).stdout)
    assert missing["error"]["code"] == "node_not_found"
    file = node.work / "tasks.toml"
    file.write_text(
        '[defaults]\npriority = 2\n[[task]]\nname = "one"\nprompt = "first"\n'
        '[[task]]\nprompt = "second"\nafter = ["one"]\nchecks = ["true", { command = "make", timeout = "1h" }]\n'
    )
    added = await baa(node, "task", "add", "--file", str(file), "--json")
    first, second = json.loads(added.stdout)["tasks"]
    assert second["request"]["dependsOn"] == [first["taskId"]]
    assert second["request"]["checks"][1]["timeoutMs"] == 3_600_000
    assert (first["request"]["cwd"], second["request"]["priority"]) == (str(node.work), 2)
