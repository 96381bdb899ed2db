"""The keeper and codexd: who may speak, and that every line goes in once; with a bad child and with the real Codex."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.faults import saw
from tests.support.keeper_client import (
    FRAME,
    KEEPER_ID,
    Gone,
    House,
    alive,
    dying_codexd,
    misbehaving,
    resident_kilobytes,
    stranger,
    wait_until,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the tests look at /proc")


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.close()


def line_of(size: int) -> bytes:
    return b"x" * (size - 1) + b"\n"


def pattern(size: int) -> bytes:
    return (b"0123456789abcdef" * (size // 16 + 1))[:size]


# Who it is, and who may speak to it.


def test_it_says_who_it_is_before_it_starts_anything(house: House) -> None:
    keeper = house.spawn(misbehaving("echo"))
    facts = house.connect(keeper).hello().facts
    assert facts == {
        "keeperId": "kpr_test",
        "generation": "7",
        "pid": str(keeper.process.pid),
        "state": "waiting",
        "ending": "",
        "childPid": "0",
        "childStart": "0",
        "taken": "0",
        "spool": "0",
        "dropped": "0",
    }
    pid, started = (keeper.folder / "lock").read_text().split()
    stat = Path(f"/proc/{keeper.process.pid}/stat").read_text().rpartition(")")[2].split()
    assert (pid, started) == (str(keeper.process.pid), stat[19])
    assert (keeper.folder / "socket").stat().st_mode & 0o777 == 0o600
    assert resident_kilobytes(keeper.process.pid) < 20_000


def test_a_second_keeper_in_a_folder_ends_with_75(house: House) -> None:
    keeper = house.spawn(misbehaving("echo"))
    assert house.spawn(misbehaving("echo"), folder=keeper.folder).process.wait() == 75
    assert house.connect(keeper).hello().kind == "h"


def test_a_folder_serves_one_generation_only(house: House) -> None:
    keeper, client = house.run(misbehaving("echo"))
    client.send("T")
    assert keeper.record.facts["code"] == "0"
    (keeper.folder / "socket").unlink()
    assert house.spawn(misbehaving("echo"), folder=keeper.folder).process.wait() == 73


def test_a_hello_for_another_keeper_is_refused(house: House) -> None:
    keeper = house.spawn(misbehaving("echo"))
    client = house.connect(keeper)
    assert client.hello("kpr_other")[::2] == ("e", b"another keeperId")
    with pytest.raises(Gone):
        client.receive()


def test_another_protocol_is_refused_with_the_version_spoken_here(house: House) -> None:
    keeper = house.spawn(misbehaving("echo"))
    for version in (1, 3):
        refusal = house.connect(keeper).hello(version=version)
        assert (refusal.kind, refusal.number) == ("e", 2)
        assert b"protocol version 2" in refusal.payload


def test_only_the_holder_of_the_daemon_lock_may_speak(house: House) -> None:
    keeper = house.spawn(misbehaving("echo"))
    refused = "e you do not hold the daemon's lock"
    assert subprocess.check_output(stranger(keeper.folder), text=True).strip() == refused
    house.unlock()
    assert house.connect(keeper).receive().kind == "e"
    # Who can read the lock's file can read-lock it, which must not make a codexd of anybody.
    assert subprocess.check_output(stranger(keeper.folder, house.daemon_lock), text=True).strip() == refused


def test_a_silent_connection_stops_nobody_and_is_closed(house: House) -> None:
    keeper = house.spawn(misbehaving("echo"), hello_ms=1000)
    silent, client = house.connect(keeper), house.connect(keeper)
    silent.socket.sendall(b"H\0\0")
    assert client.hello().kind == "h"
    assert silent.receive().payload == b"no hello in time"
    client.start()  # the one that spoke stays


def test_of_many_silent_connections_the_oldest_give_way(house: House) -> None:
    keeper = house.spawn(misbehaving("echo"))
    silent = [house.connect(keeper) for _ in range(12)]
    assert [silent[n].receive().payload for n in range(4)] == [b"too many connections without a hello"] * 4
    assert silent[11].hello().kind == "h"


def test_a_new_peer_replaces_the_old_one_only_with_its_hello(house: House) -> None:
    keeper, old = house.run(misbehaving("echo"))
    new = house.connect(keeper)
    old.send("L", 1, b"still here\n")
    old.expect("r", len(b"still here\n"))
    assert new.hello().facts["taken"] == "1"
    assert old.expect("e").payload == b"replaced by a later connection"
    new.send("L", 2, b"now me\n")
    assert new.expect("a").number == 2


def test_a_peer_may_be_replaced_while_it_speaks(house: House) -> None:
    keeper = house.spawn(misbehaving("echo"))
    older, old = house.connect(keeper), house.connect(keeper)
    assert old.hello().kind == "h"
    old.start()
    keeper.stop()  # so that it finds both at once
    old.send("L", 1, b"too late\n")
    older.send("H", 2, f"keeperId={KEEPER_ID}\n".encode())
    keeper.go()
    assert older.receive().facts["taken"] == "0"
    older.send("L", 1, b"again\n")
    older.expect("r", 6)
    assert keeper.spool == b"again\n"


@pytest.mark.parametrize(
    ("kind", "number", "payload", "reason"),
    [
        ("L", 2, b"a gap\n", b"line 2 after line 0"),
        ("L", 1, b"no newline", b"line 1 after line 0"),
        ("Z", 0, b"", b"a frame of kind b'Z'"),
        ("H", 1, b"", b"a frame of kind b'H'"),
        ("S", 0, bytes(5000), b"a payload of 5000 bytes"),
    ],
)
def test_a_peer_that_breaks_the_protocol_is_told_so_and_closed(
    house: House, kind: str, number: int, payload: bytes, reason: bytes
) -> None:
    keeper, client = house.run(misbehaving("echo"))
    client.send(kind, number, payload)
    assert reason in client.expect("e").payload
    with pytest.raises(Gone):
        client.receive()
    assert house.connect(keeper).hello().facts["taken"] == "0"


def test_a_line_longer_than_the_limit_is_refused_by_its_header(house: House) -> None:
    _, client = house.run(misbehaving("echo"))
    client.socket.sendall(FRAME.pack(b"L", 1, (64 << 20) + 1))
    assert client.expect("e").payload == b"a payload of 67108865 bytes"


def test_a_line_before_the_start_is_refused(house: House) -> None:
    client = house.greet(house.spawn(misbehaving("echo")))
    client.send("L", 1, b"{}\n")
    assert client.receive().payload == b"a line before the start"


# Lines.


def test_a_line_sent_again_is_dropped_and_acknowledged(house: House) -> None:
    keeper, client = house.run(misbehaving("echo"))
    for number, line in ((1, b"one\n"), (1, b"one\n"), (2, b"two\n"), (1, b"one\n")):
        client.send("L", number, line)
    client.expect("a", 2)
    client.send("T")
    assert client.expect("x")
    assert keeper.record.facts["taken"] == "2"
    assert keeper.spool == b"one\ntwo\n"


def test_half_a_line_of_a_killed_codexd_is_thrown_away(house: House) -> None:
    keeper = house.spawn(misbehaving("echo"))
    house.unlock()
    with subprocess.Popen(
        dying_codexd(keeper.folder, house.daemon_lock, 0, [b"one\n", b"two, cut in half\n"]), stdout=subprocess.PIPE
    ) as codexd:
        assert codexd.stdout
        assert codexd.stdout.readline() == b"in the middle of a line\n"
        codexd.kill()
    house.lock()
    client = house.connect(keeper)
    assert client.hello().facts["taken"] == "1"
    client.send("L", 2, b"two, cut in half\n")
    client.send("L", 3, b"three\n")
    client.expect("a", 3)
    client.send("T")
    assert client.expect("x")
    assert keeper.spool == b"one\ntwo, cut in half\nthree\n"


def test_frames_may_come_in_any_pieces(house: House) -> None:
    keeper, client = house.run(misbehaving("echo"))
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    frames = b"".join(FRAME.pack(b"L", n, 4) + b"%03d\n" % n for n in range(1, 200))
    for at in range(0, len(frames), 5):
        client.socket.sendall(frames[at : at + 5])
    client.expect("a", 199)
    client.send("T")
    client.expect("x")
    assert keeper.spool == b"".join(b"%03d\n" % n for n in range(1, 200))


def test_a_line_of_twenty_megabytes_goes_through(house: House) -> None:
    keeper, client = house.run(misbehaving("echo"))
    line = line_of(20 << 20)
    client.send("L", 1, line)
    client.expect("r", len(line))
    client.send("T")
    client.expect("x")
    assert hashlib.sha256(keeper.spool).digest() == hashlib.sha256(line).digest()


def test_a_child_that_does_not_read_blocks_nothing_and_fills_no_memory(house: House) -> None:
    keeper, client = house.run(misbehaving("complain=deaf", "hang"), ladder_ms="50,20000")
    client.socket.settimeout(2)
    sent = 0
    with pytest.raises(TimeoutError):
        while True:
            client.send("L", sent + 1, line_of(1 << 20))
            sent += 1
    assert 4 <= sent <= 6
    saw("F27", sent < 7, f"the child read nothing: after {sent} MiB there was no room")
    later = house.connect(keeper)
    taken = int(later.hello().facts["taken"])
    assert taken in {4, 5}
    assert resident_kilobytes(keeper.process.pid) < 40_000
    # A line waits; what is said before it does not.
    later.send("L", taken + 1, b"waits\n")
    last = house.greet(keeper)
    last.send("T")
    assert last.expect("x")
    assert keeper.record.facts["signal"] == "15"
    assert keeper.record.stderr == b"deaf"


def test_lines_that_waited_for_a_slow_child_all_reach_it(house: House) -> None:
    keeper = house.spawn(misbehaving("echo"))
    client = house.greet(keeper)
    os.kill(child := client.start(), signal.SIGSTOP)
    frames = b"".join(FRAME.pack(b"L", n, 1 << 20) + line_of(1 << 20) for n in range(1, 9))
    client.socket.settimeout(0.5)
    with pytest.raises(TimeoutError):
        for at in range(0, len(frames), 1024):
            client.socket.sendall(frames[at : at + 1024])
    os.kill(child, signal.SIGCONT)
    client.socket.settimeout(20)
    client.socket.sendall(frames[at:])
    client.expect("r", 8 << 20)
    assert keeper.spool == line_of(1 << 20) * 8


def test_a_line_that_waited_for_a_child_that_then_closes_its_stdin_waits_no_longer(house: House) -> None:
    keeper = house.spawn(misbehaving("wait=USR1", "close=0", "hang"), ladder_ms="50,50")
    client = house.greet(keeper)
    child = client.start()
    client.expect("r", 8)
    for number in range(1, 6):
        client.send("L", number, line_of(1 << 20))
    client.expect("a", 5)
    client.send("L", 6, b"waits\n")
    client.send("T")
    os.kill(child, signal.SIGUSR1)
    client.expect("x")
    assert keeper.record.facts["taken"] == "5"


def test_losing_its_stdin_is_not_the_childs_death(house: House) -> None:
    keeper, client = house.run(misbehaving("close=0", "say=open", "hang"))
    client.expect("r", 5)
    client.send("L", 1, b"into the void\n")
    client.expect("a", 1)
    client.send("L", 2, b"never\n")
    client.send("S")
    assert client.expect("s").facts["taken"] == "1"
    assert "closed its stdin" in (keeper.folder / "keeper.log").read_text()


def test_a_ring_tells_how_far_the_spool_goes_and_a_later_codexd_reads_it_all(house: House) -> None:
    keeper, client = house.run(misbehaving("flood-stdout=3000000", "say=end", "hang"))
    client.expect("r", 3_000_004)
    client.close()
    assert house.connect(keeper).hello().facts["spool"] == "3000004"
    assert keeper.spool == pattern(3_000_000) + b"end\n"


def test_an_acknowledgement_and_a_ring_of_one_moment_are_both_told(house: House, tmp_path: Path) -> None:
    keeper = house.spawn(misbehaving("wait=USR1", "say=hello", f"touch={tmp_path}/said", "hang"))
    client = house.greet(keeper)
    child = client.start()
    client.expect("r", 8)
    keeper.stop()
    os.kill(child, signal.SIGUSR1)
    wait_until((tmp_path / "said").exists)
    client.send("L", 1, b"hello\n")
    keeper.go()
    client.expect("a", 1)
    client.expect("r", 14)


def test_a_codexd_that_reads_late_is_told_the_last_state(house: House) -> None:
    keeper, client = house.run(misbehaving("echo"))
    for number in range(1, 5001):
        client.send("L", number, b"x\n")
    wait_until(lambda: len(keeper.spool) == 10_000)
    told: dict[str, int] = {}
    while told != {"a": 5000, "r": 10_000}:
        frame = client.receive()
        told[frame.kind] = frame.number


# With the real Codex.


def codex(home: Path) -> tuple[list[str], dict[str, str]]:
    (home / "codex").mkdir()
    binary = pytest.importorskip("codex_cli_bin").bundled_codex_path()
    return [str(binary), "app-server"], {"HOME": str(home), "CODEX_HOME": str(home / "codex")}


INITIALIZE = b'{"id":"initialize","method":"initialize","params":{"clientInfo":{"name":"baa-tests","version":"0"}}}\n'
INITIALIZED = b'{"method":"initialized"}\n'


def ask(name: str) -> bytes:
    return b'{"id":"%s","method":"thread/loaded/list","params":{}}\n' % name.encode()


def answers(spool: bytes) -> list[str]:
    """The ids answered, in order; every line of the spool must be whole."""
    assert spool.endswith(b"\n")
    messages = [json.loads(line) for line in spool.splitlines()]
    assert not [message for message in messages if "error" in message]
    return [message["id"] for message in messages if "id" in message and "method" not in message]


def test_codex_misses_nothing_of_a_codexd_that_was_killed_in_the_middle_of_a_line(house: House, tmp_path: Path) -> None:
    argv, env = codex(tmp_path)
    keeper = house.spawn(argv, env=env)
    lines = [INITIALIZE, INITIALIZED, *(ask(f"ask:{n}") for n in range(50))]
    done = 0
    while done < len(lines) - 1:
        house.unlock()
        command = dying_codexd(keeper.folder, house.daemon_lock, done, lines[done : done + 11])
        with subprocess.Popen(command, stdout=subprocess.PIPE) as codexd:
            assert codexd.stdout
            assert codexd.stdout.readline() == b"in the middle of a line\n"
            codexd.kill()
        house.lock()
        client = house.connect(keeper)
        done = int(client.hello().facts["taken"])
        client.close()
    client = house.greet(keeper)
    client.send("L", done + 1, lines[done])
    client.expect("a", len(lines))
    wait_until(lambda: b"ask:49" in keeper.spool)
    client.send("T")
    client.expect("x")
    assert keeper.record.facts["reason"] == "ended by ladder: asked by codexd, closed stdin"
    assert keeper.record.facts["code"] == "0"
    assert sorted(answers(keeper.spool)) == sorted(["initialize", *(f"ask:{n}" for n in range(50))])


def test_codex_is_gone_soon_after_its_keeper_was_killed(house: House, tmp_path: Path) -> None:
    argv, env = codex(tmp_path)
    keeper = house.spawn(argv, env=env)
    client = house.greet(keeper)
    child = client.start()
    client.send("L", 1, INITIALIZE)
    wait_until(lambda: keeper.spool.endswith(b"\n") and answers(keeper.spool) == ["initialize"])
    keeper.process.kill()
    wait_until(lambda: not alive(child) and house.left() == [])
