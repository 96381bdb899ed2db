"""The keeper and its child: its birth, its death told right, the ladder, being alone, a full disk."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.faults import saw
from tests.support.keeper_client import Gone, House, Keeper, Record, alive, misbehaving, resident_kilobytes, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the tests look at /proc")


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.close()


def pattern(size: int) -> bytes:
    return (b"0123456789abcdef" * (size // 16 + 1))[:size]


def outcome(keeper: Keeper) -> tuple[str, str, str]:
    facts = keeper.record.facts
    return facts["reason"], facts["code"], facts["signal"]


def limit_files(keeper: Keeper, size: int) -> None:
    resource.prlimit(keeper.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


# The child's birth.


def test_the_child_starts_with_default_signals_and_nothing_of_the_keepers(house: House, tmp_path: Path) -> None:
    keeper, client = house.run(["/bin/cat", "/proc/self/status"])
    client.expect("x")
    masks = [line for line in keeper.spool.decode().splitlines() if line.startswith(("SigBlk", "SigIgn", "SigCgt"))]
    of_the_c_library = 0b11 << 31  # 32 and 33: glibc's posix_spawn ignores them in every process that it starts
    assert [int(mask.split()[1], 16) & ~of_the_c_library for mask in masks] == [0, 0, 0]
    keeper, client = house.run(misbehaving("tell-surroundings"), child_cwd=tmp_path, env={"CODEX_HOME": "there"})
    client.expect("x")
    assert keeper.spool.decode().splitlines() == [
        "descriptors [0, 1, 2]",
        f"cwd {tmp_path}",
        "umask 22",
        "leads its session: True",
        "environment ['BAA_KEEPER_TEST', 'CODEX_HOME', 'LC_ALL', 'PATH']",
    ]


@pytest.mark.parametrize(
    ("argv", "cwd", "error"),
    [
        (["/nowhere/codex"], "/", "[Errno 2] No such file or directory: '/nowhere/codex'"),
        (["/dev/null"], "/", "[Errno 13] Permission denied: '/dev/null'"),
        (["/bin/cat"], "/nowhere", "[Errno 2] No such file or directory: '/nowhere'"),
    ],
)
def test_why_a_child_cannot_start_is_told_in_the_systems_words(
    house: House, argv: list[str], cwd: str, error: str
) -> None:
    keeper = house.spawn(argv, child_cwd=cwd)
    client = house.greet(keeper)
    client.send("S")
    assert Record.parse(client.receive().payload) == keeper.record
    assert outcome(keeper) == (f"cannot start: {error}", "-1", "0")


def test_without_the_word_to_start_it_ends_by_itself(house: House) -> None:
    keeper = house.spawn(misbehaving("echo"), start_ms=200)
    house.greet(keeper)
    assert outcome(keeper) == ("never started: no word to start", "-1", "0")


def test_a_folder_may_have_a_path_of_any_length(house: House, tmp_path: Path) -> None:
    keeper, client = house.run(misbehaving("echo"), folder=tmp_path / ("long" * 40))
    client.send("L", 1, b"hello\n")
    client.expect("r", 6)
    assert keeper.spool == b"hello\n"


# Its death, told right.


@pytest.mark.parametrize(
    ("verb", "code", "number"),
    [("exit=3", "3", "0"), ("exit=0", "0", "0"), ("die=KILL", "-1", "9"), ("die=SEGV", "-1", "11")],
)
def test_how_the_child_died_is_on_file_though_codexd_was_away(house: House, verb: str, code: str, number: str) -> None:
    keeper, client = house.run(misbehaving("read", "complain=oh no", "say=last words", verb))
    client.send("L", 1, b"die\n")
    client.close()
    assert outcome(keeper) == ("exited", code, number)
    assert keeper.record.stderr == b"oh no"
    assert keeper.record.facts["spool"] == str(len(keeper.spool)) == "11"
    assert house.left() == []


def test_the_end_is_told_to_the_peer_as_it_stands_on_file(house: House) -> None:
    keeper, client = house.run(misbehaving("say=hello", "exit=5"))
    assert Record.parse(client.expect("x").payload) == keeper.record
    with pytest.raises(Gone):
        client.receive()
    assert not list(keeper.folder.glob("*.new"))


def test_what_stood_in_the_pipe_at_the_childs_death_is_read(house: House) -> None:
    keeper = house.spawn(misbehaving("widen=1048576", "wait=USR1", "flood-stdout=1000000", "die=KILL"))
    client = house.greet(keeper)
    child = client.start()
    client.expect("r", 8)
    keeper.stop()
    os.kill(child, signal.SIGUSR1)
    wait_until(lambda: not alive(child))
    keeper.go()
    client.expect("x")
    assert keeper.spool == b"waiting\n" + pattern(1_000_000)


def test_the_keeper_stays_until_a_slow_codexd_has_taken_the_end(house: House) -> None:
    keeper, client = house.run(misbehaving("echo"))
    for _ in range(5000):
        client.send("L", 1, b"again\n")  # acknowledged each time, and nobody reads it
    client.send("T")
    wait_until((keeper.folder / "exit").exists)
    assert Record.parse(client.expect("x").payload) == keeper.record


def test_of_a_flood_of_stderr_the_end_is_kept(house: House) -> None:
    keeper, client = house.run(misbehaving("flood-stderr=50000000", "complain=the cause", "exit=1"))
    client.expect("x")
    assert keeper.record.stderr == (pattern(65536) + b"the cause")[-65536:]
    saw("F25", len(keeper.record.stderr) == 65536, "50 MB were written to stderr without a newline")


def test_an_end_of_stdout_is_not_the_childs_death(house: House) -> None:
    keeper, client = house.run(misbehaving("say=bye", "close=1", "close=2", "read", "exit=4"))
    client.expect("r", 4)
    client.send("L", 1, b"now\n")
    assert Record.parse(client.expect("x").payload).facts["code"] == "4"
    assert keeper.spool == b"bye\n"


def test_a_grandchild_in_its_own_session_is_killed_at_the_end(house: House) -> None:
    keeper, client = house.run(misbehaving("leave-grandchild", "leave-grandchild", "exit=0"))
    client.expect("x")
    pids = [int(line.split()[1]) for line in keeper.spool.splitlines()]
    assert len(pids) == 2
    saw("F14", len(pids) == 2, "two grandchildren in sessions of their own, disowned by the child")
    assert not any(alive(pid) for pid in pids)
    assert keeper.record.facts["code"] == "0"


def test_orphans_that_end_are_reaped_while_the_child_lives(house: House) -> None:
    keeper, client = house.run(misbehaving("make-zombies=500", "say=made", "hang"))
    client.expect("r", 5)
    children = Path(f"/proc/{keeper.process.pid}/task/{keeper.process.pid}/children")
    wait_until(lambda: len(children.read_text().split()) == 1)
    saw("F18", keeper.spool == b"made\n", "500 orphans ended and came to the keeper")


def test_a_killed_keeper_takes_a_child_with_it_that_heeds_the_end_of_its_stdin(house: House) -> None:
    keeper, _ = house.run(misbehaving("echo"))
    keeper.process.kill()
    wait_until(lambda: house.left() == [])
    assert not (keeper.folder / "exit").exists()


# The ladder, and being alone.


def test_a_child_that_ignores_eof_and_term_is_killed(house: House) -> None:
    keeper, client = house.run(misbehaving("ignore=TERM", "say=ready", "hang"), ladder_ms="30,30")
    client.expect("r", 6)
    client.send("T")
    client.expect("x")
    assert outcome(keeper) == ("ended by ladder: asked by codexd, SIGKILL", "-1", "9")
    saw("F13", keeper.record.facts["signal"] == "9", "the child ignored EOF and SIGTERM and was killed")


def test_a_child_that_heeds_the_end_of_its_stdin_is_sent_no_signal(house: House) -> None:
    keeper, client = house.run(misbehaving("echo", "say=goodbye", "exit=6"))
    client.send("L", 1, b"last\n")
    client.send("T")
    client.expect("x")
    assert outcome(keeper) == ("ended by ladder: asked by codexd, closed stdin", "6", "0")
    assert keeper.spool == b"last\ngoodbye\n"


def test_the_ladder_can_be_cut_short(house: House) -> None:
    keeper, client = house.run(misbehaving("ignore=TERM", "hang"))
    client.send("T")
    client.send("T", 1)
    client.expect("x")
    assert outcome(keeper) == ("ended by ladder: asked by codexd, SIGKILL", "-1", "9")


def test_sigterm_to_the_keeper_is_the_ladder(house: House) -> None:
    keeper, client = house.run(misbehaving("say=ready", "hang"), ladder_ms="30,20000")
    client.expect("r", 6)
    keeper.process.terminate()
    assert Record.parse(client.expect("x").payload).facts["reason"] == "ended by ladder: SIGTERM, SIGTERM"
    assert outcome(keeper)[1:] == ("-1", "15")


def test_sigterm_before_the_start_ends_the_keeper(house: House) -> None:
    keeper = house.spawn(misbehaving("echo"))
    house.greet(keeper)
    keeper.process.terminate()
    assert outcome(keeper) == ("never started: SIGTERM", "-1", "0")


def test_hangup_and_interrupt_do_nothing(house: House) -> None:
    keeper, client = house.run(misbehaving("echo"))
    keeper.process.send_signal(signal.SIGHUP)
    keeper.process.send_signal(signal.SIGINT)
    client.send("L", 1, b"still here\n")
    client.expect("r", 11)


def test_reading_goes_on_during_the_ladder(house: House) -> None:
    keeper, client = house.run(misbehaving("echo", "flood-stdout=5000000", "exit=0"))
    client.send("T")
    client.expect("x")
    assert outcome(keeper) == ("ended by ladder: asked by codexd, closed stdin", "0", "0")
    assert keeper.spool == pattern(5_000_000)


def test_a_child_without_codexd_is_ended_after_orphan_ms(house: House) -> None:
    keeper, client = house.run(misbehaving("echo"), orphan_ms=200)
    client.close()
    assert outcome(keeper) == ("ended by ladder: codexd is gone, closed stdin", "0", "0")


def test_a_codexd_that_comes_back_in_time_keeps_its_child(house: House) -> None:
    keeper, client = house.run(misbehaving("echo"), orphan_ms=1500)
    for number in range(1, 7):
        client.close()
        client = house.greet(keeper)
        client.send("L", number, b"on\n")
        client.expect("r", 3 * number)
        assert not client.has_news(0.3)
    assert keeper.process.poll() is None


def test_codexd_can_say_that_its_going_is_the_end(house: House) -> None:
    keeper, client = house.run(misbehaving("echo"))
    client.send("O", 0)
    client.send("L", 1, b"with me you live\n")
    client.expect("r", 17)
    client.close()
    assert outcome(keeper)[0] == "ended by ladder: codexd is gone, closed stdin"


def test_a_lease_that_ends_while_codexd_is_away_ends_the_child(house: House) -> None:
    keeper, client = house.run(misbehaving("echo"))
    client.send("E", 100)
    client.close()
    assert outcome(keeper) == ("ended by ladder: a turn's lease ended, closed stdin", "0", "0")


def test_a_lease_that_ends_under_codexds_eyes_is_codexds_matter(house: House) -> None:
    keeper, client = house.run(misbehaving("echo"))
    client.send("E", 50)
    assert not client.has_news(0.2)
    client.send("E", 0)
    client.close()
    client = house.greet(keeper)
    client.send("L", 1, b"on\n")
    client.expect("a", 1)


# A full disk, played by a limit on the size of files.


def test_a_spool_that_cannot_be_written_loses_nothing_once_it_can(house: House) -> None:
    keeper, client = house.run(misbehaving("read", "flood-stdout=3000000", "say=end", "read", "exit=0"))
    limit_files(keeper, 1 << 20)
    client.send("L", 1, b"go\n")
    client.expect("r", 1 << 20)
    wait_until(lambda: "cannot be written" in (keeper.folder / "keeper.log").read_text())
    client.send("L", 2, b"go\n")
    client.expect("a", 2)
    assert len(keeper.spool) == 1 << 20
    limit_files(keeper, resource.RLIM_INFINITY)
    client.expect("x")
    assert keeper.spool == pattern(3_000_000) + b"end\n"
    assert (keeper.record.facts["dropped"], keeper.record.facts["spool"]) == ("0", "3000004")


def test_a_ladder_on_a_full_disk_counts_what_it_drops(house: House) -> None:
    keeper, client = house.run(misbehaving("read", "flood-stdout=4000000", "exit=0"), ladder_ms="60000,3000")
    limit_files(keeper, 100_000)
    client.send("L", 1, b"go\n")
    wait_until(lambda: "cannot be written" in (keeper.folder / "keeper.log").read_text())
    client.send("T")
    client.expect("x")
    facts = keeper.record.facts
    assert keeper.spool == pattern(len(keeper.spool))
    assert int(facts["spool"]) + int(facts["dropped"]) == 4_000_000
    assert int(facts["dropped"]) > 0


def test_a_spool_is_segments_and_goes_on_while_they_are_removed(house: House) -> None:
    keeper, client = house.run(misbehaving("read", "flood-stdout=1000000", "hang"), spool_bytes="100000,300000")
    client.send("L", 1, b"go\n")
    read, whole = b"", 0
    while whole < 9:
        client.expect("r", 100_000 * (whole + 1) + 1)
        segment = keeper.folder / "spool" / str(100_000 * whole)
        read += segment.read_bytes()
        segment.unlink()
        whole += 1
    client.expect("r", 1_000_000)
    assert read + keeper.spool == pattern(1_000_000)


def test_a_full_spool_holds_the_child_and_nothing_else(house: House) -> None:
    keeper, client = house.run(
        misbehaving("read", "flood-stdout=1000000", "say=end", "read", "exit=0"), spool_bytes="100000,300000"
    )
    client.send("L", 1, b"go\n")
    client.expect("r", 300_000)
    wait_until(lambda: "codexd has to read first" in (keeper.folder / "keeper.log").read_text())
    client.send("L", 2, b"go\n")
    client.expect("a", 2)
    assert [segment.stat().st_size for segment in (keeper.folder / "spool").iterdir()] == [100_000] * 3
    assert resident_kilobytes(keeper.process.pid) < 20_000
    assert house.connect(keeper).hello().facts["spool"] == "300000"
    read = b""
    for begins in range(0, 1_000_000, 100_000):
        segment = keeper.folder / "spool" / str(begins)
        wait_until(lambda path=segment: path.exists() and path.stat().st_size == 100_000)  # type: ignore[misc]
        read += segment.read_bytes()
        segment.unlink()
    assert keeper.record.facts["dropped"] == "0"
    assert read + keeper.spool == pattern(1_000_000) + b"end\n"


def test_the_last_words_of_a_child_have_room_in_a_full_spool(house: House) -> None:
    keeper, client = house.run(misbehaving("flood-stdout=330000", "exit=0"), spool_bytes="100000,300000")
    client.close()
    assert (keeper.record.facts["dropped"], keeper.record.facts["spool"]) == ("0", "330000")
    assert keeper.spool == pattern(330_000)


def test_a_segment_has_its_room_before_it_is_written(house: House) -> None:
    keeper, client = house.run(misbehaving("say=hello", "hang"))
    client.expect("r", 6)
    (segment,) = (keeper.folder / "spool").iterdir()
    stat = segment.stat()
    assert (segment.name, stat.st_size, stat.st_mode & 0o777) == ("0", 6, 0o600)
    assert stat.st_blocks * 512 >= 16 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "none", disk], capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"no disk of our own: {mounted.stderr.decode()}")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_on_a_full_disk_a_segment_has_room_and_all_else_waits_until_there_is_some(small_disk: Path) -> None:
    house = House(small_disk)
    try:
        keeper, client = house.run(misbehaving("read", "flood-stdout=20000000", "say=end", "read", "exit=0"))
        ballast = small_disk / "ballast"
        with pytest.raises(OSError, match="No space left"), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 20))
        client.send("L", 1, b"go\n")
        client.expect("r", 16 << 20)
        wait_until(lambda: len(keeper.spool) == 16 << 20)
        client.send("L", 2, b"go\n")
        client.expect("a", 2)
        ballast.unlink()
        client.expect("x")
        assert keeper.spool == pattern(20_000_000) + b"end\n"
        assert keeper.record.facts["dropped"] == "0"
    finally:
        house.close()
