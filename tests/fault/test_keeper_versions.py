"""Keepers of other releases than codexd's: an earlier one is met in its own words, a later one is left alone."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

import baa
from baa.scripted import Hold, Say, ScriptedModel, when
from tests.support.keeper_client import alive
from tests.support.node import Node, until
from tests.support.oracle import Oracle, flaws_of, numbered

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the tests look at /proc"),
    pytest.mark.timeout(180),  # later than any wait of ours gives up, so that a test that fails cleans up
]

KEEPER_1 = Path(__file__).parents[1] / "support" / "keeper_1.txt"
SCENARIOS = (
    when("plain", Say("Fine.")),
    when("held", (Say.numbered(50), Hold("held"), Say.numbered(50, start=50))),
)


def release_of(keeper: str, folder: Path) -> tuple[str, ...]:
    """The command of a codexd that has this keeper."""
    installed = folder / "release" / "baa"
    shutil.copytree(Path(baa.__file__).parent, installed)
    for module in (installed / "keeper").glob("*.py*"):
        module.unlink()
    (installed / "keeper" / "__main__.py").write_text(keeper)
    paths = os.pathsep.join(filter(None, (str(installed.parent), os.environ.get("PYTHONPATH"))))
    return ("env", f"PYTHONPATH={paths}", sys.executable, "-m", "baa.codexd")


@pytest.mark.parametrize("keeper_dies", [False, True])
async def test_the_child_of_a_keeper_of_version_1_goes_on(tmp_path: Path, keeper_dies: bool) -> None:
    async with ScriptedModel(SCENARIOS) as model, Node(tmp_path / "node", model.base_url) as node:
        ours, node.command = node.command, release_of(KEEPER_1.read_text(), tmp_path)
        await node.start()
        async with Oracle(node) as oracle:
            session_id, child = await node.session(), await node.child()
            turn_id = await node.turn(session_id, "held")
            await oracle.saw("item.delta", turn_id, count=50)
            assert [path.is_file() for path in node.state.glob("keepers/*/spool")] == [True]
            await node.kill()
            model.release("held")
            (spool,) = node.state.glob("keepers/*/spool")
            await until(lambda: b'"turn/completed"' in spool.read_bytes())
            if keeper_dies:
                os.kill(node.keeper, 9)
                await until(lambda: not node.left())
            node.command = ours
            await node.start()
            assert (await oracle.end_of(turn_id))["type"] == "turn.completed"
            assert oracle.deltas(turn_id) == numbered(100)
            assert (await node.child() == child) is not keeper_dies
            assert (await node.play(session_id, "plain"))["finalMessage"] == "Fine."
            await oracle.caught_up()
            assert flaws_of(oracle.events) == []


async def test_a_keeper_of_a_later_release_is_left_alone(tmp_path: Path) -> None:
    async with ScriptedModel(SCENARIOS) as model, Node(tmp_path / "node", model.base_url) as node:
        await node.start()
        child, keeper = await node.child(), node.keeper
        await node.kill()
        release = release_of(KEEPER_1.read_text(), tmp_path)
        link = tmp_path / "release" / "baa" / "codexd" / "appserver" / "keeper_link.py"
        text = link.read_text()
        link.write_text(text.replace("VERSION: Final = 2", "VERSION: Final = 1"))
        assert link.read_text() != text
        ours, node.command = node.command, release
        code, said = await node.another()
        assert (code, "speaks version 2, this codexd 1" in said) == (78, True)
        assert alive(keeper)
        assert alive(child)
        node.command = ours
        await node.start()
        assert await node.child() == child
