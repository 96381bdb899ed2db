"""Tasks as docs/fleet.md shows them, executed: `baa up`, and the commands that a user types; on one node, and on two.

`baa node install` takes a service manager: `baa up` stands for it, which starts the same programs.

The second test waits out a node's time, a turn's lease and a leader's: seconds that nothing can shorten.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from baa.scripted import Hold, Run, Say, ScriptedModel, when
from tests.support.node import Node, within
from tests.support.postgres import PostgreSQL
from tests.support.repositories import Repository
from tests.support.up import UpNode

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "fleet.md").read_text()
"""Its blocks are run, with the test's own names in place of the document's."""

pytestmark = pytest.mark.timeout(240)

SCENARIOS = (
    when("these checks failed after", Run("echo two > result"), Say("Mended.")),
    when("An earlier attempt at this task ended as lost", Run("echo one > result"), Say("Began again.")),
    when("toil", Run("echo none > result"), (Hold("gate"), Say("Never told."))),
    when("make it", Run("echo one > result"), Say("Made.")),
)
SHORT = {"BAA_WORKER_NODE_TTL_MS": "2000"}
FREE = ("--sandbox", "danger-full-access")


def block(language: str, beginning: str) -> list[str]:
    """The lines of the document's block that begins so, without comments."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
    (found,) = [each for each in blocks if each.startswith(beginning)]
    return [line.partition("  #")[0].rstrip() for line in found.splitlines()]


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
            clone = Repository(tmp_path / "clone")
            for line in block("sh", "git fetch"):
                words = [word for word in line.split() if word != "git"]
                words = [str(repo.folder) if word == "box:/home/me/project" else word for word in words]
                said = clone.git(*(f"baa/{task_id}" if word.startswith("baa/") else word for word in words))
            assert "make it" in said
            applied = await here.baa("task", "apply", task_id)
            assert (applied.code, applied.stderr) == (0, "")
            assert (repo.folder / "result").read_text() == "two\n"
            assert repo.git("status", "--porcelain") == ""


@pytest.fixture
def shared(postgres: PostgreSQL) -> Iterator[str]:
    """The settings of every machine, with a database that was made as the document says."""
    for line in block("sh", "sudo -u postgres"):
        words = line.removeprefix("sudo -u postgres ").split()
        postgres.run(*("e2e" if word == "baa" else word for word in words), answers="PASSWORD\nPASSWORD\n")
    settings = "\n".join(block("toml", "node_id"))
    yield settings.replace("//baa:", "//e2e:").replace("@box:5432/baa", f"@127.0.0.1:{postgres.port}/e2e")
    postgres.run("dropdb", "--force", "e2e")
    postgres.run("dropuser", "e2e")


async def test_a_node_is_killed_at_work_and_the_other_finishes_its_task(tmp_path: Path, shared: str) -> None:
    """Each has a BAA_HOME, codexd, conductor and worker-runner of its own; the folder is where both can see it."""
    repo = Repository(tmp_path / "shared")
    one, two = tmp_path / "one", tmp_path / "two"
    async with ScriptedModel(SCENARIOS) as model, Node(one, model.base_url) as first, Node(two, model.base_url) as last:
        stations = {
            name: UpNode(node, name, BAA_WORKER_NODE_TTL_MS="2000") for name, node in (("one", first), ("two", last))
        }
        for name, station in stations.items():
            node = station.node
            node.allow(repo.folder)
            node.lower_ceiling("danger-full-access")
            file = node.folder / "baa.toml"
            file.write_text(shared.replace("studio", name) + "\n" + file.read_text())
            del station.settings["BAA_NODE_ID"]
        async with stations["one"].up("--all-services"), stations["two"].up("--all-services"):
            for station in stations.values():
                listed = (await station.baa("node", "list")).stdout
                assert [line.split()[:2] for line in listed.splitlines()[1:]] == [["one", "active"], ["two", "active"]]
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
            for line in block("sh", "baa node drain"):
                done = await alive.baa(*line.replace("laptop", name).split()[1:])
                assert (done.code, done.stderr) == (0, "")
            assert (await alive.baa("node", "list")).stdout.splitlines()[1:][0].split()[1] in ("draining", "gone")
