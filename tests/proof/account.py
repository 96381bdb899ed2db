"""What an outsider keeps of a codexd's life, and what follows from it. Pure: bytes and answers in, a verdict out.

Events are kept as digests of their very bytes, one table for each reader, so that two readers, or a reader and the log,
can be held against each other.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec import Raw, Struct

from tests.support.node import ENDED

ENDS = frozenset(f"turn.{status}" for status in ENDED)
COMPLETED = "turn.completed"


class Event(Struct, rename="camel"):
    """As much of an event as is asked about."""

    seq: int
    type: str
    turn_id: str | None
    payload: Raw

    @property
    def facts(self) -> dict[str, Any]:
        """Its payload, decoded."""
        facts: dict[str, Any] = msgspec.json.decode(self.payload)
        return facts


class Frame(Struct, rename={"from_": "from"}):
    """A frame of a stream, or a page; events are left as the bytes that came."""

    events: tuple[Raw, ...] = ()
    type: str = "events"
    from_: str = ""
    next: str = ""
    after: str = ""


def digest(event: Raw) -> bytes:
    """What stands for an event's bytes."""
    return hashlib.blake2b(bytes(event), digest_size=8).digest()


@dataclass
class Seen:
    """What one reader was given, over all of its connections: it comes back with `cursor`."""

    name: str
    cursor: str = "0"
    digests: dict[int, bytes] = field(default_factory=dict)
    flaws: list[str] = field(default_factory=list)
    connections: int = 0

    def greeted(self, frame: Frame) -> None:
        """The first frame of a connection must stand where the reader left off."""
        self.connections += 1
        if frame.type != "hello" or (self.cursor != "0" and frame.after != self.cursor):
            self.flaws.append(f"{self.name}: at {self.cursor} the stream began with {frame.type} {frame.after}")
        self.cursor = frame.after

    def take(self, frame: Frame) -> list[Event]:
        """Take a frame of events; each must follow on the one before."""
        if frame.from_ != self.cursor:
            self.flaws.append(f"{self.name}: after {self.cursor} came a frame from {frame.from_}")
        events = []
        for raw in frame.events:
            event = msgspec.json.decode(raw, type=Event)
            if event.seq in self.digests:
                self.flaws.append(f"{self.name}: {event.seq} came twice")
            self.digests[event.seq] = digest(raw)
            events.append(event)
        self.cursor = frame.next
        return events


@dataclass
class Told:
    """What the events say of one turn."""

    key: str | None = None
    ends: list[str] = field(default_factory=list)
    deltas: list[str] = field(default_factory=list)
    generations: set[int] = field(default_factory=set)


@dataclass
class Account:
    """The turns as their events tell them, and the acknowledgements as the posters had them.

    `expected` are the numbered deltas of each key's turn, `hit` the generations that were struck themselves, `acks` the
    turn that each key was answered with.
    """

    expected: dict[str, list[str]] = field(default_factory=dict)
    acks: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    hit: set[int] = field(default_factory=set)
    turns: defaultdict[str, Told] = field(default_factory=lambda: defaultdict(Told))
    exited: set[int] = field(default_factory=set)

    def see(self, event: Event) -> None:
        """Take an event of the log, in its order."""
        if event.type == "child.exited":
            self.exited.add(event.facts["generation"])
        if event.turn_id is None:
            return
        turn = self.turns[event.turn_id]
        if event.type == "turn.queued":
            turn.key = event.facts.get("idempotencyKey") or turn.key
        elif event.type == "turn.accepted":
            turn.generations.add(event.facts["generation"])
        elif event.type == "item.delta":
            text = event.facts["delta"]
            if text.startswith("w"):  # and not what a command wrote
                turn.deltas.append(text)
        elif event.type in ENDS:
            turn.ends.append(event.type)

    # --- what follows

    def turns_with(self, ends: int) -> list[str]:
        """Turns that were acknowledged or told of, with so many ends; two stands for two and more."""
        known = {turn_id for turns in self.acks.values() for turn_id in turns} | set(self.turns)
        return [turn_id for turn_id in known if min(len(self.turns[turn_id].ends), 2) == ends]

    def acks_lost(self) -> list[str]:
        """Keys whose 202 named a turn that the events do not know, or know under another key."""
        return [key for key, turns in self.acks.items() if any(self.turns[turn_id].key != key for turn_id in turns)]

    def done_twice(self, asked: Mapping[str, int]) -> list[str]:
        """Keys with two turns, or whose turn was brought before the model twice without its child being struck."""
        owners = Counter(turn.key for turn in self.turns.values() if turn.key is not None)
        twice = {key for key, count in owners.items() if count > 1}
        twice |= {key for key, turns in self.acks.items() if len(turns) > 1}
        calm = {turn.key for turn in self.turns.values() if not turn.generations & self.hit}
        return sorted(twice | {key for key, times in asked.items() if times > 1 and key in calm})

    def deltas(self) -> int:
        """Pieces of answers that came."""
        return sum(len(turn.deltas) for turn in self.turns.values())

    def deltas_twice(self) -> int:
        """Pieces of answers that came again; within a turn no two are alike."""
        return sum(len(turn.deltas) - len(set(turn.deltas)) for turn in self.turns.values())

    def deltas_lost(self) -> int:
        """Pieces that are missing of turns that completed under a keeper that lived, or out of order anywhere."""
        lost = 0
        for turn in self.turns.values():
            if turn.key is None:
                continue
            wanted = self.expected[turn.key]
            if turn.ends == [COMPLETED] and not turn.generations & self.hit:
                lost += len(set(wanted) - set(turn.deltas)) + (turn.deltas != wanted)
            else:  # what its child said before it was struck is a beginning of the whole
                lost += wanted[: len(turn.deltas)] != turn.deltas
        return lost

    def disturbed(self) -> list[str]:
        """Turns, and children, that suffered though nothing but codexd was killed."""
        turns = [
            f"{turn_id} {turn.ends}"
            for turn_id, turn in self.turns.items()
            if turn.ends != [COMPLETED] and not turn.generations & self.hit
        ]
        return turns + [f"the child of generation {number}" for number in self.exited - self.hit]


def lost(log: Mapping[int, bytes], readers: Iterable[Seen]) -> int:
    """Events that a reader was given and the log does not have with the same bytes, or that a reader never got."""
    missing = 0
    for reader in readers:
        missing += sum(log.get(seq) != kept for seq, kept in reader.digests.items())
        missing += sum(seq not in reader.digests for seq in log)
    return missing
