"""The spool with codexd: over its segments, before any clock, by a log that wants what is gone. Who may not speak."""

from __future__ import annotations

import asyncio
import sys
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from baa.scripted import Hold, Run, Say, when
from tests.support.node import Node, until, within
from tests.support.noisy import noisy_house, noisy_node
from tests.support.oracle import numbered

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the tests look at /proc"),
    pytest.mark.timeout(180),  # later than any wait of ours gives up, so that a test that fails cleans up
]

SCENARIOS = (
    when("plain", Say("Fine.")),
    when("held", (Say.numbered(50), Hold("held"), Say.numbered(50, start=50))),
)
SEGMENT = 16 << 20
PAD = b"x" * 65_000


def noise(count: int) -> bytes:
    lines = (b'{"method":"noise/line","params":{"n":%d,"pad":"%s"}}\n' % (n, PAD) for n in range(count))
    return b"".join(lines)


def begun(node: Node) -> list[int]:
    """Where the segments of its child's spool begin."""
    return sorted(int(segment.name) for segment in node.state.glob("keepers/*/spool/*"))


async def test_more_than_three_segments_that_were_written_while_codexd_was_dead_come_once(tmp_path: Path) -> None:
    async with noisy_house(tmp_path, SCENARIOS) as house:
        node, oracle = house.node, house.oracle
        turn_id = await node.turn(await node.session(), "held")
        await oracle.saw("item.delta", turn_id, count=50)
        child = await node.child()
        await node.kill()
        written = noise(800)
        await house.child_writes(written)
        segments = [n * SEGMENT for n in range(4)]
        await until(lambda: begun(node) == segments and len(node.spool) > len(written))
        await node.start()
        house.model.release("held")
        assert (await oracle.end_of(turn_id))["type"] == "turn.completed"
        assert oracle.deltas(turn_id) == numbered(100)
        assert await node.child() == child
        await oracle.caught_up()
        told = [event["payload"] for event in oracle.events if event["payload"].get("method") == "noise/line"]
        assert [line["params"]["n"] for line in told] == list(range(800))
        await until(lambda: begun(node) == segments[-1:])


async def test_a_log_that_wants_a_segment_which_is_gone_is_another_log(tmp_path: Path) -> None:
    """A log from before the segment was read: what it does not know of has been told, and cannot be read again."""
    async with noisy_node(tmp_path, SCENARIOS) as (node, _, fifo):
        await node.child()
        await node.kill()
        backup = {path: path.read_bytes() for path in node.state.glob("codexd.sqlite3*")}
        await node.start()
        await within(asyncio.to_thread(fifo.write_bytes, b"say\n" + noise(300)))
        await until(lambda: begun(node) == [SEGMENT])
        cursor = await node.head()
        await node.kill()
        for path in node.state.glob("codexd.sqlite3*"):
            path.unlink()
        for path, content in backup.items():
            path.write_bytes(content)
        await node.start()
        assert (await node.get("/v1/codexd/events", after=cursor)).json()["error"]["code"] == "cursor_expired"
        assert (await node.play(await node.session(), "plain"))["finalMessage"] == "Fine."


async def test_a_turn_that_ended_while_nobody_read_is_not_overdue(tmp_path: Path) -> None:
    async with noisy_house(tmp_path, SCENARIOS) as house:
        node, oracle = house.node, house.oracle
        asked = {"sessionId": await node.session(), "prompt": "held", "deadlineMs": 3_600_000, "stallMs": 3_600_000}
        turn_id = (await node.post("/v1/codexd/turn", asked)).json()["data"]["turn"]["turnId"]
        await oracle.saw("item.delta", turn_id, count=50)
        await node.kill()
        house.model.release("held")
        await until(lambda: b'"turn/completed"' in node.spool)
        with closing(apsw.Connection(str(node.database))) as log:  # as if all that time had passed
            assert log.execute("UPDATE timer SET monotonic_ms = 0, utc_ms = 0 RETURNING kind").fetchall()
        await node.start()
        assert (await oracle.end_of(turn_id))["type"] == "turn.completed"
        assert oracle.deltas(turn_id) == numbered(100)


async def test_a_command_of_the_agents_cannot_speak_to_the_keeper(tmp_path: Path) -> None:
    """It runs with the user's rights and all access, below the keeper itself."""
    keepers = tmp_path / "node" / "baa" / "state" / "codexd" / "keepers"
    knock = f"cd {Path(__file__).parents[2]} && {sys.executable} -m tests.support.keeper_client stranger {keepers}/* ''"
    scenarios = (when("knock", Run(knock, yield_time_ms=30_000), Say("Done.")),)
    async with noisy_house(tmp_path, scenarios) as house:
        turn = await house.node.play(await house.node.session(), "knock")
        (command,) = [item for item in turn["items"] if item["kind"] == "commandExecution"]
        assert command["item"]["aggregatedOutput"] == "e you do not hold the daemon's lock\n"
        assert turn["status"] == "completed"
