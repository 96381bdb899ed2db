"""No word before its sync: held against a real codexd, and against one whose log does not sync, where it must fail."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.proof.order import Order, traced
from tests.support.faults import saw

pytestmark = pytest.mark.timeout(180)

needs_strace = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("strace") is None, reason="strace is not here: apt-get install strace"
)
ACKS = 60
TURN, OTHER = "trn_01m8c100q67x1gy1gan6r0bwy1", "trn_01m8c100q6q9wpffcd63tvwbng"
WAL = "7 pwrite64(10</s/codexd.sqlite3-wal>, {}, 4096, 56) = 4096"
SYNC = "7 fdatasync(10</s/codexd.sqlite3-wal>) = 0"
SENT = '8 sendto(13<TCP:[127.0.0.1:1->127.0.0.1:2]>, "{}", 9, 0, NULL, 0) = 9'


@needs_strace
async def test_codexd_tells_nothing_that_is_not_synced(tmp_path: Path) -> None:
    order = await traced(tmp_path / "node", acks=ACKS)
    assert order.early == []
    assert order.words > ACKS
    assert order.syncs > 0
    saw("F48", order.words > ACKS, f"{order.words} words and {order.syncs} syncs in the order of their system calls")


@needs_strace
async def test_a_log_that_does_not_sync_its_commits_is_seen(tmp_path: Path) -> None:
    order = await traced(tmp_path / "node", acks=ACKS, unsynced=True)
    assert order.words > ACKS
    assert len(order.early) > ACKS
    saw("F48", order.early, f"of {order.words} words {len(order.early)} left before a sync, on a log with NORMAL")


def test_a_word_counts_once_and_only_its_own_sync_counts() -> None:
    trace = [WAL.format(TURN), SYNC, SENT.format(TURN), WAL.format(OTHER), SENT.format(TURN), SENT.format(OTHER), SYNC]
    order = Order().read(trace)
    assert (order.words, order.early, order.syncs) == (2, [OTHER], 2)


def test_a_sync_counts_from_its_end_and_not_when_it_failed() -> None:
    begun, resumed = SYNC.replace(") = 0", " <unfinished ...>"), "7 <... fdatasync resumed>) = 0"
    assert Order().read([WAL.format(TURN), begun, SENT.format(TURN), resumed]).early == [TURN]
    assert Order().read([WAL.format(TURN), begun, resumed, SENT.format(TURN)]).early == []
    failed = SYNC.replace("= 0", "= -1 EIO (Input/output error)")
    assert Order().read([WAL.format(TURN), failed, SENT.format(TURN)]).early == [TURN]


def test_a_place_in_the_log_is_a_word_too() -> None:
    written = WAL.format(r"{\"seq\":7,\"at\"")
    told = SENT.format(r"{\"type\":\"events\",\"from\":\"e:1\",\"next\":\"e:7\"")
    assert Order().read([written, SYNC, told]).early == []
    assert Order().read([written, told, SYNC]).early == ["seq 7, while 0 was synced"]
