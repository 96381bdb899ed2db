"""What the log lets go of, and what it never does: on a real file, with a clock that the test turns."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from baa.api import events as e
from baa.api.errors import Rejected
from baa.api.events import Event, EventType
from baa.api.sessions import TurnRequest
from baa.codexd import opening, reading, restore, schema, tables
from baa.codexd.eventlog import EventLog, Transaction
from baa.codexd.machines.inputs import NewEvent
from baa.codexd.retention import BATCH_BYTES, BATCH_EVENTS, Limits, Retention, Row, droppable
from baa.codexd.seal import seal_of
from baa.codexd.subscriptions import Subscriptions, Wanted, read_on
from baa.http.frames import FRAME
from baa.sqlite import open_reader
from tests.support.judge import folded, stored, told
from tests.support.script import SETTINGS
from tests.support.world import World

WAIT_S = 30
DAY_MS = 24 * 3_600_000
YEAR_MS = 365 * DAY_MS
FOREVER = Limits(0, 0, 0)


@dataclass
class Turned:
    """A clock that goes on when the test says so."""

    seconds: float = 1000.0
    wall_ms: int = 1_800_000_000_000

    def monotonic(self) -> float:
        return self.seconds

    def utc_ms(self) -> int:
        return self.wall_ms

    def run(self, ms: int) -> None:
        self.seconds += ms / 1000


@dataclass
class Beside:
    """The log's own clock: its writer paces itself by real time, and its events are of the other clock's year."""

    of: Turned

    def monotonic(self) -> float:
        return time.monotonic()

    def utc_ms(self) -> int:
        return self.of.wall_ms


class Recorded(EventLog):
    """A log that remembers what it was given."""

    def submit(self, transaction: Transaction) -> None:
        self.given = [*getattr(self, "given", []), transaction]
        super().submit(transaction)


@pytest.fixture
def clock() -> Turned:
    return Turned()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.sqlite3"


@asynccontextmanager
async def opened(path: Path, clock: Turned) -> AsyncIterator[Recorded]:
    log = Recorded(path, clock=Beside(clock))
    try:
        async with asyncio.timeout(WAIT_S):
            yield log
    finally:
        await asyncio.to_thread(log.close)


async def write(log: EventLog, *events: NewEvent) -> None:
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    log.submit(Transaction(list(events), done=[lambda _: done.set_result(None)]))
    await done


def warning(text: str) -> NewEvent:
    return NewEvent(EventType.CODEX_WARNING, None, None, e.Notification(method=text))


def registered() -> NewEvent:
    return NewEvent(EventType.SESSION_REGISTERED, "ses_a", None, e.SessionRegistered(settings=SETTINGS))


def begun(turn_id: str, deltas: int) -> list[NewEvent]:
    """A turn whose item has said something."""
    item = msgspec.Raw(b'{"id":"item"}')
    payloads: list[tuple[EventType, e.Payload]] = [
        (EventType.TURN_QUEUED, e.TurnQueued(request=TurnRequest(prompt="go"))),
        (EventType.TURN_ACCEPTED, e.TurnAccepted(generation=1)),
        (EventType.TURN_STARTED, e.TurnStarted(codex_turn_id="codex")),
        (EventType.ITEM_STARTED, e.ItemStarted(item_id="item", kind="agentMessage", item=item)),
    ]
    payloads += [
        (EventType.ITEM_DELTA, e.ItemDelta(item_id="item", stream="text", delta=f"{n} ")) for n in range(deltas)
    ]
    return [NewEvent(type_, "ses_a", turn_id, payload) for type_, payload in payloads]


def ended(turn_id: str) -> list[NewEvent]:
    return [
        NewEvent(EventType.ITEM_ABANDONED, "ses_a", turn_id, e.ItemAbandoned(item_id="item")),
        NewEvent(EventType.TURN_INTERRUPTED, "ses_a", turn_id, e.TurnEnded(reason="requested")),
    ]


def seqs(path: Path, type_: str = "%") -> list[int]:
    with closing(open_reader(path)) as connection:
        query = "SELECT seq FROM event WHERE type LIKE ? ORDER BY seq"
        return [seq for (seq,) in connection.execute(query, (type_,))]


def everything(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    with closing(open_reader(path)) as connection:
        return stored(connection)


async def look_after(keeping: Retention, clock: Turned, ms: int) -> None:
    """Let codexd run for so long, and look at both ends of it."""
    await keeping.look()
    clock.run(ms)
    await keeping.look()


# --- the decision


@given(
    sizes=st.lists(st.integers(1, BATCH_BYTES), max_size=30),
    old=st.integers(0, 40),
    excess=st.integers(-5, 3 * BATCH_BYTES),
    pinned=st.integers(1, 40),
)
def test_what_goes_is_a_prefix_that_is_old_or_too_much_and_ends_where_it_is_pinned(
    sizes: list[int], old: int, excess: int, pinned: int
) -> None:
    rows = [Row(seq, size) for seq, size in enumerate(sizes, 1)]
    gone = droppable(rows, old=old, excess=excess, pinned=pinned)

    assert gone == rows[: len(gone)]
    assert all(row.seq < pinned for row in gone)
    before = [sum(row.size for row in gone[:at]) for at in range(len(gone))]
    assert all(row.seq <= old or excess > dropped for row, dropped in zip(gone, before, strict=True))
    assert all(dropped < BATCH_BYTES for dropped in before)
    if len(gone) < min(len(rows), pinned - 1):  # then there is a reason to stop there
        dropped = sum(row.size for row in gone)
        assert dropped >= BATCH_BYTES or (rows[len(gone)].seq > old and dropped >= excess)


@pytest.mark.parametrize(
    ("limits", "seconds"),
    [
        (Limits(0, 0, 5), 600),
        (Limits(30 * DAY_MS, DAY_MS, 0), 600),
        (Limits(30 * DAY_MS, 2000, 0), 0.1),
        (Limits(4000, 0, 0), 0.2),
    ],
)
def test_a_limit_is_marked_often_enough_to_be_kept(limits: Limits, seconds: float) -> None:
    assert limits.mark_s == pytest.approx(seconds)


# --- age


async def test_events_go_after_codexd_has_run_for_so_long_and_whatever_the_wall_clock_says(
    path: Path, clock: Turned
) -> None:
    async with opened(path, clock) as log:
        keeping = Retention(log, Limits(30 * DAY_MS, 0, 0), clock=clock)
        await write(log, *map(warning, "abcde"))
        await keeping.look()
        await write(log, *map(warning, "fg"))
        for years in (10, -20, 30):
            clock.wall_ms += years * YEAR_MS
            clock.run(DAY_MS)
            await keeping.look()
        assert (log.oldest, seqs(path)) == (1, [1, 2, 3, 4, 5, 6, 7])

        clock.run(27 * DAY_MS)
        await keeping.look()
        assert (log.oldest, seqs(path)) == (6, [6, 7])

        clock.run(YEAR_MS)
        await keeping.look()
        assert (log.oldest, log.head, seqs(path)) == (7, 7, [7])  # the newest event stays: the log never counts anew


async def test_the_time_for_which_codexd_ran_adds_up_over_its_lives_and_the_time_between_does_not_count(
    path: Path, clock: Turned
) -> None:
    async with opened(path, clock) as log:
        await write(log, *map(warning, "abc"))
        await look_after(Retention(log, Limits(2 * DAY_MS, 0, 0), clock=clock), clock, DAY_MS)
        await write(log, warning("d"))
    clock.run(YEAR_MS)
    async with opened(path, clock) as log:
        keeping = Retention(log, Limits(2 * DAY_MS, 0, 0), clock=clock)
        await keeping.look()
        assert seqs(path) == [1, 2, 3, 4]
        clock.run(DAY_MS)
        await keeping.look()
        assert seqs(path) == [4]
    async with opened(path, clock) as log:
        assert (log.oldest, log.head) == (4, 4)


async def test_without_limits_nothing_goes(path: Path, clock: Turned) -> None:
    async with opened(path, clock) as log:
        await write(log, registered(), *begun("trn_a", 5), *ended("trn_a"))
        await look_after(Retention(log, FOREVER, clock=clock), clock, 10 * YEAR_MS)

        assert (log.oldest, len(seqs(path))) == (1, log.head)


# --- size


async def test_the_oldest_events_go_while_there_are_too_many_bytes(path: Path, clock: Turned) -> None:
    async with opened(path, clock) as log:
        await write(log, *(warning("x" * 1000) for _ in range(40)))
    async with opened(path, clock) as log:  # what an earlier codexd wrote counts too
        keeping = Retention(log, Limits(0, 0, 20_000), clock=clock)
        assert keeping.bytes is None
        await keeping.look()
        await write(log, *(warning("x" * 1000) for _ in range(7)))
        await keeping.look()

        assert seqs(path) == list(range(log.oldest, 48))
        with closing(open_reader(path)) as connection:
            ((size,),) = connection.execute("SELECT sum(length(body)) FROM event")
        assert keeping.bytes == size
        assert 20_000 - 1200 < size <= 20_000


async def test_a_log_that_is_cut_as_it_grows_keeps_to_its_file(path: Path, clock: Turned) -> None:
    sizes = []
    async with opened(path, clock) as log:
        keeping = Retention(log, Limits(0, 0, 200_000), clock=clock)
        for _ in range(12):
            await write(log, *(warning("x" * 1000) for _ in range(200)))
            await keeping.look()
            ((pages,),) = log.reader().execute("PRAGMA page_count")
            sizes.append(pages)

    assert max(sizes[4:]) <= max(sizes[:4])


# --- what stays


async def test_an_open_turn_holds_on_to_all_that_follows_its_beginning(path: Path, clock: Turned) -> None:
    async with opened(path, clock) as log:
        keeping = Retention(log, Limits(DAY_MS, DAY_MS, 1), clock=clock)
        await write(log, registered(), *begun("trn_a", 3), *ended("trn_a"))
        first = log.head + 1
        await write(log, *begun("trn_b", 3), *map(warning, "xyz"))
        await look_after(keeping, clock, YEAR_MS)
        assert (log.oldest, seqs(path)) == (first, list(range(first, log.head + 1)))
        assert reading.text_so_far(log.reader(), "trn_b", "item") == "0 1 2 "

        await write(log, *ended("trn_b"))
        await look_after(keeping, clock, YEAR_MS)
        assert seqs(path) == [log.head]


async def test_ledgers_outlive_their_events(path: Path, clock: Turned) -> None:
    async with opened(path, clock) as log:
        await write(log, registered(), *begun("trn_a", 3), *ended("trn_a"), warning("last"))
        before, ledger = everything(path), reading.turn(log.reader(), "trn_a", ledger=True)
        await look_after(Retention(log, Limits(DAY_MS, DAY_MS, 0), clock=clock), clock, YEAR_MS)

        assert seqs(path) == [log.head]
        assert everything(path) == before
        assert reading.turn(log.reader(), "trn_a", ledger=True) == ledger
        assert ledger is not None
        assert isinstance(ledger.items, list)
        assert ledger.items[0].text == "0 1 2 "


@pytest.mark.parametrize("seed", range(4))
async def test_boot_and_ledgers_need_nothing_of_what_goes(seed: int, tmp_path: Path, clock: Turned) -> None:
    """A world with all that happens in it: before and after, the tables and what boot reads are the same."""
    world = World(seed, tmp_path)
    await world.run(lives=3, steps=150)

    def boot() -> object:
        with closing(open_reader(world.path)) as connection:
            return stored(connection), restore.restore(connection, clock, seal_of(opening.seal_of(world.path)))

    async with opened(world.path, clock) as log:
        before, events = boot(), log.head
        await look_after(Retention(log, Limits(0, DAY_MS, 0), clock=clock), clock, YEAR_MS)
        assert boot() == before
        await look_after(Retention(log, Limits(DAY_MS, 0, 0), clock=clock), clock, YEAR_MS)
        assert boot() == before
    async with opened(world.path, clock) as log:
        assert (boot(), log.head) == (before, events)
        assert log.oldest > 1


async def test_a_release_with_other_tables_makes_none_from_events_that_are_gone(path: Path, clock: Turned) -> None:
    """A file as the release before this one left it; its ledgers' events are cut, which that release never did."""
    async with opened(path, clock) as log:
        await write(log, registered(), *begun("trn_a", 3), *ended("trn_a"), warning("last"))
        before = everything(path)
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute("DROP TABLE sealed; DROP TABLE held")
        connection.execute("DROP TABLE mark; DELETE FROM meta WHERE key IN ('oldest', 'compacted', 'ran_ms')")
        connection.execute("DELETE FROM event WHERE seq < (SELECT max(seq) FROM event); PRAGMA user_version = 2")
        schema.prepare(connection, epoch="other", daemon_id="other", fold=tables.fold)
        assert next(connection.execute("PRAGMA user_version")) == (schema.VERSION,)

    assert everything(path) == before


# --- deltas


async def test_the_deltas_of_ended_turns_go_and_all_else_stays(path: Path, clock: Turned) -> None:
    async with opened(path, clock) as log:
        keeping = Retention(log, Limits(0, DAY_MS, 0), clock=clock)
        await write(log, registered(), *begun("trn_a", 700), *ended("trn_a"))
        before, cut = everything(path), len(seqs(path)) - 700
        await keeping.look()
        await write(log, *begun("trn_b", 5), *ended("trn_b"))
        clock.run(DAY_MS)
        await keeping.look()
        assert seqs(path, "item.delta") == list(range(log.head - 6, log.head - 1))  # of yesterday's none
        assert len(seqs(path)) == cut + 11
        assert log.oldest == 1
        assert {row[0]: row for row in everything(path)["turn"]}["trn_a"] == before["turn"][0]

        clock.run(DAY_MS)
        await keeping.look()
        assert seqs(path, "item.delta") == []
        dropped = [len(msgspec.json.decode(text)) for text in deleted(log)]
        assert (sum(dropped), max(dropped)) == (705, BATCH_EVENTS)
        events = told(log.reader())
        assert folded(events)["turn"] == everything(path)["turn"]


def deleted(log: Recorded) -> list[str]:
    statements = [statement for transaction in log.given for statement in transaction.statements]
    return [values[0] for statement, values in statements if statement.startswith("DELETE FROM event")]


async def test_pages_go_past_what_was_compacted_and_a_filtered_reader_is_whole(path: Path, clock: Turned) -> None:
    async with opened(path, clock) as log:
        for turn_id in ("trn_a", "trn_b"):
            await write(log, *([registered()] if turn_id == "trn_a" else []), *begun(turn_id, 40), *ended(turn_id))
        from_memory = await all_of(log, None)
        await look_after(Retention(log, Limits(0, DAY_MS, 0), clock=clock), clock, YEAR_MS)
    async with opened(path, clock) as log:
        assert await all_of(log, None) == [event for event in from_memory if event.type != "item.delta"]
        wanted = frozenset({"turn.interrupted", "item.delta"})
        assert [event.turn_id for event in await all_of(log, wanted)] == ["trn_a", "trn_b"]


async def all_of(log: EventLog, types: frozenset[str] | None) -> list[Event]:
    """What a reader gets that goes on where each page said."""
    found: list[Event] = []
    after = log.oldest - 1
    while after < log.head:
        page = await read_on(log, Wanted(log.cursor(0), None, types), after, limit=7)
        found += [msgspec.json.decode(body, type=Event) for body in page.bodies]
        assert page.next > after
        after = page.next
    return found


# --- readers


async def test_a_reader_below_the_cut_is_told_so_and_never_served_with_a_gap(path: Path, clock: Turned) -> None:
    async with opened(path, clock) as log:
        await write(log, *(warning(str(number)) for number in range(50)))
    async with opened(path, clock) as log:  # it has no events in memory
        await look_after(Retention(log, Limits(DAY_MS, 0, 0), clock=clock), clock, YEAR_MS)
        log.oldest = 1  # as it was when the reader began
        for after in (0, 10, 48):
            with pytest.raises(Rejected) as caught:
                await read_on(log, Wanted(log.cursor(after), None, None), after)
            assert caught.value.status == 410
        page = await read_on(log, Wanted(log.cursor(49), None, None), 49)
        assert page.next == 50


class _Reader:
    """One reader of the live stream, who takes nothing after its first events until `reads` is set."""

    def __init__(self, query: bytes) -> None:
        self.scope = {"type": "websocket", "query_string": query}
        self.sent: list[dict[str, Any]] = []
        self.reads, self.holds = asyncio.Event(), asyncio.Event()
        self._comes: list[dict[str, Any]] = [{"type": "websocket.connect"}]

    async def receive(self) -> dict[str, Any]:
        return self._comes.pop() if self._comes else await asyncio.Future()

    async def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)
        if b'{"type":"events"' in message.get(FRAME, b""):
            self.holds.set()
            await self.reads.wait()


@pytest.mark.parametrize("others", [0, 3])
async def test_a_live_reader_that_falls_below_the_cut_is_closed_with_a_code_of_its_own(
    path: Path, clock: Turned, others: int
) -> None:
    async with opened(path, clock) as log:
        await write(log, *(warning(str(number)) for number in range(2500)))
    async with opened(path, clock) as log:
        slow, along = _Reader(b"after=0"), [_Reader(b"") for _ in range(others)]
        subscriptions = Subscriptions(log)
        async with asyncio.TaskGroup() as tasks:
            reading = [
                tasks.create_task(subscriptions.serve(each.scope, each.receive, each.send)) for each in (slow, *along)
            ]
            await slow.holds.wait()
            await look_after(Retention(log, Limits(DAY_MS, 0, 0), clock=clock), clock, YEAR_MS)
            slow.reads.set()
            await reading[0]
            await write(log, warning("and on"))
            for each in along:
                await each.holds.wait()
            for task in reading[1:]:
                task.cancel()
        assert [message["type"] for message in slow.sent[:2]] == ["websocket.accept", "websocket.send"]
        assert slow.sent[-1] == {"type": "websocket.close", "code": 4410, "reason": "cursor_expired"}
        assert len(slow.sent) == 4
