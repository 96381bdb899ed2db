"""Answers from the log's tables: sessions, turns with their items, counts, the last events."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import apsw
import msgspec
import pytest
from msgspec import UNSET, Raw

from baa.api import events as e
from baa.api import sessions as s
from baa.api.events import EventType
from baa.api.sessions import ItemStatus, SessionStatus, TurnRequest, TurnStatus
from baa.api.status import RecentEvent
from baa.codexd import reading, schema, tables
from baa.codexd.machines.inputs import NewEvent
from baa.codexd.stored import body_of
from tests.support.script import SETTINGS


class Log:
    """A log that is written at once, at times that say the seq."""

    def __init__(self, connection: apsw.Connection) -> None:
        self.connection = connection
        self.seq = 0

    def add(self, type_: EventType, payload: e.Payload, session_id: str = "ses_a", turn_id: str | None = None) -> None:
        self.seq += 1
        at, encoded = f"at {self.seq}", msgspec.json.encode(payload)
        body = body_of(NewEvent(type_, session_id, turn_id, payload), self.seq, at, encoded)
        self.connection.execute("INSERT INTO event VALUES (?, ?, ?, ?)", (self.seq, session_id, type_.value, body))
        tables.project(self.connection, type_, (session_id, turn_id, self.seq, at), encoded)

    def session(self, session_id: str, purpose: str | None = None) -> None:
        settings = msgspec.structs.replace(SETTINGS, purpose=purpose)
        self.add(EventType.SESSION_REGISTERED, e.SessionRegistered(settings=settings), session_id)

    def turn(self, turn_id: str, session_id: str = "ses_a") -> None:
        request = TurnRequest(prompt="go", model="big", metadata={"k": "v"})
        self.add(EventType.TURN_QUEUED, e.TurnQueued(request=request), session_id, turn_id)

    def run(self, turn_id: str, session_id: str = "ses_a") -> None:
        self.turn(turn_id, session_id)
        self.add(EventType.TURN_ACCEPTED, e.TurnAccepted(generation=1), session_id, turn_id)
        self.add(EventType.TURN_STARTED, e.TurnStarted(codex_turn_id="codex"), session_id, turn_id)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with closing(apsw.Connection(str(tmp_path / "log.sqlite3"))) as connection:
        schema.prepare(connection, epoch="epoch", daemon_id="dmn")
        yield Log(connection)


def generation(log: Log, number: int) -> None:
    log.connection.execute(
        "INSERT INTO generation (generation, keeper_id, folder, started_at) VALUES (?, 'k', 'f', '')", (number,)
    )


NEW = s.Session(
    session_id="ses_a",
    thread_id=None,
    status=SessionStatus.NOT_LOADED,
    purpose="test",
    cwd=SETTINGS.cwd,
    model=None,
    model_provider=None,
    sandbox=SETTINGS.sandbox,
    network_access=False,
    approval_policy=SETTINGS.approval_policy,
    writable_roots=(),
    base_instructions=None,
    developer_instructions=None,
    personality=None,
    service_tier=None,
    ephemeral=False,
    forked_from=None,
    current_turn_id=None,
    last_turn_id=None,
    last_turn_status=None,
    queued_turns=0,
    open_interactions=0,
    usage=None,
    metadata={},
    created_at="at 1",
    updated_at="at 1",
    closed_at=None,
)


def test_a_session_is_told_whole_from_its_registration_to_its_last_turn(log: Log) -> None:
    changed = msgspec.structs.replace
    log.session("ses_a", "test")
    assert reading.session(log.connection, "ses_a") == NEW

    log.turn("trn_a")
    queued = changed(
        NEW,
        status=SessionStatus.ACTIVE,
        current_turn_id="trn_a",
        last_turn_id="trn_a",
        last_turn_status=TurnStatus.QUEUED,
        queued_turns=1,
        updated_at="at 2",
    )
    assert reading.session(log.connection, "ses_a") == queued

    generation(log, 1)
    loaded = e.SessionLoaded(thread_id="thread", generation=1, fresh=True, model="big")
    log.add(EventType.SESSION_LOADED, loaded)
    log.connection.execute("INSERT INTO loaded VALUES ('ses_a', 1)")
    log.add(EventType.TURN_ACCEPTED, e.TurnAccepted(generation=1), turn_id="trn_a")
    log.add(EventType.TURN_STARTED, e.TurnStarted(codex_turn_id="codex"), turn_id="trn_a")
    running = changed(
        queued,
        thread_id="thread",
        model="big",
        last_turn_status=TurnStatus.IN_PROGRESS,
        queued_turns=0,
        updated_at="at 5",
    )
    assert reading.session(log.connection, "ses_a") == running

    log.add(EventType.TURN_COMPLETED, e.TurnEnded(), turn_id="trn_a")
    idle = changed(
        running,
        status=SessionStatus.IDLE,
        current_turn_id=None,
        last_turn_status=TurnStatus.COMPLETED,
        updated_at="at 6",
    )
    assert reading.session(log.connection, "ses_a") == idle

    log.connection.execute("UPDATE generation SET ended_at = ''")
    assert reading.session(log.connection, "ses_a") == changed(idle, status=SessionStatus.NOT_LOADED)


def test_a_waiting_turn_is_the_last_one_and_the_running_one_the_current(log: Log) -> None:
    log.session("ses_a")
    log.run("trn_a")
    log.turn("trn_b")
    log.add(EventType.TURN_FAILED, e.TurnEnded(), turn_id="trn_a")
    session = reading.session(log.connection, "ses_a")

    assert session is not None
    assert (session.current_turn_id, session.last_turn_id, session.queued_turns) == ("trn_b", "trn_b", 1)
    assert session.last_turn_status is TurnStatus.QUEUED


def test_nobody_is_none(log: Log) -> None:
    assert reading.session(log.connection, "ses_x") is None
    assert reading.turn(log.connection, "trn_x", ledger=True) is None
    assert reading.recent(log.connection, 5) == []
    assert reading.counts(log.connection) == (0, 0, 0, 0)


@pytest.mark.parametrize(("limit", "pages"), [(1, 5), (2, 3), (4, 2), (5, 1), (100, 1)])
@pytest.mark.parametrize("purpose", [None, "even"])
def test_sessions_are_paged_newest_first_each_once(log: Log, limit: int, pages: int, purpose: str | None) -> None:
    for number in range(5):
        log.session(f"ses_{number}", "even" if number % 2 == 0 else "odd")
    found, below, asked = list[str](), None, 0
    while asked == 0 or below is not None:
        page, below = reading.sessions(log.connection, limit=limit, below=below, purpose=purpose)
        found += [session.session_id for session in page]
        asked += 1

    assert found == [f"ses_{number}" for number in (4, 3, 2, 1, 0) if purpose is None or number % 2 == 0]
    assert asked == (pages if purpose is None else -(-3 // limit))


ITEM = Raw(b'{"id":"i","type":"agentMessage"}')


def test_a_turn_is_told_whole_with_its_items_in_their_order(log: Log) -> None:
    log.session("ses_a")
    log.run("trn_a")
    for item_id in ("done", "open", "cut"):
        started = e.ItemStarted(item_id=item_id, kind="agentMessage", item=ITEM)
        log.add(EventType.ITEM_STARTED, started, turn_id="trn_a")
    for item_id, text in (("open", "so "), ("cut", "gone"), ("open", "far")):
        piece = e.ItemDelta(item_id=item_id, stream="text", delta=text)
        log.add(EventType.ITEM_DELTA, piece, turn_id="trn_a")
    done = e.ItemStarted(item_id="done", kind="agentMessage", item=Raw(b'{"text":"well"}'))
    log.add(EventType.ITEM_COMPLETED, done, turn_id="trn_a")
    log.add(EventType.ITEM_ABANDONED, e.ItemAbandoned(item_id="cut", text="gone"), turn_id="trn_a")
    plan = e.Updated(update=Raw(b'{"plan":[1]}'))
    log.add(EventType.PLAN_UPDATED, plan, turn_id="trn_a")
    running = s.Turn(
        turn_id="trn_a",
        session_id="ses_a",
        codex_turn_id="codex",
        status=TurnStatus.IN_PROGRESS,
        origin=s.Origin.API,
        reason=None,
        error=None,
        evidence={},
        prompt="go",
        input=(),
        model="big",
        effort=None,
        sandbox=None,
        network_access=None,
        approval_policy=None,
        output_schema=None,
        deadline_ms=None,
        stall_ms=None,
        lease_ms=None,
        final_message="well",
        output=None,
        usage=None,
        diff=None,
        plan={"plan": [1]},
        metadata={"k": "v"},
        queued_at="at 2",
        accepted_at="at 3",
        started_at="at 4",
        ended_at=None,
        items=[
            item("done", ItemStatus.COMPLETED, b'{"text":"well"}', None, "at 5", "at 11"),
            item("open", ItemStatus.STARTED, bytes(ITEM), "so far", "at 6", None),
            item("cut", ItemStatus.ABANDONED, bytes(ITEM), "gone", "at 7", "at 12"),
        ],
        interactions=[],
    )

    assert reading.turn(log.connection, "trn_a", ledger=True) == running
    assert reading.turn(log.connection, "trn_a", ledger=False) == msgspec.structs.replace(
        running, items=UNSET, interactions=UNSET
    )

    log.add(EventType.TURN_FAILED, e.TurnEnded(reason="why", error={"c": 1}, evidence={"h": 2}), turn_id="trn_a")
    assert reading.turn(log.connection, "trn_a", ledger=True) == msgspec.structs.replace(
        running, status=TurnStatus.FAILED, reason="why", error={"c": 1}, evidence={"h": 2}, ended_at="at 14"
    )


def item(
    item_id: str, status: ItemStatus, whole: bytes, text: str | None, started_at: str, ended_at: str | None
) -> s.Item:
    return s.Item(
        item_id=item_id,
        kind="agentMessage",
        status=status,
        item=Raw(whole),
        text=text,
        started_at=started_at,
        ended_at=ended_at,
    )


def test_what_an_item_says_is_not_mixed_with_that_of_another_turn_or_session(log: Log) -> None:
    for session_id in ("ses_a", "ses_b"):
        log.session(session_id)
        log.run(f"trn_{session_id}", session_id)
        started = e.ItemStarted(item_id="i", kind="plan", item=ITEM)
        log.add(EventType.ITEM_STARTED, started, session_id, f"trn_{session_id}")
    for session_id in ("ses_a", "ses_b", "ses_a"):
        piece = e.ItemDelta(item_id="i", stream="plan", delta=session_id[-1])
        log.add(EventType.ITEM_DELTA, piece, session_id, f"trn_{session_id}")

    assert reading.text_so_far(log.connection, "trn_ses_a", "i") == "aa"
    assert reading.text_so_far(log.connection, "trn_ses_b", "i") == "b"
    assert reading.text_so_far(log.connection, "trn_ses_b", "k") is None

    log.add(EventType.TURN_COMPLETED, e.TurnEnded(), turn_id="trn_ses_a")
    log.run("trn_next")
    piece = e.ItemDelta(item_id="i", stream="plan", delta="next")
    log.add(EventType.ITEM_DELTA, piece, turn_id="trn_next")
    assert reading.text_so_far(log.connection, "trn_ses_a", "i") == "aa"


def test_a_growing_message_is_told_up_to_a_place_and_no_sub_agents_and_no_other_item(log: Log) -> None:
    log.session("ses_a")
    log.run("trn_a")

    def begin(item_id: str, kind: str = "agentMessage", agent: str | None = None) -> None:
        payload = e.ItemStarted(item_id=item_id, kind=kind, item=ITEM, agent_thread_id=agent)
        log.add(EventType.ITEM_STARTED, payload, turn_id="trn_a")

    def grow(item_id: str, piece: str, stream: str = "text") -> int:
        log.add(EventType.ITEM_DELTA, e.ItemDelta(item_id=item_id, stream=stream, delta=piece), turn_id="trn_a")
        return log.seq

    def told(before: int, characters: int = 100) -> list[tuple[str, str]]:
        return reading.growing(log.connection, "trn_a", before=before, characters=characters)

    begin("ended")
    grow("ended", "over")
    log.add(EventType.ITEM_COMPLETED, e.ItemStarted(item_id="ended", kind="agentMessage", item=ITEM), turn_id="trn_a")
    begin("command", "commandExecution")
    grow("command", "out", "output")
    begin("of another", agent="sub")
    grow("of another", "secretly")
    begin("mine")
    assert told(log.seq) == [], "it said nothing yet"
    first = grow("mine", "one ")
    last = grow("mine", "two")
    assert told(first - 1) == []
    assert told(first) == [("mine", "one ")]
    assert told(last) == told(last + 9) == [("mine", "one two")]
    assert told(last, characters=5) == [("mine", "e two")]


def test_a_turn_has_ended_once_it_has_an_end(log: Log) -> None:
    log.session("ses_a")
    assert not reading.has_ended(log.connection, "trn_a"), "there is none"
    log.run("trn_a")
    assert not reading.has_ended(log.connection, "trn_a")
    log.add(EventType.TURN_FAILED, e.TurnEnded(reason="refused_by_codex"), turn_id="trn_a")
    assert reading.has_ended(log.connection, "trn_a")


def test_turns_are_counted_by_where_they_stand(log: Log) -> None:
    for number in range(3):
        log.session(f"ses_{number}")
        log.run(f"trn_{number}", f"ses_{number}")
    log.turn("trn_w", "ses_0")
    log.add(EventType.TURN_LOST, e.TurnEnded(), "ses_2", "trn_2")

    assert reading.counts(log.connection) == (3, 1, 2, 1)


def test_the_last_events_are_told_without_their_content_however_large_or_odd_that_is(log: Log) -> None:
    log.session("ses_a")
    huge = Raw(b'{"at":"not this","n":' + b"9" * 5000 + b"}")
    log.add(EventType.CODEX_WARNING, e.Notification(method='"at":"nor this"', params=huge))
    log.add(EventType.CODEX_NOTIFICATION, e.Notification(method="x"))

    assert reading.recent(log.connection, 2) == [
        RecentEvent(2, "at 2", "codex.warning"),
        RecentEvent(3, "at 3", "codex.notification"),
    ]


def test_to_count_turns_none_is_read(log: Log) -> None:
    plan = [row[3] for row in log.connection.execute(f"EXPLAIN QUERY PLAN {reading.COUNTS}")]
    scans = [step for step in plan if step.startswith("SCAN ") and "CONSTANT" not in step]
    assert len(scans) == 5
    assert [step for step in scans if " USING " not in step] == []
