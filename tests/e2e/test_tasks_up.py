"""Tasks as the README shows them: `baa up`, and the commands that a user types; on one node, and on two.

The second test waits out a node's time, a turn's lease and a leader's: seconds that nothing can shorten.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from baa.scripted import Hold, Run, Say, ScriptedModel, when
from tests.support.node import Node, within
from tests.support.repositories import Repository
from tests.support.up import UpNode

pytestmark = pytest.mark.timeout(240)

SCENARIOS = (
    when("these checks failed after", Run("echo two > result"), Say("Mended.")),
    when("An earlier attempt at this task ended as lost", Run("echo one > result"), Say("Began again.")),
    when("toil", Run("echo none > result"), (Hold("gate"), Say("Never told."))),
    when("make it", Run("echo one > result"), Say("Made.")),
)
FREE = ("--sandbox", "danger-full-access")


def task_of(shown: str) -> dict[str, Any]:
    task: dict[str, Any] = json.loads(shown)["task"]
    return task


async def test_a_check_that_fails_first_and_passes_after_the_second_turn(tmp_path: Path) -> None:
    async with ScriptedModel(SCENARIOS) as model, Node(tmp_path, model.base_url) as node:
        repo = Repository(node.work / "project")
        here = UpNode(node, "here")
        async with here.up():
            where = ("--cwd", str(repo.folder), *FREE)
            added = await here.baa("task", "add", "make it", "--check", "grep two result", *where, "--wait")
            assert (added.code, added.stderr) == (0, "")
            task_id = added.stdout.split()[0]
            shown = (await here.baa("task", "show", task_id)).stdout
            assert "turn 2 (checks_failed): completed" in shown
            assert "Mended." in shown
            reported = (await here.baa("report")).stdout
            assert "done (1)" in reported
            assert "2 turns" in reported
            applied = await here.baa("task", "apply", task_id)
            assert (applied.code, applied.stderr) == (0, "")
            assert (repo.folder / "result").read_text() == "two\n"
            assert repo.git("status", "--porcelain") == ""


async def test_a_node_is_killed_at_work_and_the_other_finishes_its_task(tmp_path: Path, postgres_url: str) -> None:
    """Each has a BAA_HOME, codexd, conductor and worker-runner of its own; the folder is where both can see it."""
    fleet = {"BAA_ENGINE_URL": postgres_url, "BAA_WORKER_NODE_TTL_MS": "2000"}
    repo = Repository(tmp_path / "shared")
    one, two = tmp_path / "one", tmp_path / "two"
    async with ScriptedModel(SCENARIOS) as model, Node(one, model.base_url) as first, Node(two, model.base_url) as last:
        stations = {"one": UpNode(first, "one", **fleet), "two": UpNode(last, "two", **fleet)}
        for node in (first, last):
            node.allow(repo.folder)
            node.lower_ceiling("danger-full-access")
        async with stations["one"].up("--all-services"), stations["two"].up("--all-services"):
            where = ("--cwd", str(repo.folder), "--inplace", *FREE)
            added = await stations["one"].baa("task", "add", "toil", "--check", "grep two result", *where)
            assert (added.code, added.stderr) == (0, "")
            task_id = added.stdout.strip()
            await within(model.held("gate"))
            attempt = task_of((await stations["two"].baa("task", "show", task_id, "--json")).stdout)["attempts"][0]
            dead = stations.pop(attempt["nodeId"])
            await dead.kill()
            ((name, alive),) = stations.items()

            watched = await alive.baa("task", "watch", task_id)
            assert (watched.code, watched.stderr) == (0, "")
            task = task_of((await alive.baa("task", "show", task_id, "--json")).stdout)
            assert [(each["nodeId"], each["state"]) for each in task["attempts"]] == [
                (dead.name, "lost"),
                (name, "succeeded"),
            ]
            assert len(task["attempts"][1]["evidence"]["turns"]) == 2
            assert (repo.folder / "result").read_text() == "two\n"
            nodes = json.loads((await alive.baa("node", "list", "--json")).stdout)["nodes"]
            assert {each["nodeId"]: each["state"] for each in nodes} == {dead.name: "gone", name: "active"}
            reported = json.loads((await alive.baa("report", "--json")).stdout)["report"]
            assert [each["taskId"] for each in reported["succeeded"]] == [task_id]
