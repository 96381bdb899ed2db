"""Backups as an operator makes them: while turns run, and put back here and on another machine."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import httpx2
import psutil
import pytest

from baa.scripted import Hold, Say, ScriptedModel, when
from tests.support.keeper_client import alive
from tests.support.node import Json, Node, moment, until, within
from tests.support.oracle import Oracle, flaws_of, numbered

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the tests look at /proc"),
    pytest.mark.timeout(180),  # later than any wait of ours gives up, so that a test that fails cleans up
]

SCENARIOS = (
    when("held", (Say.numbered(50), Hold("held"), Say.numbered(50, start=50))),
    when("plain", Say("Fine.")),
)


class House(NamedTuple):
    """A node, and the model that it has."""

    node: Node
    model: ScriptedModel


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with ScriptedModel(SCENARIOS) as model, Node(tmp_path / "one", model.base_url) as node:
        await node.start()
        yield House(node, model)


class Done(NamedTuple):
    """What a command came to."""

    code: int
    out: str
    stderr: str

    @property
    def told(self) -> Json:
        told: Json = json.loads(self.out)
        return told


async def baa(node: Node, *words: str) -> Done:
    """Run the command line as the node's user."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "baa.cli", *words), env=node.environment(), stdout=PIPE, stderr=PIPE, cwd=node.folder
    )
    out, stderr = await within(process.communicate())
    assert process.returncode is not None
    return Done(process.returncode, out.decode(), stderr.decode())


async def expired(node: Node, cursor: str) -> bool:
    answer = await node.get("/v1/codexd/events", after=cursor)
    return (answer.status_code, answer.json().get("error", {}).get("code")) == (410, "cursor_expired")


async def test_a_backup_is_made_while_a_turn_runs_and_brings_the_log_back_here(house: House) -> None:
    node, model = house
    session_id = await node.session()
    before = await node.play(session_id, "plain")
    turn_id = await node.turn(session_id, "held")
    await within(model.held("held"))
    made = await baa(node, "backup", "safe", "--json")
    assert (made.code, made.stderr) == (0, "")
    backup = made.told["backup"]
    assert backup["path"] == str(node.folder / "safe")
    epoch = (await node.status())["log"]["epoch"]
    assert (backup["manifest"]["epoch"], backup["manifest"]["oldest"]) == (epoch, 1)
    assert json.loads((node.folder / "safe" / "manifest.json").read_text()) == backup["manifest"]

    refused = await baa(node, "restore", "safe")
    assert refused.code == 75
    assert "Stop it" in refused.stderr
    async with Oracle(node) as reader:
        model.release("held")
        assert (await node.end_of_turn(turn_id))["finalMessage"] == "".join(numbered(100))
        await within(reader.end_of(turn_id))
    later = await node.turn(session_id, "held")  # of this one the backup knows nothing
    await within(model.held("held"))
    cursor, child, keeper = await node.head(), await node.child(), node.keeper
    await node.kill()
    restored = await baa(node, "restore", "safe", "--json")
    assert restored.code == 0, restored.stderr
    assert Path(restored.told["setAside"], "codexd.sqlite3").stat().st_size > 0
    await node.start()
    assert await node.child() != child
    assert not alive(child)
    assert not alive(keeper)
    assert await expired(node, cursor)
    assert await expired(node, f"{epoch}:{backup['manifest']['head']}")
    turn = await node.ledger(turn_id)
    assert (turn["status"], turn["reason"]) == ("lost", "log_went_back")
    assert (await node.get(f"/v1/codexd/turn/{later}")).status_code == 404
    assert await node.ledger(before["turnId"]) == before
    assert (await node.play(session_id, "plain"))["finalMessage"] == "Fine."
    assert flaws_of(await node.events()) == []
    after = (await node.head()).partition(":")[0]
    await node.kill()
    await node.start()
    assert (await node.head()).partition(":")[0] == after  # it went back once


async def test_a_backup_is_the_log_of_another_machine(house: House, tmp_path: Path) -> None:
    node, model = house
    session_id = await node.session(purpose="moved")
    before = await node.play(session_id, "plain")
    answer = await node.post("/v1/codexd/status/backup", {})
    assert answer.status_code == 201, answer.text
    path = Path(answer.json()["data"]["backup"]["path"])
    assert path.parent == node.home / "state" / "backups"
    async with Node(tmp_path / "two", model.base_url) as other:
        other.allow(node.work)
        restored = await baa(other, "restore", str(path))
        assert restored.code == 0, restored.stderr
        assert restored.out.startswith(f"{other.state}: the log up to event ")
        await other.start()
        await other.child()
        assert await other.ledger(before["turnId"]) == before
        assert (await other.session_of(session_id))["purpose"] == "moved"
        assert (await other.play(await other.session(), "plain"))["finalMessage"] == "Fine."
        assert flaws_of(await other.events()) == []


async def test_without_a_codexd_the_command_makes_the_backup_itself(house: House) -> None:
    node, _ = house
    turn = await node.play(await node.session(), "plain")
    await node.kill()
    made = await baa(node, "backup")
    assert made.code == 0, made.stderr
    (path,) = (node.home / "state" / "backups").iterdir()
    assert made.out.startswith(f"{path}: the log up to event ")
    restored = await baa(node, "restore", str(path))
    assert restored.code == 0, restored.stderr
    await node.start()
    assert await node.ledger(turn["turnId"]) == turn


PLACES = {
    "relative": "absolute path",
    "{folder}": "new folder",
    "{folder}/none/new": "new folder",
    "/proc/new": "cannot be made",
    "": "to",
}


async def test_a_place_that_cannot_be_is_refused(house: House) -> None:
    node, _ = house
    for to, told in PLACES.items():
        answer = await node.post("/v1/codexd/status/backup", {"to": to.format(folder=node.folder)})
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_request")
        assert told in answer.json()["error"]["message"]


async def test_the_command_says_why_it_cannot_and_its_exit_code_too(house: House) -> None:
    node, _ = house
    wrong = await baa(node, "backup", "none/new")
    assert (wrong.code, wrong.out) == (73, "")
    assert wrong.stderr.startswith("baa: A backup goes into a new folder")
    wrong = await baa(node, "restore", "none", "--json")
    assert (wrong.code, wrong.told["ok"]) == (75, False)
    assert await node.stop() == 0
    wrong = await baa(node, "restore", "none")
    assert wrong.code == 66
    assert "is no backup" in wrong.stderr


# --- a codexd that goes while a backup is being made


Asking = asyncio.Task[httpx2.Response | None]


async def ask(node: Node, to: Path) -> httpx2.Response | None:
    """The answer to a backup; None if codexd is gone before it comes."""
    try:
        return await node.post("/v1/codexd/status/backup", {"to": str(to)})
    except httpx2.TransportError:
        return None


def _makers(node: Node) -> list[psutil.Process]:
    found = []
    for process in psutil.Process(node.pid).children():
        with suppress(psutil.Error):
            if "baa.codexd.copies" in process.cmdline():
                found.append(process)
    return found


async def held_up(node: Node, folder: Path, tasks: asyncio.TaskGroup) -> tuple[psutil.Process, Asking]:
    """A process that makes a backup in `folder`, stopped in the middle of it, and the request that waits for it.

    One that was quicker than we are is followed by another.
    """
    for number in itertools.count():
        to = folder / f"backup-{number}"
        asking = tasks.create_task(ask(node, to), name="backup")
        while not asking.done():
            await moment(0.001)
            partial = to.with_name(f".{to.name}.baa-partial")
            for process in _makers(node) if partial.exists() else ():
                process.suspend()
                if partial.exists() and not (partial / "manifest.json").exists():
                    return process, asking
                process.resume()
        answer = await asking
        assert answer is not None
        assert answer.status_code == 201
    raise AssertionError


async def test_a_codexd_that_stops_lets_go_of_a_backup_and_leaves_nothing_of_it(house: House, tmp_path: Path) -> None:
    node, _ = house
    (tmp_path / "safe").mkdir()
    async with asyncio.TaskGroup() as tasks:
        making, asking = await within(held_up(node, tmp_path / "safe", tasks))
        refused = await ask(node, tmp_path / "safe" / "second")
        assert refused is not None
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "overloaded")
        assert await node.stop() == 0
    answer = asking.result()
    assert answer is not None
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "draining")
    assert not alive(making.pid)
    assert list((tmp_path / "safe").glob(".*")) == []
    await node.start()


async def test_a_backup_for_which_there_is_no_room_is_507_and_nothing_is_kept_of_it(
    house: House, tmp_path: Path
) -> None:
    node, _ = house
    (tmp_path / "safe").mkdir()
    async with asyncio.TaskGroup() as tasks:
        making, asking = await within(held_up(node, tmp_path / "safe", tasks))
        making.rlimit(psutil.RLIMIT_FSIZE, (0, 0))  # no file of it may grow from here on
        making.resume()
    answer = asking.result()
    assert answer is not None
    assert (answer.status_code, answer.json()["error"]["code"]) == (507, "storage_full")
    assert [path.name for path in (tmp_path / "safe").glob(".*")] == []
    assert (await node.play(await node.session(), "plain"))["finalMessage"] == "Fine."


async def test_a_backup_does_not_outlive_its_codexd_and_the_next_removes_what_it_left(
    house: House, tmp_path: Path
) -> None:
    node, _ = house
    (tmp_path / "safe").mkdir()
    async with asyncio.TaskGroup() as tasks:
        making, asking = await within(held_up(node, tmp_path / "safe", tasks))
        await node.kill()
    assert asking.result() is None
    making.resume()
    await until(lambda: not alive(making.pid))
    assert len(list((tmp_path / "safe").glob(".*"))) == 1
    await node.start()
    assert (await baa(node, "backup", str(tmp_path / "safe" / "next"))).code == 0
    assert list((tmp_path / "safe").glob(".*")) == []
