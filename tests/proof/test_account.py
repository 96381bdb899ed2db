"""The crash loop's account sees what it is there to see: each thing that must not happen is made up once."""

from __future__ import annotations

import msgspec
from msgspec import Raw

from tests.proof.account import Account, Event, Frame, Seen, digest, lost
from tests.proof.figures import Figure


def event(seq: int, type_: str = "turn.queued", turn_id: str | None = "t", **payload: object) -> Raw:
    return Raw(msgspec.json.encode({"seq": seq, "type": type_, "turnId": turn_id, "payload": payload}))


def account(*events: Raw, hit: int | None = None, key: str = "k") -> Account:
    kept = Account(expected={"k": ["w0 ", "w1 "]}, hit=set() if hit is None else {hit})
    kept.acks[key].add("t")
    for raw in events:
        kept.see(msgspec.json.decode(raw, type=Event))
    return kept


WHOLE = (
    event(1, idempotencyKey="k"),
    event(2, "turn.accepted", generation=3),
    event(3, "item.delta", delta="w0 "),
    event(4, "item.delta", delta="w1 "),
    event(5, "turn.completed"),
)


def test_a_turn_as_it_should_be_has_no_flaw() -> None:
    kept = account(*WHOLE)
    assert (kept.turns_with(0), kept.turns_with(2), kept.acks_lost(), kept.disturbed()) == ([], [], [], [])
    assert (kept.deltas_lost(), kept.deltas_twice(), kept.done_twice({"k": 1})) == (0, 0, [])


def test_what_is_wrong_with_a_turn_is_seen() -> None:
    assert account(*WHOLE, event(6, "turn.lost")).turns_with(2) == ["t"]
    assert account(*WHOLE[:4]).turns_with(0) == ["t"]
    assert account().turns_with(0) == ["t"], "an acknowledged turn that no event knows"
    assert account(*WHOLE, key="other").acks_lost() == ["other"]
    assert account(*WHOLE[:3], WHOLE[2], *WHOLE[3:]).deltas_twice() == 1
    assert account(*WHOLE[:3], WHOLE[4]).deltas_lost() > 0
    assert account(*WHOLE[:2], WHOLE[3], WHOLE[2], WHOLE[4]).deltas_lost() > 0, "out of order"
    assert account(*WHOLE).done_twice({"k": 2}) == ["k"]
    assert account(*WHOLE, event(6, turn_id="u", idempotencyKey="k")).done_twice({}) == ["k"]
    assert account(*WHOLE[:4], event(5, "turn.interrupted")).disturbed() == ["t ['turn.interrupted']"]
    assert account(*WHOLE, event(6, "child.exited", None, generation=3)).disturbed() != []


def test_a_turn_whose_child_was_struck_may_end_early_but_not_tell_anything_twice() -> None:
    early = account(*WHOLE[:3], event(4, "turn.interrupted"), event(5, "child.exited", None, generation=3), hit=3)
    assert (early.disturbed(), early.deltas_lost()) == ([], 0)
    assert account(*WHOLE[:2], WHOLE[3], event(4, "turn.interrupted"), hit=3).deltas_lost() == 1


def test_a_reader_sees_what_does_not_follow_and_what_comes_again() -> None:
    reader = Seen("reader")
    reader.greeted(Frame(type="hello", after="e:0"))
    reader.take(Frame(events=WHOLE[:2], from_="e:0", next="e:2"))
    assert reader.flaws == []
    reader.greeted(Frame(type="hello", after="e:1"))
    reader.take(Frame(events=WHOLE[1:2], from_="e:1", next="e:2"))
    reader.take(Frame(events=WHOLE[3:4], from_="e:3", next="e:4"))
    assert len(reader.flaws) == 3


def test_log_and_readers_must_have_the_same_bytes() -> None:
    log = {number: digest(raw) for number, raw in enumerate(WHOLE, 1)}
    assert lost(log, [Seen("reader", digests=dict(log))]) == 0
    assert lost(log, [Seen("reader", digests={n: d for n, d in log.items() if n != 2})]) == 1
    assert lost({n: d for n, d in log.items() if n != 2}, [Seen("reader", digests=dict(log))]) == 1
    assert lost(log, [Seen("reader", digests=log | {2: b"other"})]) == 1


def test_a_figure_of_nothing_tried_does_not_hold() -> None:
    assert Figure("events_lost", 0, "events", 5, must=0).holds
    assert not Figure("events_lost", 1, "events", 5, must=0).holds
    assert not Figure("events_lost", 0, "events", 0, must=0).holds
