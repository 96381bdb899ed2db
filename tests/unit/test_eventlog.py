"""Append, commit, then tell: on a real file, with a real writer thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from itertools import pairwise
from pathlib import Path

import apsw
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from baa.api import events as e
from baa.api.events import Event, EventType, parse_cursor
from baa.api.sessions import TurnRequest
from baa.clock import SystemClock
from baa.codexd import eventlog, reading
from baa.codexd.eventlog import EventLog, LogFailed, Transaction
from baa.codexd.machines.inputs import NewEvent
from baa.codexd.stored import body_of
from baa.codexd.subscriptions import FRAME_BYTES, SCAN_SEQS, Wanted, read_on
from baa.sqlite import open_reader
from tests.support.house import until
from tests.support.script import SETTINGS

WAIT_S = 20


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[EventLog]:
    log = EventLog(path, clock=SystemClock())
    try:
        async with asyncio.timeout(WAIT_S):
            yield log
    finally:
        await asyncio.to_thread(log.close)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.sqlite3"


def warning(text: str, session_id: str | None = None) -> NewEvent:
    return NewEvent(EventType.CODEX_WARNING, session_id, None, e.Notification(method=text))


def registered(session_id: str = "ses_a") -> NewEvent:
    return NewEvent(EventType.SESSION_REGISTERED, session_id, None, e.SessionRegistered(settings=SETTINGS))


def of_turn(type_: EventType, payload: e.Payload) -> NewEvent:
    return NewEvent(type_, "ses_a", "trn_a", payload)


def turn_with_item(item_id: str = "item") -> list[NewEvent]:
    return [
        of_turn(EventType.TURN_QUEUED, e.TurnQueued(request=TurnRequest(prompt="go"))),
        of_turn(EventType.TURN_ACCEPTED, e.TurnAccepted(generation=1)),
        of_turn(EventType.TURN_STARTED, e.TurnStarted(codex_turn_id="codex")),
        of_turn(EventType.ITEM_STARTED, e.ItemStarted(item_id=item_id, kind="agentMessage", item=Raw(b"{}"))),
    ]


def delta(text: str, stream: str = "text", item_id: str = "item") -> NewEvent:
    return of_turn(EventType.ITEM_DELTA, e.ItemDelta(item_id=item_id, stream=stream, delta=text))


def abandoned(item_id: str = "item") -> NewEvent:
    return of_turn(EventType.ITEM_ABANDONED, e.ItemAbandoned(item_id=item_id))


async def committed(log: EventLog, *transactions: Transaction) -> list[int]:
    """Give them all at once; the seqs that their `done` were told, in the order of the telling."""
    told: list[int] = []
    last: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    for transaction in transactions:
        transaction.done.append(told.append)
    transactions[-1].done.append(lambda _: last.set_result(None))
    for transaction in transactions:
        log.submit(transaction)
    await last
    return told


def stored(path: Path) -> list[tuple[int, str | None, str, bytes]]:
    with closing(open_reader(path)) as connection:
        rows = connection.execute("SELECT seq, session_id, type, body FROM event ORDER BY seq")
        return [(seq, session_id, type_, body) for seq, session_id, type_, body in rows]


def methods(path: Path) -> list[str]:
    events = [msgspec.json.decode(body, type=Event) for _, _, type_, body in stored(path) if type_ == "codex.warning"]
    return [event.payload["method"] for event in events]


# --- order and telling


async def test_transactions_are_committed_in_their_order_with_dense_seqs_and_each_is_told_where_it_began(
    path: Path,
) -> None:
    texts = [[f"{number}.{part}" for part in range(number % 4)] for number in range(40)]
    async with opened(path) as log:
        told = await committed(log, *(Transaction([warning(text) for text in part]) for part in texts))

        assert told == [sum(map(len, texts[:number])) for number in range(40)]
        assert log.head == sum(map(len, texts))
    assert [seq for seq, *_ in stored(path)] == list(range(1, log.head + 1))
    assert methods(path) == [text for part in texts for text in part]


async def test_nothing_is_told_before_it_is_on_disk(path: Path) -> None:
    async with opened(path) as log:
        transaction = Transaction([warning("x")])
        seen: list[list[str]] = []
        transaction.done.append(lambda _: seen.append(methods(path)))

        await committed(log, transaction)

        assert seen == [["x"]]


async def test_what_tells_nobody_anything_is_committed_before_the_next_that_does(path: Path) -> None:
    async with opened(path) as log:
        log.submit(Transaction(statements=[("INSERT INTO meta (key, value) VALUES ('k', 'a')", ())]))
        log.submit(
            Transaction([warning("x")], statements=[("UPDATE meta SET value = value || 'b' WHERE key = 'k'", ())])
        )
        await log.wait_past(0)

        assert list(log.reader().execute("SELECT value FROM meta WHERE key = 'k'")) == [("ab",)]


async def test_what_tells_nobody_anything_costs_no_commit_of_its_own(path: Path) -> None:
    commits = [0]

    def counted() -> bool:
        commits[0] += 1
        return False

    def hook(connection: apsw.Connection) -> None:
        connection.set_commit_hook(counted)

    apsw.connection_hooks.append(hook)
    try:
        async with opened(path) as log:
            commits[0] = 0
            for _ in range(20):
                log.submit(Transaction(statements=[("UPDATE meta SET value = value WHERE key = 'epoch'", ())]))
                await committed(log, Transaction([warning("x")]))
            assert commits == [20]
    finally:
        apsw.connection_hooks.remove(hook)


async def test_what_tells_nobody_anything_is_committed_though_nothing_follows(path: Path) -> None:
    def committed_by_now(log: EventLog) -> bool:
        return bool(list(log.reader().execute("SELECT 1 FROM meta WHERE key = 'k'")))

    silent = Transaction(statements=[("INSERT INTO meta (key, value) VALUES ('k', '')", ())])
    async with opened(path) as log:
        log.submit(silent)
        await until(lambda: committed_by_now(log))
    async with opened(path.with_name("closed.sqlite3")) as log:
        log.submit(silent)
    with closing(open_reader(path.with_name("closed.sqlite3"))) as reader:
        assert list(reader.execute("SELECT 1 FROM meta WHERE key = 'k'"))


async def test_where_a_caller_cannot_be_told_codexd_ends_of_it_and_the_log_holds_all(path: Path) -> None:
    def mistake(_: int) -> None:
        raise ZeroDivisionError

    async with opened(path) as log:
        log.submit(Transaction([warning("a")], done=[mistake]))
        with pytest.raises(ZeroDivisionError):
            await log.failed
        assert log.head == 1
    assert methods(path) == ["a"]


async def test_what_nobody_waits_for_is_committed_by_itself_and_with_the_next_that_somebody_waits_for(
    path: Path,
) -> None:
    async with opened(path) as log:
        await committed(log, Transaction([warning("a")]))
        log.submit(Transaction([warning("b")]))
        log.submit(Transaction([warning("c")]))
        assert await committed(log, Transaction([warning("d")])) == [3]
        log.submit(Transaction([warning("e")]))
        await log.wait_past(4)
        log.submit(Transaction([warning("f")]))
    assert methods(path) == ["a", "b", "c", "d", "e", "f"]


async def test_a_transaction_without_events_is_committed_and_told_too(path: Path) -> None:
    async with opened(path) as log:
        await committed(log, Transaction([warning("x")]))
        statement = ("INSERT INTO meta (key, value) VALUES (?, ?)", ("k", "v"))

        assert await committed(log, Transaction(statements=[statement])) == [1]
        assert (log.head, log.meta("k")) == (1, "v")


async def test_the_events_of_a_body_are_as_every_reader_gets_them(path: Path) -> None:
    async with opened(path) as log:
        await committed(log, Transaction([registered(), warning("é\n", "ses_a")]))
        tail = [(event.seq, event.session_id, event.type, event.body) for event in log.tail]
    assert tail == stored(path)

    (_, _, _, body) = stored(path)[1]
    told = msgspec.json.decode(body, type=Event)
    assert told == Event(2, told.at, "codex.warning", "ses_a", None, {"method": "é\n"})
    assert b"\n" not in body


# --- a commit that fails


BAD: list[tuple[str, Transaction]] = [
    (
        "a row without its parent",
        Transaction([warning("bad")], [("INSERT INTO outbox VALUES (9, 1, NULL, x'')", ())]),
    ),
    (
        "a key twice",
        Transaction([warning("bad")], [("INSERT INTO meta VALUES ('epoch', 'mine')", ())]),
    ),
    ("an event that its table refuses", Transaction([warning("bad"), registered("ses_a"), registered("ses_a")])),
    ("a statement that is none", Transaction([warning("bad")], [("NONSENSE", ())])),
]


@pytest.mark.parametrize("bad", [bad for _, bad in BAD], ids=[name for name, _ in BAD])
async def test_when_a_commit_fails_nothing_of_it_is_stored_or_told_and_the_log_takes_nothing_more(
    path: Path, bad: Transaction
) -> None:
    told: list[str] = []

    def transaction(name: str) -> Transaction:
        return Transaction([warning(name)], done=[lambda _: told.append(name)])

    async with opened(path) as log:
        await committed(log, transaction("before"))
        for name in ("with a", "with b"):
            log.submit(transaction(name))
        log.submit(Transaction(list(bad.events), list(bad.statements), [lambda _: told.append("bad")]))
        log.submit(transaction("after"))

        with pytest.raises(LogFailed, match="the event log cannot be written"):
            await log.failed
        log.submit(transaction("much later"))

        assert log.head == len(stored(path))
    assert told == methods(path)
    assert not {"bad", "after", "much later"} & set(told)
    assert "before" in told


async def test_after_a_failed_commit_the_next_codexd_goes_on_from_the_last_one(path: Path) -> None:
    async with opened(path) as log:
        await committed(log, Transaction([warning("one")]))
        log.submit(Transaction([warning("bad")], [("NONSENSE", ())]))
        with pytest.raises(LogFailed):
            await log.failed
    async with opened(path) as again:
        assert await committed(again, Transaction([warning("two")])) == [1]
    assert methods(path) == ["one", "two"]


# --- from one codexd to the next


async def test_a_log_that_is_opened_again_goes_on_with_its_seq_and_its_epoch(path: Path) -> None:
    async with opened(path) as log:
        assert (log.head, log.oldest, str(log.cursor(0))) == (0, 1, f"{log.epoch}:0")
        await committed(log, Transaction([warning("one"), warning("two")]))
    async with opened(path) as again:
        assert (again.epoch, again.daemon_id, again.head, again.oldest) == (log.epoch, log.daemon_id, 2, 1)
        assert await committed(again, Transaction([warning("three")])) == [2]
    assert [seq for seq, *_ in stored(path)] == [1, 2, 3]


async def test_two_logs_are_of_two_epochs(tmp_path: Path) -> None:
    async with opened(tmp_path / "one") as one, opened(tmp_path / "two") as two:
        assert one.epoch != two.epoch
        assert one.daemon_id != two.daemon_id


async def test_a_changed_epoch_holds_from_its_commit_on_and_for_good(path: Path) -> None:
    async with opened(path) as log:
        before = log.epoch
        transaction = Transaction()
        log.change_epoch(transaction)
        assert log.epoch == before
        await committed(log, transaction)
        assert log.epoch != before
    async with opened(path) as again:
        assert again.epoch == log.epoch


async def test_closing_commits_what_was_given(path: Path) -> None:
    async with opened(path) as log:
        for number in range(100):
            log.submit(Transaction([warning(str(number))]))
    assert methods(path) == [str(number) for number in range(100)]


async def test_a_backlog_makes_its_writer_wait_until_the_disk_has_caught_up(path: Path) -> None:
    async with opened(path) as log:
        await log.room()
        log.submit(Transaction([warning("x")] * (eventlog.BACKLOG_MAX + 1)))
        assert log.head == 0
        await log.room()
        assert log.head == eventlog.BACKLOG_MAX + 1


# --- what an abandoned item had said


@pytest.mark.parametrize("cuts", [(), (4,), (5,), (6,), (4, 6), (1, 2, 3, 4, 5, 6, 7, 8)])
async def test_an_abandoned_item_is_told_with_the_text_of_its_deltas_wherever_the_commits_fell(
    path: Path, cuts: tuple[int, ...]
) -> None:
    events = [
        *turn_with_item(),
        delta("so "),
        delta("not this", item_id="other"),
        delta("nor this", stream="summary"),
        delta("far"),
        abandoned(),
    ]
    async with opened(path) as log:
        await committed(log, Transaction([registered()]))
        places = [0, *cuts, len(events)]
        for start, end in pairwise(places):
            await committed(log, Transaction(events[start:end]))
        (text,) = next(log.reader().execute("SELECT text FROM item"))
    told = msgspec.json.decode(stored(path)[-1][3], type=Event)

    assert told.payload == {"itemId": "item", "text": "so far"}
    assert text == "so far"


async def test_an_item_that_said_nothing_is_abandoned_without_a_text(path: Path) -> None:
    async with opened(path) as log:
        await committed(log, Transaction([registered(), *turn_with_item(), abandoned()]))
    assert msgspec.json.decode(stored(path)[-1][3], type=Event).payload == {"itemId": "item"}


# --- reading along


def wanted(log: EventLog, session_id: str | None = None, types: frozenset[str] | None = None) -> Wanted:
    return Wanted(log.cursor(0), session_id, types)


async def everything(log: EventLog, asked: Wanted, limit: int) -> list[bytes]:
    """All pages from the beginning to the head; each moves on."""
    bodies, after = list[bytes](), 0
    while after < log.head:
        page = await read_on(log, asked, after, limit)
        assert page.next > after
        assert len(page.bodies) <= limit
        bodies, after = bodies + page.bodies, page.next
    return bodies


@given(
    kinds=st.lists(st.sampled_from([None, "ses_a", "ses_b"]), max_size=40),
    session_id=st.sampled_from([None, "ses_a", "ses_c"]),
    types=st.sampled_from([None, frozenset({"codex.warning"}), frozenset({"session.registered"})]),
    limit=st.integers(1, 12),
)
@settings(max_examples=30)
def test_the_tail_in_memory_and_the_pages_of_the_file_give_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory,
    kinds: list[str | None],
    session_id: str | None,
    types: frozenset[str] | None,
    limit: int,
) -> None:
    path = tmp_path_factory.mktemp("log") / "log.sqlite3"

    async def scenario() -> tuple[list[bytes], list[bytes]]:
        async with opened(path) as log:
            await committed(log, Transaction([registered("ses_a"), registered("ses_b")]))
            await committed(log, Transaction([warning(str(number), kind) for number, kind in enumerate(kinds)]))
            from_memory = await everything(log, wanted(log, session_id, types), limit)
        async with opened(path) as again:
            assert not again.tail
            return from_memory, await everything(again, wanted(again, session_id, types), limit)

    from_memory, from_file = asyncio.run(scenario())
    assert from_memory == from_file
    assert from_file == [
        body
        for _, owner, type_, body in stored(path)
        if session_id in (None, owner) and (types is None or type_ in types)
    ]


async def test_the_tail_holds_only_the_newest_bytes_and_the_file_the_rest(path: Path) -> None:
    big = "x" * (eventlog.TAIL_BYTES // 8)
    async with opened(path) as log:
        for _ in range(12):
            await committed(log, Transaction([warning(big)]))

        assert sum(len(event.body) for event in log.tail) <= eventlog.TAIL_BYTES
        assert [event.seq for event in log.tail] == list(range(log.tail[0].seq, 13))
        assert len(await everything(log, wanted(log), limit=5)) == 12


async def test_a_page_ends_once_it_is_big_enough_in_memory_and_from_the_file(path: Path) -> None:
    big = "x" * (FRAME_BYTES * 2 // 3)
    pages = []
    async with opened(path) as log:
        await committed(log, Transaction([warning(big) for _ in range(5)]))
        pages.append(await read_on(log, wanted(log), 0))
    async with opened(path) as again:
        pages.append(await read_on(again, wanted(again), 0))

    assert [(len(page.bodies), page.next) for page in pages] == [(2, 2), (2, 2)]


async def test_a_reader_at_the_head_gets_an_empty_page_that_stays_there(path: Path) -> None:
    async with opened(path) as log:
        await committed(log, Transaction([warning("x")]))
        page = await read_on(log, wanted(log), 1)

        assert (page.bodies, page.next) == ([], 1)


async def test_a_page_without_a_wanted_event_moves_on_all_the_same(path: Path) -> None:
    async with opened(path) as log:
        await committed(log, Transaction([warning("x"), warning("y")]))
        page = await read_on(log, wanted(log, "ses_a"), 0)

        assert (page.bodies, page.next) == ([], 2)


async def test_one_page_of_the_file_looks_through_no_more_than_a_part_of_a_long_log(path: Path) -> None:
    async with opened(path) as log:
        await committed(log, Transaction([*(warning("x") for _ in range(SCAN_SEQS + 1)), registered()]))
    async with opened(path) as again:
        rare = Wanted(again.cursor(0), None, frozenset({"session.registered"}))
        page = await read_on(again, rare, 0)
        assert (page.bodies, page.next) == ([], SCAN_SEQS)
        page = await read_on(again, rare, page.next)
        assert (len(page.bodies), page.next) == (1, SCAN_SEQS + 2)


async def test_what_is_committed_and_not_told_yet_is_on_no_page_of_the_file(path: Path) -> None:
    """A reader that was quick to come back with that page's cursor would be told that it is ahead of the log."""
    async with opened(path) as log:
        await committed(log, Transaction([warning("x"), warning("y")]))
    async with opened(path) as again:
        again.submit(Transaction([warning("z")]))
        while len(stored(path)) < 3:  # the loop must not run, for then it is told
            pass
        assert again.head == 2
        page = reading.events(
            again.reader(), after=0, head=again.head, limit=10, size=FRAME_BYTES, session_id=None, types=None
        )
        parse_cursor(str(again.cursor(page.next)), epoch=again.epoch, oldest=again.oldest, head=again.head)
        assert (len(page.bodies), page.next) == (2, 2)


def test_a_body_is_put_together_as_json() -> None:
    event = warning('"quoted"', "ses_a")
    body = body_of(event, 7, "2026-11-24T00:00:00.000Z", msgspec.json.encode(event.payload))

    assert body == (
        b'{"seq":7,"at":"2026-11-24T00:00:00.000Z","type":"codex.warning","sessionId":"ses_a","turnId":null,'
        b'"payload":{"method":"\\"quoted\\""}}'
    )
