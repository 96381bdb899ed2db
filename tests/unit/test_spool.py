"""The spool as codexd reads it: real files, as a keeper leaves them, in segments or (version 1) in one."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

import pytest

from baa.codexd.appserver.spool import CHUNK, Spool


@pytest.fixture
def spool_file(tmp_path: Path) -> Path:
    return tmp_path / "spool"


# --- in one file


def test_a_spool_that_is_not_there_yet_is_empty(spool_file: Path) -> None:
    spool = Spool(spool_file, 0)
    assert (spool.read(), spool.size(), spool.offset) == (([], False), 0, 0)

    spool_file.write_bytes(b"one\n")
    assert (spool.read(), spool.size(), spool.offset) == (([b"one"], False), 4, 4)
    spool.close()


def test_a_spool_is_read_as_it_grows_and_its_offset_moves_past_whole_lines_only(spool_file: Path) -> None:
    spool = Spool(spool_file, 0)
    read = []
    for piece in (b"one\ntw", b"o\n", b"", b"three\nfo"):
        with spool_file.open("ab") as file:
            file.write(piece)
        lines, _ = spool.read()
        read.append((lines, spool.offset, spool.read_to, spool.unfinished))
    spool.close()

    assert read == [
        ([b"one"], 4, 6, 2),
        ([b"two"], 8, 8, 0),
        ([], 8, 8, 0),
        ([b"three"], 14, 16, 2),
    ]


@pytest.mark.parametrize("offset", [0, 4, 8])
def test_a_reader_that_comes_back_goes_on_at_its_offset(spool_file: Path, offset: int) -> None:
    spool_file.write_bytes(b"one\ntwo\nthree\n")
    spool = Spool(spool_file, offset)

    assert spool.read() == ([b"one", b"two", b"three"][offset // 4 :], False)
    assert spool.offset == 14
    spool.close()


def test_a_long_spool_is_read_in_chunks_and_says_that_there_is_more(spool_file: Path) -> None:
    line = b"x" * 999
    spool_file.write_bytes((line + b"\n") * 600)
    spool, lines, chunks = Spool(spool_file, 0), list[bytes](), 0
    more = True
    while more:
        read, more = spool.read()
        lines, chunks = lines + read, chunks + 1
    spool.close()

    assert lines == [line] * 600
    assert chunks == 600_000 // CHUNK + 1
    assert spool.offset == 600_000


def test_closing_a_spool_twice_is_closing_it(spool_file: Path) -> None:
    spool_file.write_bytes(b"one\n")
    spool = Spool(spool_file, 0)
    spool.read()
    spool.close()
    spool.close()


# --- in segments


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "spool"
    folder.mkdir()
    return folder


def write(folder: Path, segments: Mapping[int, bytes]) -> None:
    for begins, content in segments.items():
        (folder / str(begins)).write_bytes(content)


def left(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in folder.iterdir())


def read_all(spool: Spool) -> list[bytes]:
    lines = list[bytes]()
    while spool.read_to < spool.size():
        lines += spool.read()[0]
    return lines


def test_lines_go_on_from_segment_to_segment_and_the_offset_is_one_number(folder: Path) -> None:
    write(folder, {0: b"one\ntw", 6: b"o\nthr", 11: b"ee\nfo"})
    spool = Spool(folder, 0)
    assert read_all(spool) == [b"one", b"two", b"three"]
    assert (spool.offset, spool.read_to, spool.size(), spool.unfinished) == (14, 16, 16, 2)
    write(folder, {11: b"ee\nfour\n"})
    assert spool.read() == ([b"four"], False)
    spool.close()


def test_where_another_segment_follows_there_is_more_to_read_at_once(folder: Path) -> None:
    write(folder, {0: b"one\n", 4: b"two\n"})
    spool = Spool(folder, 0)
    assert [spool.read(), spool.read(), spool.read()] == [([b"one"], True), ([b"two"], False), ([], False)]
    spool.close()


def test_a_segment_that_cannot_be_removed_is_tried_again_with_the_next(folder: Path) -> None:
    write(folder, {0: b"one\n", 4: b"two\n"})
    spool = Spool(folder, 0)
    read_all(spool)
    (folder / "0").unlink()
    (folder / "0").mkdir()
    spool.let_go(8)
    assert left(folder) == [0, 4]
    (folder / "0").rmdir()
    (folder / "0").touch()
    spool.let_go(8)
    assert left(folder) == [4]
    spool.close()


@pytest.mark.parametrize("offset", [0, 4, 8])
def test_a_reader_that_comes_back_goes_on_in_the_segment_of_its_offset(folder: Path, offset: int) -> None:
    write(folder, {0: b"one\ntw", 6: b"o\n", 8: b"three\n"})
    spool = Spool(folder, offset)
    assert read_all(spool) == [b"one", b"two", b"three"][offset // 4 :]
    assert spool.offset == 14
    spool.close()


def test_a_segment_is_removed_once_what_was_read_of_it_is_in_the_log_and_never_the_last_one(folder: Path) -> None:
    write(folder, {0: b"one\ntw", 6: b"o\n"})
    spool = Spool(folder, 0)
    spool.read()
    spool.let_go(spool.offset)
    assert (spool.passed, left(folder)) == (False, [0, 6])
    spool.read()
    spool.let_go(4)
    assert (spool.passed, left(folder)) == (True, [0, 6])  # "tw" is not in the log
    spool.let_go(8)
    assert (spool.passed, left(folder)) == (False, [6])
    spool.close()


def test_segments_that_a_dead_codexd_had_read_are_removed_by_the_next_one(folder: Path) -> None:
    write(folder, {0: b"one\n", 4: b"two\n", 8: b"thr", 11: b"ee\n"})
    spool = Spool(folder, 8)
    assert not spool.missing
    assert read_all(spool) == [b"three"]
    spool.let_go(spool.offset)
    assert left(folder) == [11]
    spool.close()


def test_an_offset_whose_segment_is_gone_is_missing_and_what_there_is_is_read(folder: Path) -> None:
    write(folder, {6: b"o\n", 8: b"three\n"})
    spool = Spool(folder, 2)
    assert spool.missing
    assert read_all(spool) == [b"o", b"three"]
    assert spool.offset == 14
    spool.close()


def test_a_segment_that_a_power_cut_shortened_stops_nobody(folder: Path) -> None:
    write(folder, {0: b"one\ntw", 16: b"rest\nfive\n"})
    spool = Spool(folder, 0)
    assert read_all(spool) == [b"one", b"rest", b"five"]
    assert (spool.offset, spool.read_to) == (26, 26)
    spool.close()


@pytest.mark.parametrize("seed", range(20))
def test_however_it_is_cut_written_read_and_let_go_each_line_comes_once(folder: Path, seed: int) -> None:
    rng = random.Random(seed)
    lines = [bytes(rng.choices(b"abc", k=rng.randrange(30))) for _ in range(200)]
    text = b"".join(line + b"\n" for line in lines)
    spool, read, began, at, offset = Spool(folder, 0), list[bytes](), 0, 0, 0
    while at < len(text) or spool.read_to < len(text):
        if at == began or rng.random() < 0.8:
            room = began + 100 - at
            piece = text[at : at + rng.randint(1, room)]
            with (folder / str(began)).open("ab") as segment:
                segment.write(piece)
            at += len(piece)
        if at == began + 100:
            began = at
            (folder / str(began)).touch()
        if rng.random() < 0.5:
            read += spool.read()[0]
            offset = spool.offset
        if rng.random() < 0.3:
            spool.let_go(offset)
        if rng.random() < 0.05:  # codexd dies, and what it had read and not committed is read again
            spool.close()
            spool = Spool(folder, offset)
        if at == len(text):
            read += read_all(spool)
            offset = spool.offset
    assert spool.read() == ([], False)  # the last segment may be empty
    spool.let_go(spool.offset)
    spool.close()
    assert read == lines
    assert left(folder) == [began]
