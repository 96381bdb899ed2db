"""codexd's side of the keeper's protocol, against a scripted keeper on a real socket, and the spool as a real file."""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from baa.codexd.appserver.keeper_link import (
    Ended,
    Exit,
    Hello,
    KeeperGone,
    KeeperLink,
    KeeperNewer,
    KeeperRefused,
    Started,
    Taken,
    Wire,
    Word,
    read_exit,
)

WAIT_S = 20
FRAME = struct.Struct(">cQI")
HELLO = b"keeperId=kpr\ngeneration=1\npid=7\nstate=running\nchildPid=8\nchildStart=9\ntaken=3\nspool=100\ndropped=0\n"


def frame(kind: bytes, number: int = 0, payload: bytes = b"") -> bytes:
    return FRAME.pack(kind, number, len(payload)) + payload


@asynccontextmanager
async def keeper(folder: Path, *says: bytes, heard: bytearray | None = None) -> AsyncIterator[None]:
    """Says all it has to say to whoever comes, and then listens to the end."""
    heard = bytearray() if heard is None else heard
    served = list[asyncio.Event]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(done := asyncio.Event())
        writer.write(b"".join(says))
        writer.write_eof()
        heard.extend(await reader.read())
        writer.close()
        done.set()

    folder.mkdir(parents=True, exist_ok=True)
    here = os.open(".", os.O_RDONLY)
    os.chdir(folder)  # as the real one does: the address of a socket has no room for a long path
    try:
        server = await asyncio.start_unix_server(serve, "socket")
    finally:
        os.fchdir(here)
        os.close(here)
    async with asyncio.timeout(WAIT_S), server:
        yield
        for done in served:
            await done.wait()


async def words(link: KeeperLink) -> list[Word]:
    return [word async for word in link.words()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "1-kpr"


# --- meeting


async def test_a_keeper_that_takes_us_tells_how_it_stands_and_learns_who_we_are(folder: Path) -> None:
    heard = bytearray()
    async with keeper(folder, frame(b"h", 1, HELLO), heard=heard):
        link = await KeeperLink.connect(folder, "kpr")
        assert link.hello == Hello(state="running", child_pid=8, taken=3, spool=100, pid=7)
        assert await words(link) == []
        await link.close()
    assert bytes(heard) == frame(b"H", 2, f"keeperId=kpr\npid={os.getpid()}\n".encode())


async def test_a_keeper_without_a_child_has_no_childs_pid(folder: Path) -> None:
    waiting = HELLO.replace(b"running", b"waiting").replace(b"childPid=8", b"childPid=0")
    async with keeper(folder, frame(b"h", 1, waiting)):
        link = await KeeperLink.connect(folder, "kpr")
        await link.close()
    assert (link.hello.state, link.hello.child_pid) == ("waiting", None)


@pytest.mark.parametrize(
    ("says", "raised", "told"),
    [
        (frame(b"h", 3, HELLO), KeeperNewer, "speaks version 3"),
        (frame(b"h", 2**63, b"who knows"), KeeperNewer, "version 9223372036854775808"),
        (frame(b"e", 3, b"wanted: hello, protocol version 3"), KeeperNewer, "speaks version 3"),
        (frame(b"e", 2, b"not you: \xff"), KeeperRefused, "not you: \ufffd"),
        (frame(b"e", 1, b"not you: \xff"), KeeperRefused, "not you: \ufffd"),
        (frame(b"a", 7), KeeperGone, "began with b'a'"),
        (b"", KeeperGone, "closed"),
        (frame(b"h", 1, HELLO)[:-1], KeeperGone, "closed"),
        (FRAME.pack(b"h", 1, 1 << 30), KeeperGone, "frame of 1073741824 bytes"),
    ],
)
async def test_any_other_greeting_says_why_there_is_no_link(
    folder: Path, says: bytes, raised: type[Exception], told: str
) -> None:
    async with keeper(folder, says):
        with pytest.raises(raised, match=told):
            await KeeperLink.connect(folder, "kpr")


async def test_an_earlier_keeper_is_spoken_to_in_its_own_version(folder: Path) -> None:
    heard = bytearray()
    async with keeper(folder, frame(b"e", 1, b"wanted: hello, protocol version 1"), heard=heard):
        with pytest.raises(KeeperRefused):  # this one refuses that too
            await KeeperLink.connect(folder, "kpr")
    payload = f"keeperId=kpr\npid={os.getpid()}\n".encode()
    assert bytes(heard) == frame(b"H", 2, payload) + frame(b"H", 1, payload)


@pytest.mark.parametrize("left", ["nothing", "a folder", "a file", "a dead socket"])
async def test_where_nobody_listens_the_keeper_is_gone(folder: Path, left: str) -> None:
    if left != "nothing":
        folder.mkdir()
    if left == "a file":
        (folder / "socket").touch()
    if left == "a dead socket":
        async with keeper(folder):
            pass

    with pytest.raises(KeeperGone, match="no keeper in 1-kpr"):
        await KeeperLink.connect(folder, "kpr")


async def test_a_folder_may_have_a_path_that_no_address_has_room_for(folder: Path) -> None:
    deep = folder / ("x" * 100) / ("y" * 100)
    async with keeper(deep, frame(b"h", 1, HELLO)):
        link = await KeeperLink.connect(deep, "kpr")
        await link.close()
    assert link.hello.pid == 7


# --- what it says, and what we say


async def test_its_words_are_heard_in_their_order_and_new_ones_are_passed_over(folder: Path) -> None:
    said = [
        frame(b"s", 0, b"childPid=8\nchildStart=9\n"),
        frame(b"r", 10),
        frame(b"a", 1),
        frame(b"?", 5, b"of a later release"),
        frame(b"a", 2),
        frame(b"x", 0, b"code=0\n"),
    ]
    async with keeper(folder, frame(b"h", 1, HELLO), *said):
        link = await KeeperLink.connect(folder, "kpr")
        assert await words(link) == [Started(8), Taken(1), Taken(2), Ended(Exit(keeper_died=False, code=0))]
        await link.close()


@pytest.mark.parametrize("size", [1, 5, 13, 1000])
async def test_rings_are_passed_on_at_once_however_they_arrive_and_wait_for_nobody(size: int) -> None:
    rings: list[int] = []
    wire = Wire()
    wire.rung = lambda: rings.append(at)
    said = frame(b"r", 10) + frame(b"a", 1) + frame(b"r", 20) + frame(b"r", 30) + frame(b"a", 2)
    for at in range(0, len(said), size):
        wire.data_received(said[at : at + size])
    wire.connection_lost(None)
    assert [await wire.frame(), await wire.frame()] == [(b"a", 1, b""), (b"a", 2, b"")]
    assert rings == {1: [12, 38, 51], 5: [10, 35, 50], 13: [0, 26, 39], 1000: [0]}[size]
    with pytest.raises(KeeperGone):
        await wire.frame()


async def test_who_listens_later_is_rung_for_what_was_said_before(folder: Path) -> None:
    rung = asyncio.Event()
    async with keeper(folder, frame(b"h", 1, HELLO), frame(b"r", 10)):
        link = await KeeperLink.connect(folder, "kpr")
        assert await words(link) == []
        link.listen(rung.set)
        assert rung.is_set()
        await link.close()


async def test_words_that_are_cut_off_end_the_words(folder: Path) -> None:
    async with keeper(folder, frame(b"h", 1, HELLO), frame(b"a", 1), frame(b"s", 0, b"childPid=8")[:-3]):
        link = await KeeperLink.connect(folder, "kpr")
        assert await words(link) == [Taken(1)]
        await link.close()


async def test_a_refusal_in_the_middle_is_raised(folder: Path) -> None:
    async with keeper(folder, frame(b"h", 1, HELLO), frame(b"e", 1, b"another one came")):
        link = await KeeperLink.connect(folder, "kpr")
        with pytest.raises(KeeperRefused, match="another one came"):
            await words(link)
        await link.close()


async def test_what_we_say_is_framed_as_the_keeper_reads_it_and_nothing_is_said_after_the_end(folder: Path) -> None:
    heard = bytearray()
    async with keeper(folder, frame(b"h", 1, HELLO), heard=heard):
        link = await KeeperLink.connect(folder, "kpr")
        link.start()
        link.line(1, b'{"method":"initialize"}\n')
        link.line(2**40, b"x" * (2 << 20))
        link.orphan_ms(600_000)
        link.end_child()
        link.end_child(at_once=True)
        await words(link)
        await link.close()
        link.line(3, b"too late\n")
        await link.close()
    hello = len(frame(b"H", 2, f"keeperId=kpr\npid={os.getpid()}\n".encode()))

    assert bytes(heard[hello:]) == b"".join(
        (
            frame(b"S"),
            frame(b"L", 1, b'{"method":"initialize"}\n'),
            frame(b"L", 2**40, b"x" * (2 << 20)),
            frame(b"O", 600_000),
            frame(b"T", 0),
            frame(b"T", 1),
        )
    )


# --- how a child ended


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (
            b"keeperId=kpr\ncode=1\nsignal=0\ntaken=12\nreason=exited\nstderr=",
            Exit(keeper_died=False, code=1, reason="exited", taken=12),
        ),
        (
            b"code=-1\nsignal=9\ntaken=0\nreason=ended by ladder: SIGKILL\nstderr=one\nstderr=two\xff\n\n",
            Exit(
                keeper_died=False,
                signal=9,
                reason="ended by ladder: SIGKILL",
                taken=0,
                stderr_tail="one\nstderr=two\ufffd\n\n",
            ),
        ),
        (b"code=0\nsignal=0\nreason=a=b\nnew=thing", Exit(keeper_died=False, code=0, reason="a=b")),
        (b"", Exit(keeper_died=False)),
    ],
)
def test_the_end_of_a_child_is_what_its_keeper_wrote(tmp_path: Path, content: bytes, told: Exit) -> None:
    (tmp_path / "exit").write_bytes(content)

    assert read_exit(tmp_path) == told


def test_a_keeper_that_wrote_nothing_has_told_nothing(tmp_path: Path) -> None:
    assert read_exit(tmp_path) is None
    assert read_exit(tmp_path / "not there") is None
