"""One child's life in the log: which lines it was sent, where its spool is read to, and how it ended."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from baa.clock import SystemClock
from baa.codexd import restore
from baa.codexd.appserver import jsonrpc
from baa.codexd.appserver.keeper_link import Exit, Hello, KeeperLink, Wire
from baa.codexd.appserver.lines import Line
from baa.codexd.appserver.spool import Spool
from baa.codexd.eventlog import EventLog, Transaction
from baa.codexd.generation import Generation

WAIT_S = 20
FRAME = struct.Struct(">cQI")
Decide = Callable[[Transaction], None]


def line_for(request_id: str | None) -> bytes:
    return jsonrpc.answer(request_id or "nobody", {})


class Kept:
    """A log, and the generation that is in it."""

    def __init__(self, log: EventLog, folder: Path) -> None:
        self.log = log
        self.folder = folder
        self.generation = Generation(1, "kpr", folder, Spool(folder / "spool", 0), SystemClock())

    async def do(self, *decisions: Decide) -> None:
        """All of them in one transaction; returns once it is durable."""
        transaction = Transaction()
        for decide in decisions:
            decide(transaction)
        await self.commit(transaction)

    async def commit(self, transaction: Transaction) -> None:
        committed = asyncio.Event()
        transaction.done.append(lambda _: committed.set())
        self.log.submit(transaction)
        await committed.wait()

    async def send(self, *request_ids: str | None) -> None:
        for request_id in request_ids:
            line = Line(request_id, line_for(request_id))
            await self.do(partial(self.generation.send, line=line))

    def outbox(self) -> list[tuple[int, str | None]]:
        rows = self.log.reader().execute("SELECT number, request_id FROM outbox ORDER BY number")
        return [(number, request_id) for number, request_id in rows]

    def row(self, columns: str) -> tuple[Any, ...]:
        (row,) = self.log.reader().execute(f"SELECT {columns} FROM generation")
        return tuple(row)

    def living(self) -> Generation | None:
        return restore.living(self.log.reader(), self.folder.parent, SystemClock())


@pytest.fixture
async def kept(tmp_path: Path) -> AsyncIterator[Kept]:
    folder = tmp_path / "1-kpr"
    folder.mkdir()
    log = EventLog(tmp_path / "log.sqlite3", clock=SystemClock())
    kept = Kept(log, folder)
    async with asyncio.timeout(WAIT_S):
        await kept.do(kept.generation.begin)
        yield kept
    await asyncio.to_thread(log.close)


class Listener:
    """The keeper's end of a link: which lines it was given."""

    def __init__(self, ours: socket.socket) -> None:
        self._ours = ours

    async def lines(self, link: KeeperLink) -> list[tuple[int, bytes]]:
        """All of them, once the link is closed."""
        await link.close()
        data = await asyncio.to_thread(self._read)
        found = []
        while data:
            kind, number, length = FRAME.unpack(data[: FRAME.size])
            assert kind == b"L"
            found.append((number, data[FRAME.size : FRAME.size + length]))
            data = data[FRAME.size + length :]
        return found

    def _read(self) -> bytes:
        pieces = []
        while piece := self._ours.recv(65536):
            pieces.append(piece)
        self._ours.close()
        return b"".join(pieces)


async def link_to(taken: int) -> tuple[KeeperLink, Listener]:
    theirs, ours = socket.socketpair()
    _, wire = await asyncio.get_running_loop().create_connection(Wire, sock=theirs)
    return KeeperLink(wire, Hello("running", 8, taken, 0, 7)), Listener(ours)


# --- lines for the child


async def test_lines_are_numbered_and_wait_in_the_outbox_while_nobody_listens(kept: Kept) -> None:
    await kept.send("a:start:1", None, "b:open:3")

    assert kept.outbox() == [(1, "a:start:1"), (2, None), (3, "b:open:3")]
    assert (kept.generation.lines, kept.generation.next_number, kept.generation.given) == (3, 4, 0)
    assert kept.row("lines") == (3,)


async def test_a_line_is_given_to_the_keeper_only_once_it_is_in_the_log(kept: Kept) -> None:
    kept.generation.link, listener = await link_to(taken=0)
    transaction = Transaction()
    kept.generation.send(transaction, Line(None, line_for(None)))
    assert kept.generation.given == 0

    await kept.commit(transaction)
    assert kept.generation.given == 1
    assert await listener.lines(kept.generation.link) == [(1, line_for(None))]


async def test_a_keeper_that_is_met_again_is_given_what_it_did_not_take_and_all_that_follows(kept: Kept) -> None:
    await kept.send("a:start:1", None, "b:open:3")
    link, listener = await link_to(taken=1)
    kept.generation.give_again(kept.log.reader(), kept.log.seal, link)
    await kept.send(None)

    assert kept.generation.given == 4
    assert await listener.lines(link) == [
        (2, line_for(None)),
        (3, line_for("b:open:3")),
        (4, line_for(None)),
    ]


async def test_an_answered_request_leaves_the_outbox_with_its_answer(kept: Kept) -> None:
    await kept.send("a:start:1", "b:open:2")
    assert kept.generation.number_of("a:start") == 1

    await kept.do(lambda transaction: kept.generation.answered(transaction, "a:start:1"))
    assert kept.outbox() == [(2, "b:open:2")]
    assert kept.generation.number_of("a:start") is None
    assert kept.generation.number_of("b:op") is None

    await kept.do(
        lambda transaction: kept.generation.answered(transaction, "a:start:1"),
        lambda transaction: kept.generation.answered(transaction, "nobody asked this"),
    )
    assert kept.outbox() == [(2, "b:open:2")]


async def test_lines_that_ask_nothing_leave_the_outbox_once_they_were_taken(kept: Kept) -> None:
    await kept.send(None, "a:start:2", None, None)
    kept.generation.taken = 3
    await kept.do(kept.generation.advance)

    assert kept.outbox() == [(2, "a:start:2"), (4, None)]


# --- the spool


async def test_the_offset_is_stored_with_what_was_read(kept: Kept) -> None:
    (kept.folder / "spool").write_bytes(b"one\ntwo\nhalf")
    assert kept.generation.read_lines() == [b"one", b"two"]
    assert kept.row("spool_read") == (0,)

    await kept.do(kept.generation.advance)
    assert kept.row("spool_read") == (8,)
    kept.generation.spool.close()


# --- from one codexd to the next


async def test_what_the_next_codexd_finds_of_a_living_child_is_what_this_one_knew(kept: Kept) -> None:
    generation = kept.generation
    await kept.do(lambda transaction: generation.born(transaction, 8, "start"))
    await kept.do(lambda transaction: generation.ready(transaction, "1.2.3"))
    await kept.send("a:start:1", None, "b:open:3")
    (kept.folder / "spool").write_bytes(b"one\ntwo\n")
    generation.read_lines()
    await kept.do(generation.advance)
    await kept.do(lambda transaction: generation.answered(transaction, "a:start:1"))
    found = kept.living()

    assert found is not None
    assert (found.number, found.keeper_id, found.folder) == (1, "kpr", kept.folder)
    assert (found.child_pid, found.child_start) == (8, "start")
    assert (found.version, found.was_ready) == ("1.2.3", True)
    assert (found.lines, found.given, found.asked) == (3, 3, {"b:open:3": 3})
    assert found.spool.offset == 8
    generation.spool.close()


async def test_a_child_that_was_never_born_is_found_as_one(kept: Kept) -> None:
    found = kept.living()

    assert found is not None
    assert (found.child_pid, found.version, found.was_ready, found.lines, found.spool.offset) == (
        None,
        None,
        False,
        0,
        0,
    )


@pytest.mark.parametrize(
    ("told", "row"),
    [
        (Exit(keeper_died=False, code=1, reason="exited"), (1, None, "exited", 0)),
        (Exit(keeper_died=False, signal=9), (None, 9, None, 0)),
        (Exit(keeper_died=True, reason="its keeper died"), (None, None, "its keeper died", 1)),
    ],
)
async def test_a_child_that_ended_is_no_longer_found_and_has_no_outbox(
    kept: Kept, told: Exit, row: tuple[object, ...]
) -> None:
    await kept.send("a:start:1", None)
    await kept.do(lambda transaction: kept.generation.end(transaction, told))

    assert kept.living() is None
    assert kept.outbox() == []
    assert kept.row("code, signal, reason, keeper_died") == row
    assert restore.restore(kept.log.reader(), SystemClock(), kept.log.seal).generation == 1
