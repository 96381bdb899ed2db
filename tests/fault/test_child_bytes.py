"""What a child may write that is no message, too long, too much or made to do harm, in the middle of real turns.

The child is the real Codex; what it would never write is written in between (tests/support/noisy_codex.py). Each line
that cannot be read is told once, with a sample, and the next line counts.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from baa.cli.plain import plain
from baa.scripted import Hold, Say, when
from tests.support.faults import saw
from tests.support.keeper_client import resident_kilobytes
from tests.support.noisy import House, noisy_house
from tests.support.oracle import numbered

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the tests look at /proc"),
    pytest.mark.timeout(180),  # later than any wait of ours gives up, so that a test that fails cleans up
]

HARMFUL = "\x1b]52;c;aGk=\x07\x1b[2J\u202eevil\u2066\u200b <script>alert(1)</script> &amp; \x00"
SCENARIOS = (
    when("plain", Say("Fine.")),
    when("held", (Say.numbered(50), Hold("held"), Say.numbered(50, start=50))),
    when("harmful", Say((HARMFUL, "end"))),
)
SAMPLE_MAX = 4096
MANY = 50_000


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with noisy_house(tmp_path, SCENARIOS) as house:
        yield house


async def held_turn(house: House) -> str:
    turn_id = await house.node.turn(await house.node.session(), "held")
    await house.oracle.saw("item.delta", turn_id, count=50)
    return turn_id


async def goes_on(house: House, turn_id: str) -> None:
    """The held turn ends as if nothing had been, and the child is the same."""
    house.model.release("held")
    assert (await house.oracle.end_of(turn_id))["type"] == "turn.completed"
    assert house.oracle.deltas(turn_id) == numbered(100)
    assert (await house.node.status())["child"]["generation"] == 1


GARBAGE = (
    *(b"panicked at src/main.rs:7", b"[]", b"null", b'"text"', b"7", b"\xef\xbb\xbf{}", b'{"id":', b"{}{}"),
    b'{"method":"turn/started"',
)


async def test_lines_that_are_no_messages_are_told_and_passed_over(house: House) -> None:
    turn_id = await held_turn(house)
    await house.child_writes(b"\n".join(GARBAGE) + b"\n\n\r\n" + b"x" * 100_000 + b"\n")
    told = await house.unreadable(len(GARBAGE) + 1)
    saw("F20", len(told) >= len(GARBAGE), f"{len(told)} lines that are no messages were written and told")
    assert all(len(each["sample"]) <= SAMPLE_MAX and each["why"] for each in told)
    assert [each["sample"] for each in told if "panicked" in each["sample"]] == ["panicked at src/main.rs:7"]
    await goes_on(house, turn_id)


async def test_a_line_that_its_end_cut_short_does_not_count(house: House) -> None:
    turn_id = await held_turn(house)
    half = b'{"method":"turn/completed","params":{"threadId":"' + b"t" * 40
    await house.child_writes(half, verb="die")
    exited = await house.oracle.saw("child.exited")
    saw("F21", exited["payload"]["bytesDiscarded"] == len(half), "the child wrote half a line and ended")
    ended = await house.oracle.end_of(turn_id)
    assert (ended["type"], exited["seq"] < ended["seq"]) == ("turn.interrupted", True)
    assert house.oracle.deltas(turn_id) == numbered(50)
    session_id = (await house.node.ledger(turn_id))["sessionId"]
    assert (await house.node.play(session_id, "plain"))["finalMessage"] == "Fine."


async def test_a_long_line_is_read_and_an_endless_one_is_skipped(house: House) -> None:
    turn_id = await held_turn(house)
    before = resident_kilobytes(house.node.pid)
    long = b'{"method":"new/thing","params":{"text":"' + b"a" * 10_000_000 + b'"}}\n'
    await house.child_writes(long + b"b" * 40_000_000 + b"\n")
    event = await house.oracle.saw("codex.notification", where=lambda event: event["payload"]["method"] == "new/thing")
    assert len(event["payload"]["params"]["text"]) == 10_000_000
    (told,) = await house.unreadable(1)
    saw("F22", "too long" in told["why"], "lines of 10 MB and of 40 MB were written")
    grown = resident_kilobytes(house.node.pid) - before
    assert grown < 300_000, f"{grown} KiB"
    await goes_on(house, turn_id)


STRANGE = (
    b'{"method":"new/thing","params":{"text":"\xff\xfe"}}',
    b'{"method":"new/thing","params":{"text":"\xc0\xaf"}}',
    b'{"method":"new/thing","params":{"text":"\xed\xa0\x80"}}',
    b'\x00{"method":"new/thing"}',
)


async def test_bytes_that_are_no_utf_8_are_told_and_stored_as_text(house: House) -> None:
    turn_id = await held_turn(house)
    await house.child_writes(b"\n".join(STRANGE) + b"\n")
    told = await house.unreadable(len(STRANGE))
    saw("F23", len(told) == len(STRANGE), "bytes that are no UTF-8, and a NUL, were written and told")
    assert "\ufffd" in told[0]["sample"]
    await goes_on(house, turn_id)


async def test_a_flood_of_events_is_taken_whole(house: House) -> None:
    turn_id = await held_turn(house)
    loaded, started, delta = [
        (await house.oracle.saw(type_))["payload"] for type_ in ("session.loaded", "turn.started", "item.delta")
    ]
    who = {"threadId": loaded["threadId"], "turnId": started["codexTurnId"], "itemId": delta["itemId"]}
    lines = [
        json.dumps({"method": "item/agentMessage/delta", "params": {**who, "delta": f"x{number} "}}).encode()
        for number in range(MANY)
    ]
    await house.child_writes(b"\n".join(lines) + b"\n")
    await house.oracle.saw("item.delta", turn_id, count=50 + MANY)
    flood = [delta for delta in house.oracle.deltas(turn_id) if delta.startswith("x")]
    saw("F24", len(flood) == MANY, f"{MANY} events were written as fast as the pipe took them")
    assert flood == [f"x{number} " for number in range(MANY)]
    house.model.release("held")
    assert (await house.oracle.end_of(turn_id))["type"] == "turn.completed"


async def test_a_flood_of_stderr_blocks_nothing_and_leaves_its_end(house: House) -> None:
    turn_id = await held_turn(house)
    logs = house.node.home / "logs"
    await house.child_writes(b"e" * 100_000_000, verb="complain")
    await goes_on(house, turn_id)
    os.kill(await house.node.child(), signal.SIGKILL)
    tail = (await house.oracle.saw("child.exited"))["payload"]["stderrTail"]
    saw("F25", "e" * 1000 in tail, "100 MB were written to stderr without a newline, and their end was kept")
    assert len(tail) <= 65536
    assert sum(path.stat().st_size for path in logs.rglob("*") if path.is_file()) < 1_000_000


NUMBERS = (
    *(b'{"method":"new/thing","params":NaN}', b'{"method":"new/thing","params":{"n":Infinity}}'),
    b'{"method":"new/thing","params":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    b'{"id":1e30,"method":"new/thing"}',
    b'{"method":"new/thing","emittedAtMs":1' + b"0" * 5000 + b"}",
)


async def test_numbers_and_depths_that_no_reader_can_take_are_told(house: House) -> None:
    turn_id = await held_turn(house)
    await house.child_writes(b"\n".join(NUMBERS) + b"\n")
    told = await house.unreadable(len(NUMBERS))
    saw("F28", len(told) == len(NUMBERS), "NaN, Infinity, depth 100,000, an id of 1e30, an integer of 5,001 digits")
    await goes_on(house, turn_id)


async def test_what_would_act_is_stored_as_it_was_and_shown_as_text(house: House) -> None:
    turn = await house.node.play(await house.node.session(), "harmful")
    text = turn["finalMessage"]
    saw("F30", "\x1b]52" in text and "<script>" in text, "escapes, bidi and HTML came as an answer")
    assert text == HARMFUL + "end"
    assert "".join(house.oracle.deltas(turn["turnId"])) == text
    shown = plain(text)
    assert not {"\x1b", "\x07", "\u202e", "\u2066", "\x00"} & set(shown)
